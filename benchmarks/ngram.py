"""The figure to beat: an n-gram model (`unmask.evaluation.ngram`) of the training part, on the test part.

    python -m benchmarks.ngram FILE [--order 3]
    python -m benchmarks.ngram CORPUS --order 1 --length 128

FILE is a text of at most 27 symbols or so, plain or compressed, split as `Text8` is; CORPUS a folder that unmask
prepare made, split 90-5-5. The error is over windows of the test part, of --length tokens.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from unmask.data.corpus import Corpus
from unmask.data.text8 import Text8
from unmask.evaluation.ngram import NGram, codes


def main() -> None:
    """Print bits and perplexity per token of the test part, with the standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--length", type=int, default=256)
    settings = parser.parse_args()
    if Path(settings.file).is_dir():
        data: Corpus | Text8 = Corpus(settings.file, settings.length)
        splits = [data.split(name) for name in ("train", "test")]
        parts = [split.shards.read(split.start, split.stop) for split in splits]  # type: ignore[attr-defined]
    else:
        data = Text8(settings.file, stride=256)
        parts = [data.split(name).tokens for name in ("train", "test")]  # type: ignore[attr-defined]
    vocab = data.codec.vocab_size
    train, test = (np.asarray(part, dtype=np.int64)[None] for part in parts)
    model = NGram.fit([train], vocab, settings.order)
    bits = -np.log2(model.tables[-1].reshape(-1)[codes(test, settings.order, vocab)])[0]
    windows = bits[: len(bits) // settings.length * settings.length].reshape(-1, settings.length).mean(1)
    mean, error = bits.mean(), windows.std() / math.sqrt(len(windows))
    perplexity = 2**mean
    print(f"{settings.order}-gram: {mean:.4f} ± {error:.4f} bits per {data.codec.unit}")
    print(f"perplexity {perplexity:.2f} ± {perplexity * error * math.log(2):.2f} per {data.codec.unit}")


if __name__ == "__main__":
    main()
