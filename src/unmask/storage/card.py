"""The model card: what a model is, how it was trained, and what was measured of it, with every protocol."""

import json
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

USE = """```
unmask sample {name}
unmask evaluate {name}
```

```python
from unmask import MaskedDiffusion

model = MaskedDiffusion.from_pretrained("{name}")
model.codec.decode(model.sample(4))
```"""
TITLES = {
    "masked": "A masked diffusion model",
    "left-to-right": "A left-to-right model",
    "uniform": "A diffusion model whose tokens are replaced by random ones",
    "vectors": "A Gaussian diffusion model of embeddings",
}
TAGS = {
    "masked": ["masked-diffusion", "discrete-diffusion"],
    "left-to-right": ["autoregressive"],
    "uniform": ["discrete-diffusion"],
    "vectors": ["diffusion"],
}
"""By kind of model; see `unmask.kinds`."""


def model_card(
    name: str, described: dict[str, Any], parameters: int, about: dict[str, Any], *, kind: str = "masked"
) -> ModelCard:
    """Write the card of a model.

    Args:
        name: what it is loaded by.
        described: its network, codec and schedule, as config.json has them.
        parameters: their number.
        about: what is saved with it; reports in `measured` become a table.
        kind: of model; see `unmask.kinds`.
    """
    data = ModelCardData(
        library_name="unmask",
        license=None if "layout" in about else "apache-2.0",
        tags=TAGS[kind],
    )
    network = described["network"]
    trained = about.get("data", {}).get("class")
    parts = [
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n",
        f"{TITLES[kind]}: {network['class']} of {parameters:,} parameters over {network['vocab_size']:,} "
        f"tokens, examples of shape {tuple(network['shape'])}" + (f", trained on {trained}" if trained else "") + ".\n",
        USE.format(name=name) + "\n",
    ]
    if about.get("layout"):
        parts.append(f"Converted from {about.get('source')} (layout {about['layout']}); its authors' licence holds.\n")
    if measured := about.get("measured"):
        parts += ["## Measured\n", *(_table(report) for report in measured)]
    facts = {key: value for key, value in about.items() if key not in ("measured", "class_names", "published_config")}
    parts += ["## How it was made\n", f"```json\n{json.dumps(facts | described, indent=1, ensure_ascii=False)}\n```\n"]
    return ModelCard("\n".join(parts))


def _table(report: dict[str, Any]) -> str:
    """Lay out a report of `unmask evaluate`: figures with their standard errors, then all that it says besides."""
    rows = report.get("rows", [report])
    figures = list(dict.fromkeys(key for row in rows for key, value in row.items() if is_figure(value)))
    others = list(dict.fromkeys(key for row in rows for key in row if key not in figures)) if "rows" in report else []
    head = [*others, *figures]
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [_plain(row.get(name, "")) for name in others] + [_figure(row.get(figure)) for figure in figures]
        lines.append(f"| {' | '.join(cells)} |")
    stated = {**report, **report.get("protocol", {})}
    kept = {key: value for key, value in stated.items() if key not in ("rows", "protocol") and not is_figure(value)}
    said = "; ".join(f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in kept.items())
    return "\n".join(lines) + f"\n\nProtocol: {said}.\n"


def is_figure(value: Any) -> bool:
    """Return whether a value of a report is [figure, standard error]."""
    pair = isinstance(value, list) and len(value) == 2
    return pair and isinstance(value[0], float) and isinstance(value[1], float | None)


def _figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value[0]:.4g}" if value[1] is None else f"{value[0]:.4g} ± {value[1]:.2g}"


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "class" in value:
        inside = ", ".join(f"{key}={_plain(item)}" for key, item in value.items() if key != "class")
        return f"{value['class']}({inside})"
    return str(value).replace("|", "\\|")
