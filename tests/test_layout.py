"""The order of imports, the size of the command line, and what is imported when."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unmask"


def check_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml on a copy of the package."""
    command = [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_imports_only_go_down(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "unmask")
    done = check_imports(tmp_path)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr
    upward = {
        "schedules.py": "def late() -> None:\n    import unmask.cli.main\n",
        "data/digits.py": "from unmask.samplers.base import Sampler\n",
        "evaluation/likelihood.py": "from unmask.training.settings import Run\n",
        "model.py": "import lightning\n",
        "loading.py": "import yaml\n",
    }
    for name, code in upward.items():
        with open(tmp_path / "unmask" / name, "a") as file:
            file.write("\n" + code)
    done = check_imports(tmp_path)
    assert done.returncode != 0 and "3 broken" in done.stdout, done.stdout
    for chain in (
        "unmask.schedules -> unmask.cli.main",
        "unmask.data.digits -> unmask.samplers.base",
        "unmask.evaluation.likelihood -> unmask.training.settings",
        "unmask.model -> lightning",
        "unmask.loading -> yaml",
    ):
        assert f" {chain} (l." in done.stdout, (chain, done.stdout)


def test_the_command_line_is_thin() -> None:
    """It parses, calls and prints: no tensors, and few lines."""
    files = sorted((SOURCE / "cli").glob("*.py"))
    assert sum(len(path.read_text().splitlines()) for path in files) <= 1480
    for path in files:
        code = ast.parse(path.read_text())
        types = [node for node in code.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        code.body = [node for node in code.body if node not in types]
        for node in ast.walk(code):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr == "manual_seed", f"{path}:{node.lineno}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                assert not {"numpy", "matplotlib", "lightning"} & {str(name).split(".")[0] for name in names}, path


def test_only_the_given_module_knows_how_given_tokens_are_written() -> None:
    for path in SOURCE.rglob("*.py"):
        if path.name != "given.py":
            code = ast.parse(path.read_text())
            found = [
                node for node in ast.walk(code) if isinstance(node, ast.BinOp) and ast.unparse(node).startswith("-1 - ")
            ]
            assert not found, f"{path}:{found[0].lineno}"


WRONG = [
    ["trian"],
    ["train", "digit"],
    ["train", "digits", "--foo", "3"],
    ["train", "digits", "--optimizer.lr", "abc"],
    ["train", "digits", "--optimizer.lr", "-1"],
    ["train", "digits", "--batch_size", "0"],
    ["train", "digits", "--network.widht", "3"],
    ["train", "digits", "--network", "Transfomer"],
    ["train", "digits", "--objective", "ContinuousELBO", "--objective.schedule", "Cosin"],
    ["train", "digits", "--trainer.max_step", "3"],
    ["train", "wrong.yaml"],
    ["evaluate", "no/such/model"],
    ["evaluate", "generate", "run", "--draws", "3"],
    ["evaluate", "likelihod", "run"],
    ["sample", "run", "--sampler", "Ancestral", "--sampler.stepz", "3"],
    ["sample", "run", "--temprature", "3"],
    ["sample", "run", "--preset", "lada"],
    ["sample", "run", "--preset", "llada", "--sampler.steps", "3"],
    ["infill", "run", "a_", "--steps", "3"],
    ["sample", "run", "--out", "x.jpg"],
    ["infill", "run"],
    ["infill", "run", "--array", "none.npy"],
    ["study", "sampler", "run"],
    ["reproduce", "text9"],
    ["reproduce", "text8", "--rows", "md5"],
    ["reproduce", "text8", "--minutes", "0"],
    ["reproduce", "text8", "--data.path", "nosuch.txt"],
    ["plot", "trajectory"],
    ["info", "no/such/thing"],
    ["sample", "run", "--import", "no-module"],
    ["train", "textfile", "--data.path", "nosuch.txt"],
    ["train", "images", "--data.path", "nosuch"],
    ["train", "digits", "--trainer.logger", "Nope"],
    ["train", "digits", "--trainer.accelerator", "warp"],
    ["train", "digits", "--precision", "nope"],
    ["train", "run", "--resume"],
    ["train", "digits", "--out", "nowhere", "--resume"],
    ["evaluate", "nosuch"],
    ["sample", "run"],
    ["plot", "schedules", "run"],
    ["plot", "steps", "--out", "x.bmp"],
    ["prepare", "nosuch.txt", "--out", "corpus"],
    ["infill", "run", "a", "--image", "none.png", "--mask", "none.png"],
]
"""A wrong name, option or file; importing torch would take seconds, and lightning many more."""


IN_ONE_PROCESS = """
import contextlib, io, json, sys
from unmask.cli.main import main
found = []
for arguments in json.load(sys.stdin):
    out, err, status = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code or 0
    imported = [name for name in ("torch", "lightning", "matplotlib") if name in sys.modules]
    found.append((status, imported, out.getvalue(), err.getvalue()))
json.dump(found, sys.stdout)
"""
"""One process for many commands, each of which must leave torch alone: the first that does not is the one to blame."""


def in_one_process(folder: Path, commands: Sequence[Sequence[str]]) -> list[Any]:
    """Return what came of each command: its status, what is imported by then, and what it printed."""
    command = [sys.executable, "-c", IN_ONE_PROCESS]
    done = subprocess.run(command, cwd=folder, input=json.dumps(commands), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def mistyped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("mistyped")
    (folder / "run" / "model").mkdir(parents=True)
    (folder / "wrong.yaml").write_text("seed: 0\nnetwork:\n  class_path: Transformer\n  init_args:\n    widht: 3\n")
    return dict(zip(map(" ".join, WRONG), in_one_process(folder, WRONG), strict=True))


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_what_is_mistyped_is_said_before_torch_is_imported(arguments: list[str], mistyped: dict[str, Any]) -> None:
    status, imported, out, err = mistyped[" ".join(arguments)]
    assert status in (1, 2) and not imported and not out
    assert err.startswith("unmask: error: ") and err.count("\n") == 1


HELP = (
    (["--help"], "unmask train digits"),
    (["train", "--help"], "--batch_size"),
    (["train", "--help-all"], "--trainer.gradient_clip_val"),
    (["train", "digits", "--data.help", "Arrays"], "memory-mapped"),
    (["train", "--data.help", "Arrays"], "The .npz holds `x`"),
    (["train", "--network.help", "UNet"], "widths: tuple[int, ...] = (128,)"),
    (["train", "--objective.help"], "TimeFreeELBO"),
    (["sample", "--help"], "--sampler.help CLASS"),
    (["infill", "--help"], "--preset {llada,dream}"),
    (["evaluate", "zeroshot", "--help"], "--root"),
)


def test_help_comes_without_torch_too(tmp_path: Path) -> None:
    found = in_one_process(tmp_path, [arguments for arguments, _ in HELP])
    for (arguments, shown), (status, imported, out, _) in zip(HELP, found, strict=True):
        assert status == 0 and shown in out and not imported, arguments
        if arguments == ["train", "--help"]:
            assert "--trainer.gradient_clip_val" not in out and len(out.splitlines()) < 90


def test_python_dash_m_works() -> None:
    done = subprocess.run([sys.executable, "-m", "unmask", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("unmask ")
