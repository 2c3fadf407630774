import json
import math
import os
from pathlib import Path

import pytest
import torch

from unmask import MaskedDiffusion
from unmask.codecs.pixels import Pixels
from unmask.codecs.text import Characters
from unmask.networks.base import check_tokens
from unmask.networks.transformer import Transformer
from unmask.randomness import generators, seeded
from unmask.samplers.ancestral import Ancestral
from unmask.schedules import Polynomial


def small_model(**settings: object) -> MaskedDiffusion:
    torch.manual_seed(0)
    network = Transformer(4, (6,), width=16, depth=2, heads=2, **settings)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return MaskedDiffusion(network, Characters("abcd"), Polynomial(3.0), {"note": "für später"}).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small_model(classes=2).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_save_and_load(saved: Path) -> None:
    model, loaded = small_model(classes=2), MaskedDiffusion.from_pretrained(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (loaded.codec, loaded.schedule, loaded.about, loaded.shape) == (
        model.codec,
        model.schedule,
        model.about,
        model.shape,
    )
    assert not loaded.training
    x, label = torch.randint(0, 4, (5, 6)), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(
        model.nelbo(x, label, generator=seeded(0)),
        MaskedDiffusion.from_pretrained(saved).nelbo(x, label, generator=seeded(0)),
    )


def test_saving_over_a_model_replaces_it(saved: Path) -> None:
    small_model().save_pretrained(saved)
    assert MaskedDiffusion.from_pretrained(saved).network.classes is None
    assert len(list(saved.iterdir())) == 3


def test_sample_and_infill() -> None:
    model = small_model()
    x = model.sample(3, generator=generators(0, 3))
    assert x.shape == (3, 6) and (x < 4).all()
    assert torch.equal(x[:2], model.sample(2, generator=generators(0, 2)))
    canvas = torch.tensor([[0, 4, 4, 1, 4, 2]])
    filled = model.infill(canvas, sampler=Ancestral(steps=2))
    assert torch.equal(filled[canvas < 4], canvas[canvas < 4]) and (filled < 4).all()
    assert len(model.codec.decode(x)[0]) == 6
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        model.sample(0)


def test_nelbo_averages_draws() -> None:
    model = small_model()
    x = torch.randint(0, 4, (3, 6), generator=seeded(0))
    means = torch.stack([model.nelbo(x, draws=6, generator=seeded(i)) for i in range(30)])
    singles = torch.stack([model.nelbo(x, draws=1, generator=seeded(100 + i)) for i in range(180)])
    error = (means.var(0) / 30 + singles.var(0) / 180).sqrt()
    assert ((means.mean(0) - singles.mean(0)).abs() < 4 * error).all()
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        model.nelbo(x, draws=0)
    with pytest.raises(ValueError, match=r"tokens must be in 0..3, got 4 at index \[0, 2\]"):
        model.nelbo(torch.tensor([[0, 1, 4, 0, 0, 0]]))


def test_vocabularies_must_agree() -> None:
    with pytest.raises(ValueError, match="vocabulary of 4 tokens, the codec one of 17"):
        MaskedDiffusion(Transformer(4, (6,)), Pixels(17))


def alter(path: Path, change: object) -> None:
    config = json.loads(path.read_text())
    change(config)  # type: ignore[operator]
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["network"].update(width=32), "model.safetensors: does not fit config.json"),
        (lambda c: c["network"].update(widht=32), "config.json: network: Transformer: .*'widht'"),
        (lambda c: c["network"].update({"class": "Mystery"}), "config.json: network: unknown network 'Mystery'"),
        (lambda c: c["network"].update(heads="many"), "config.json: network: Transformer"),
        (lambda c: c["codec"].update(alphabet="abce"), "config.json beside it was changed after the weights"),
        (lambda c: c["codec"].update(alphabet="abc"), "vocabulary of 4 tokens, the codec one of 3"),
        (lambda c: c["schedule"].update(power=-1.0), "config.json: schedule: Polynomial: power must be positive"),
        (lambda c: c.pop("codec"), "config.json: codec: expected"),
    ],
)
def test_an_altered_config_is_an_error(saved: Path, change: object, message: str) -> None:
    alter(saved / "config.json", change)
    with pytest.raises(ValueError, match=message):
        MaskedDiffusion.from_pretrained(saved)


def test_damaged_files_are_errors_that_name_them(saved: Path) -> None:
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:4], b""):
        weights.write_bytes(part)
        with pytest.raises(ValueError, match="model.safetensors: damaged"):
            MaskedDiffusion.from_pretrained(saved)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors: no such file"):
        MaskedDiffusion.from_pretrained(saved)
    (saved / "config.json").write_text('{"network": ')
    with pytest.raises(ValueError, match="config.json: not valid JSON"):
        MaskedDiffusion.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json: no such file"):
        MaskedDiffusion.from_pretrained(saved)


def test_no_such_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no/such/folder: no such folder"):
        MaskedDiffusion.from_pretrained("no/such/folder")
    with pytest.raises(
        FileNotFoundError, match=r"nobody/nothing: no such folder, and the Hub cannot be asked or has none"
    ):
        MaskedDiffusion.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)


def test_a_failed_save_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unmask.saving.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        small_model().save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_the_hub_gets_the_same_files(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded = {}

    class Api:
        def __init__(self, **_: object) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> object:
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, folder_path: Path, **_: object) -> str:
            uploaded.update({name: Path(folder_path, name).read_bytes() for name in os.listdir(folder_path)})
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    MaskedDiffusion.from_pretrained(saved).push_to_hub("me/model")
    assert uploaded["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert uploaded["config.json"] == (saved / "config.json").read_bytes()
    assert b"library_name: unmask" in uploaded["README.md"]


def test_uniform_network_has_log2_v_bits() -> None:
    model = MaskedDiffusion(Transformer(4, (6,)), Characters("abcd"))
    nats = model.nelbo(torch.randint(0, 4, (3, 6)))
    torch.testing.assert_close(nats / (6 * math.log(2)), torch.full_like(nats, 2.0))


def test_what_is_no_batch_of_examples_is_told_so() -> None:
    model, x = small_model(), torch.zeros(2, 6, dtype=torch.long)
    for wrong, message in (
        (x.tolist(), r"tokens must be a tensor, got a list; torch.tensor"),
        (x.to(torch.uint8), r"must be of dtype torch.int64, got torch.uint8; use x.long"),
    ):
        with pytest.raises(ValueError, match=message):
            check_tokens(wrong, 4)
    for use in (model.nelbo, model.infill):
        with pytest.raises(ValueError, match=r"got \(6,\); x.unsqueeze\(0\) makes a batch of one example"):
            use(x[0])
        with pytest.raises(ValueError, match=r"expected examples of shape \(n, \*\(6,\)\), got \(2, 7\)"):
            use(torch.zeros(2, 7, dtype=torch.long))
