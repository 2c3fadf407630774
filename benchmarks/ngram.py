"""The figure to beat: a character n-gram model with Witten-Bell smoothing, on the split that `Text8` uses.

    python -m benchmarks.ngram FILE [--order 3]

FILE is a text of at most 27 symbols or so (the counts are dense: V^order of them), plain or compressed. Each order is
interpolated with the next lower one: p_n(c | h) = (count(h c) + kinds(h) p_{n-1}(c | h')) / (count(h) + kinds(h)),
where kinds(h) is the number of different characters seen after h. The error is over windows of 256 characters.
"""

import argparse
import math

import numpy as np

from unmask.data.text8 import Text8


def part(path: str, name: str) -> np.ndarray:
    """Return the tokens of one part of the text as integers."""
    return np.asarray(Text8(path, stride=256).split(name).tokens, dtype=np.int64)  # type: ignore[attr-defined]


def codes(tokens: np.ndarray, order: int, vocab: int) -> np.ndarray:
    """Return the number of every window of `order` tokens in base `vocab`."""
    result = np.zeros(len(tokens) - order + 1, dtype=np.int64)
    for i in range(order):
        result = result * vocab + tokens[i : len(tokens) - order + 1 + i]
    return result


def fit(train: np.ndarray, order: int, vocab: int) -> np.ndarray:
    """Return p(c | h) for every history h of order - 1 tokens: (vocab^(order-1), vocab)."""
    lower = np.full((1, vocab), 1 / vocab)
    for n in range(1, order + 1):
        counts = np.bincount(codes(train, n, vocab), minlength=vocab**n).reshape(-1, vocab)
        kinds = np.count_nonzero(counts, axis=1)[:, None]
        backed_off = np.tile(lower, (len(counts) // len(lower), 1))
        total = counts.sum(1, keepdims=True) + kinds
        lower = np.where(total > 0, (counts + kinds * backed_off) / np.maximum(total, 1), backed_off)
    return lower


def main() -> None:
    """Print bits per character on the last 5 %, with the standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--order", type=int, default=3)
    settings = parser.parse_args()
    vocab = Text8(settings.file).codec.vocab_size
    model = fit(part(settings.file, "train"), settings.order, vocab)
    test = part(settings.file, "test")
    bits = -np.log2(model.reshape(-1)[codes(test, settings.order, vocab)])
    windows = bits[: len(bits) // 256 * 256].reshape(-1, 256).mean(1)
    error = windows.std() / math.sqrt(len(windows))
    print(f"{settings.order}-gram: {bits.mean():.4f} ± {error:.4f} bits per character")


if __name__ == "__main__":
    main()
