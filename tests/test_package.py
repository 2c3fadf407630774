import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_importing_unmask_imports_little_else() -> None:
    heavy = ["lightning", "pytorch_lightning", "transformers", "datasets", "tokenizers", "gradio", "matplotlib", "PIL"]
    heavy += ["sklearn", "tensorboard", "pandas", "jsonargparse"]
    code = f"import sys, unmask; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_only_training_imports_lightning_and_one_module_yaml() -> None:
    for path in (ROOT / "src" / "unmask").rglob("*.py"):
        source = path.read_text()
        if path.parent.name not in ("training", "cli"):
            assert "import lightning" not in source and "from lightning" not in source, path
        assert ("import yaml" in source) == (path == ROOT / "src" / "unmask" / "configs" / "reading.py"), path
        assert "pickle.load" not in source, path
        loads = source.count("torch.load(")  # public checkpoints' .bin: tensors and plain values, no code
        assert loads == source.count("weights_only=True") and (not loads or path.name == "reading.py"), path


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    """Built, installed into a clean environment (which borrows the dependencies), and run there."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]  # an own one would have to be installed first
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / "env" / "lib" / version / "site-packages"
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    where = subprocess.run(
        [python, "-c", "import unmask; print(unmask.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert where.stdout.strip() == str(site / "unmask" / "__init__.py"), where.stderr
    program = [tmp_path / "env" / "bin" / "unmask"]
    shown = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "usage: unmask COMMAND" in shown
    shown = subprocess.run(
        [*program, "train", "--help"], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    for config in (ROOT / "src" / "unmask" / "configs").glob("*.yaml"):
        assert config.stem in shown
    assert (site / "unmask" / "py.typed").exists()


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python code, as it stands."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_public_names_are_there_and_explained() -> None:
    import unmask

    for name in unmask.__all__:
        thing = getattr(unmask, name)
        assert getattr(thing, "__doc__", None), name
