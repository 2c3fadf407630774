"""unmask sample MODEL: new examples, as text, as a grid of images, or as an array."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor
from tqdm import tqdm

from unmask.cli.common import instantiate, load_model, nearest, new_parser, parse
from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.codecs.text import Text
from unmask.display.terminal import Live
from unmask.forward import all_masked
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.randomness import generators
from unmask.samplers.base import Sampler
from unmask.storage.files import check_writable, replacing
from unmask.types import Labels, Tokens

SHORT: dict[str, tuple[type, str]] = {
    "temperature": (float, "divides the logits"),
    "top_k": (int, "draw among the k most likely tokens only"),
    "top_p": (float, "draw among the most likely tokens that together have this probability"),
    "guidance": (float, "scale of classifier-free guidance for a --label; 1 is none"),
}
"""Settings that every sampler has, and that can be given without naming it."""

FRAMES = 60
"""Most frames in an animation."""


def run(arguments: list[str]) -> None:
    """Run `unmask sample`."""
    parser = new_parser(
        "sample", description="Draw new examples: text to the terminal, images to a PNG, arrays to a .npy."
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("--n", type=int, default=4, help="number of examples")
    parser.add_argument(
        "--label", type=str, help="class of all examples, by number or name, or `all`: n / classes of each, a row each"
    )
    add_sampling_arguments(parser)
    settings = parse(parser, arguments)
    check_sampling_arguments(settings)
    made = instantiate(parser, settings)
    model = load_model(settings.model, settings.device)
    sampler = make_sampler(model, made.sampler, settings)
    check_outputs(model, settings)
    label = make_labels(settings.label, settings.n, model)
    canvas = all_masked(settings.n, model.shape, model.network.mask_id)
    x, frames = draw(model.network, canvas, label, sampler, settings, model.codec)
    rows = model.network.classes if settings.label == "all" else None
    show(model, x, frames, settings, rows)


def add_sampler(parser: Any) -> None:
    """Add the choice of a sampler to a parser, or to a group of its options."""
    parser.add_subclass_arguments(
        Sampler,
        "sampler",
        required=False,
        default=None,
        help="FirstHitting (the default), Ancestral, InOrder, MostConfident, EntropyBounded, Remasking; for a learned "
        "schedule TokenFirstHitting (the default) or TokenAncestral; and its settings",
    )
    for name, (kind, text) in SHORT.items():
        parser.add_argument(f"--{name}", type=kind, help=f"{text}; short for --sampler.{name}")


def add_sampling_arguments(parser: ArgumentParser) -> None:
    """Add what `sample` and `infill` share."""
    add_sampler(parser)
    parser.add_argument("--seed", type=int, default=0, help="example i of a seed is the same whatever --n is")
    parser.add_argument("--batch_size", type=int, default=64, help="examples at a time")
    parser.add_argument("--out", type=str, help="file for the result: .txt, .png, or .npy for the tokens themselves")
    parser.add_argument("--gif", type=str, help="file for an animation of the unmasking (of the first batch)")
    parser.add_argument(
        "--live", action="store_true", help="show the first examples in the terminal (on standard error) as they appear"
    )
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")


def check_sampling_arguments(settings: Namespace) -> None:
    """Raise a ValueError for what can be known to be wrong before anything is loaded or drawn."""
    for name in ("n", "batch_size"):
        if settings[name] < 1:
            raise ValueError(f"--{name} must be at least 1, got {settings[name]}")
    if settings.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {settings.seed}")
    if settings.out and Path(settings.out).suffix not in (".txt", ".png", ".npy"):
        raise ValueError(f"--out {settings.out}: the file must end in .txt, .png or .npy")
    if settings.gif and Path(settings.gif).suffix != ".gif":
        raise ValueError(f"--gif {settings.gif}: the file must end in .gif")


def make_sampler(model: MaskedDiffusion, sampler: Sampler | None, settings: Namespace) -> Sampler:
    """Return the sampler that the arguments describe, the model's own where they describe none."""
    return replace(model.fit_sampler(sampler), **{name: settings[name] for name in SHORT if settings[name] is not None})


def make_labels(label: str | None, n: int, model: MaskedDiffusion) -> Labels | None:
    """Turn --label into one class per example.

    Raises:
        ValueError: the model has no classes, no such class, or n is no multiple of their number.
    """
    classes, names = model.network.classes, model.about.get("class_names") or []
    if label is None:
        return None
    if classes is None:
        raise ValueError(f"--label {label}: the model was trained without labels")
    if label == "all":
        if n % classes:
            raise ValueError(f"--label all: --n must be a multiple of the {classes} classes, got {n}")
        return torch.arange(classes).repeat_interleave(n // classes)
    if label in names:  # the name comes first, where names are numbers too
        return torch.full((n,), names.index(label))
    if not label.isdecimal() or int(label) >= classes or any(name.isdecimal() for name in names):
        known = f"one of {', '.join(names)}" if names else f"in 0..{classes - 1}"
        raise ValueError(f"--label must be {known}, or `all`; got {label}{nearest(label, names)}")
    return torch.full((n,), int(label))


def draw(
    network: Network, canvas: Tokens, label: Labels | None, sampler: Sampler, settings: Namespace, codec: Codec
) -> tuple[Tokens, list[Tensor]]:
    """Sample a canvas in batches, with a progress bar; return the tokens, and moments of the first batch if wanted."""
    device = next(network.parameters()).device
    live = Live(codec, canvas[: settings.batch_size], sys.stderr) if settings.live else None
    parts: list[Tensor] = []
    frames: list[Tensor] = []
    with tqdm(
        total=int((canvas == network.mask_id).sum()), desc="unmasking", unit="token", delay=2, disable=settings.live
    ) as bar:
        for start in range(0, len(canvas), settings.batch_size):
            here = slice(start, start + settings.batch_size)
            x, labels = canvas[here].to(device), None if label is None else label[here].to(device)
            hidden = int((x == network.mask_id).sum())
            for state in sampler.trajectory(network, x, labels, generator=generators(settings.seed, len(x), start)):
                if device.type == "cpu":  # counting would make a GPU wait
                    left = int((state.x == network.mask_id).sum())
                    bar.update(hidden - left)
                    hidden = left
                if live and not parts:
                    live.show(x, state.x)
                x = state.x
                if settings.gif and not parts:
                    frames.append(x.cpu())
            if device.type != "cpu":
                bar.update(hidden)
            if live and not parts:
                live.show(x, x, last=True)
            parts.append(x.cpu())
    kept: list[int] = (
        np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)).tolist()
        if frames
        else []
    )
    return torch.cat(parts), [frames[i] for i in kept]


def draw_batches(
    model: MaskedDiffusion, sampler: Sampler, label: Labels | None, settings: Namespace, calls: list[float]
) -> Iterator[Tokens]:
    """Yield `n` new examples in batches, and add the network calls of each to `calls`."""
    for start in range(0, settings.n, settings.batch_size):
        count = min(settings.batch_size, settings.n - start)
        here = None if label is None else label[start : start + count].to(model.device)
        canvas = all_masked(count, model.shape, model.network.mask_id, device=model.device)
        for state in sampler.trajectory(model.network, canvas, here, generator=generators(settings.seed, count, start)):
            last = state
        calls += last.calls.double().tolist()
        yield last.x


def check_outputs(model: MaskedDiffusion, settings: Namespace) -> None:
    """Raise a ValueError for an output that the model's samples cannot be written to, before any is drawn."""
    plain = isinstance(model.codec, Symbols)
    if settings.live and plain:
        raise ValueError("--live: there is no view of plain symbols; the model's data are neither text nor images")
    if settings.gif and plain:
        raise ValueError("--gif: there is no picture of plain symbols; the model's data are neither text nor images")
    if settings.out and settings.out.endswith(".png") and plain:
        raise ValueError(f"--out {settings.out}: there is no picture of plain symbols; write a .npy")
    if settings.out and settings.out.endswith(".txt") and not isinstance(model.codec, Text):
        raise ValueError(f"--out {settings.out}: the samples are no text; write a .npy" + " or .png" * (not plain))
    for option in ("out", "gif"):
        if settings[option]:
            check_writable(Path(settings[option]), f"--{option}")


def show(model: MaskedDiffusion, x: Tokens, frames: list[Tensor], settings: Namespace, rows: int | None) -> None:
    """Print or write samples in the form that fits the data, and the animation if wanted."""
    codec = model.codec
    default = "samples.png" if isinstance(codec, Pixels) else "samples.npy" if isinstance(codec, Symbols) else None
    if out := settings.out or default:
        with replacing(out) as path:
            if path.suffix == ".npy":
                np.save(path, x.numpy())
            elif path.suffix == ".png":
                picture(codec, x, rows, model.about.get("class_names")).save(path)
            else:
                path.write_text("\n\n".join(codec.decode(x)) + "\n", encoding="utf-8")
        print(out)
    else:
        print(*codec.decode(x), sep="\n\n")
    if settings.gif:
        from unmask.display.pictures import save_animation

        with replacing(settings.gif) as path:
            save_animation([picture(codec, frame, rows, model.about.get("class_names")) for frame in frames], path)
        print(settings.gif)


def picture(codec: Any, x: Tokens, rows: int | None, names: list[str] | None = None) -> Any:
    """Draw tokens, masks among them, as one picture, with the names of the rows."""
    from unmask.display.pictures import image_grid, text_page

    if not isinstance(codec, Pixels):
        return text_page(codec.decode(x))
    columns = len(x) // rows if rows and len(x) % rows == 0 else min(len(x), 10)
    labels = (names or [str(i) for i in range(rows)]) if rows and len(x) % rows == 0 else None
    return image_grid(codec.decode(x), (x == codec.vocab_size).numpy(), columns, labels)
