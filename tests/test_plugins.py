"""Classes from outside the package, and that no file can name code that is then imported."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fresh
import unmask
from unmask.cli.main import main
from unmask.storage.description import build, describe
from unmask.storage.plugins import import_named

ROOT = Path(__file__).parents[1]
QUICK = ["--trainer.max_steps", "3", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUICK += ["--batch_size", "8", "--evaluate_every", "2", "--evaluate_examples", "8", "--checkpoint_every", "2"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example of CONTRIBUTING as a module, and a model that was trained with it."""
    folder = tmp_path_factory.mktemp("example")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (folder / "mine.py").write_text(block)
    commands = re.findall(r"^unmask train arrays --data .*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    (command,) = (line.split()[1:] for line in commands)
    done = fresh.run(folder, *command, *QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unmask evaluate runs/mine --import mine" in done.stdout, done.stdout
    return folder


def test_an_own_class_goes_through_every_command(example: Path) -> None:
    more = [*QUICK, "--trainer.max_steps", "5"]
    resumed = fresh.run(example, "train", "arrays", "--import", "mine", "--out", "runs/mine", "--resume", *more)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    few = ["--draws", "2", "--limit", "20"]
    measured = fresh.run(example, "evaluate", "runs/mine", "--import", "mine", *few, "--record")
    assert measured.returncode == 0 and "bits per token" in measured.stdout, measured.stderr
    sampled = fresh.run(example, "--import", "mine") or None
    assert sampled is not None and sampled.returncode == 2  # a command comes first
    sampled = fresh.run(
        example, "sample", "runs/mine", "--import", "mine", "--sampler", "mine.OddFirst", "--out", "s.npy"
    )
    assert sampled.returncode == 0, sampled.stderr
    assert np.load(example / "s.npy").shape == (4, 12)
    canvas = np.full(12, -1)
    canvas[3] = 2
    np.save(example / "c.npy", canvas)
    filled = fresh.run(
        example, "infill", "runs/mine", "--array", "c.npy", "--out", "f.npy", "--import", "mine.py", "-n", "2"
    )
    assert filled.returncode == 0, filled.stderr
    assert (np.load(example / "f.npy")[:, 3] == 2).all()
    code = (
        "import unmask; model = unmask.load('runs/mine', trust=['mine']); "
        "model.save_pretrained('pushed'); print(model.codec.decode(model.sample(1))[0], model.about['steps'])"
    )
    loaded = fresh.python(example, code)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    assert re.fullmatch("[↑→↓←]{12} 5", loaded.stdout.strip())
    assert fresh.run(example, "info", "pushed").returncode == 0
    description = json.loads((example / "pushed" / "config.json").read_text())
    assert description["network"]["class"] == "mine.ConvNet" and description["codec"]["class"] == "mine.Compass"
    assert description["schedule"] == {"class": "mine.Square"}


def test_without_consent_no_command_imports_what_a_file_names(example: Path) -> None:
    for command in (["evaluate", "runs/mine"], ["sample", "runs/mine"], ["study", "samplers", "runs/mine"]):
        refused = fresh.run(example, *command)
        assert refused.returncode == 1, refused.stdout
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "mine" in refused.stderr and "--import mine" in refused.stderr


def test_a_module_that_is_only_trusted_in_part_is_imported_in_part(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example)
    with pytest.raises(ValueError, match="imported only if you name it: --import other"):
        build(unmask.Network, {"class": "other.Net"}, "x", trust=["mine", "othe"])
    assert "other" not in sys.modules


EVIL = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "antigravity.X",
    "evil.Net",
    "evil.sub.Net",
    "os",
    "__import__",
]


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules on the path and in the current folder that leave a mark when they are imported."""
    for name in ("evil", "antigravity"):
        mark = f"open({str(tmp_path / f'{name}.mark')!r}, 'w').close()\n"
        (tmp_path / f"{name}.py").write_text(
            mark + "import unmask\nclass Net(unmask.Transformer): pass\nclass X(unmask.Transformer): pass\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return tmp_path


def no_trap_sprang(folder: Path) -> bool:
    return not list(folder.glob("*.mark")) and "evil" not in sys.modules and "antigravity" not in sys.modules


@pytest.mark.parametrize("part", ["network", "codec", "schedule"])
@pytest.mark.parametrize("name", EVIL)
def test_a_crafted_config_runs_nothing(
    traps: Path, name: str, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[object] = []
    monkeypatch.setattr("os.system", lambda *a: ran.append(a))
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: ran.append(a))
    network = unmask.Transformer(4, (6,), width=8, depth=1, heads=2)
    unmask.MaskedDiffusion(network, unmask.Symbols(4)).save_pretrained(traps / "m")
    config = json.loads((traps / "m" / "config.json").read_text())
    config[part] = {"class": name, "args": "echo hello", "command": "echo hello", "shell": True}
    (traps / "m" / "config.json").write_text(json.dumps(config))
    for command in (["sample"], ["evaluate"], ["infill"], ["study", "samplers"], ["plot", "trajectory"], ["info"]):
        rest = ["--array", "x.npy"] if command == ["infill"] else []
        np.save(traps / "x.npy", np.full(6, -1))
        status = main([*command, str(traps / "m"), *rest])
        assert status == (0 if command == ["info"] else 1), command
    assert not ran and no_trap_sprang(traps)


@pytest.mark.parametrize("name", EVIL)
def test_a_crafted_yaml_file_runs_nothing(
    traps: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr("os.system", lambda *a: ran.append(a))
    shipped = (ROOT / "src" / "unmask" / "configs" / "digits.yaml").read_text()
    for old, new in (
        ("class_path: Transformer", f"class_path: {name}"),
        ("class_path: Digits", f"class_path: {name}"),
        ("class_path: TimeFreeELBO", f"class_path: {name}"),
        (
            "objective:\n  class_path: TimeFreeELBO",
            f"objective:\n  class_path: ContinuousELBO\n  init_args:\n    schedule: {name}",
        ),
        ("objective:\n  class_path: TimeFreeELBO", f"objective: {name}"),
        ("gradient_clip_val: 1.0", f"strategy: {name}"),
        ("gradient_clip_val: 1.0", f"strategy: {{class_path: {name}}}"),
        ("gradient_clip_val: 1.0", f"profiler: {name}"),
        ("gradient_clip_val: 1.0", f"logger: {{class_path: {name}}}"),
        ("seed: 0", f"seed: 0\nimport: [{name.split('.')[0]}]"),
    ):
        assert old in shipped
        (traps / "evil.yaml").write_text(shipped.replace(old, new))
        assert main(["train", "evil.yaml", *QUICK, "--out", str(traps / "run")]) in (1, 2), (old, new)
    assert not ran and no_trap_sprang(traps)
    assert not (traps / "run").exists()


def test_bad_imports_are_one_line(example: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "needs.py").write_text("import no_such_package\n")
    for module, message in (
        ("no_such_module", "--import no_such_module: there is no module 'no_such_module'"),
        ("no/such.py", "--import no/such.py: no such file"),
        (str(tmp_path / "raises.py"), "the module fails: ZeroDivisionError: division by zero"),
        (str(tmp_path / "needs.py"), "the module fails: ModuleNotFoundError: No module named 'no_such_package'"),
        ("a-b", "--import a-b: not the name of a module"),
    ):
        with pytest.raises(ImportError, match=re.escape(message)):
            import_named([module])
        assert main(["sample", str(example / "runs" / "mine"), "--import", module]) == 1
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error


def test_a_class_that_does_not_keep_its_arguments_is_told_so() -> None:
    class Forgetful(unmask.Schedule):
        def __init__(self, rate: float = 1.0) -> None:
            pass

        def alpha(self, t):  # type: ignore[no-untyped-def]
            return 1 - t

        def inverse(self, alpha):  # type: ignore[no-untyped-def]
            return 1 - alpha

    with pytest.raises(ValueError, match="Forgetful does not keep its argument 'rate': set self.rate = rate"):
        describe(Forgetful())


def test_an_installed_plug_in_needs_no_option(example: Path, tmp_path: Path) -> None:
    """As pip would leave it: a module, and metadata that declare it."""
    site = tmp_path / "site"
    (site / "mine_plugin-1.0.dist-info").mkdir(parents=True)
    shutil.copy(example / "mine.py", site / "mine.py")
    (site / "mine_plugin-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mine-plugin\nVersion: 1.0\n"
    )
    (site / "mine_plugin-1.0.dist-info" / "entry_points.txt").write_text("[unmask.plugins]\nmine = mine\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return fresh.run(tmp_path, *arguments, path=site)

    done = run("sample", str(example / "runs" / "mine"), "--sampler", "OddFirst", "--out", "s.npy")
    assert done.returncode == 0, done.stderr
    (site / "other.py").write_text("from mine import OddFirst as Base\nclass OddFirst(Base): pass\n")
    (site / "mine_plugin-1.0.dist-info" / "entry_points.txt").write_text(
        "[unmask.plugins]\nmine = mine\nother = other\n"
    )
    done = run("sample", str(example / "runs" / "mine"), "--sampler", "OddFirst", "--out", "s.npy")
    assert done.returncode == 2 and "OddFirst is in mine and in other: give the whole name" in done.stderr
