"""Opening a model, wherever it is from and onto a device; and turning a public one into one of unmask."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unmask.devices import find_device
from unmask.model import MaskedDiffusion
from unmask.networks.adapters import has_adapter, merge_adapter


def load(
    name: Path | str,
    *,
    trust: Sequence[str] = (),
    tokenizer: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    verify: bool = False,
    bidirectional: bool | None = None,
    shifted: bool | None = None,
    length: int | None = None,
    averaged: bool | None = None,
    **download: Any,
) -> MaskedDiffusion:
    """Load a model, ready to be evaluated and sampled.

    Args:
        name: one of

            - a model's folder, as `MaskedDiffusion.save_pretrained` writes it, here or at a URL such as s3://bucket/model;
            - a run's folder: its model or, if it did not finish, the averaged weights of its last checkpoint;
            - a public model as it was published: of MDLM, SEDD, RADD, LLaDA, Dream and others, or a masked language
              model of `transformers`; `unmask.checkpoints.FAMILIES` and `LAYOUTS` are what is read;
            - a trainer's checkpoint (.ckpt) of MDLM, Duo or BD3LM, or SMDM's file of weights (.safetensors);
            - the name of a model or of a public one on the Hugging Face Hub, such as kuleshov-group/mdlm-owt.
        trust: modules of your own whose classes the model may use; they are imported. Without it no code is ever
            imported because a file names it.
        tokenizer: for public models: what `Tokenizer` reads; that in the folder, or GPT-2's, if None.
        dtype: of the weights; as they were saved if None.
        device: cpu, cuda, cuda:1, ...; a GPU where there is one if None.
        verify: whether to compare the SHA-256 of the files in any case, as with the variable UNMASK_VERIFY=1; else once
            for each version of a file.
        bidirectional: whether to make a left-to-right model of `transformers` see both sides, to be trained from there;
            it gets a mask token if it has none.
        shifted: for models of `transformers`: whether position i is predicted at position i − 1; None: as their family
            was trained.
        length: for models of `transformers`: the longest sequence, in tokens; None: what they were trained with.
        averaged: for a trainer's checkpoint: whether to take the moving average of its weights; yes if None.
        download: passed to `huggingface_hub.snapshot_download` (revision, token, cache_dir, ...).

    Raises:
        FileNotFoundError: no such folder, nor such a repository within reach; or a file is missing.
        ValueError: a file is damaged, config.json does not belong to the weights, or names a class of a module that is
            not trusted; names the file.
        ImportError: a module of `trust` cannot be imported.

    Example:
        model = unmask.load("runs/digits")
        images = model.codec.decode(model.sample(4))
    """
    target = find_device(device)
    model = MaskedDiffusion.from_pretrained(
        name,
        trust=trust,
        tokenizer=tokenizer,
        verify=verify,
        bidirectional=bidirectional,
        shifted=shifted,
        length=length,
        averaged=averaged,
        **download,
    )
    return model.to(device=target, dtype=dtype)


def import_checkpoint(source: Path | str, out: Path | str, **options: Any) -> MaskedDiffusion:
    """Convert a public model into a model of unmask, in a folder of its own; or merge an adapter with its base.

    Args:
        source: what `load` takes, but for a model of unmask that is no adapter.
        out: the folder to write.
        options: of `load`: tokenizer, bidirectional, shifted, length, averaged.

    Raises:
        ValueError: `source` is a model of unmask already, or of no kind that is read.
    """
    model = MaskedDiffusion.from_pretrained(source, **options)
    if has_adapter(model):
        merge_adapter(model.network)
        model.about["merged"] = model.about.pop("adapter")
        model.save_pretrained(out)
        return model
    if "layout" not in model.about or model.about.get("imported"):
        raise ValueError(f"{source}: is a model of unmask already")
    model.about["imported"] = True
    model.save_pretrained(out)
    return model
