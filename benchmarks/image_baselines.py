"""Bits per dimension of test images under simple models and compressors: the figures to beat.

python -m benchmarks.image_baselines MNIST --path FOLDER
python -m benchmarks.image_baselines Images --path FILE.npz
"""

import argparse
import io
import lzma
import math

import numpy as np
from PIL import Image

from benchmarks.sampling import show
from unmask.data.cifar10 import CIFAR10
from unmask.data.images import Images, ImageSet
from unmask.data.mnist import MNIST


def pixels(data: ImageSet, part: str) -> np.ndarray:
    """Return all images of a part."""
    split = data.split(part)  # type: ignore[arg-type]
    return split[np.arange(len(split))][0].numpy()


def marginals(train: np.ndarray, test: np.ndarray, levels: int) -> tuple[float, float]:
    """Return the mean bits of test dimensions under each position's histogram (one added), and the standard error."""
    flat, unseen = train.reshape(len(train), -1), test.reshape(len(test), -1)
    counts = np.ones((flat.shape[1], levels))
    for value in range(levels):
        counts[:, value] += (flat == value).sum(0)
    p = counts / counts.sum(1, keepdims=True)
    bits = -np.log2(p[np.arange(flat.shape[1]), unseen]).mean(1)
    return float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(len(bits)))


def png_bits(test: np.ndarray) -> tuple[float, float]:
    """Return the mean bits per dimension of images as PNG files, each by itself, and the standard error."""
    sizes = []
    for image in test.astype(np.uint8):
        target = io.BytesIO()
        Image.fromarray(image.squeeze()).save(target, "PNG", optimize=True)
        sizes.append(8 * len(target.getvalue()) / image.size)
    return float(np.mean(sizes)), float(np.std(sizes, ddof=1) / math.sqrt(len(sizes)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("MNIST", "CIFAR10", "Images"))
    parser.add_argument("--path", required=True)
    settings = parser.parse_args()
    kinds: dict[str, type[ImageSet]] = {"MNIST": MNIST, "CIFAR10": CIFAR10, "Images": Images}
    data = kinds[settings.data](path=settings.path)  # type: ignore[call-arg]
    train, test = pixels(data, "train"), pixels(data, "test")
    levels = data.codec.vocab_size
    squeezed = 8 * len(lzma.compress(test.astype(np.uint8).tobytes(), preset=9)) / test.size
    found = {
        "test images": str(len(test)),
        "uniform": f"{math.log2(levels):.4f}",
        "each position's histogram": "{:.4f} ± {:.4f}".format(*marginals(train, test, levels)),
        "PNG files": "{:.4f} ± {:.4f}".format(*png_bits(test)),
        "xz of all test images at once": f"{squeezed:.4f}",
    }
    show(f"bits per dimension, {data.name}", found)


if __name__ == "__main__":
    main()
