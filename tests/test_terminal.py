import io

import pytest
import torch

from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.codecs.text import Bytes, Characters
from unmask.display.terminal import EARLY, LATE, Live


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "9")
    monkeypatch.setenv("LINES", "12")


def colour(shade: tuple[int, ...]) -> str:
    return f"38;2;{shade[0]};{shade[1]};{shade[2]}m"


def test_text_is_coloured_by_when_it_appeared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.display.terminal.PAUSE", 0)
    stream = Terminal()
    canvas = torch.tensor([[0, 2, 2]])
    live = Live(Characters("ab"), canvas, stream)
    half = torch.tensor([[0, 1, 2]])
    live.show(canvas, half)
    assert "a" in stream.getvalue() and "░" in stream.getvalue() and "\x1b[1F" not in stream.getvalue()
    live.show(half, torch.tensor([[0, 1, 0]]), last=True)
    frame = stream.getvalue().split("\x1b[1F\x1b[J")[1]
    middle = tuple(round((a + b) / 2) for a, b in zip(EARLY, LATE, strict=True))
    assert frame.startswith("a\x1b[") and colour(middle) + "b" in frame and colour(LATE) + "a" in frame


def test_what_is_masked_again_loses_its_colour() -> None:
    live = Live(Characters("ab"), torch.tensor([[2, 2]]), io.StringIO())
    live.show(torch.tensor([[2, 2]]), torch.tensor([[0, 2]]))
    assert live.when.tolist() == [[0.5, -1.0]]
    live.show(torch.tensor([[0, 2]]), torch.tensor([[2, 1]]))
    assert live.when.tolist() == [[-1.0, 0.5]]


def test_a_file_gets_the_last_frame_alone_and_no_colour_if_so_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    canvas = torch.full((1, 10), 256)
    live = Live(Bytes(), canvas, stream)
    done = torch.tensor([list(b"hello you\n")])
    live.show(canvas, done)
    assert stream.getvalue() == ""
    live.show(canvas, done, last=True)
    assert stream.getvalue() == "hello yo\nu \n"


def test_images_without_colours_are_shades(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    canvas = torch.full((1, 4, 2, 1), 2)
    live = Live(Pixels(2), canvas, stream)
    x = torch.tensor([0, 1, 0, 1, 1, 0, 1, 2]).view(1, 4, 2, 1)
    live.show(canvas, x, last=True)
    assert stream.getvalue() == " █\n█?\n"


def test_no_frame_is_taller_than_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "5")
    stream = Terminal()
    canvas = torch.full((1, 90), 2)
    live = Live(Characters("ab"), canvas, stream)
    live.show(canvas, canvas, last=True)
    assert live.height == 3 == stream.getvalue().count("\n")


def test_images_stand_side_by_side_as_many_as_fit() -> None:
    stream = io.StringIO()
    canvas = torch.full((9, 3, 3, 1), 2)
    live = Live(Pixels(2), canvas, stream)
    live.show(canvas, torch.zeros(9, 3, 3, 1, dtype=torch.long), last=True)
    lines = stream.getvalue().splitlines()
    assert live.count == 2 and len(lines) == 2 and lines[0].count("▀") == 6
    assert "38;2;0;0;0m" in lines[0] and "48;2;0;0;0m" in lines[1]


def test_symbols_have_no_view() -> None:
    with pytest.raises(ValueError, match="no live view of plain symbols"):
        Live(Symbols(3), torch.tensor([[0]]), io.StringIO())
