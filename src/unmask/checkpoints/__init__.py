"""Public models of other people: JSON and tensors alone, no code.

`layouts` and `ddit` read those of MDLM, SEDD and RADD, `families` and `bodies` those that are models of `transformers`.
"""

from pathlib import Path
from typing import Any

from unmask.checkpoints import bodies, ddit, trainers
from unmask.checkpoints.families import FAMILIES
from unmask.checkpoints.layouts import LAYOUTS, is_layout, is_public
from unmask.checkpoints.reading import CONFIG, WEIGHT_FILES, read_config
from unmask.codecs import Codec
from unmask.networks import Network

__all__ = ["FAMILIES", "LAYOUTS", "WEIGHT_FILES", "is_layout", "is_public", "load"]


def load(source: Path, tokenizer: str | None = None, **how: Any) -> tuple[Network, Codec, dict[str, Any]]:
    """Read a public model: its network, its codec, and what there is to say about it.

    Args:
        source: a folder with config.json, the weights, and perhaps a tokenizer; or a file: of weights that need no
            config.json, or a trainer's checkpoint (.ckpt).
        tokenizer: a tokenizer in place of the folder's own.
        how: for models of `transformers` see `unmask.checkpoints.bodies.load`, for a trainer's checkpoint
            `unmask.checkpoints.trainers.load`; None is as not given.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, of no kind that is read, or does not fit the others; names it.
        ImportError: the package `transformers` is needed and not installed.
    """
    where, config = (source, {}) if source.is_file() else (source / CONFIG, read_config(source))
    known: tuple[str, ...] = ()
    if source.suffix == ".ckpt":
        known = ("averaged",)
    elif not is_layout(config):
        known = ("bidirectional", "shifted", "length")
    how = {name: value for name, value in how.items() if value is not None}
    if unknown := [name for name in how if name not in known]:
        raise ValueError(f"{where}: {', '.join(unknown)} is not for a model of this kind")
    if source.suffix == ".ckpt":
        return trainers.load(source, tokenizer, **how)
    return bodies.load(source, config, where, tokenizer=tokenizer, **how) if known else ddit.load(source, tokenizer)
