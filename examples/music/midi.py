"""MIDI files to arrays of tokens and back: `python examples/music/midi.py --help`; docs/music.md shows the whole way.

A piece is an array (voices, time) of integers on a grid of sixteenths. A token from 0 to 127 is the pitch of a note
that begins there, 128 holds the note of this voice that sounds, 129 is a rest. Needs numpy and mido.
"""

import argparse
import warnings
from collections.abc import Iterable
from pathlib import Path

import mido
import numpy as np

HOLD, REST = 128, 129
STEPS = 4  # of the grid, in a quarter
BAR = 16  # steps
DRUMS = 9  # channel


def read_midi(path: Path | str) -> np.ndarray:
    """Return the piece of a file: a voice for each track and channel with notes, in their order, but for drums.

    Voices are filled up with rests to whole bars of 4/4. Where notes of a voice begin together the highest is kept, and
    a warning says how many are left out; a note ends at the latest where the next one begins.

    Raises:
        ValueError: no MIDI file, or without notes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        midi = mido.MidiFile(path)
    except (OSError, EOFError, ValueError, LookupError) as error:
        raise ValueError(f"{path}: not a MIDI file that mido reads: {error or type(error).__name__}") from None
    if midi.ticks_per_beat < 1 or midi.type == 2:
        raise ValueError(f"{path}: time in frames and files of independent patterns (type 2) are not read")
    voices: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for number, track in enumerate(midi.tracks):
        for channel, *note in notes(track, STEPS / midi.ticks_per_beat):
            voices.setdefault((number, channel), []).append(tuple(note))
    if not voices:
        raise ValueError(f"{path}: no notes")
    steps = max(end for voice in voices.values() for _, end, _ in voice)
    piece = np.full((len(voices), -(-steps // BAR) * BAR), REST, dtype=np.uint8)
    for row, (_, voice) in zip(piece, sorted(voices.items()), strict=True):
        for start, end, pitch in sorted(voice, key=lambda note: (note[0], note[2])):
            row[start:] = REST
            row[start:end] = HOLD
            row[start] = pitch
    kept, count = int((piece < HOLD).sum()), sum(len(voice) for voice in voices.values())
    if kept < count:
        warnings.warn(f"{path}: {count - kept} of {count} notes are left out, below others of a voice", stacklevel=2)
    return piece


def notes(track: Iterable[mido.Message], steps_per_tick: float) -> list[tuple[int, int, int, int]]:
    """Return channel, first step, step after the last, and pitch of each note; one that never ends lasts to the end."""
    found, sounding, ticks = [], {}, 0

    def end(key: tuple[int, int]) -> None:
        start, stop = (int(tick * steps_per_tick + 0.5) for tick in (sounding.pop(key), ticks))
        found.append((key[0], start, max(stop, start + 1), key[1]))

    for message in track:
        ticks += message.time
        if message.type not in ("note_on", "note_off") or message.channel == DRUMS:
            continue
        key = message.channel, message.note
        if key in sounding:
            end(key)
        if message.type == "note_on" and message.velocity:
            sounding[key] = ticks
    for key in list(sounding):
        end(key)
    return found


def write_midi(piece: np.ndarray, path: Path | str, beats_per_minute: float = 80) -> None:
    """Write a piece (voices, time) as a file with a track for each voice. A hold of nothing is a rest."""
    if piece.ndim != 2 or not np.issubdtype(piece.dtype, np.integer):
        raise ValueError(f"a piece is an array of integers (voices, time), got {piece.dtype} {piece.shape}")
    if piece.size and not 0 <= piece.min() <= piece.max() <= REST:
        raise ValueError(f"tokens must be in 0..{REST}, got values from {piece.min()} to {piece.max()}")
    midi = mido.MidiFile(ticks_per_beat=120 * STEPS)
    for number, voice in enumerate(piece):
        track = midi.add_track(f"voice {number + 1}")
        if not number:
            track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(beats_per_minute)))
        channel, sounding, written = (number + (number >= DRUMS)) % 16, None, 0
        for step, token in enumerate([*voice.tolist(), REST]):
            if token == HOLD:
                continue
            for kind, pitch in (("note_off", sounding), ("note_on", None if token == REST else token)):
                if pitch is not None:
                    track.append(mido.Message(kind, note=pitch, channel=channel, time=120 * (step - written)))
                    written = step
            sounding = None if token == REST else token
    midi.save(path)


def cut(piece: np.ndarray, time: int, hop: int) -> list[np.ndarray]:
    """Return windows of `time` steps, one every `hop`; a note that sounds where one begins, begins there.

    What is left at the end is dropped; a piece that is shorter than a window is filled up with rests.
    """
    piece = np.pad(piece, ((0, 0), (0, max(0, time - piece.shape[1]))), constant_values=REST)
    windows = []
    for start in range(0, piece.shape[1] - time + 1, hop):
        windows.append(piece[:, start : start + time].copy())
        for row, whole in zip(windows[-1], piece, strict=True):
            if row[0] == HOLD:
                row[0] = whole[:start][whole[:start] != HOLD][-1]
    return windows


def transposed(windows: np.ndarray, most: int) -> np.ndarray:
    """Return windows with all their transpositions by at most so many semitones that stay within the voices' ranges."""
    is_note, result = windows < HOLD, []
    low = np.where(is_note, windows, REST).min((0, 2))[:, None]
    high = np.where(is_note, windows, 0).max((0, 2))[:, None]
    for shift in range(-most, most + 1):
        moved = windows.astype(np.int16) + shift
        fits = (~is_note | ((moved >= low) & (moved <= high))).all((1, 2))
        result.append(np.where(is_note, moved, windows)[fits])
    return np.concatenate(result).astype(np.uint8)


def read_folder(folder: Path | str, voices: int) -> list[np.ndarray]:
    """Return the pieces with so many voices, or fewer (the rest is silent), of all files; a warning tells of others."""
    pieces, bad = [], []
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    for path in paths:
        try:
            piece = read_midi(path)
            if len(piece) > voices:
                raise ValueError(f"{path}: {len(piece)} voices, more than {voices}: give --voices {len(piece)}")
        except ValueError as error:
            bad.append(str(error))
        else:
            pieces.append(np.pad(piece, ((0, voices - len(piece)), (0, 0)), constant_values=REST))
    if bad and pieces:
        warnings.warn(f"{len(bad)} of {len(paths)} files are left out, the first: {bad[0]}", stacklevel=2)
    if not pieces:
        raise ValueError(bad[0] if bad else f"{folder}: no .mid files")
    return pieces


def without_copies(pieces: list[np.ndarray], time: int, hop: int) -> list[np.ndarray]:
    """Leave out pieces that share a window with an earlier one, transposed or not: a test is to be of new music."""
    seen: set[bytes] = set()
    kept = []
    for piece in pieces:
        windows = [window.astype(np.int16) for window in cut(piece, time, hop) if (window < HOLD).any()]
        keys = {np.where(one < HOLD, one - one[one < HOLD][0], one + 128).tobytes() for one in windows}
        if not keys & seen:
            kept.append(piece)
        seen |= keys
    return kept


def encode(
    folder: Path | str, out: Path | str, *, voices: int, time: int, hop: int, given: list[int], transpose: int
) -> None:
    """Write the arrays that `unmask train arrays` reads: parts are split by piece, 80, 10 and 10 %, always in one way.

    Windows of `train` overlap, those of `valid` and `test` do not. Voices in `given` (from 0) are conditioned on.
    """
    pieces, arrays = read_folder(folder, voices), {}
    read, pieces = len(pieces), without_copies(pieces, time, hop)
    print(f"{read} pieces, {read - len(pieces)} of them left out: they share {time} steps with another")
    if len(pieces) < 3:
        raise ValueError(f"{folder}: three different pieces are needed for three parts, got {len(pieces)}")
    order, tenth = np.random.default_rng(0).permutation(len(pieces)), -(-len(pieces) // 10)
    for part, some in zip(("test", "valid", "train"), np.split(order, (tenth, 2 * tenth)), strict=True):
        step = hop if part == "train" else time
        windows = np.stack([window for i in some for window in cut(pieces[i], time, step)])
        arrays[part] = transposed(windows, transpose) if part == "train" else windows
        if given:
            known = np.isin(np.arange(voices), given)[:, None]
            arrays[f"{part}_given"] = np.broadcast_to(known, arrays[part].shape)
        learned = [voice for voice in range(voices) if voice not in given]
        count = (windows[:, learned] < HOLD).sum() / len(windows)
        print(f"{part}: {len(some)} pieces, {arrays[part].shape}, {count:.2f} notes to learn in each, untransposed")
    np.savez_compressed(out, **arrays)


def holes(path: Path | str, out: Path | str, *, voices: int, time: int, keep: list[int], bars: list[int]) -> None:
    """Write windows of a file with -1 where unknown: all but the voices `keep` in `bars` (in all if none)."""
    piece = read_midi(path)[:voices]
    wide = np.pad(piece, ((0, voices - len(piece)), (0, -piece.shape[1] % time)), constant_values=REST)
    x = np.stack(cut(wide, time, time)).astype(np.int64)
    bar = np.arange(len(x) * time).reshape(len(x), 1, time) // BAR + 1
    unknown = ~np.isin(np.arange(voices), keep)[:, None] & (np.isin(bar, bars) | (not bars))
    np.save(out, np.where(unknown, -1, x))


def decode(path: Path | str, out: Path | str, *, join: bool = False) -> None:
    """Write every piece of an array (pieces, voices, time) as a file in the folder `out`, or all as one."""
    x = np.load(path)
    if x.ndim != 3:
        raise ValueError(f"{path}: expected an array (pieces, voices, time), got {x.shape}")
    Path(out).mkdir(parents=True, exist_ok=True)
    for number, piece in enumerate([np.concatenate([*x], 1)] if join else x):
        write_midi(piece, Path(out) / f"{number}.mid")


def picture(pieces: dict[str, np.ndarray], out: Path | str) -> None:
    """Draw piano rolls beside each other, a colour for each voice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(pieces), 3), layout="constrained")
    axes = figure.subplots(1, len(pieces), sharey=True, squeeze=False)[0]
    for ax, (title, piece) in zip(axes, pieces.items(), strict=True):
        for number, voice in enumerate(piece):
            (begins,) = np.nonzero(voice != HOLD)
            for begin, end in zip(begins, [*begins[1:], len(voice)], strict=True):
                if voice[begin] < HOLD:
                    ax.barh(voice[begin], end - begin - 0.2, 0.9, begin, color=f"C{number}")
        ax.set(title=title, xlabel="bar", xlim=(0, piece.shape[1]))
        ax.set_xticks(range(0, piece.shape[1], BAR), range(1, piece.shape[1] // BAR + 1))
        ax.grid(axis="x")
    axes[0].set_ylabel("pitch")
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    shape = argparse.ArgumentParser(add_help=False)
    shape.add_argument("--voices", type=int, default=4)
    shape.add_argument("--time", type=int, default=64, help="sixteenths of an example")
    one = commands.add_parser("encode", parents=[shape], help="a folder of MIDI files to a .npz for `unmask train`")
    one.add_argument("--hop", type=int, default=16, help="sixteenths from one example to the next, to train")
    one.add_argument("--given", type=int, nargs="*", default=[], help="voices that are conditioned on, from 0")
    one.add_argument("--transpose", type=int, default=0, help="most semitones that examples to train are transposed by")
    one = commands.add_parser("holes", parents=[shape], help="a MIDI file to a .npy for `unmask infill --array`")
    one.add_argument("--keep", type=int, nargs="*", default=[], help="voices that are known, from 0")
    one.add_argument("--bars", type=int, nargs="*", default=[], help="unknown bars, from 1; all if none is given")
    one = commands.add_parser("decode", help="a .npy of samples to a folder of MIDI files")
    one.add_argument("--join", action="store_true", help="one file, of all one after another")
    for name, command in commands.choices.items():
        command.add_argument("path", type=Path, help="folder" if name == "encode" else "file")
        command.add_argument("--out", type=Path, required=True)
    settings = vars(parser.parse_args())
    command = {"encode": encode, "holes": holes, "decode": decode}[settings.pop("command")]
    try:
        command(settings.pop("path"), settings.pop("out"), **settings)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
