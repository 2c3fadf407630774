"""The data that a model is measured on."""

import sys
from dataclasses import replace

import unmask.data  # noqa: F401  (all its classes can then be named)
from unmask.data.base import DataSet
from unmask.data.images import ImageSet
from unmask.model import MaskedDiffusion
from unmask.storage.description import build, describe
from unmask.storage.settings import with_own_tokenizer


def model_data(model: MaskedDiffusion) -> DataSet | None:
    """Return the data that a model was trained with; None where it does not say.

    Raises:
        ValueError: it names an unknown class, or settings that this class refuses.
    """
    described = with_own_tokenizer(model.about.get("data"), model.folder)
    return build(DataSet, described, f"{model.folder or 'the model'}: about.data") if described else None


def measured_data(model: MaskedDiffusion, data: DataSet | None) -> DataSet:
    """Return the data to measure a model on, without mirrored images, which are for training alone.

    Args:
        model: to be measured.
        data: that were named; None: those that the model was trained with.

    Raises:
        ValueError: the model does not say what it was trained with, or the data do not fit it.
    """
    data = model_data(model) if data is None else data
    if data is None:
        raise ValueError(
            f"{model.folder or 'the model'} does not say what it was trained with: name the data, as in --data Digits "
            "or data=Digits()"
        )
    check_fits(model, data)
    warn_if_changed(model, data)
    return replace(data, flip=False) if isinstance(data, ImageSet) and data.flip else data


def check_codec(model: MaskedDiffusion, data: DataSet) -> None:
    """Raise a ValueError unless the data have the model's tokens."""
    if data.codec != model.codec:
        raise ValueError(f"{data.name} has the tokens {data.codec}, but the model was trained on {model.codec}")


def check_samples_mean_something(model: MaskedDiffusion) -> None:
    """Raise a ValueError for a model of prompts and answers, which has never seen an empty prompt."""
    if model.conditional:
        raise ValueError("the model answers prompts: what it draws without one is like none of its data")


def check_fits(model: MaskedDiffusion, data: DataSet) -> None:
    """Raise a ValueError unless the data have the model's tokens, in examples of its shape, and its classes if any."""
    check_codec(model, data)
    if data.shape != model.shape and (len(data.shape) > 1 or len(model.shape) > 1):
        raise ValueError(f"{data.name} has examples of shape {data.shape}, the model of shape {model.shape}")
    classes, names = model.network.classes, model.about.get("class_names")
    if data.classes is not None and classes is None:
        raise ValueError(f"{data.name} has classes, but the model was trained without: give --data.labels false")
    if data.classes is None and classes is not None:
        print(f"unmask: note: the model knows classes, but is not told those of {data.name}", file=sys.stderr)
    known = names and data.class_names and list(names) != list(data.class_names)
    if data.classes is not None and (data.classes != classes or known):
        has, wants = ", ".join(data.class_names or [str(data.classes)]), ", ".join(names or [str(classes)])
        raise ValueError(f"{data.name} has other classes ({has}) than the model was trained on ({wants})")


def warn_if_changed(model: MaskedDiffusion, data: DataSet) -> None:
    """Say so where the data are described as those that the model was trained on, but hold something else."""
    known = model.about.get("train_sha256")
    then, now = ({**(one or {}), "tokenizer": None} for one in (model.about.get("data"), describe(data.resolved())))
    if known and then == now and data.split("train").checksum != known:
        print(
            f"unmask: warning: {data.name} is not what the model was trained on: its content changed", file=sys.stderr
        )
