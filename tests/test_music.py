"""MIDI files to arrays and back, as docs/music.md shows it."""

import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask

mido = pytest.importorskip("mido", reason="examples/music/midi.py needs mido: pip install mido")

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "music" / "midi.py"
MIDI = runpy.run_path(str(SCRIPT))
HOLD, REST = MIDI["HOLD"], MIDI["REST"]


def piece(voices: int, steps: int, seed: int = 0) -> np.ndarray:
    """Return a random piece in which holds follow a note."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((voices, steps)) < 0.5, HOLD, rng.integers(0, 128, (voices, steps)))
    x[rng.random(x.shape) < 0.1] = REST
    x[:, 0] = rng.integers(0, 128, voices)
    for step in range(1, steps):
        x[:, step] = np.where((x[:, step] == HOLD) & (x[:, step - 1] == REST), REST, x[:, step])
    return x


def write(path: Path, *tracks: list[Any], ticks: int = 480, **settings: Any) -> Path:
    """Write tracks of (message, note, time, ...) that mido knows."""
    file = mido.MidiFile(ticks_per_beat=ticks, **settings)
    for track in tracks:
        file.tracks.append(mido.MidiTrack(track))
    file.save(path)
    return path


def on(note: int, time: int, channel: int = 0, velocity: int = 64) -> Any:
    return mido.Message("note_on", note=note, time=time, channel=channel, velocity=velocity)


def off(note: int, time: int, channel: int = 0) -> Any:
    return mido.Message("note_off", note=note, time=time, channel=channel)


def run(*arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["midi.py", *map(str, arguments)])
    MIDI["main"]()


@pytest.mark.parametrize("voices", [1, 4, 12])  # with 12 one would have the drums' channel
def test_what_is_written_is_read_again(tmp_path: Path, voices: int) -> None:
    x = piece(voices, 64, voices)
    MIDI["write_midi"](x, tmp_path / "x.mid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(MIDI["read_midi"](tmp_path / "x.mid"), x)


def test_midi_of_others(tmp_path: Path) -> None:
    """Other ticks, rounding, an empty track, two channels in one track, drums, velocity 0, a note that never ends."""
    path = write(
        tmp_path / "x.mid",
        [mido.MetaMessage("set_tempo", tempo=400_000)],
        [on(60, 0), on(36, 0, 9), on(60, 94, velocity=0), on(48, 0, 1), off(48, 50, 1), on(72, 0, 1), off(36, 0, 9)],
        [on(64, 26), off(64, 3), on(65, 24), off(65, 47)],
        ticks=96,  # a sixteenth is 24
    )
    expected = np.full((3, 16), REST)
    expected[0, :4] = 60, HOLD, HOLD, HOLD  # 94 ticks are 4 sixteenths
    expected[1, 4:7] = 48, HOLD, 72  # 94 and 144; the last one is as short as can be
    expected[2, 1:4] = 64, 65, HOLD  # 3 ticks are a sixteenth at least; 65 from 53 to 100
    assert np.array_equal(MIDI["read_midi"](path), expected)


def test_notes_of_a_voice_that_sound_together(tmp_path: Path) -> None:
    chord = [on(60, 0), on(67, 0), on(64, 0), on(65, 240), off(60, 240), off(67, 0), off(64, 0), off(65, 0)]
    with pytest.warns(UserWarning, match=r"x\.mid: 2 of 4 notes are left out"):
        found = MIDI["read_midi"](write(tmp_path / "x.mid", chord))
    assert found[0, :5].tolist() == [67, HOLD, 65, HOLD, REST]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no music", "not a MIDI file"),
        (b"", "not a MIDI file"),
        (b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\4\0\x90", "x.mid"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.mid"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        MIDI["read_midi"](path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_files_without_notes_and_pieces_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no notes"):
        MIDI["read_midi"](write(tmp_path / "x.mid", [on(36, 0, 9), off(36, 10, 9)]))
    with pytest.raises(ValueError, match="type 2"):
        MIDI["read_midi"](write(tmp_path / "x.mid", [on(60, 0), off(60, 10)], type=2))
    with pytest.raises(FileNotFoundError, match="no such file"):
        MIDI["read_midi"](tmp_path / "none.mid")
    for bad in (np.full((1, 4), 130), np.zeros((4,), dtype=int), np.zeros((1, 4))):
        with pytest.raises(ValueError, match="tokens|piece"):
            MIDI["write_midi"](bad, tmp_path / "y.mid")


def test_windows_begin_with_the_note_that_sounds() -> None:
    x = np.array([[60, HOLD, HOLD, HOLD, 62, HOLD, REST], [REST, REST, 50, HOLD, HOLD, HOLD, HOLD]])
    found = MIDI["cut"](x, 4, 3)
    assert np.array_equal(found, [x[:, :4], [[60, 62, HOLD, REST], [50, HOLD, HOLD, HOLD]]])
    (short,) = MIDI["cut"](x, 9, 3)
    assert np.array_equal(short, np.pad(x, ((0, 0), (0, 2)), constant_values=REST))


def test_transpositions_stay_within_ranges() -> None:
    windows = np.array([[[60, HOLD], [40, REST]], [[62, HOLD], [41, REST]]])  # ranges 60..62, 40..41
    found = MIDI["transposed"](windows, 2)
    expected = [[[61, HOLD], [40, REST]], *windows.tolist(), [[61, HOLD], [41, REST]]]
    assert found.tolist() == expected


def test_the_way_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, arrays, data, a model that is asked for the voices below a melody, files."""
    folder = tmp_path / "songs"
    folder.mkdir()
    songs = [piece(2, 48, seed) for seed in range(10)]
    for number, song in enumerate(songs):
        MIDI["write_midi"](song, folder / f"{number}.mid")
    MIDI["write_midi"](piece(3, 16), folder / "trio.mid")
    higher = np.where(songs[7] < 127, songs[7] + 1, songs[7])
    MIDI["write_midi"](np.pad(higher, ((0, 0), (16, 0)), constant_values=REST), folder / "copy.mid")
    shape = ("--voices", 2, "--time", 16)
    with pytest.warns(UserWarning, match=r"1 of 12 files are left out, the first: .*trio\.mid: 3 voices, more than 2"):
        run("encode", folder, "--out", tmp_path / "x.npz", *shape, "--hop", 8, "--given", 0, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert "11 pieces, 1 of them left out" in printed and "train: 8 pieces, (40, 2, 16)" in printed
    data = unmask.data.Arrays(str(tmp_path / "x.npz"))
    assert data.shape == (2, 16) and data.codec.vocab_size <= 130 and data.has_given
    test = np.load(tmp_path / "x.npz")["test"]
    whole = [i for i, song in enumerate(songs) if np.array_equal(np.stack(MIDI["cut"](song, 16, 16)), test)]
    assert len(whole) == 1, "the test part is a whole song, in windows that do not overlap"
    assert np.load(tmp_path / "x.npz")["test_given"].all((0, 2)).tolist() == [True, False]

    torch.manual_seed(0)
    network = unmask.networks.Transformer(130, (2, 16), width=16, depth=1, heads=2)
    model = unmask.MaskedDiffusion(network, unmask.codecs.Symbols(130)).eval()
    run(
        "holes",
        folder / "3.mid",
        "--out",
        tmp_path / "holes.npy",
        *shape,
        "--keep",
        0,
        "--bars",
        2,
        monkeypatch=monkeypatch,
    )
    holes, known = np.load(tmp_path / "holes.npy"), np.stack(MIDI["cut"](songs[3], 16, 16))
    assert (holes[1, 1] == -1).all() and (holes == -1).sum() == 16
    unmask.infill_file(
        model, tmp_path / "holes.npy", tmp_path / "filled.npy", skip_bad=True
    )  # bar 1 has nothing to draw
    run("decode", tmp_path / "filled.npy", "--out", tmp_path / "out", "--join", monkeypatch=monkeypatch)
    found = MIDI["read_midi"](tmp_path / "out" / "0.mid")
    assert np.array_equal(found[0], np.concatenate(known, 1)[0]), "the melody is as it was"
    assert np.array_equal(found[1, :16], known[0, 1])


def test_pictures_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MIDI["picture"]({"a": piece(2, 16), "b": piece(2, 16, 1)}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match=r"no \.mid files"):
        run("encode", tmp_path, "--out", tmp_path / "x.npz", monkeypatch=monkeypatch)
