"""unmask infill MODEL: complete a text, an image or an array; what is given is kept exactly."""

from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor

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
from unmask.codecs import Bytes, Characters, Pixels
from unmask.data.images import open_image
from unmask.model import MaskedDiffusion
from unmask.networks.base import check_tokens
from unmask.networks.padded import Padded


def run(arguments: list[str]) -> None:
    """Run `unmask infill`."""
    parser = new_parser(
        "infill",
        description="Draw what is unknown of a text, an image or an array, and keep the rest.",
        epilog="Examples: unmask infill runs/pydocs 'The ______ statement'; "
        "unmask infill runs/digits --image digit.png --mask hole.png --n 10",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="a text with a placeholder for each unknown token")
    parser.add_argument("--placeholder", type=str, default="_", help="the character that stands for one unknown token")
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
    x, frames = draw(network, canvas.expand(settings.n, *canvas.shape), label, sampler, settings, model.codec)
    show(model, x, frames, settings, rows=None)


def make_canvas(model: MaskedDiffusion, settings: Namespace) -> Tensor:
    """Return the tokens of one example, V where unknown, from whichever of the three forms was given.

    Raises:
        ValueError: not one form exactly, a form that does not fit the model, or nothing unknown.
    """
    if settings.mask is not None and settings.image is None:
        raise ValueError("--mask belongs to --image; in an --array -1 is unknown, in a text the placeholder")
    given = [name for name in ("text", "image", "array") if settings[name] is not None]
    if len(given) != 1:
        raise ValueError(f"give one of TEXT, --image with --mask, or --array; got {', '.join(given) or 'none'}")
    maker = {"text": _from_text, "image": _from_image, "array": _from_array}[given[0]]
    canvas = maker(model, settings)
    if not (canvas == model.network.mask_id).any():
        raise ValueError(f"nothing is unknown in the {given[0]}: there is nothing to draw")
    return canvas


def _from_text(model: MaskedDiffusion, settings: Namespace) -> Tensor:
    codec, hole = model.codec, settings.placeholder
    if not isinstance(codec, Characters | Bytes):
        raise ValueError(f"a text was given, but the model's tokens are {codec}")
    if len(hole) != 1:
        raise ValueError(f"--placeholder must be one character, got {hole!r}")
    pieces = settings.text.split(hole)
    known = [codec.encode(piece) for piece in pieces]
    unknown = torch.tensor([model.network.mask_id])
    canvas = torch.cat([part for piece in known for part in (piece, unknown)][:-1])
    if len(canvas) > model.shape[0]:
        raise ValueError(f"the text has {len(canvas)} tokens, the model's sequences have {model.shape[0]}: shorten it")
    return canvas


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
