"""Damage is refused: one flipped bit anywhere in a model, a checkpoint or a corpus; and what a kill leaves is whole."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from kill import killed_at
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.corpus import Corpus
from unmask.data.documents import Files
from unmask.data.index import Index
from unmask.data.prepare import prepare
from unmask.loading import read_model
from unmask.model import MaskedDiffusion
from unmask.storage.checkpoint import averaged_weights, load_tree, save_tree
from unmask.storage.files import checksum
from unmask.storage.sums import verify_file


def model(seed: int = 0, codec: unmask.Codec | None = None) -> MaskedDiffusion:
    torch.manual_seed(seed)
    codec = codec or unmask.Symbols(5)
    return MaskedDiffusion(unmask.Transformer(codec.vocab_size, (6,), width=8, depth=1, heads=2), codec)


def flip(path: Path, rng: random.Random) -> tuple[int, bytes]:
    """Flip one bit of a file; return which byte, and the content before."""
    before = path.read_bytes()
    at, bit = rng.randrange(len(before)), 1 << rng.randrange(8)
    path.write_bytes(before[:at] + bytes([before[at] ^ bit]) + before[at + 1 :])
    return at, before


def test_a_flipped_bit_in_the_weights_is_refused(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    rng = random.Random(0)
    for _ in range(100):
        _, before = flip(tmp_path / "model.safetensors", rng)
        with pytest.raises(ValueError, match=r"model.safetensors: damaged: its SHA-256 is not what config.json says"):
            unmask.load(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(before)
    unmask.load(tmp_path)


def test_a_model_of_before_without_sums_is_loaded(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("weights_sha256") == checksum(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    unmask.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"weights_sha256": [1]}))
    with pytest.raises(ValueError, match="config.json: weights_sha256 must be a SHA-256"):
        unmask.load(tmp_path)


def test_a_file_is_compared_once_for_each_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And always where that is asked for: a change that keeps size and time is seen then."""
    model().save_pretrained(tmp_path)
    path, monkey = tmp_path / "model.safetensors", monkeypatch
    unmask.load(tmp_path)
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    unmask.load(tmp_path)
    with pytest.raises(ValueError, match="SHA-256"):
        unmask.load(tmp_path, verify=True)
    with pytest.raises(ValueError, match="SHA-256"):  # no longer known as whole
        unmask.load(tmp_path)
    content[-1] ^= 1
    path.write_bytes(content)
    unmask.load(tmp_path)
    monkey.setenv("UNMASK_VERIFY", "1")
    with pytest.raises(ValueError, match="SHA-256 is not what somebody says"):
        verify_file(path, "0" * 64, "somebody")
    monkey.setenv("UNMASK_CACHE", "/proc/none")
    unmask.load(tmp_path)


def test_commands_compare_files_anew_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNMASK_VERIFY", raising=False)
    model().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    commands = (["sample", "model", "-n", "1", "--out", "x.npy"], ["plot", "schedules", "model", "--out", "x.png"])
    for command in commands:
        assert main([*command, "--verify"]) == 0
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    capsys.readouterr()
    for command in commands:
        assert main(command) == 0  # its size and time are known
    for command in ([*commands[0], "--verify"], ["--verify", *commands[1]]):
        assert main(command) == 1
        assert "model.safetensors: damaged: its SHA-256" in capsys.readouterr().err
        assert "UNMASK_VERIFY" not in os.environ
    assert main(["sample", "--verify"]) == 2
    assert main(["sample", "model", "--import"]) == 2
    assert "--import needs the name of a module" in capsys.readouterr().err


def test_a_flipped_bit_in_a_checkpoint_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    weights = {f"model.{i}": torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    tree = {"state_dict": weights, "global_step": 7, "others": [(1, 2.5), {"a": None, 3: torch.tensor(1.0)}]}
    path, rng, refused = tmp_path / "last.safetensors", random.Random(1), 0
    save_tree(tree, path)
    for _ in range(300):
        at, before = flip(path, rng)
        try:
            found = load_tree(path)
        except ValueError as error:
            assert "last.safetensors: damaged, or not a checkpoint of unmask" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert repr(found) == repr(tree), f"a flip in byte {at} is accepted"
        try:
            averages, step = averaged_weights(path)
            assert repr(averages) == repr({k.removeprefix("model."): v for k, v in weights.items()}) and step == 7
        except ValueError:
            pass
        path.write_bytes(before)
    assert refused > 290


def test_a_checkpoint_of_before_without_sums_is_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    structure = json.dumps({"dict": [["global_step", 3], ["x", {"tensor": ".x"}]]})
    save_file({".x": torch.ones(2)}, tmp_path / "old.safetensors", metadata={"structure": structure})
    found = load_tree(tmp_path / "old.safetensors")
    assert found["global_step"] == 3 and torch.equal(found["x"], torch.ones(2))


def test_flipped_bits_in_a_corpus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the man in the hat\n" * 40)
    bpe = Tokenizer(str(write_bpe(tmp_path / "bpe")))
    prepare(Files((str(tmp_path / "a.txt"),), boundary="line"), bpe, tmp_path / "x", 100)
    rng = random.Random(0)

    def use() -> bytes:
        data = Corpus(str(tmp_path / "x"), 4)
        split = data.split("all")
        return split[np.arange(len(split))][0].numpy().tobytes() + data.codec.tokenizer.to_str().encode()

    whole = use()
    for name in sorted(os.listdir(tmp_path / "x")):
        for _ in range(20):
            at, before = flip(tmp_path / "x" / name, rng)
            try:
                found = use()
            except ValueError as error:
                assert name in str(error) or "corpus" in str(error) or str(tmp_path / "x") in str(error)  # noqa: PT017
            else:
                assert name == "index.json" and found == whole, f"{name}: a flip in byte {at} is accepted"
            (tmp_path / "x" / name).write_bytes(before)
    assert use() == whole


def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the man in the hat\n" * 40)
    prepare(
        Files((str(tmp_path / "a.txt"),), boundary="line"), Tokenizer(str(write_bpe(tmp_path / "b"))), tmp_path / "x"
    )
    path = tmp_path / "x" / "00000.bin"
    np.full(path.stat().st_size // 2, 60_000, dtype="<u2").tofile(path)
    index = json.loads((tmp_path / "x" / "index.json").read_text())
    index["shards"][0]["sha256"][0] = checksum(path)
    (tmp_path / "x" / "index.json").write_text(json.dumps(index))
    split = Corpus(str(tmp_path / "x"), 4).split("all")
    with pytest.raises(ValueError, match=r"00000.bin: holds the token 60000, but the tokenizer has"):
        split[np.arange(2)]


def test_a_flipped_bit_in_a_models_tokenizer_is_refused(tmp_path: Path) -> None:
    model(codec=Tokenizer(str(write_bpe(tmp_path / "bpe")))).save_pretrained(tmp_path / "m")
    rng = random.Random(0)
    for _ in range(40):
        _, before = flip(tmp_path / "m" / "tokenizer.json", rng)
        with pytest.raises(ValueError, match=r"tokenizer.json: damaged: its SHA-256 is not what config.json says"):
            unmask.load(tmp_path / "m")
        (tmp_path / "m" / "tokenizer.json").write_bytes(before)


def test_a_kill_at_any_move_of_saving_leaves_one_model_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the weights differ."""
    old, new = model(0), model(1)
    old.save_pretrained(tmp_path / "old")
    seen = []
    for k in range(1, 100):
        folder = tmp_path / f"m{k}"
        shutil.copytree(tmp_path / "old", folder)
        killed = killed_at(k, monkeypatch, lambda folder=folder: new.save_pretrained(folder))  # type: ignore[misc]
        found = unmask.load(folder).state_dict()
        which = [all(torch.equal(found[name], v) for name, v in one.state_dict().items()) for one in (old, new)]
        assert sum(which) == 1, f"a mixture after a kill at move {k}"
        seen.append(which[1])
        new.save_pretrained(folder)
        assert not (folder / ".saved").exists()
        if not killed:
            break
    assert k > 4 and seen == sorted(seen) and set(seen) == {False, True}


def test_a_run_killed_in_its_first_saving_is_loaded_from_its_checkpoint(tmp_path: Path) -> None:
    from unmask.data.digits import Digits

    run = unmask.training.Run(str(tmp_path / "run"), batch_size=4, evaluate_examples=4)
    trainer = {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    network = unmask.Transformer(17, (8, 8, 1), classes=10, width=16, depth=1, heads=2)
    unmask.train(network, Digits(), run=run, trainer=trainer)
    (tmp_path / "run" / "model").rename(tmp_path / "run" / "model" / ".." / "aside")
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "aside").rename(tmp_path / "run" / "model" / ".savingabc")
    assert read_model(str(tmp_path / "run")).about["unfinished"]
    record = (tmp_path / "run" / "run.json").read_text()
    for part, form in (("data", "a JSON object"), ("class_names", "a list of names")):
        (tmp_path / "run" / "run.json").write_text(json.dumps(json.loads(record) | {part: "x"}))
        with pytest.raises(ValueError, match=f"run.json: {part} must be {form}"):
            read_model(str(tmp_path / "run"))
    (tmp_path / "run" / "run.json").write_text(record)
    (tmp_path / "run" / "model" / ".savingabc").rename(tmp_path / "run" / "model" / ".saved")
    assert read_model(str(tmp_path / "run")).about["steps"] == 1
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_a_link_is_no_folder_of_files_that_were_saved(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "m")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "m" / ".saved").symlink_to(tmp_path / "mine")
    assert read_model(str(tmp_path / "m")).about == {}
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"] and not (tmp_path / "m" / "thesis.txt").exists()
    model(1).save_pretrained(tmp_path / "m")
    assert read_model(str(tmp_path / "m")).path.parent == tmp_path / "m"
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"] and not (tmp_path / "m" / ".saved").is_symlink()


def test_an_index_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the man in the hat\n" * 40)
    prepare(
        Files((str(tmp_path / "a.txt"),), boundary="line"), Tokenizer(str(write_bpe(tmp_path / "b"))), tmp_path / "x"
    )
    whole = json.loads((tmp_path / "x" / "index.json").read_text())
    for change in (
        {"end": "x"},
        {"empty": -1},
        {"complete": 3},
        {"shards": [whole["shards"][0] | {"documents": "many"}]},
        {"shards": [whole["shards"][0] | {"sha256": ["x"]}]},
        {"shards": [whole["shards"][0] | {"name": 7}]},
    ):
        (tmp_path / "x" / "index.json").write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=r"index.json: damaged, or not an index"):
            Index.read(tmp_path / "x")


@pytest.mark.parametrize(("role", "value"), [("mask_token", 5), ("before", "x"), ("after", [5]), ("padding_token", [])])
def test_special_tokens_of_a_wrong_form_are_a_damaged_index(role: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the man in the hat\n" * 40)
    bpe = Tokenizer(str(write_bpe(tmp_path / "bpe")))
    prepare(Files((str(tmp_path / "a.txt"),), boundary="line"), bpe, tmp_path / "x", 100)
    assert Index.read(tmp_path / "x").roles is not None
    content = json.loads((tmp_path / "x" / "index.json").read_text())
    content["roles"][role] = value
    (tmp_path / "x" / "index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index.json: damaged, or not an index"):
        Index.read(tmp_path / "x")
