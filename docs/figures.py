"""Draw those committed figures again whose data are in the repository: in its code, or in a table beside them.

python docs/figures.py
"""

import csv
import re
from pathlib import Path
from typing import Any

import torch

from unmask.display.figures import exponent_figure, steps_figure
from unmask.display.measured import frontier_figure, learning_figure, study_figure
from unmask.reproduction.report import curves_figure
from unmask.schedules import TokenPolynomial

DOCS = Path(__file__).parent
NUMBER = re.compile(r"[\d,]+(?:\.\d+)?")


def table(page: str, first: str) -> list[list[str]]:
    """Return the cells of the rows of the table of a page whose header begins with some text."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" *") for cell in line.strip("|").split("|")])
    return rows


def figures(cell: str) -> list[float]:
    """Return value and standard error of a cell, such as 3.25 ± 0.01."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(cell)]


def samplers() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of the study of samplers in sampling.md, and that of test data."""
    rows: list[dict[str, Any]] = []
    for name, calls, entropy, judge in table("sampling.md", "| sampler | calls | entropy, nats |"):
        name = name.replace("`", "").replace('"', "")
        if name.startswith("…"):  # the row before, with one more setting
            name = f"{rows[-1]['sampler'][:-1]}, {name[2:]})"
        row: dict[str, Any] = {"sampler": name, "entropy": figures(entropy), "judge": figures(judge)}
        rows.append(row | {"calls": float(calls)} if calls else row)
    return rows[:-1], rows[-1]


def frontier() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of samples by temperature in openwebtext.md, and that of real texts."""
    rows = []
    for name, micro, _, entropy, _ in table("openwebtext.md", "| | perplexity, micro |"):
        rows.append({"name": name, "perplexity_micro": figures(micro), "entropy": figures(entropy)})
    temperatures = [row | {"temperature": figures(row["name"])[0]} for row in rows[:-1]]
    return temperatures, rows[-1]


def draws() -> list[dict[str, Any]]:
    """Return the rows of samples under SmolLM2 in reproduce.md, exact and in float32, without that of test data."""
    rows = []
    for name, drawn, steps, perplexity, entropy in table("reproduce.md", "| | draws | T |"):
        line, point = f"{name.partition(', 32')[0]}, {drawn}", f"T = {steps}" if steps else ""
        rows.append({"name": name, "line": line, "point": point, "perplexity_micro": figures(perplexity)})
        rows[-1] |= {"entropy": figures(entropy)}
    return rows[1:]  # test data are far from all of them


def stored(name: str) -> list[list[str]]:
    """Return the rows of a file beside the figures, without its first line, which says where they are from."""
    with open(DOCS / "images" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return [*csv.reader(file)][2:]


def learning() -> dict[str, list[list[tuple[float, float, float]]]]:
    """Return the curves of text.md: seconds, million tokens and bits, by settings."""
    curves: dict[str, list[list[tuple[float, float, float]]]] = {}
    for name, seconds, tokens, bits in stored("learning"):
        curves.setdefault(name, [[]])[0].append((float(seconds), float(tokens), float(bits)))
    return curves


def rows() -> dict[str, list[tuple[list[float], list[float]]]]:
    """Return the curves of reproduce.md: steps and bits of each seed, by row."""
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name, seed, step, bits in stored("text8_rows"):
        x, y = curves.setdefault(name, {}).setdefault(seed, ([], []))
        x.append(float(step))
        y.append(float(bits))
    return {name: [*of_seeds.values()] for name, of_seeds in curves.items()}


def exponents(name: str) -> tuple[TokenPolynomial, list[str]]:
    """Return a schedule of genmd4.md, and what its token values are called."""
    rows = stored(name)
    schedule = TokenPolynomial(len(rows))
    w = torch.tensor([float(exponent) for _, exponent in rows], dtype=torch.float64)
    with torch.no_grad():
        schedule.raw.copy_(w.expm1().log())  # w = softplus(raw)
    return schedule, [token for token, _ in rows]


def main() -> None:
    images = DOCS / "images"
    learning_figure(learning()).savefig(images / "learning.png", dpi=150)
    exponent_figure(*exponents("exponents")).savefig(images / "exponents.png", dpi=150)
    exponent_figure(exponents("levels")[0]).savefig(images / "levels.png", dpi=150)
    curves_figure(rows(), timed=False).savefig(images / "text8_rows.png", dpi=150)
    steps_figure(256, 1024).savefig(images / "steps.png", dpi=150)
    study_figure(*samplers(), "character").savefig(images / "samplers.png", dpi=150)
    frontier_figure(*frontier(), "the judge").savefig(images / "frontier.png", dpi=150)
    frontier_figure(draws(), None, "SmolLM2-135M").savefig(images / "draws.png", dpi=150)


if __name__ == "__main__":
    main()
