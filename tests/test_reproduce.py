"""`unmask reproduce`: the rows of a table, resumed row by row, beside the published figures."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import unmask
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.configs import shipped
from unmask.configs.reading import read_yaml
from unmask.data.corpora import prepare_corpus
from unmask.data.corpus import Corpus
from unmask.data.digits import Digits
from unmask.data.text8 import ALPHABET, Text8
from unmask.reproduction import TABLES, reproduce, running, tabling
from unmask.reproduction.report import curve_of, spread
from unmask.reproduction.request import Request
from unmask.reproduction.table import network_of
from unmask.training.start import with_schedule
from unmask.training.stopping import Stopped
from unmask.training.trainee import Trainee

ROWS = ("left-to-right", "md4-cosine")
FEW: dict[str, Any] = {"steps": 2, "seeds": 2, "draws": 1, "limit": 4}
SCALES = {name: dict(table.scales) for name, table in TABLES.items()}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Texts of 16 characters, and a tiny network."""
    scale = SCALES["text8"]["cpu"]
    with pytest.MonkeyPatch.context() as patch:
        tiny = {"width": 32, "depth": 1, "heads": 2}
        changed = {"data": scale.data | {"length": 16}, "run": scale.run | {"evaluate_examples": 16}}
        patch.setitem(TABLES["text8"].scales, "cpu", replace(scale, network=scale.network | tiny, **changed))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(random.Random(0).choices(ALPHABET, k=20_000)))
    return path


@pytest.fixture(scope="module")
def data(text: Path) -> Text8:
    return Text8(str(text), length=16)


@pytest.fixture(scope="module")
def made(data: Text8, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows of two seeds, of which the second row was interrupted before its second seed."""
    out, train, begun = tmp_path_factory.mktemp("out") / "table", running.Work.train, []

    def interrupted(work: running.Work, folder: Path, seed: int, *rest: Any) -> Any:
        begun.append((work.name, seed))
        if len(begun) == 4:
            raise KeyboardInterrupt
        return train(work, folder, seed, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.Work, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce("text8", data=data, rows=ROWS, out=out, **FEW)
        assert begun == [(name, seed) for name in ROWS for seed in (0, 1)]
        reproduce("text8", data=data, rows=ROWS, out=out, **FEW)
    assert begun[4:] == [(ROWS[1], 1)]
    return out


def test_the_table_has_our_rows_beside_the_published_ones(made: Path) -> None:
    found = json.loads((made / "text8.json").read_text())
    rows = {row["model"]: row for row in found["rows"]}
    assert rows["BFN"] == {"model": "BFN", "published": "≤ 1.41"}
    assert "Transformer AR" not in rows and len(rows) == 14
    for name, published in zip(ROWS, ("1.23, Transformer AR", "≤ 1.37, MD4"), strict=True):
        row, each = rows[TABLES["text8"].rows[name].title], found["results"][name]
        assert row["published"] == published and row["seeds"] == 2 and row["steps"] == "2"
        values = [one["value"] for one in each]
        assert [one["seed"] for one in each] == [0, 1] and values[0] != values[1]
        assert row["bits_per_character"] == pytest.approx([sum(values) / 2, spread(values)])
    assert found["protocol"]["draws_per_example"] == 1 and found["protocol"]["budget"] == "2 steps a run"
    assert (made / "text8.png").stat().st_size > 1000
    steps, bits = curve_of(made / ROWS[0] / "seed-0") or ([], [])
    assert steps == [1, 2] and bits[-1] == pytest.approx(4.7, abs=0.3)  # of noise: log2 of 27 is 4.75


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("seed-0.json", {"value": "x"}),
        ("seed-0.json", {"seconds": "x"}),
        ("seed-0.json", None),
        ("seed-1.json", {"protocol": []}),
        ("plan.json", {"max_steps": "many"}),
        ("plan.json", {"minutes": "x"}),
        ("plan.json", {"max_steps": -3}),
    ],
)
def test_a_damaged_result_is_named(
    made: Path, data: Text8, tmp_path: Path, file: str, change: dict[str, Any] | None
) -> None:
    shutil.copytree(made, tmp_path / "out")
    path = tmp_path / "out" / ROWS[0] / file
    found = json.loads(path.read_text()) | (change or {})
    path.write_text(json.dumps({name: value for name, value in found.items() if change or name != "seconds"}))
    for left in (path.with_name("seed-1.json"), path.with_name("seed-1") / "model" / "config.json"):
        if file == "plan.json":
            left.unlink()  # a seed to train, for which the plan is read
    with pytest.raises(ValueError, match=f"{file}: is damaged; delete it, and it is made again"):
        reproduce("text8", data=data, rows=ROWS[:1], out=tmp_path / "out", **FEW)


def test_a_given_model_is_measured_and_not_trained(
    made: Path, data: Text8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(running, "train", never)
    given = {"any-order": made / ROWS[1] / "seed-1", "left-to-right": made / ROWS[0] / "seed-0"}
    report = reproduce("text8", data=data, rows=["any-order"], models=given, out=tmp_path, **FEW)
    first, second = report.rows[-2:]
    assert (first["seeds"], second["model"], second["seeds"]) == ("given", "any-order (ARDM)", "given")
    before = json.loads((made / "text8.json").read_text())["results"][ROWS[0]][0]
    assert first["bits_per_character"] == (before["value"], before["error"])
    assert not report.curves and not (tmp_path / "text8.png").exists()
    assert "any-order (ARDM)" in str(report) and "arXiv:2406.04329" in str(report)


def test_finite_steps_have_a_row_for_each_bound(made: Path, data: Text8, tmp_path: Path) -> None:
    models = {"md4-cosine": made / ROWS[1] / "seed-0"}
    report = reproduce("finite-steps", data=data, rows=["md4-cosine"], models=models, out=tmp_path, **FEW)
    assert [(row["T"], row["published"]) for row in report.rows] == [
        ("1", None),
        ("10", None),
        ("100", "≤ 49.80"),
        ("1000", "≤ 48.50"),
        ("10000", "≤ 48.40"),
        ("inf", "≤ 48.40"),
    ]
    expected = unmask.evaluation.likelihood(unmask.load(models["md4-cosine"]), data, steps=[10], draws=1, limit=4)
    assert report.rows[1]["bits_per_character"] == expected.rows[0]["bits_per_character"]


def test_perplexity_of_a_corpus_and_of_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is trained on a corpus; the same model, given, is measured on the sets that are there."""
    words = [" ".join(random.Random(i).choices(["the", "man", "inn", "then"], k=30)) for i in range(300)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in words))
    corpus, bpe = tmp_path / "corpus", str(write_bpe(tmp_path / "bpe"))
    prepare_corpus(corpus, [str(tmp_path / "texts.jsonl")], tokenizer=bpe)
    scale = TABLES["openwebtext"].scales["cpu"]
    tiny: dict[str, Any] = {
        "network": scale.network | {"width": 32, "depth": 1, "heads": 2},
        "data": scale.data | {"length": 16},
    }
    for table in ("openwebtext", "zeroshot"):
        monkeypatch.setitem(TABLES[table].scales, "cpu", replace(scale, **tiny))
    rows = ["md4-linear", "left-to-right"]
    report = reproduce("openwebtext", data=corpus, rows=rows, out=tmp_path / "out", **FEW)
    ours = {row["model"]: row for row in report.rows if "seeds" in row}
    assert ours["MD4"]["published"] == "≤ 22.13, MD4" and ours["MD4"]["perplexity_per_token"][0] > 1
    assert {"model": "GenMD4", "published": "≤ 21.80"} in report.rows
    root = tmp_path / "sets"
    root.mkdir()
    (root / "lambada_test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in words[:30]))
    models = {name: tmp_path / "out" / name / "seed-0" for name in rows}
    asked: dict[str, Any] = {"data": corpus, "rows": rows, "models": models, "root": root, "out": tmp_path / "zero"}
    report = reproduce("zeroshot", **asked, **FEW)
    found = {row["model"]: row for row in report.rows}
    assert "arXiv:2406.04329" in report.protocol["published"] and "seeds" in report.protocol["error"]
    expected = unmask.evaluation.zeroshot(unmask.load(models["md4-linear"]), root=str(root), draws=1, limit=4).rows[0]
    assert found["MD4"]["lambada"] == expected["perplexity_per_token"] and "ptb" not in found["MD4"]
    (root / "ptb.test.txt").write_text("the man\n" * 30)
    with pytest.raises(ValueError, match=r"sets was \['lambada'\], is \['lambada', 'ptb'\]"):
        reproduce("zeroshot", **asked, **FEW)
    assert found["MD4, published"]["wikitext2"] == "≤ 34.94" and found["GPT-2, published"]["lambada"] == "45.04"


def test_another_protocol_and_other_models_are_refused(made: Path, data: Text8, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows of another protocol \(draws was 1, is 2\): give another out"):
        reproduce("text8", data=data, rows=ROWS, out=made, **FEW | {"draws": 2})
    with pytest.raises(ValueError, match=r"\(data was .*'length': 16.* is .*'length': 8"):
        reproduce("text8", data=replace(data, length=8), rows=ROWS, out=made, **FEW)
    with pytest.raises(ValueError, match="kind 'left-to-right', the row genmd4 is of 'learned schedule': give an"):
        reproduce("text8", data=data, models={"genmd4": made / ROWS[0] / "seed-0"}, out=tmp_path, **FEW)
    (tmp_path / "reproduce.json").write_text("{}")
    with pytest.raises(ValueError, match="reproduce.json: is damaged; delete it, and it is made again"):
        reproduce("text8", data=data, rows=ROWS, out=tmp_path, **FEW)
    with pytest.raises(FileExistsError, match="seed-0: holds a run of `unmask train`: give another"):
        reproduce("text8", data=data, rows=ROWS, out=made / ROWS[0] / "seed-0", **FEW)
    model = unmask.load(made / ROWS[0] / "seed-0")
    with pytest.raises(ValueError, match="the model was trained on"):
        reproduce("cifar10", models={"left-to-right": model}, rows=["left-to-right"], out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_was_moved_has_its_curves_and_other_rows_have_no_old_picture(
    made: Path, data: Text8, tmp_path: Path
) -> None:
    out = tmp_path / "moved"
    shutil.copytree(made, out)
    (out / "text8.png").unlink()
    report = reproduce("text8", data=data, rows=ROWS, out=out, **FEW)
    assert [len(runs) for runs in report.curves.values()] == [2, 2] and (out / "text8.png").is_file()
    assert {Path(one["run"]) for one in report.results[ROWS[0]]} == {out / ROWS[0] / f"seed-{i}" for i in (0, 1)}
    given = {ROWS[0]: made / ROWS[0] / "seed-0"}
    report = reproduce("text8", data=data, rows=ROWS[:1], models=given, out=out, **FEW)
    assert not any(report.curves.values()) and not {"budget", "seeds"} & report.protocol.keys()
    assert not (out / "text8.png").exists()


def test_one_example_has_no_error_and_its_result_is_read_again(data: Text8, tmp_path: Path) -> None:
    few = FEW | {"seeds": 1, "limit": 1}
    before, after = (reproduce("text8", data=data, rows=ROWS[:1], out=tmp_path, **few) for _ in range(2))
    assert before.results[ROWS[0]][0]["error"] is None and before.rows == after.rows


def test_an_interruption_says_how_to_go_on(data: Text8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainee, "stops_now", lambda _: signal.SIGTERM)
        with pytest.raises(Stopped, match="at step 1, after a checkpoint; go on with the same command$"):
            reproduce("text8", data=data, rows=ROWS[:1], out=tmp_path, **FEW)
    assert reproduce("text8", data=data, rows=ROWS[:1], out=tmp_path, **FEW).results[ROWS[0]][0]["steps"] == 2


def test_an_unfinished_run_goes_on(made: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one seed the checkpoint alone is left, of another the model: neither is begun again."""
    out, resumed, train = tmp_path / "table", [], running.train
    shutil.copytree(made, out)
    for seed in (0, 1):
        (out / ROWS[0] / f"seed-{seed}.json").unlink()
    shutil.rmtree(out / ROWS[0] / "seed-1" / "model")

    def noted(*arguments: Any, **settings: Any) -> Any:
        resumed.append((Path(settings["run"].out).name, settings["resume"], settings["overwrite"]))
        return train(*arguments, **settings)

    monkeypatch.setattr(running, "train", noted)
    reproduce("text8", data=text, rows=ROWS, out=out, **FEW)
    assert resumed == [("seed-1", True, False)]
    before, after = (json.loads((folder / "text8.json").read_text()) for folder in (made, out))
    assert [row["value"] for row in after["results"][ROWS[0]]] == [row["value"] for row in before["results"][ROWS[0]]]


def test_a_curve_is_over_the_time_that_steps_took(tmp_path: Path) -> None:
    (tmp_path / "logs" / "version_0").mkdir(parents=True)
    lines = ["step,loss,bits,tokens/s,valid_bits", "9,3,4,100,", "9,,,,4.5", "19,2,3,50,", "24,,,,3.5"]
    (tmp_path / "logs" / "version_0" / "metrics.csv").write_text("\n".join(lines))
    assert curve_of(tmp_path) == ([10, 25], [4.5, 3.5])
    minutes, bits = curve_of(tmp_path, 600) or ([], [])  # 6 seconds a step, then 12
    assert minutes == pytest.approx([1, 1 + 2 + 1]) and bits == [4.5, 3.5]


def test_training_is_on_one_device(data: Text8, monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size a step of OpenWebText has 512 sequences all the same, in several passes."""
    request = Request("openwebtext", "paper", data=data)
    work = running.Work("any-order", request.chosen["any-order"], request, data, Path())
    assert work.tokens == 512 * 16
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="start it without torchrun"):
        Request("text8")


def test_minutes_become_steps(data: Text8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PILOT_STEPS", 4)
    request = Request("text8", minutes=2.0, data=data, seeds=1)
    work = running.Work("left-to-right", request.chosen["left-to-right"], request, tabling.find_data(request), tmp_path)
    plan = work.plan()
    assert plan.step_seconds is not None
    assert 0 < plan.step_seconds < 60 and plan.max_steps == max(1, int(120 * running.SPARE / plan.step_seconds))
    assert work.plan() == plan and [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert [running.clock(minutes) for minutes in (None, 0.001, 10, 1501.5)] == [
        None,
        "00:00:00:01",
        "00:00:10:00",
        "01:01:01:30",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["text9"], "unknown table: 'text9' (did you mean 'text8'?); there are text8, openwebtext, zeroshot, "),
        (["text8", "--rows", "md4-cosin"], "unknown row of text8 at scale cpu: 'md4-cosin' (did you mean 'md4-cosine'"),
        (["cifar10", "--scale", "paper", "--rows", "any-order"], "unknown row of cifar10 at scale paper: 'any-order'"),
        (["text8", "--scale", "big"], "unknown scale: 'big'; there are cpu, paper"),
        (["text8", "--minutes", "0"], "minutes must be positive, got 0"),
        (["text8", "--minutes", "1", "--steps", "2"], "give minutes or steps"),
        (["text8", "--seeds", "0"], "seeds must be a whole number of at least 1, got 0"),
        (["text8", "--data.path", "nowhere.txt"], "data: nowhere.txt: no such file"),
        (["cifar10", "--data.path", "nowhere"], "cifar10 at scale cpu is of Digits: leave out data"),
        (
            ["openwebtext"],
            "openwebtext at scale cpu needs --data.path: the folder of a corpus that `unmask prepare` made",
        ),
        (["zeroshot", "--root", "nowhere", "--data.path", "."], "root: nowhere: no such folder"),
        (["text8", "--root", "."], "root is for zeroshot, where its sets' files are; text8 has none"),
        (["text8", "--judge", "x"], "judge is for generative and fid, whose samples it looks at; text8 has none"),
        (["fid", "--judge", "./nowhere"], "nowhere: no such folder"),
        (["generative", "--data.path", ".", "--judge", "./nowhere"], "nowhere: no such folder"),
        (["generative"], "generative at scale cpu needs --data.path"),
        (["text8", "--models", "md4-linear=./nowhere"], "nowhere: no such folder"),
        (["text8", "--models", "md4=runs/x"], "unknown row of text8 at scale cpu: 'md4'"),
        (
            ["text8", "--models", "md4-linear"],
            "--models takes ROW=FOLDER, with commas, each row once; got 'md4-linear'",
        ),
        (["text8", "--models", ""], "--models takes ROW=FOLDER, with commas, each row once; got ''"),
        (["text8", "--models", "genmd4=a,genmd4=b"], "each row once; got 'genmd4=a,genmd4=b'"),
        (["text8", "--rows", ","], "rows must name at least one row"),
        (["text8", "--minutes", "nan"], "minutes: must be a finite number, got 'nan'"),
        (["text8", "--out", ""], "out must name a folder"),
        (["text8", "--out", __file__], "test_reproduce.py: is a file, and must be a folder"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *arguments]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_the_command_prints_what_is_there(made: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [part for name, value in FEW.items() for part in (f"--{name}", str(value))]
    command = ["reproduce", "text8", "--data.path", str(text), "--rows", ",".join(ROWS), "--out", str(made), *few]
    assert main(command) == 0
    assert "left to right (autoregressive)  1.23, Transformer AR" in capsys.readouterr().out


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_model_of_its_kind(table: str, data: Text8) -> None:
    request = Request(table, data={"cifar10": None, "fid": None, "imagenet64": Digits()}.get(table, data))
    for name, row in request.chosen.items():
        used = tabling.find_data(request)
        network, objective = running.Work(name, row, request, used, Path()).parts()
        schedule = with_schedule(objective, network).process
        assert running.kind_of_model(unmask.MaskedDiffusion(network, used.codec, schedule)) == row.kind


@pytest.mark.parametrize(
    ("table", "scale", "row", "config"),
    [
        ("text8", "cpu", "left-to-right", "text8_causal_cpu"),
        ("text8", "cpu", "sedd-absorb", "text8_sedd_cpu"),
        ("text8", "cpu", "d3pm-uniform", "text8_d3pm_uniform_cpu"),
        ("text8", "cpu", "gaussian", "text8_gaussian_cpu"),
        ("text8", "paper", "any-order", "text8"),
        ("cifar10", "cpu", "md4-transformer", "digits"),
        ("cifar10", "paper", "md4", "cifar10"),
        ("openwebtext", "paper", "any-order", "openwebtext"),
        ("imagenet64", "paper", "md4", "imagenet64"),
    ],
)
def test_the_settings_are_those_of_the_shipped_configurations(table: str, scale: str, row: str, config: str) -> None:
    tree, made = read_yaml(shipped()[config]), SCALES[table][scale]
    one = TABLES[table].rows[row]
    network = network_of(one, made, scale)
    given = {"class": tree["network"]["class_path"]} | tree["network"]["init_args"]
    given.pop("convolution", None)  # what makes learning faster is not there for all rows, and so for none
    if tree["optimizer"].pop("kind", None) == "Muon":
        tree["optimizer"]["lr"] /= 2  # AdamW for all weights takes half the rate
    network = {name: list(value) if isinstance(value, tuple) else value for name, value in network.items()}
    assert network == given | ({"time_conditioning": True} if config == "digits" else {})
    assert made.optimizer | one.optimizer == tree["optimizer"]
    chosen = made.run | one.run
    same = chosen.keys() - ({"label_dropout"} if config == "digits" else set())
    assert {name: chosen[name] for name in same} == {name: tree[name] for name in same}
    assert made.steps == tree["trainer"]["max_steps"]
    if config == "openwebtext":  # on one device, where the file is for eight
        assert made.trainer == {"accumulate_grad_batches": 8 * tree["trainer"]["accumulate_grad_batches"]}
    if config != "digits":
        objective = {"class": tree["objective"]["class_path"]} | tree["objective"].get("init_args", {})
        if isinstance(schedule := objective.get("schedule"), dict):
            objective["schedule"] = {"class": schedule["class_path"]}
        assert one.objective == objective


def test_samples_under_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model by its samplers, exact draws beside those of float32; a figure that is drawn again from the report."""
    from transformers import GPT2Config, GPT2LMHeadModel

    bpe = Tokenizer(str(write_bpe(tmp_path / "bpe")))
    sizes: dict[str, Any] = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 12}
    GPT2LMHeadModel(GPT2Config(vocab_size=bpe.vocab_size, **sizes)).save_pretrained(tmp_path / "judge")
    bpe.saved(tmp_path / "judge")
    (tmp_path / "t.jsonl").write_text((json.dumps({"text": "the man in the inn and then an inn"}) + "\n") * 200)
    prepare_corpus(tmp_path / "corpus", [str(tmp_path / "t.jsonl")], tokenizer=bpe.source)
    table, scale = TABLES["generative"], TABLES["generative"].scales["cpu"]
    tiny = replace(
        scale, network=scale.network | {"width": 16, "depth": 1, "heads": 2}, data=scale.data | {"length": 8}
    )
    monkeypatch.setitem(TABLES, "generative", replace(table, scales={"cpu": tiny}, sampling_steps=(2, 3)))
    how = FEW | {"data": tmp_path / "corpus", "out": tmp_path / "out", "judge": str(tmp_path / "judge")}
    report = reproduce("generative", **how)
    names: dict[str, list[Any]] = {}
    for row in report.rows[4:]:
        names.setdefault(row["model"], []).append((row["sampler"], row["draws"], row["T"]))
    drawn = [("ancestral", "exact", 2), ("ancestral", "exact", 3), ("first hitting", "exact", None)]
    assert names == {
        "left to right (autoregressive)": [("left to right", "exact", None), ("left to right", "float32", None)],
        "SEDD absorb": [("Tweedie", "exact", 2), ("Tweedie", "exact", 3)],
        "MD4": [*drawn, ("ancestral", "float32", 2), ("ancestral", "float32", 3)],
        "GenMD4": drawn,
    }
    assert [row["entropy"] for row in report.rows[:3]] == ["5.17", "5.66", "5.12"] and report.rows[3]["entropy"][0] > 1
    model = unmask.load(tmp_path / "out" / "md4-linear" / "seed-0")
    alone: Any = unmask.evaluation.generative(
        model, judge=how["judge"], samples=4, sampler=unmask.FirstHitting(), data=Corpus(str(tmp_path / "corpus"), 8)
    )
    found = report.results["md4-linear"][0]["samples"][2]
    assert found["perplexity_micro"] == pytest.approx([*alone.rows[0]["perplexity_micro"]])
    assert found["entropy"] == pytest.approx([*alone.rows[0]["entropy"]]) and found["calls"] == 8
    (axes,) = report.figure().axes
    assert len(axes.get_legend().get_texts()) == 8 and "perplexity under judge" in axes.get_ylabel()
    assert (tmp_path / "out" / "generative.png").stat().st_size > 1000
    monkeypatch.setattr(running, "train", None)  # nothing is trained or drawn a second time
    assert reproduce("generative", **how).rows == report.rows
    shutil.copytree(tmp_path / "judge", tmp_path / "other")
    with pytest.raises(ValueError, match="judge was .*/judge, is .*/other"):
        reproduce("generative", **how | {"judge": unmask.evaluation.Judge(str(tmp_path / "other"))})


def test_distances_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, scale = TABLES["fid"], TABLES["fid"].scales["cpu"]
    tiny = replace(scale, network=scale.network | {"width": 16, "depth": 1, "heads": 2})
    monkeypatch.setitem(TABLES, "fid", replace(table, scales={"cpu": tiny}, sampling_steps=(2, 64)))
    data = Digits(labels=False)
    network = unmask.Transformer(17, data.shape, width=8, depth=1, heads=1)
    unmask.MaskedDiffusion(network, data.codec).save_pretrained(tmp_path / "eyes")
    how = FEW | {"rows": ["md4-transformer"], "judge": str(tmp_path / "eyes"), "out": tmp_path / "out"}
    report = reproduce("fid", **how)
    first, *rows = report.rows
    assert first["model"] == "test data" and len(rows) == 9 and {row["model"] for row in rows} == {"MD4, transformer"}
    published = {(row["sampler"], row["T"]): row["published"] for row in rows}
    assert published["Linear, uniform grid", 64] == "193.81" and published["Cosine, uniform grid", 64] == "47.46"
    assert published["Linear, uniform grid", 2] is None and published["FirstHitting", None] is None
    seeds = [one["samples"][0]["distance"][0] for one in report.results["md4-transformer"]]
    assert rows[0]["distance"][0] == pytest.approx(sum(seeds) / 2) and seeds[0] != seeds[1]
    assert report.figure().axes[0].get_ylabel() == "Fréchet distance"
