"""Fifty crafted YAML files: none runs code, imports a module, replaces a run, hangs, or gets a traceback."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

import unmask
from unmask.cli.main import main
from unmask.configs.reading import read_yaml, values_in

ROOT = Path(__file__).parents[1]
QUICK = ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
GOOD = "seed: 0\ndata: {class_path: Digits}\n"
GOOD += "network: {class_path: Transformer, init_args: {width: 16, depth: 1, heads: 2}}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
for before, after in zip("abcdefghi", "bcdefghij", strict=True):
    BOMB += f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
MERGED = (
    BOMB.replace("a: &a [x, x, x, x, x, x, x, x, x, x]", "a: &a {x: 1}").replace("[*", "{<<: [*").replace("]\n", "]}\n")
)
INSIDE = "{lr: 0.1, " + ", ".join(BOMB.splitlines()) + "}"

CRAFTED = {
    # tags that would build objects
    "apply": "seed: !!python/object/apply:os.system ['touch ran']\n",
    "new": "seed: !!python/object/new:evil.X []\n",
    "module": "seed: !!python/module:evil\n",
    "name": "seed: !!python/name:evil.X\n",
    "object": "network: !!python/object:evil.X {}\n",
    "tuple": "network: !!python/tuple [evil.X]\n",
    "include": "network: !include /etc/passwd\n",
    "environment": "network: !ENV ${HOME}\n",
    # classes from elsewhere, wherever a class can be named
    "network": "network: {class_path: evil.X}\n",
    "network_short": "network: evil.X\n",
    "network_of_the_standard_library": "network: {class_path: antigravity.X}\n",
    "network_path": "network: {class_path: ./evil.py}\n",
    "network_folder": "network: {class_path: ../evil.X}\n",
    "network_unmask": "network: {class_path: unmask.evil.X}\n",
    "network_through_unmask": "network: {class_path: unmask.storage.plugins.import_named, init_args: {names: evil}}\n",
    "network_function": "network: {class_path: unmask.train}\n",
    "network_list": "network: [evil.X]\n",
    "network_nested": "network: {class_path: {class_path: evil.X}}\n",
    "network_argument": "network: {class_path: Transformer, init_args: {width: {class_path: evil.X}}}\n",
    "network_kwargs": "network: {class_path: Transformer, dict_kwargs: {x: {class_path: evil.X}}}\n",
    "network_extra": "network: {class_path: Transformer, evil: evil.X}\n",
    "data": "data: {class_path: evil.X}\n",
    "data_argument": "data: {class_path: Arrays, init_args: {path: {class_path: evil.X}}}\n",
    "objective": "objective: {class_path: evil.X}\n",
    "objective_system": "objective: {class_path: os.system, init_args: {command: touch ran}}\n",
    "schedule": "objective: {class_path: ContinuousELBO, init_args: {schedule: {class_path: evil.X}}}\n",
    "schedule_short": "objective: {class_path: ContinuousELBO, init_args: {schedule: evil.X}}\n",
    "optimizer": "optimizer: {class_path: evil.X}\n",
    "optimizer_value": "optimizer: {lr: {class_path: evil.X}}\n",
    "merged": "x: &x {class_path: evil.X}\nnetwork: {<<: *x}\n",
    # of lightning's
    "strategy": "trainer: {strategy: {class_path: evil.X}}\n",
    "strategy_short": "trainer: {strategy: evil.X}\n",
    "profiler": "trainer: {profiler: {class_path: evil.X}}\n",
    "logger": "trainer: {logger: {class_path: evil.X}}\n",
    "loggers": "trainer: {logger: [TensorBoardLogger, {class_path: evil.X}]}\n",
    "logger_argument": "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: {class_path: evil.X}}}}\n",
    "devices": "trainer: {devices: evil.X}\n",
    "callbacks": "trainer: {callbacks: [{class_path: evil.X}]}\n",
    "plugins": "trainer: {plugins: evil.X}\n",
    # what only a command line may ask for
    "import": "import: [evil]\n",
    "overwrite": "overwrite: true\nout: victim\n",
    "resume": "resume: true\nout: victim\n",
    "dry_run": "dry-run: true\n",
    "config": "config: other.yaml\n",
    "out": "out: victim\n",
    "print": "print_config: true\n",
    # forms
    "optimizer_number": "optimizer: 0.001\n",
    "trainer_number": "trainer: 5\n",
    "number_keys": "3: 4\n",
    "inner_number_keys": "trainer: {5: 6}\n",
    "null_keys": "network: {null: 1}\n",
    "list": "- seed\n- 0\n",
    "text": "seed\n",
    "empty": "",
    "two_documents": "seed: 0\n---\nseed: 1\n",
    "bomb": BOMB,
    "merged_bomb": MERGED,
    "bomb_of_a_key": BOMB + "z: {? *j : 1}\n",
    "many_texts": f"seed: 0\nx: &x '{{a: &a {[0] * 5000}, b: *a}}'\ny: [*x, *x]\n",
    "of_itself": "seed: &a [*a]\n",
    "text_bomb": f"optimizer: '{INSIDE}'\n",
    "text_bomb_of_a_class": f"network: '{INSIDE}'\n",
    "text_bomb_of_an_argument": f"network: {{class_path: Transformer, init_args: {{width: '{INSIDE}'}}}}\n",
    "text_bomb_in_a_text": f"""network: '{{class_path: Transformer, init_args: {{width: "{INSIDE}"}}}}'\n""",
    # files that are named where values belong
    "group_of_a_file": "optimizer: other.yaml\n",
    "class_of_a_file": "network: other.yaml\n",
    "class_of_a_path": "network: ./other.yaml\n",
    "argument_of_a_file": "objective: {class_path: ContinuousELBO, init_args: {schedule: other.yaml}}\n",
    "group_of_a_pipe": "trainer: pipe.yaml\n",
    "class_of_a_pipe": "data: pipe.yaml\n",
    "deep": "network: " + "[" * 5000 + "]" * 5000 + "\n",
    "recursive": "network: &a {class_path: Transformer, init_args: *a}\n",
    "not_utf8": b"seed: \xff\xfe\n",
    "control": "seed: \x00\n",
    "endless": "seed: 0\n" * 200_000,
    "date": "seed: 2020-01-01\n",
    "huge": "batch_size: 1e22\n",
    "infinite": "optimizer: {lr: .inf}\n",
    "not_a_number": "optimizer: {lr: .nan}\n",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("evil", "antigravity"):
        (tmp_path / f"{module}.py").write_text(
            "open('ran', 'w').close()\nimport unmask\nclass X(unmask.Network): pass\n"
        )
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.system", lambda *_: (tmp_path / "ran").touch())
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "run.json").write_text('{"mine": 1}')
    (tmp_path / "other.yaml").write_text("network: evil.X\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    crafted = CRAFTED[name]
    if isinstance(crafted, str):
        whole = crafted.startswith(("-", "seed", "3:", "x:", "a:")) or not crafted
        (tmp_path / "c.yaml").write_text(crafted if whole else _over(GOOD, crafted))
    else:
        (tmp_path / "c.yaml").write_bytes(crafted)
    try:
        status = main(["train", "c.yaml", *QUICK])
    except SystemExit as error:
        raise AssertionError("ended by itself") from error
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "warning" not in line.lower()]
    assert status in (1, 2), out
    assert len(lines) == 1 and lines[0].startswith("unmask: error:") and "error: unexpected" not in lines[0], err
    assert not (tmp_path / "ran").exists() and "evil" not in sys.modules and "antigravity" not in sys.modules
    assert (tmp_path / "victim" / "run.json").read_text() == '{"mine": 1}' and not (tmp_path / "runs").exists()


def _over(good: str, crafted: str) -> str:
    """Return a file that would do, but for what is crafted."""
    names = {line.split(":")[0] for line in crafted.splitlines()}
    return "".join(f"{line}\n" for line in good.splitlines() if line.split(":")[0] not in names) + crafted


@pytest.mark.parametrize("value", ["a*b", "2 * 3 + (4 * y)", "q|*o_proj", "*", "'*", "**/x", "{x: a*b}", "[a*, '*b']"])
def test_a_text_with_an_asterisk_is_a_value_like_others(value: str, tmp_path: Path) -> None:
    assert 1 <= values_in(value) <= 3
    assert values_in(json.dumps(value)) == 1 + (value[0] in "{[") * (values_in(value) - 1)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": {"path": value}}))
    assert read_yaml(tmp_path / "c.yaml") == {"data": {"path": value}}


def test_a_long_text_without_aliases_is_a_value_like_others() -> None:
    """Such as the categories of a table."""
    assert values_in(json.dumps({"values": [["*"], ["x"] * 20_000]})) == 20_005
    with pytest.raises(ValueError, match="more than"):
        values_in(f"{{a: &a [{', '.join('x' * 999)}], b: [{', '.join(['*a'] * 999)}]}}")


def test_a_crafted_model_names_no_endless_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a model was trained on is the default of --data."""
    model = unmask.MaskedDiffusion(unmask.Transformer(5, (6,), width=8, depth=1, heads=2), unmask.Symbols(5))
    model.about = {"data": {"class": "TextFile", "path": "x.txt", "length": INSIDE}}
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "x.txt").write_text("the cat sat\n" * 99)
    assert main(["evaluate", str(tmp_path / "m"), "--data.path", str(tmp_path / "x.txt")]) == 2
    assert capsys.readouterr().err == "unmask: error: data: more than 10,000 values\n"


def test_there_are_fifty() -> None:
    assert len(CRAFTED) >= 50


def test_names_with_wildcards_are_literal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c1.yaml").write_text("seed: 7\n")
    for name in ("c[1].yaml", "c?.yaml", "*.yaml"):
        assert main(["train", name, "--dry-run", *QUICK]) in (1, 2)
        assert name in capsys.readouterr().err
    (tmp_path / "c[1].yaml").write_text("nonsense: 1\n")
    assert main(["train", "c[1].yaml", "--dry-run", *QUICK]) == 2
    assert "nonsense" in capsys.readouterr().err
    (tmp_path / "a1.txt").write_text("x")
    for name in ("a[1].txt", "a?.txt", "*"):
        assert main(["prepare", name, "--out", "c"]) == 1
        assert f"{name}: no such file" in capsys.readouterr().err
    assert main(["info", "[1]"]) == 1
    capsys.readouterr()
