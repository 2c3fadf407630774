"""Complete many inputs: from a source to a file."""

import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from unmask.checks import check_choice, check_whole
from unmask.evaluation.protocol import evaluation_mode
from unmask.evaluation.unknown_length import Choice, Prior
from unmask.infilling.checking import Checked, check_inputs
from unmask.infilling.choosing import HowLong
from unmask.infilling.journal import Journal, as_line
from unmask.infilling.requests import Reader
from unmask.infilling.sources import ArrayExamples, Source, open_source
from unmask.infilling.work import Work
from unmask.model import MaskedDiffusion
from unmask.processes import check_same, first, shared
from unmask.samplers.base import Sampler
from unmask.samplers.stopping import stop_early as stopping
from unmask.storage.description import describe
from unmask.storage.files import locked_file, replacing
from unmask.storage.model_files import config_digest

ENDINGS = (".jsonl", ".npy")


class Filled(NamedTuple):
    """What `infill_file` wrote.

    Attributes:
        path: of the file.
        inputs: number of inputs.
        bad: number of those that were left out.
    """

    path: Path
    inputs: int
    bad: int

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.path}: {self.inputs:,} inputs" + f", {self.bad:,} of them left out" * (self.bad > 0)


@shared
def infill_file(
    model: MaskedDiffusion,
    source: Path | str,
    out: Path | str,
    *,
    sampler: Sampler | None = None,
    samples: int = 1,
    score: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    label: str | int | None = None,
    placeholder: str | None = None,
    allow: str | None = None,
    forbid: str | None = None,
    choose: Choice = "draw",
    prior: Prior | None = None,
    evaluations: int = 256,
    length: int | tuple[int, int] | None = None,
    stop_early: bool | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> Filled:
    """Complete every line of a JSONL file, every image of a folder, or every example of an array.

    A line is one of

        {"text": "The [4] is"}                                                   ([1-6]: one to six unknown tokens)
        {"prefix": "Once", "suffix": "ever after.", "unknown": 20}
        {"prefix": "17+25="}                                                     (see `unmask.prompts.prompt_canvas`)
        {"chat": "Why is the sky blue?", "system": "Be short.", "unknown": 64}   (or a list of messages)
        {"image": "x.png", "mask": "x.mask.png"}                                 (from the file's folder on)
        {"array": [3, 1, -1, -1]}                                                (-1 where unknown)
        {"row": {"colour": "red"}}                                               (other columns are unknown)

    with "label", if it has a class, "allow" and "forbid", if only some tokens may be drawn, and with other fields,
    which come back. The result is a line for each, in the same order: the fields of the input, "line", its number from
    1, and "completions", the likeliest first:

        {"text": …, "log_p": a lower bound on its log p given what was known, in nats, "error": its standard error}

    or "array", or "image", a PNG in the folder of the name of `out`; of a chat the answer alone. For holes of unknown
    length there is "lengths", how probable each is, and each completion has its own, "k". Where a length was drawn,
    "log_p" includes that of the length. A folder holds images
    x.png with masks x.mask.png, white where unknown; an array is a .npy file (N, *dims), -1 where unknown. For an array
    `out` may be a .npy, too: (N, *dims), or (N, samples, *dims).

    Several processes share the batches (`unmask.processes.together`), and the first writes. Random numbers of an
    alternative depend on (seed, number of the input, number of the alternative) alone, neither on
    the batch nor on the order. All inputs of one length, of the whole file, go in batches, those with the most unknown
    tokens first. Texts of several lengths share batches where something can be put at their end: where the network has
    a token that is hidden from the others, lengths are filled up to multiples of 16; where a model's examples are
    filled up to one length, so are these.

    All inputs are checked before anything is drawn. Every finished batch is added to `out`.part; the same call goes on
    from there after it was killed, and gives the same file. The batch size may then be another one, which at most
    changes the last decimals of a bound.

    Args:
        model: completes them.
        source: the file or folder.
        out: the file to write, .jsonl (or .npy).
        sampler: the model's own if None.
        samples: number of alternatives.
        score: random masks for each bound; 0: no bounds, and alternatives in the order in which they are drawn.
        seed: see above.
        batch_size: examples at a time; each alternative is one.
        label: class of the inputs that name none.
        placeholder: a character that stands for one unknown token in "text"; [4] is then text like any other.
        allow, forbid: see `unmask.codecs.allowed_tokens`; for inputs that name none of that kind.
        choose, prior, evaluations: for holes of unknown length; see `infill_unknown_length` and `length_posterior`.
        length: for prompts without a number of unknown tokens; see `unmask.prompts.prompt_canvas`.
        stop_early: whether a sampler in blocks stops where a text has ended that nothing follows: an answer, or what
            follows a prefix if the model learned where texts end. None: if the sampler can.
        skip_bad: whether a bad input gives {"line": number, "error": why}, in place of an error for all; in a .npy its
            example stays as it is.
        overwrite: whether to replace `out`, and what was begun with other settings.

    Raises:
        FileNotFoundError: no such source.
        FileExistsError: `out` is there already.
        ValueError: a bad input (names file and line), a setting out of range, or `out` was begun with other settings.
        BlockingIOError: another process is writing `out`.
        FloatingPointError: the network's logits define no distribution.

    Example:
        unmask.infill_file(unmask.load("runs/book"), "holes.jsonl", "filled.jsonl", samples=3)
    """
    check_whole(1, samples=samples, batch_size=batch_size)
    check_whole(0, score=score, seed=seed)
    check_whole(2, evaluations=evaluations)
    check_choice("choose", choose, get_args(Choice))
    out, sampler, inputs = Path(out), model.fit_sampler(sampler), open_source(source)
    check_out(out, inputs, overwrite)
    if out.suffix == ".npy" and samples == 1:
        score = 0  # nobody would see the bounds
    if stop_early:
        _ = stopping(sampler, model.codec, needed=True)
    constraint = {"allow": allow, "forbid": forbid}
    own: dict[str, Any] = {"label": label, "placeholder": placeholder, "prior": prior, "length": length, **constraint}
    pictures = out.with_suffix("")
    reader = Reader(model, inputs.folder, labelled=sampler.guidance != 1, pictures=pictures, **own)
    how = HowLong(choose, prior, evaluations, length)
    work = Work(model, inputs, reader, sampler, samples, score, seed, how, stop_early, pictures)
    checked = check_inputs(inputs, reader, skip_bad)
    settings = identity(model) | {"input": checked.sha256, "sampler": describe(sampler)}
    settings |= {"seed": seed, "samples": samples, "score": score, "stop_early": stop_early}
    settings |= constraint | asdict(how)
    check_same(**settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    taken = f"{out}: another process is writing it; nothing was changed"
    lock = locked_file(out.with_name(f".{out.name}.lock"), taken) if first() else nullcontext()
    with lock, evaluation_mode(model):
        journal = Journal(out, settings, overwrite) if first() else None
        work.finish(checked, journal, batch_size)
        if journal is not None:
            (write_array if out.suffix == ".npy" else write_lines)(out, work, checked, journal)
            journal.part.unlink()
    return Filled(out, len(inputs), len(checked.bad))


def identity(model: MaskedDiffusion) -> dict[str, Any]:
    """Return what says whether results are of the same model."""
    parts: list[Any] = []
    for part in (model.network, model.codec):
        with suppress(ValueError):  # one of the user's that does not keep its arguments, so that it cannot be saved
            parts.append(describe(part) | {"source": None})  # where a tokenizer lies on this machine
    return {"weights": model.weights_sha256, "model": config_digest({"parts": parts})}


def check_out(out: Path, inputs: Source, overwrite: bool) -> None:
    """Raise an error unless the results of some inputs can be written to a file of that name."""
    if out.suffix not in ENDINGS:
        raise ValueError(f"{out}: the file for the results must end in {' or '.join(ENDINGS)}")
    if out.suffix == ".npy" and not isinstance(inputs, ArrayExamples):
        raise ValueError(f"{out}: a .npy is for a .npy; the results of {inputs.path} go into a .jsonl")
    if out.resolve() == inputs.path.resolve():
        raise ValueError(f"{out}: is the input itself; name another file")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out}: is there already; --overwrite (overwrite=True) replaces it")


def write_lines(out: Path, work: Work, checked: Checked, journal: Journal) -> None:
    """Write the results as lines, in the order of the inputs."""
    indices = range(len(work.inputs))
    with replacing(out) as target, open(target, "wb") as file:
        for index, line in zip(indices, journal.lines(map(work.inputs.number, indices)), strict=True):
            file.write(line or as_line({"line": work.inputs.number(index), "error": checked.bad[index]}))


def write_array(out: Path, work: Work, checked: Checked, journal: Journal) -> None:
    """Write the results as an array, in the order of the inputs; a bad example as it was."""
    indices = range(len(work.inputs))
    dims = work.model.shape if work.samples == 1 else (work.samples, *work.model.shape)
    with replacing(out) as target:
        array = np.lib.format.open_memmap(target, "w+", np.int64, (len(indices), *dims))
        for index, line in zip(indices, journal.lines(map(work.inputs.number, indices)), strict=True):
            array[index] = work.inputs.fields(index)["array"] if line is None else _arrays(json.loads(line), dims)
        array.flush()


def _arrays(result: Mapping[str, Any], dims: tuple[int, ...]) -> np.ndarray:
    return np.array([one["array"] for one in result["completions"]]).reshape(dims)
