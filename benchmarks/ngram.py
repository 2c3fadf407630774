"""The figure to beat: a character n-gram model (`unmask.metrics.ngram`), on the split that `Text8` uses.

    python -m benchmarks.ngram FILE [--order 3]

FILE is a text of at most 27 symbols or so, plain or compressed. The error is over windows of 256 characters.
"""

import argparse
import math

import numpy as np

from unmask.data.text8 import Text8
from unmask.metrics.ngram import NGram, codes


def main() -> None:
    """Print bits per character on the last 5 %, with the standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--order", type=int, default=3)
    settings = parser.parse_args()
    data = Text8(settings.file, stride=256)
    vocab = data.codec.vocab_size
    train, test = (np.asarray(data.split(name).tokens, dtype=np.int64)[None] for name in ("train", "test"))  # type: ignore[attr-defined]
    model = NGram.fit([train], vocab, settings.order)
    bits = -np.log2(model.tables[-1].reshape(-1)[codes(test, settings.order, vocab)])[0]
    windows = bits[: len(bits) // 256 * 256].reshape(-1, 256).mean(1)
    error = windows.std() / math.sqrt(len(windows))
    print(f"{settings.order}-gram: {bits.mean():.4f} ± {error:.4f} bits per character")


if __name__ == "__main__":
    main()
