"""Bach's chorales in four parts as MIDI files, one track a voice, from the scores that come with music21.

`pip install music21`, then `python examples/music/chorales.py FOLDER`. `write_parts` takes any score that music21 reads
(MusicXML, Humdrum, ABC).
"""

import sys
from pathlib import Path
from typing import Any

VOICES = ["Soprano", "Alto", "Tenor", "Bass"]


def chorale_parts(score: Any) -> list[Any]:
    """Return the four voices of a chorale in 4/4, from above; none of another score, or where one rests throughout."""
    named = [part for part in score.parts if part.partName in VOICES]
    metres = {metre.ratioString for metre in score.recurse().getElementsByClass("TimeSignature")}
    whole = [part.partName for part in named] == VOICES and all(part.flatten().notes for part in named)
    return named if whole and metres == {"4/4"} else []


def write_parts(parts: list[Any], path: Path) -> None:
    """Write parts as tracks. An incomplete first bar begins late, so that bars begin at multiples of their length."""
    from music21 import stream

    first = parts[0].getElementsByClass("Measure")[0]
    missing = first.barDuration.quarterLength - first.duration.quarterLength
    score = stream.Score()
    for part in parts:
        track = stream.Part()
        for note in part.stripTies().flatten().notes:
            track.insert(note.offset + missing, note)
        score.insert(0, track)
    score.write("midi", path)


def main() -> None:
    from music21 import corpus

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for source in sorted(Path(path) for path in corpus.getComposer("bach")):
        if parts := chorale_parts(corpus.parse(source)):
            write_parts(parts, folder / f"{source.stem}.mid")
            count += 1
    print(f"{count} chorales in {folder}")


if __name__ == "__main__":
    main()
