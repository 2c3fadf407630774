"""Speed of completing many texts in batches against one at a time (python -m benchmarks.infilling [--json FILE]).

600 texts of 5 to 45 characters, of which 1 to 8 are unknown; a transformer of 2 layers of width 64, with random
weights: what it predicts does not matter here. "One length" are texts of which only those of one length share a batch;
"filled up" are those of a model whose examples are filled up to one length (`packing: padded`), which all do. Seconds
are of whole files, medians of rounds in turns, in one process; a ratio above 1 says that batches are faster.
"""

import argparse
import json
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unmask
from benchmarks.timing import interleaved, report
from unmask.codecs.text import Characters
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer

ALPHABET = "abcdefghijklmnopqrstuvwxyz #"
LONGEST = 45


def write_texts(path: Path, count: int) -> None:
    """Write lines such as {"text": "abc[2]def"}."""
    rng = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            unknown = rng.randint(1, 8)
            known = "".join(rng.choices(ALPHABET[:-1], k=max(1, rng.randint(5, LONGEST) - unknown)))
            at = rng.randint(0, len(known))
            file.write(json.dumps({"text": f"{known[:at]}[{unknown}]{known[at:]}"}) + "\n")


def make_model(width: int, padded: bool) -> MaskedDiffusion:
    """Return a model with random weights."""
    torch.manual_seed(0)
    network = Transformer(len(ALPHABET), (LONGEST,), width=width, depth=2, heads=4)
    fill = len(ALPHABET) - 1
    lengths = Lengths.of(np.arange(5, LONGEST + 1), LONGEST, fill, apart=True)
    about = {"lengths": lengths.describe()} if padded else {}
    return MaskedDiffusion(network, Characters(ALPHABET), about=about).eval()


def compare(model: MaskedDiffusion, source: Path, score: int, rounds: int) -> dict[str, float]:
    """Time a file in batches and one at a time."""
    settings: dict[str, Any] = {"score": score, "overwrite": True}
    out = source.with_name("filled.jsonl")
    seconds = interleaved(
        {
            f"batches of {size}": partial(unmask.infill_file, model, source, out, batch_size=size, **settings)
            for size in (64, 1)
        },
        rounds,
    )
    batches, alone = seconds.values()
    return {"batches of 64, s": batches, "one at a time, s": alone, "ratio": alone / batches}


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    settings = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "holes.jsonl"
        write_texts(source, 4 if settings.small else 600)
        for kind in ("one length", "filled up"):
            model = make_model(16 if settings.small else 64, kind == "filled up")
            for score in (0, 16):
                row = compare(model, source, score, 1 if settings.small else 3)
                rows.append({"texts": kind, "score": score, **row})
                print(
                    f"{kind}, score={score}: " + ", ".join(f"{name} {value:.3g}" for name, value in row.items()),
                    flush=True,
                )
    report(rows, settings.json)


if __name__ == "__main__":
    main()
