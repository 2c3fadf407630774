"""Molecules: which share of samples is valid, unique and new, as RDKit reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from unmask.checks import check_whole
from unmask.codecs.text import Text
from unmask.data.base import DataSet
from unmask.evaluation.data import check_fits, model_data
from unmask.evaluation.generative import draw_samples
from unmask.evaluation.protocol import check_processes, versions, weights
from unmask.given import clean_tokens
from unmask.model import MaskedDiffusion
from unmask.processes import shared
from unmask.report import Figure, Report
from unmask.samplers.base import Sampler
from unmask.storage.description import describe

Canonical = Sequence[str | None]
"""The canonical SMILES of each molecule; None for a string that is no molecule."""


@shared
def molecules(
    model: MaskedDiffusion,
    *,
    samples: int = 1000,
    sampler: Sampler | None = None,
    data: DataSet | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Report:
    """Measure which share of sampled molecules is valid, which of these are different, and which of those are new.

        valid   molecules that RDKit reads and sanitises / samples
        unique  different molecules / valid ones
        new     different molecules that the training part does not have / different ones

    Two molecules are the same if their canonical SMILES are. `unique` and `new` depend on the number of samples. The
    errors are standard errors over samples: those of a share, and for the two ratios by the jackknife.

    Args:
        model: of SMILES.
        samples: number of samples.
        sampler: None: the model's own (`MaskedDiffusion.fit_sampler`).
        data: whose training part is that of `new`; None: what the model was trained with.
        batch_size: samples at a time.
        seed: sample i of a seed is the same whatever the others are.

    Raises:
        ValueError: a setting out of range, or data or a model that are no SMILES.
        FileNotFoundError: the data are not there any more.
        ImportError: RDKit is not installed.

    Example:
        print(unmask.evaluation.molecules(unmask.load("runs/smiles"), samples=1000))
    """
    check_whole(2, samples=samples)
    check_whole(1, batch_size=batch_size)
    check_whole(0, seed=seed)
    if not isinstance(model.codec, Text):
        raise ValueError(f"molecules are written as SMILES; this model's tokens are {model.codec}")
    rdkit_version = _rdkit().__version__
    sampler, data = model.fit_sampler(sampler), model_data(model) if data is None else data
    if data is None:
        raise ValueError(
            "the model does not say what it was trained with: name it, as in --data SMILES --data.path FILE"
        )
    check_fits(model, data)
    check_processes(model)
    known = training_molecules(model, data)
    x, calls = draw_samples(model, sampler, samples, batch_size, seed)
    row: dict[str, Any] = {"samples": samples, "calls": calls} | shares(canonical(model.decode(x)), known)
    protocol = {
        "sampler": describe(sampler),
        "data": data.name,
        "training_molecules": len(known),
        "rdkit": rdkit_version,
        "seed": seed,
        "batch_size": batch_size,
        **weights(model),
        **versions(model),
    }
    return Report((row,), protocol)


def _rdkit() -> Any:
    try:
        import rdkit
    except ImportError:
        raise ImportError("molecules are read by RDKit: pip install 'unmask[molecules]'") from None
    return rdkit


def canonical(smiles: Iterable[str]) -> list[str | None]:
    """Return the canonical SMILES of each molecule; None for what RDKit does not read, or for an empty string."""
    _rdkit()
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        read = ((text, Chem.MolFromSmiles(text)) for text in smiles)
        return [Chem.MolToSmiles(molecule) if text and molecule is not None else None for text, molecule in read]


def training_molecules(model: MaskedDiffusion, data: DataSet) -> set[str]:
    """Return the canonical SMILES of a data set's training part."""
    split = data.split("train")
    bar = tqdm(split.batches(1024), desc="reading training molecules", total=-(-len(split) // 1024), delay=2)

    def texts() -> Iterator[str]:
        for x, _ in bar:
            yield from model.decode(clean_tokens(x))

    return {molecule for molecule in canonical(texts()) if molecule is not None}


def shares(found: Canonical, known: set[str]) -> dict[str, Figure]:
    """Return the shares of samples that are valid, unique and new, each with its standard error; see `molecules`.

    Args:
        found: the canonical SMILES of the samples.
        known: those of the training molecules.
    """
    counts = Counter(molecule for molecule in found if molecule is not None)
    n, valid, different = len(found), sum(counts.values()), len(counts)
    new = sum(molecule not in known for molecule in counts)
    share = valid / n
    figures = {"valid": Figure(share, (share * (1 - share) / (n - 1)) ** 0.5)}
    if not valid:
        return figures
    single = np.array([counts[molecule] == 1 for molecule in found if molecule is not None])
    novel = np.array([molecule not in known for molecule in found if molecule is not None])
    figures["unique"] = _jackknife(different / valid, different - single, np.full(valid, valid - 1))
    figures["new"] = _jackknife(new / different, new - (single & novel), different - single)
    return figures


def _jackknife(ratio: float, above: np.ndarray, below: np.ndarray) -> Figure:
    """Return a ratio with its standard error by the jackknife.

        error² = (n − 1) / n · Σ_i (r_i − mean r)²,   r_i the ratio without sample i

    Args:
        ratio: of all samples.
        above: its numerator without sample i.
        below: its denominator without sample i.
    """
    n = len(above)
    if n < 2 or not below.all():
        return Figure(ratio)
    without = above / below
    return Figure(ratio, float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())))
