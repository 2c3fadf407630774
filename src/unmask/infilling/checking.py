"""Checking all inputs before anything is drawn, and putting those together that make a batch."""

import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from unmask.canvas import kept_notes
from unmask.infilling.journal import as_line
from unmask.infilling.requests import Reader, Rule, filled_up
from unmask.infilling.sources import Source


@dataclass
class Checked:
    """What is known of the inputs before anything is drawn.

    Attributes:
        good: the inputs by what decides which can share a batch: the shape, the longest that it can be, and the rule.
        unknown: number of unknown tokens of each input, the largest that it can be.
        bad: why an input cannot be completed.
        sha256: of all that is read of them.
    """

    good: dict[tuple[tuple[int, ...], Rule], list[int]] = field(default_factory=dict)
    unknown: dict[int, int] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    sha256: str = ""

    def batches(self, count: int) -> Iterator[list[int]]:
        """Yield inputs that go together, `count` at a time, those with the longest canvases first."""
        for key in sorted(self.good, key=lambda key: (-math.prod(key[0]), repr(key))):
            group = sorted(self.good[key], key=lambda index: (-self.unknown[index], index))
            yield from (group[start : start + count] for start in range(0, len(group), count))


def check_inputs(inputs: Source, reader: Reader, skip_bad: bool) -> Checked:
    """Check all inputs.

    Raises:
        ValueError: an input is bad, unless `skip_bad`; names its place.
    """
    found, digest, notes = Checked(), hashlib.sha256(), []
    for index in tqdm(range(len(inputs)), desc="checking", unit="input", delay=2):
        try:
            with kept_notes() as said:
                fields = inputs.fields(index)
                request = reader.read(fields)
            kept = as_line(request.kept | {"label": request.label})
        except (ValueError, OSError, RecursionError) as error:
            message = f"{inputs.where(index)}: {error}"
            if not skip_bad:
                raise ValueError(message) from None
            found.bad[index] = str(error)
            digest.update(as_line({"error": str(error)}))
            continue
        canvas = filled_up(reader.model, request.canvas)
        found.good.setdefault((tuple(canvas.shape), request.rule), []).append(index)
        found.unknown[index] = int((canvas == reader.model.network.mask_id).sum())
        digest.update(kept + canvas.numpy().tobytes())
        notes += [(index, said[0])] if said else []
    if notes:
        more = f" (and {len(notes) - 1:,} others)" if len(notes) > 1 else ""
        print(f"unmask: note: {notes[0][1]}: {inputs.where(notes[0][0])}{more}", file=sys.stderr)
    if not found.good:
        raise ValueError(f"{inputs.path}: every input is bad; the first: {found.bad[0]}")
    found.sha256 = digest.hexdigest()
    return found
