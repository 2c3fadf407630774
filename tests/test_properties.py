"""Round trips that hold for whatever is written: arrays, texts, symbols, and settings as options."""

import json
import tempfile
from pathlib import Path

import hypothesis.strategies as some
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from unmask.codecs.symbols import Symbols
from unmask.codecs.text import Bytes, Characters
from unmask.storage.arrays import read_arrays
from unmask.storage.names import given_options
from unmask.storage.settings import as_arguments

few = settings(derandomize=True, max_examples=40, deadline=None, database=None)
NAMES = some.text("abcdefghij_", min_size=1, max_size=8)
VALUES = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=20)


@few
@given(some.text(max_size=60).map(lambda text: text.encode("utf-8", "replace").decode()))
def test_texts_come_back(text: str) -> None:
    assert Bytes().decode(Bytes().encode(text)[None]) == [text]
    if text:
        codec = Characters("".join(sorted(set(text))))
        assert codec.decode(codec.encode(text)[None]) == [text]


@few
@given(arrays.arrays(np.int64, arrays.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=some.integers(0, 6)))
def test_symbols_and_arrays_come_back(x: np.ndarray) -> None:
    codec = Symbols(7)
    assert np.array_equal(codec.decode(codec.encode(x)), x) and codec.encode(x).dtype == torch.int64
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(Path(folder, "x.npz"), x=x, y=x.astype(float))
        found = read_arrays(Path(folder, "x.npz"))
    assert found.keys() == {"x", "y"} and np.array_equal(found["x"], x) and np.array_equal(found["y"], x)


@few
@given(some.recursive(some.dictionaries(NAMES, VALUES, max_size=4), lambda inner: some.dictionaries(NAMES, inner)))
def test_settings_come_back_from_options(tree: dict) -> None:
    def flat(tree: dict, prefix: str = "") -> dict:
        found = {}
        for name, value in tree.items():
            found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        return found

    options = dict(given_options(as_arguments(tree, (), ())))
    written = flat(tree)
    assert options.keys() == written.keys()
    for name, value in written.items():
        assert (options[name] if isinstance(value, str) else json.loads(str(options[name]))) == value
