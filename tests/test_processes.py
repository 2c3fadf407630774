"""What several processes of torchrun give together is bitwise what one gives."""

import json
import math
import os
import signal
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch

import fresh
import unmask
from small_bpe import write_bpe
from unmask import processes
from unmask.cli.main import main
from unmask.codecs.pixels import Pixels
from unmask.codecs.tokenizer import Tokenizer
from unmask.evaluation.judge import Judge
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.storage.plain import from_bytes, to_bytes

DATA = ["--data", "Corpus", "--data.path", "../made", "--data.length", "16"]
SMALL = ["--draws", "2", "--batch_size", "3"]
COMMANDS = [
    ["evaluate", "../m", *DATA, "--limit", "37", *SMALL, "--json", "l.json", "--per_example", "each.jsonl"],
    ["evaluate", "zeroshot", "../m", "--sets", "ag_news", "--root", "..", *SMALL, "--json", "z.json"],
    ["sample", "../m", "-n", "11", "--batch_size", "2", "--out", "samples.jsonl"],
    ["sample", "../m", "-n", "3", "--batch_size", "2", "--length", "7"],
    ["infill", "../m", "--input", "../holes.jsonl", "--out", "filled.jsonl", "-n", "2", "--score", "2", *SMALL[2:]],
    ["infill", "../pictures", "--input", "../images", "--out", "images.jsonl", "-n", "2", "--batch_size", "2"],
]


@dataclass(frozen=True)
class Noise(unmask.DataSet):
    """Random images."""

    @property
    def codec(self) -> Pixels:
        return Pixels(4)

    @property
    def shape(self) -> tuple[int, ...]:
        return (4, 4, 1)

    def split(self, part: unmask.data.base.Part) -> unmask.data.base.Split:
        rng = np.random.default_rng({"train": 0, "valid": 1, "test": 2, "all": 3}[part])
        return unmask.Examples(rng.integers(0, 4, (21, *self.shape)))


class Flat:
    """The pixels as features."""

    name = "flat"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).float()[:, :3]


class Next(NamedTuple):
    """What a causal language model returns."""

    logits: torch.Tensor


class Bigrams(Judge):
    """A judge that is a table."""

    def __init__(self, codec: Tokenizer) -> None:
        self.table = torch.randn(codec.vocab_size, codec.vocab_size, generator=torch.Generator().manual_seed(0))
        self.network = lambda input_ids: Next(self.table[input_ids])
        self.name, self.precision, self.device = "bigrams", "float32", "cpu"
        self.codec, self.context, self.commit = codec, 1 << 24, None  # so long that batches are small


class Point(NamedTuple):
    """A named tuple."""

    x: torch.Tensor
    y: int


def model_of(codec: Any, shape: tuple[int, ...]) -> MaskedDiffusion:
    torch.manual_seed(0)
    network = Transformer(codec.vocab_size, shape, width=16, depth=1, heads=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return MaskedDiffusion(network, codec).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of texts and of images, a judge, a corpus, a zero-shot set, and inputs to be completed."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("together")
    codec = Tokenizer(str(write_bpe(folder / "bpe")))
    model_of(codec, (16,)).save_pretrained(folder / "m")
    model_of(Pixels(4), (4, 4, 1)).save_pretrained(folder / "pictures")
    texts = [f"the man in the inn {'and then ' * (i % 5)}{i}" for i in range(60)]
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main(["prepare", str(folder / "t.jsonl"), "--tokenizer", codec.source, "--out", str(folder / "made")]) == 0
    (folder / "ag_news_test.jsonl").write_text('{"text": "An inn then", "label": 1}\n' * 50)
    holes = [{"text": f"the [{1 + i % 3}] in{' the' * (i % 4)}[1]"} for i in range(19)]
    (folder / "holes.jsonl").write_text("".join(json.dumps(hole) + "\n" for hole in holes))
    (folder / "images").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        Image.fromarray(np.where(pixels > 99, 255, 0).astype(np.uint8)).save(folder / "images" / f"{i}.mask.png")
    return folder


def work(*commands: list[str]) -> int:
    """Run commands, and what has none; return the status of the first that fails."""
    torch.set_num_threads(1)
    if "DIES" in os.environ:
        processes._joined()
        os.kill(os.getpid(), signal.SIGKILL)
    for arguments in commands or COMMANDS:
        arguments = [os.environ.get("MODEL", "") if one == "$MODEL" else one for one in arguments]
        if status := main(arguments):
            return status
    if not commands:
        model, pictures = unmask.load("../m"), unmask.load("../pictures")
        data = unmask.data.Corpus("../made", 16)
        where = unmask.evaluation.likelihood(model, data, draws=1, batch_size=1, breakdown=True).breakdown
        assert where is not None
        images = unmask.evaluation.frechet(pictures, Noise(), features=Flat(), samples=20, steps=(2,), batch_size=3)
        assert isinstance(model.codec, Tokenizer)
        how: dict[str, Any] = {"samples": 20, "batch_size": 3, "judge": Bigrams(model.codec)}
        texts = unmask.evaluation.generative(model, data=data, **how)
        found = [where.by_position.tolist(), where.by_value.tolist(), images.to_json(), texts.to_json()]
        if processes.rank() == 0:
            Path("python.json").write_text(json.dumps(found))
    return 0


def shared(place: Path, world: int, *commands: list[str], **different: dict[str, str]) -> list[CompletedProcess[str]]:
    """Run `work` in several processes that torchrun could have started; return what each printed and its status."""
    place.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    outputs = Path(tempfile.mkdtemp(dir=place.parent))
    for rank in range(world):
        known = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        shown = outputs / str(rank)
        shown.mkdir()
        with patch.dict(
            os.environ, {name: str(value) for name, value in known.items()} | different.get(f"rank{rank}", {})
        ):
            started.append((fresh.start(work, *commands, folder=place, shown=shown), shown))
    done = []
    for process, shown in started:
        process.join()
        out, err = ((shown / name).read_text(encoding="utf-8") for name in ("out", "err"))
        done.append(CompletedProcess([], process.exitcode or 0, out, err))
    return done


def test_two_processes_give_what_one_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = shared(folder / "two", 2)
    assert [run.returncode for run in two] == [0, 0], two[1].stderr[-2000:] + two[0].stderr[-2000:]
    (folder / "one").mkdir()
    monkeypatch.chdir(folder / "one")
    threads = torch.get_num_threads()
    assert work() == 0
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert two[0].stdout == printed and "perplexity" in printed
    assert two[1].stdout + two[1].stderr == ""
    names = {str(path.relative_to(folder / "one")) for path in (folder / "one").rglob("*.*")}
    assert len(names) > 10 and any(name.endswith(".png") for name in names)
    assert names == {str(path.relative_to(folder / "two")) for path in (folder / "two").rglob("*.*")}
    for name in names:
        assert (folder / "two" / name).read_bytes() == (folder / "one" / name).read_bytes(), name


def test_a_failure_is_one_line(folder: Path) -> None:
    """What all fail at is said by the first; what one fails at by that one, with its number, and all end."""
    place = folder / "failing"
    gone = shared(place, 2, ["sample", "../nothing"])
    said = [run.stderr for run in gone]
    assert [run.returncode for run in gone] == [1, 1] and said == [
        "unmask: error: ../nothing: no such folder\n",
        "",
    ]
    sample = ["sample", "$MODEL", "-n", "4", "--batch_size", "2", "--out", "x.npy"]
    other = shared(place, 2, sample, rank0={"MODEL": "../m"}, rank1={"MODEL": "../pictures"})
    lines = "".join(run.stderr for run in other).splitlines()
    assert [run.returncode for run in other] == [1, 1] and len(lines) == 1
    assert lines[0].startswith("unmask: error: process 1 of 2 has another weights than process 0: ")
    alone = shared(place, 2, sample, rank0={"MODEL": "../m"}, rank1={"MODEL": "../nothing"})
    lines = "".join(run.stderr for run in alone).splitlines()
    assert [run.returncode for run in alone] == [1, 1]
    assert lines == ["unmask: error: process 1 of 2: ../nothing: no such folder"]
    killed = shared(place, 2, ["sample", "../m", "-n", "4", "--batch_size", "2"], rank1={"DIES": "1"})
    assert [run.returncode for run in killed] == [1, -9]
    assert killed[0].stderr.startswith("unmask: error: process 0 of 2: process 1 ended early, or does not answer (")


def test_what_processes_tell_each_other() -> None:
    """Every bit of plain values and tensors; nothing else, and no code."""
    value = {
        "a": (1, 0.1, math.nan, -math.inf, None, True, "ä\udc80"),
        (2, "b"): [b"", b"\0\xff", torch.arange(6.0).view(2, 3)[:, 1:], torch.empty(0, 3), torch.tensor(7), {}, ()],
        "names": Point(torch.tensor([True]), 2**70),
    }
    found = from_bytes(to_bytes(value))
    assert repr(found) == repr({**value, "names": tuple(value["names"])})
    with pytest.raises(TypeError, match="plain values and tensors, not Flat"):
        to_bytes([Flat()])
