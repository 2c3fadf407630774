"""Files and command lines that are damaged at random: one line of error, nothing run, nothing altered, nothing hangs.

UNMASK_FUZZ says how many cases there are; `make fuzz` tries 2,000.
"""

import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import unmask
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.documents import Files
from unmask.data.prepare import prepare
from unmask.storage.model_files import config_digest

CASES = int(os.environ.get("UNMASK_FUZZ", "300"))
GROUP = 25
SLOW = 30
"""Seconds that a case may take."""
MOST_MEMORY = 8 << 30
"""Bytes that the process may hold in one."""
WORDS = ("NaN", "null", "1e22", "-1", "999999999999", "[]", "{}", '""', "true", "../../x", "os.system", "é\u202e", "0")
QUICK = ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUICK += ["--trainer.logger", "false", "--evaluate_examples", "4", "--dry-run"]
MARK = "import os\nopen(os.environ['FUZZ_MARK'], 'w').close()\nclass X: pass\n"


class Target(NamedTuple):
    """A file that is damaged, below the template, and the commands that read it."""

    file: str
    commands: tuple[tuple[str, ...], ...]


FEW = ("--draws", "1", "--limit", "4")
HOLE = ("--image", "hole.png", "--mask", "mask.png")
PICTURES = ("--data", "Images", "--data.path", "pictures", "--data.levels", "16")
MODEL = (("sample", "model", "-n", "1", "--out", "OUT/s.npy"), ("info", "model"))
TEXT = (("sample", "text", "-n", "1", "--out", "OUT/s.txt"), ("info", "text"), ("infill", "text", "the [2]", "-n", "1"))
ARRAYS = ("--data", "Arrays", "--data.path")
CORPUS = (
    ("info", "corpus"),
    ("prepare", "--verify", "--out", "corpus"),
    (
        "evaluate",
        "text",
        "--draws",
        "1",
        "--limit",
        "2",
        "--data",
        "Corpus",
        "--data.path",
        "corpus",
        "--data.length",
        "6",
    ),
)
PREPARE = ("--tokenizer", "bpe", "--out", "OUT/c")
TARGETS = (
    Target("model/config.json", MODEL),
    Target("model/model.safetensors", MODEL),
    Target("crafted/config.json", tuple((name, "crafted", *rest) for name, _, *rest in MODEL)),
    Target("text/tokenizer.json", TEXT),
    Target("run/run.json", (("sample", "run", "-n", "1", "--out", "OUT/s.npy"), ("info", "run"))),
    Target("run/checkpoints/last.safetensors", (("sample", "run", "-n", "1", "--out", "OUT/s.npy"), ("info", "run"))),
    Target("x.npz", (("evaluate", "model", *FEW, *ARRAYS, "x.npz"),)),
    Target("x.npy", (("evaluate", "model", *FEW, *ARRAYS, "x.npy"),)),
    Target("canvas.npy", (("infill", "model", "--array", "canvas.npy", "-n", "1", "--out", "OUT/f.npy"),)),
    Target("holes.jsonl", (("infill", "text", "--input", "holes.jsonl", "--out", "OUT/f.jsonl", "--score", "1"),)),
    Target("c.yaml", (("train", "c.yaml", *QUICK, "--out", "OUT/run"),)),
    Target("corpus/index.json", CORPUS),
    Target("corpus/00000.bin", CORPUS),
    Target("corpus/00000.ends.npy", CORPUS),
    Target("corpus/tokenizer.json", CORPUS),
    Target("bpe/tokenizer.json", (("prepare", "a.txt", *PREPARE),)),
    Target("a.txt", (("prepare", "a.txt", *PREPARE, "--boundary", "line"),)),
    Target("a.txt.gz", (("prepare", "a.txt.gz", *PREPARE),)),
    Target("a.zip", (("prepare", "a.zip", *PREPARE),)),
    Target("a.jsonl", (("prepare", "a.jsonl", *PREPARE),)),
    Target(
        "pictures/0.png",
        (("evaluate", "picture", *FEW, *PICTURES),),
    ),
    Target(
        "hole.png",
        (("infill", "picture", *HOLE, "-n", "1", "--out", "OUT/p.png"),),
    ),
)
LINES = (
    ("sample", "model", "-n", "?", "--out", "OUT/s.npy"),
    ("sample", "model", "--sampler", "Ancestral", "--sampler.steps", "?", "-n", "1", "--out", "OUT/s.npy"),
    ("sample", "model", "--steps", "?", "-n", "1", "--out", "OUT/s.npy"),
    ("sample", "model", "--seed", "?", "-n", "1", "--out", "OUT/s.npy"),
    ("sample", "model", "--label", "?", "--out", "OUT/s.npy"),
    ("sample", "?"),
    ("evaluate", "model", "--draws", "?", *ARRAYS, "x.npz"),
    ("evaluate", "model", "--limit", "?", *ARRAYS, "x.npz"),
    ("evaluate", "model", "--data", "?"),
    ("info", "?"),
    ("infill", "text", "?"),
    ("train", "c.yaml", *QUICK, "--out", "OUT/run", "--seed", "?"),
    ("train", "c.yaml", *QUICK, "--out", "OUT/run", "--network", "?"),
    ("train", "c.yaml", *QUICK, "--out", "OUT/run", "--optimizer.lr", "?"),
    ("train", "c.yaml", *QUICK, "--out", "OUT/run", "--trainer.strategy", "?"),
    ("train", "c.yaml", *QUICK, "--out", "OUT/run", "--data.path", "?"),
    ("prepare", "a.txt", *PREPARE, "--shard_tokens", "?"),
    ("prepare", "?", *PREPARE),
    ("?", "model"),
)
VALUES = (
    *WORDS, "1e400", "-1e22", "nan", "inf", "x" * 5000, "a\nb", " ", "--", "-", "[1", "{a: b}", "*", "c[1]",
    "/dev/zero", "/dev/null", "fifo", "0x10", "1_000", "9" * 30, "∞", "٣", ".",
)  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models, a run, a corpus and files of every kind that is read."""
    home = tmp_path_factory.mktemp("template")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tiny: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2}
    unmask.MaskedDiffusion(unmask.Transformer(5, (6,), **tiny), unmask.Symbols(5)).save_pretrained(home / "model")
    shutil.copytree(home / "model", home / "crafted")
    network = unmask.Transformer(16, (8, 8, 1), **tiny)
    unmask.MaskedDiffusion(network, unmask.Pixels(16)).save_pretrained(home / "picture")
    bpe = Tokenizer(str(write_bpe(home / "bpe")))
    (home / "bpe" / "tokenizer.json").write_text(bpe.tokenizer.to_str())
    unmask.MaskedDiffusion(unmask.Transformer(bpe.vocab_size, (6,), **tiny), bpe).save_pretrained(home / "text")
    text = "the man in the hat\n" * 30
    (home / "a.txt").write_text(text)
    (home / "a.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    with zipfile.ZipFile(home / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", text)
    (home / "a.jsonl").write_text("".join(json.dumps({"text": f"the man {i}"}) + "\n" for i in range(20)))
    prepare(Files((str(home / "a.txt"),), boundary="line"), bpe, home / "corpus", 1000)
    x = rng.integers(0, 5, (40, 6))
    np.savez_compressed(home / "x.npz", x=x)
    np.save(home / "x.npy", x)
    holes = (
        {"id": 1, "text": "the [2]"},
        {"prefix": "in", "suffix": "the", "unknown": 2},
        {"array": [1, 2, -1, -1, 3, 4]},
    )
    (home / "holes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in holes))
    np.save(home / "canvas.npy", np.array([0, -1, 2, -1, 4, 1]))
    (home / "pictures").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(home / "pictures" / f"{i}.png")
    Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(home / "hole.png")
    Image.fromarray(np.diag([255] * 8).astype(np.uint8)).save(home / "mask.png")
    (home / "c.yaml").write_text(
        "seed: 0\nbatch_size: 4\ndata:\n  class_path: Arrays\n  init_args:\n    path: x.npz\n"
        "network:\n  class_path: Transformer\n  init_args:\n    width: 8\n    depth: 1\n    heads: 2\n"
        "objective:\n  class_path: ContinuousELBO\n  init_args:\n    schedule: Cosine\n"
        "optimizer:\n  lr: 0.001\ntrainer:\n  gradient_clip_val: 1.0\n"
    )
    data = unmask.data.Arrays(str(home / "x.npz"))
    run = unmask.training.Run(str(home / "run"), batch_size=4, evaluate_examples=4)
    trainer = {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    unmask.train(unmask.Transformer(5, (6,), **tiny), data, run=run, trainer=trainer)
    shutil.rmtree(home / "run" / "model")
    for name in ("evil", "antigravity"):
        (home / f"{name}.py").write_text(MARK)
    os.mkfifo(home / "fifo")
    return home


def numbers(rng: random.Random) -> Any:
    plain = (None, True, -1, 0, 1, 3, 1e22, 10**12, 1e-9, "", "x", "evil.X", [], {}, [1], {"a": 1}, [[]], float("nan"))
    return rng.choice([*plain, {"class": "evil.X"}, {"class_path": "antigravity.X"}])


def alter_tree(tree: Any, rng: random.Random) -> Any:
    """Put something else in the place of one value in nested dicts and lists, or leave it out, or add one."""
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            collect(value[key])

    collect(tree)
    if not places or rng.random() < 0.03:
        return numbers(rng)
    parent, key = rng.choice(places[:2000])
    choice = rng.random()
    if choice < 0.15:
        del parent[key]
    elif choice < 0.25 and isinstance(parent, dict):
        parent[rng.choice(["x", "class", "class_path", "init_args", "import", "overwrite", ""])] = numbers(rng)
    else:
        parent[key] = numbers(rng)
    return tree


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, repeat, insert or overwrite."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, choice = rng.randrange(len(found) + 1), rng.randrange(6)
        head = min(len(found), rng.choice((16, 64, 400, 10**9)))
        at = rng.randrange(head + 1) if rng.random() < 0.7 else at
        if choice == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            del found[at:]
        elif choice == 2:
            found[at:at] = rng.randbytes(rng.randint(1, 20))
        elif choice == 3:
            found[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, (1 << 40).to_bytes(8, "little")))
        elif choice == 4:
            found[at:at] = rng.choice(WORDS).encode()
        else:
            del found[at : at + rng.randint(1, 40)]
    return bytes(found)


def crafted_array(rng: random.Random) -> bytes:
    """A .npy file whose header lies, or whose values are wrong."""
    wrong = (
        np.array([[1e300, 2.0]]), np.zeros((0, 6), int), np.array([["a"]]), np.full((40, 6), 2**62), np.array(3),
        np.full((40, 6), -(2**63)), np.zeros((40, 6), dtype=[("a", "<i4")]), np.zeros((40, 6), "M8[s]"),
    )  # fmt: skip
    file = io.BytesIO()
    np.lib.format.write_array(file, rng.choice(wrong))
    content = file.getvalue()
    if rng.random() < 0.5:
        shape = rng.choice(("(10**14, 6)", "(99999999999999, 6)", "(-1, 6)", "((1,), 6)", "(40, 6", "'x'", "(True, 6)"))
        content = re.sub(rb"'shape': \([^)]*\)", f"'shape': {shape}".encode(), content)
    return content


def mutate(path: Path, rng: random.Random) -> None:
    """Damage a file in a way that fits it, or in any."""
    content, choice = path.read_bytes(), rng.random()
    if choice < 0.04:
        path.unlink()
        rng.choice([path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), lambda: None])()
    elif path.suffix == ".json" and choice < 0.7:
        tree = alter_tree(json.loads(content), rng)
        path.write_text(json.dumps(tree))
    elif path.suffix == ".yaml" and choice < 0.7:
        import yaml

        path.write_text(yaml.safe_dump(alter_tree(yaml.safe_load(content), rng)))
    elif path.suffix == ".npy" and choice < 0.5:
        path.write_bytes(crafted_array(rng))
    elif path.suffix == ".npz" and choice < 0.5:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(rng.choice(("x.npy", "x.npy", "x", "y.npy")), crafted_array(rng))
    elif path.suffix == ".safetensors" and choice < 0.5:
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(alter_tree(json.loads(content[8 : 8 + size]), rng)).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    elif path.suffix == ".jsonl" and choice < 0.5:
        lines = content.decode().splitlines()
        lines[rng.randrange(len(lines))] = rng.choice(("[" * 100_000, json.dumps(numbers(rng)), '{"text": ', "\0"))
        path.write_text("\n".join(lines))
    else:
        path.write_bytes(damaged(content, rng))


def believable(folder: Path) -> None:
    """Write into the weights that they belong to the config.json beside them, so that more than the digest is tried."""
    from safetensors.torch import load_file, save_file

    if not (folder / "config.json").is_file():  # a link to a device, perhaps
        return
    try:
        description = json.loads((folder / "config.json").read_text())
        digest = config_digest({part: description[part] for part in ("network", "codec", "schedule")})
    except (OSError, ValueError, KeyError, TypeError):
        return
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata={"config": digest})
    description.pop("weights_sha256", None)
    (folder / "config.json").write_text(json.dumps(description))


def state(home: Path) -> dict[str, tuple[int, ...]]:
    """Return what lies in a folder, by name: kind, size, time and place of each; caches and the outputs apart."""
    found: dict[str, tuple[int, ...]] = {}
    for folder, folders, files in os.walk(home):
        folders[:] = [name for name in folders if name not in ("OUT", "__pycache__")]
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            written = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            found[os.path.relpath(path, home)] = (status.st_mode, *written * (not stat.S_ISDIR(status.st_mode)))
    return found


def restore(home: Path, template: Path, whole: dict[str, tuple[int, ...]]) -> None:
    """Put back what a case has damaged or added; `whole` is what lay there when nothing was damaged."""
    now = state(home)
    for name in sorted(now, reverse=True):
        if now[name] != whole.get(name):
            path = home / name
            path.rmdir() if stat.S_ISDIR(now[name][0]) else path.unlink()
    for name in sorted(whole):
        if now.get(name) != whole[name]:
            shutil.copyfile(template / name, home / name)
    shutil.rmtree(home / "OUT")
    (home / "OUT").mkdir()
    whole.update(state(home))


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Measure the most memory that this process holds at once, in bytes; a child's `ru_maxrss` counts its parent's."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    found: list[int] = []
    yield found
    (size,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    found.append(int(size) << 10)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError("a case hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def prepared_case(home: Path, rng: random.Random) -> list[str]:
    """Damage something in a copy of the template; return the command line that meets it."""
    if rng.random() < 0.25:
        line = rng.choice(LINES)
        return [rng.choice(VALUES) if part == "?" else part for part in line]
    target = rng.choice(TARGETS)
    mutate(home / target.file, rng)
    if target.file.startswith("crafted"):
        believable(home / "crafted")
    return list(rng.choice(target.commands))


@pytest.mark.parametrize("group", range((CASES + GROUP - 1) // GROUP))
def test_what_is_damaged_is_one_line(
    template: Path, tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr("os.system", lambda *a: ran.append(a))
    monkeypatch.setenv("FUZZ_MARK", str(tmp_path / "mark"))
    monkeypatch.syspath_prepend(str(template))
    failures, home = [], tmp_path / "home"
    shutil.copytree(template, home, ignore=lambda _, names: [name for name in names if name == "fifo"])
    os.mkfifo(home / "fifo")
    (home / "OUT").mkdir()
    monkeypatch.chdir(home)
    whole = state(home)
    for number in range(group * GROUP, min(CASES, (group + 1) * GROUP)):
        arguments = prepared_case(home, random.Random(number))
        before, wrong = state(home), []
        status: Any = None
        with peak_memory() as peak:
            try:
                with time_limit(SLOW), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    status = main(arguments)
            except SystemExit as error:
                status = error.code or 0
            except BaseException as error:
                wrong.append(f"{type(error).__name__}: {error}")
        out, err = capsys.readouterr()
        lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("unmask: error:")]
        wrong += [f"status {status}"] if status not in (0, 1, 2, 130) else []
        wrong += [f"{len(lines)} lines of error"] if len(lines) != (status != 0) else []
        wrong += ["a traceback"] if "Traceback" in out + err else []
        wrong += ["unexpected"] if any("error: unexpected" in line or "a case hangs" in line for line in lines) else []
        wrong += [f"{peak[0]:,} bytes of memory"] if peak[0] >= MOST_MEMORY else []
        after = state(home)
        wrong += [f"{name} was altered" for name in before if after.get(name) != before[name]]
        wrong += ["code was run"] if ran or (tmp_path / "mark").exists() else []
        if wrong:
            failures.append(f"case {number}: {arguments}: {'; '.join(wrong)}\n    {err.strip()[-600:]}")
        restore(home, template, whole)
    assert not failures, "\n".join(failures)
