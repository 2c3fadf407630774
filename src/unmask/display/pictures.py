"""Pictures: grids of images, pages of text, animations of the unmasking. Needs Pillow (the extra `images`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MASK_COLOUR = (70, 110, 190)
HOLE = "\N{LIGHT SHADE}"  # what a codec shows for a mask


def image_grid(images: np.ndarray, masked: np.ndarray, columns: int, labels: Sequence[str] | None = None) -> Image:
    """Lay images out in rows, enlarged to be seen, masked pixels in blue.

    Args:
        images: uint8 (n, height, width, channels) with 1 or 3 channels.
        masked: bool of the same shape; a pixel with any masked channel counts.
        columns: images in a row.
        labels: a text before each row.
    """
    from PIL import Image, ImageDraw, ImageFont

    n, height, width, channels = images.shape
    if channels not in (1, 3):
        raise ValueError(f"only images of 1 or 3 channels can be drawn, got {channels}")
    scale = max(1, 48 // max(height, width))
    colour = np.where(
        masked.any(-1, keepdims=True), np.array(MASK_COLOUR, np.uint8), np.broadcast_to(images, (n, height, width, 3))
    )
    colour = colour.repeat(scale, 1).repeat(scale, 2)
    font = ImageFont.load_default(20)
    rows, gap, left = -(-n // columns), 2, 8 + int(max(map(font.getlength, labels)) + 8) if labels else 0
    cell_height, cell_width = height * scale + gap, width * scale + gap
    canvas = Image.new("RGB", (left + columns * cell_width + gap, rows * cell_height + gap), "white")
    for i, image in enumerate(colour):
        place = (left + gap + i % columns * cell_width, gap + i // columns * cell_height)
        canvas.paste(Image.fromarray(image), place)
    if labels:
        draw = ImageDraw.Draw(canvas)
        for row, label in enumerate(labels):
            draw.text((left // 2, row * cell_height + cell_height // 2), label, "black", font, anchor="mm")
    return canvas


def text_page(texts: Sequence[str], columns: int = 64) -> Image:
    """Draw texts in cells of one size each, so that characters stay in place from frame to frame."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [line for text in texts for line in (*_wrap(text, columns), "")][:-1]
    font, (cell_width, cell_height) = ImageFont.load_default(14), (9, 19)
    canvas = Image.new("RGB", ((columns + 2) * cell_width, (len(lines) + 1) * cell_height), "white")
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            x, y = (column + 1) * cell_width, row * cell_height + cell_height // 2
            if character == HOLE:
                draw.rectangle((x, y + 3, x + cell_width - 2, y + cell_height - 4), MASK_COLOUR)
            else:
                draw.text((x, y), character, "black", font)
    return canvas


def _wrap(text: str, columns: int) -> list[str]:
    """Cut at a fixed width, whatever the characters: a line must not move when one is revealed."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return [text[i : i + columns] for i in range(0, len(text), columns)]


def save_animation(frames: Sequence[Image], path: Path | str, seconds: float = 5.0) -> None:
    """Write frames as an endless GIF that takes about `seconds` and then rests on the last frame."""
    from PIL import Image

    width, height = (max(sizes) for sizes in zip(*(frame.size for frame in frames), strict=True))
    pages = [Image.new("RGB", (width, height), "white") for _ in frames]
    for page, frame in zip(pages, frames, strict=True):  # a text grows as tokens take the place of masks
        page.paste(frame)
    pause = max(20, int(1000 * seconds / len(frames)))
    durations = [pause] * (len(frames) - 1) + [2000]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=True)
