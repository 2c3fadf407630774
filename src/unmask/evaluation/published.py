"""Published zero-shot perplexities, for the table of `unmask evaluate zeroshot MODEL`.

From the MD4 paper's zero-shot table (arXiv:2406.04329); upper bounds but for GPT-2's. Every one is under its authors'
protocol, which differs from ours in what stands for the tokenised text and where texts end.
"""

COLUMNS = ("lambada", "wikitext2", "ptb", "wikitext103", "lm1b")
SMALL: dict[str, tuple[float, ...]] = {
    "GPT-2 (autoregressive)": (45.04, 42.43, 138.43, 41.60, 75.20),
    "D3PM": (93.47, 77.28, 200.82, 75.16, 138.92),
    "Plaid": (57.28, 51.80, 142.60, 50.86, 91.12),
    "SEDD absorb": (50.92, 41.84, 114.24, 40.62, 79.29),
    "SEDD absorb, by MD4's authors": (49.73, 38.94, 107.54, 39.15, 72.96),
    "MD4": (48.43, 34.94, 102.26, 35.90, 68.10),
}
MEDIUM: dict[str, tuple[float, ...]] = {
    "GPT-2 (autoregressive)": (35.66, 31.80, 123.14, 31.39, 55.72),
    "SEDD absorb": (42.77, 31.04, 87.12, 29.98, 61.19),
    "MD4": (44.12, 25.84, 66.07, 25.84, 51.45),
}


MDLM = {"lambada": 47.52, "lm1b": 67.01, "ag_news": 61.15}
"""MDLM's own figures (arXiv:2406.07524) where its parts are ours: it measures WikiText-103 and PTB on their validation
parts. An end stands after every line."""


def published(parameters: int, ends: str = "document") -> tuple[str, dict[str, dict[str, float]]]:
    """Return the table of the published size that is nearest to a number of parameters, and its name.

    Args:
        parameters: of the model that it stands beside.
        ends: what a text ends with; MDLM's row is there for "line" alone, which is its protocol.
    """
    name, table = ("GPT-2 small", SMALL) if parameters < 250_000_000 else ("GPT-2 medium", MEDIUM)
    rows = {title: dict(zip(COLUMNS, values, strict=True)) for title, values in table.items()}
    return name, rows | ({"MDLM, an end after every line": MDLM} if ends == "line" and table is SMALL else {})
