"""One image file as an array."""

import struct
import warnings
from typing import Any

import numpy as np

TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")


def open_image(source: Any, name: str) -> np.ndarray:
    """Return an image file as uint8 (height, width, channels), of 1 or 3 channels, turned as viewers show it.

    Raises:
        ValueError: no image, one of several frames, or not grey or RGB with 8 bits a channel; says what.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(source)
        with opened as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # what some cameras write: a picture with previews
                raise ValueError(f"it has {frames} frames; save the one that is meant")
            mode, transparent = image.mode, "transparency" in image.info or image.mode in TRANSPARENT
            raw = str(image.tile[0][3]) if image.tile else ""  # how the file holds it: RGB;16B, say
            if mode in ("1", "L") and not transparent:
                return np.asarray(ImageOps.exif_transpose(image).convert("L"))[..., None]
            if mode in ("RGB", "P") and not transparent and ";16" not in raw:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: too large an image: {error}") from None
    except (OSError, SyntaxError, ValueError, MemoryError, struct.error) as error:
        raise ValueError(f"{name}: not an image, or damaged: {error}") from None
    if ";16" in raw or ";16" in mode or mode in ("I", "F"):
        raise ValueError(
            f"{name}: the image has more than 8 bits a channel ({mode}); scale it to 0..255, and save as 8-bit"
        )
    why = "has transparency" if transparent else "is neither grey nor RGB"
    raise ValueError(f"{name}: the image {why} (mode {mode}); convert it, as with Pillow's image.convert('RGB')")


def describe_size(x: np.ndarray) -> str:
    """Return the size of an image in words."""
    return f"{x.shape[1]}x{x.shape[0]} with {x.shape[2]} channel{'s' if x.shape[2] > 1 else ''}"
