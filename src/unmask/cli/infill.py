"""unmask infill MODEL: complete a text, an image or an array; what is given is kept exactly."""

import math
import re
from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor
from tqdm import tqdm

from unmask.cli.common import instantiate, load_model, new_parser, parse
from unmask.cli.sample import (
    add_sampling_arguments,
    check_outputs,
    check_sampling_arguments,
    draw,
    make_labels,
    make_sampler,
    show,
)
from unmask.codecs.pixels import Pixels
from unmask.codecs.text import Text
from unmask.data.picture import open_image
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network, check_tokens
from unmask.networks.padded import Padded
from unmask.objectives.estimate import draw_loss
from unmask.randomness import seeded
from unmask.types import Labels


def run(arguments: list[str]) -> None:
    """Run `unmask infill`."""
    parser = new_parser(
        "infill",
        description="Draw what is unknown of a text, an image or an array, and keep the rest.",
        epilog="Examples: unmask infill runs/pydocs 'The [6] statement' --n 3; "
        "unmask infill models/mdlm --prefix 'Once upon a time' --unknown 100 --suffix 'happily ever after.'; "
        "unmask infill runs/digits --image digit.png --mask hole.png --n 10",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help="a text in which [4] stands for four unknown tokens; for models of characters or bytes _ for one, too",
    )
    parser.add_argument("--text_file", type=str, help="a UTF-8 file with such a text")
    parser.add_argument("--prefix", type=str, help="in place of TEXT: what comes before --unknown tokens")
    parser.add_argument("--suffix", type=str, help="in place of TEXT: what comes after --unknown tokens")
    parser.add_argument("--unknown", type=int, help="for --prefix and --suffix: the number of unknown tokens")
    parser.add_argument(
        "--placeholder", type=str, help="a character that stands for one unknown token; [4] is then text like any other"
    )
    parser.add_argument(
        "--score",
        type=int,
        default=16,
        help="masks by which the log-likelihood of each of several texts, given what was known, is bounded; 0: none",
    )
    parser.add_argument("--image", type=str, help="an image file of the model's size")
    parser.add_argument("--mask", type=str, help="an image file of the same size, white where --image is unknown")
    parser.add_argument("--array", type=str, help="a .npy file of tokens, -1 where unknown")
    parser.add_argument("--n", type=int, default=1, help="number of alternatives")
    parser.add_argument("--label", type=str, help="class of the example")
    add_sampling_arguments(parser)
    settings = parse(parser, arguments)
    check_sampling_arguments(settings)
    made = instantiate(parser, settings)
    model = load_model(settings.model, settings.device)
    sampler = make_sampler(model, made.sampler, settings)
    if settings.label == "all":
        raise ValueError("--label all is for sample; name one class")
    check_outputs(model, settings)
    label = make_labels(settings.label, settings.n, model)
    canvas = make_canvas(model, settings)
    network = Padded(model.network).eval() if canvas.dim() == 1 and canvas.shape != model.shape else model.network
    canvas = canvas.expand(settings.n, *canvas.shape)
    x, frames = draw(network, canvas, label, sampler, settings, model.codec)
    if settings.n > 1 and settings.score and isinstance(model.codec, Text) and not settings.out:
        show_scored(model, network, canvas, x, label, settings)
    else:
        show(model, x, frames, settings, rows=None)


def show_scored(
    model: MaskedDiffusion, network: Network, canvas: Tensor, x: Tensor, label: Labels | None, settings: Namespace
) -> None:
    """Print each text under the bound on its log-likelihood given what was known, the likeliest first."""
    objective, given = model.fit_objective(), canvas != network.mask_id
    x, given = x.to(model.device), given.to(model.device)
    bounds = []
    for start in tqdm(range(0, len(x), settings.batch_size), desc="bounding", unit="batch", delay=2):
        here = slice(start, start + settings.batch_size)
        labels = None if label is None else label[here].to(model.device)
        generator = seeded(settings.seed, start, device=model.device)
        loss = draw_loss(
            network, objective, x[here], labels, draws=settings.score, given=given[here], generator=generator
        )
        bounds.append(loss.nelbo.view(settings.score, -1))
    drawn = torch.cat(bounds, 1).cpu()
    mean = drawn.mean(0)
    error = drawn.std(0) / settings.score**0.5 if settings.score > 1 else torch.full_like(mean, math.nan)
    for i in mean.argsort(stable=True).tolist():
        known = f" ± {error[i]:.2f}" if settings.score > 1 else ""
        print(f"log p >= {-mean[i]:.2f}{known} nats\n{model.codec.decode(x[i : i + 1])[0]}\n")


def make_canvas(model: MaskedDiffusion, settings: Namespace) -> Tensor:
    """Return the tokens of one example, V where unknown, from whichever of the three forms was given.

    Raises:
        ValueError: not one form exactly, a form that does not fit the model, or nothing unknown.
    """
    if settings.mask is not None and settings.image is None:
        raise ValueError("--mask belongs to --image; in an --array -1 is unknown, in a text the placeholder")
    around = settings.prefix is not None or settings.suffix is not None
    given = [name for name in ("text", "text_file", "image", "array") if settings[name] is not None]
    given += ["prefix or suffix"] * around
    if len(given) != 1:
        raise ValueError(
            "give one of TEXT, --text_file, --prefix and --suffix, --image with --mask, or --array; got "
            f"{', '.join(given) or 'none'}"
        )
    if around != (settings.unknown is not None):
        raise ValueError("--prefix and --suffix go with --unknown, the number of tokens beside them")
    maker = {"image": _from_image, "array": _from_array}.get(given[0], _from_text)
    canvas = maker(model, settings)
    if not (canvas == model.network.mask_id).any():
        how = "; [4] stands for four unknown tokens" if maker is _from_text else ""
        raise ValueError(f"nothing is unknown in the {given[0]}: there is nothing to draw{how}")
    return canvas


def _from_text(model: MaskedDiffusion, settings: Namespace) -> Tensor:
    codec, hole = model.codec, settings.placeholder
    if not isinstance(codec, Text):
        raise ValueError(f"a text was given, but the model's tokens are {codec}")
    if hole is not None and len(hole) != 1:
        raise ValueError(f"--placeholder must be one character, got {hole!r}")
    if settings.unknown is not None:
        if settings.unknown < 1:
            raise ValueError(f"--unknown must be at least 1, got {settings.unknown}")
        pieces = [(settings.prefix or "", settings.unknown), (settings.suffix or "", 0)]
    else:
        text = settings.text if settings.text_file is None else _read_text(settings.text_file)
        short = hole or ("" if codec.unit == "token" else "_")
        pieces = cut_holes(text, short, counted=hole is None)
    if codec.unit == "token":  # a space belongs to the token after it, which is for the model to find
        pieces = [(known[:-1] if unknown and known[-1:] == " " else known, unknown) for known, unknown in pieces]
    encoded = codec.encode_pieces([known for known, _ in pieces])
    parts = [(tokens, unknown) for tokens, (_, unknown) in zip(encoded, pieces, strict=True)]
    count = sum(len(known) + unknown for known, unknown in parts)
    if count > model.shape[0]:
        raise ValueError(f"the text has {count} tokens, the model's sequences have {model.shape[0]}: shorten it")
    hidden = model.network.mask_id
    return torch.cat([part for known, unknown in parts for part in (known, torch.full((unknown,), hidden))])


def cut_holes(text: str, hole: str, counted: bool) -> list[tuple[str, int]]:
    """Cut a text at what stands for unknown tokens; return each known piece and how many unknown tokens follow it.

    Args:
        text: with holes.
        hole: a character for one unknown token, or nothing.
        counted: whether [n] stands for n unknown tokens.
    """
    forms = [re.escape(hole)] * bool(hole) + [r"\[(\d+)\]"] * counted
    pieces, at = [], 0
    for match in re.finditer("|".join(forms), text):
        count = int(match[1]) if counted and match[1] else 1
        if count < 1:
            raise ValueError(f"{match[0]} at offset {match.start()} stands for no token; with --placeholder it is text")
        pieces.append((text[at : match.start()], count))
        at = match.end()
    return [*pieces, (text[at:], 0)]


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8: {error}") from None


def _from_image(model: MaskedDiffusion, settings: Namespace) -> Tensor:
    from PIL import Image

    if not isinstance(model.codec, Pixels):
        raise ValueError(f"an image was given, but the model's tokens are {model.codec}")
    if settings.mask is None:
        raise ValueError("--image needs --mask: an image of the same size, white where unknown")
    height, width, channels = model.shape

    def read(path: str, count: int) -> np.ndarray:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
        pixels = open_image(path, path)
        if pixels.shape[:2] != (height, width):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise ValueError(f"{path}: the image is {size}, the model's are {width}x{height}")
        if count == 1 and pixels.shape[2] == 3:
            return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        return np.broadcast_to(pixels, (height, width, count))

    tokens = model.codec.encode(read(settings.image, channels))
    unknown = torch.from_numpy(read(settings.mask, 1) > 127)
    return torch.where(unknown, model.network.mask_id, tokens)


def _from_array(model: MaskedDiffusion, settings: Namespace) -> Tensor:
    path = Path(settings.array)
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a .npy file of plain numbers: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: expected a .npy file of one array, got an archive of several")
    if not np.issubdtype(array.dtype, np.integer) or array.shape != model.shape:
        raise ValueError(f"{path}: expected integers of shape {model.shape}, got {array.dtype} {array.shape}")
    tokens = torch.from_numpy(array.astype(np.int64))
    tokens = torch.where(tokens == -1, model.network.mask_id, tokens)
    check_tokens(tokens, model.network.mask_id + 1, f"{path}: tokens")
    return tokens
