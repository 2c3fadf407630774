"""Checkpoints of the trainers of MDLM, Duo and BD3LM: their settings are objects of packages that are not there."""

import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unmask
from small_bpe import write_bpe
from test_public import CONDITION, DEPTH, HEADS, LENGTH, WIDTH, inputs, random_weights, reference
from unmask.checkpoints.trainers import load
from unmask.cli.main import main

SIZES = {"hidden_size": WIDTH, "cond_dim": CONDITION, "length": LENGTH, "n_blocks": DEPTH, "n_heads": HEADS}


@contextmanager
def modules(**classes: list[str]) -> Iterator[dict[str, type]]:
    """Have modules with classes, as long as a checkpoint is written; they are gone when it is read."""
    found = {}
    for module, names in classes.items():
        name = module.replace("_", ".")
        sys.modules.setdefault(name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
        sys.modules[name] = made = types.ModuleType(name)
        for one in names:
            found[one] = type(one, (), {"__module__": name})
            setattr(made, one, found[one])
    try:
        yield found
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("omegaconf", "othertokens")]:
            del sys.modules[name]


def omegaconf(value: Any, kinds: dict[str, type]) -> Any:
    """Return a plain value as omegaconf keeps it."""
    content = value
    if isinstance(value, dict):
        content = {key: omegaconf(one, kinds) for key, one in value.items()}
    elif isinstance(value, list):
        content = [omegaconf(one, kinds) for one in value]
    kind = "DictConfig" if isinstance(value, dict) else "ListConfig" if isinstance(value, list) else "AnyNode"
    node = kinds[kind]()
    node.__dict__ = {"_metadata": None, "_parent": None, "_val" if kind == "AnyNode" else "_content": content}
    return node


def write(path: Path, config: dict[str, Any], weights: dict[str, Tensor], average: list[Tensor] | None) -> Path:
    """Write a checkpoint as Lightning does for these trainers."""
    with modules(
        omegaconf_dictconfig=["DictConfig"],
        omegaconf_listconfig=["ListConfig"],
        omegaconf_nodes=["AnyNode"],
        othertokens_gpt2=["GPT2Tokenizer"],
    ) as kinds:
        tokenizer = kinds["GPT2Tokenizer"]()
        tokenizer.__dict__ = {"vocab": {"a": 0}, "special": [("x", 1)]}
        content: dict[str, Any] = {
            "epoch": 0,
            "global_step": 1000,
            "pytorch-lightning_version": "2.2.1",
            "state_dict": OrderedDict({f"backbone._orig_mod.{name}": value for name, value in weights.items()}),
            "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}],
            "hyper_parameters": {"config": omegaconf(config, kinds), "tokenizer": tokenizer},
            "sampler": {"random_state": None},
        }
        content["state_dict"]["backbone.rotary_emb.inv_freq"] = 1 / 10_000 ** (torch.arange(0, 8, 2).float() / 8)
        content["state_dict"]["sampling_eps_min"] = torch.tensor(1e-3)
        if average is not None:
            content["ema"] = {"decay": 0.9999, "num_updates": 1000, "shadow_params": average}
        torch.save(content, path)
    return path


def mdlm_config() -> dict[str, Any]:
    return {
        "mode": "train",
        "parameterization": "subs",
        "diffusion": "absorbing_state",
        "backbone": "dit",
        "time_conditioning": False,
        "T": 0,
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "model": {"name": "tiny", "type": "ddit", "dropout": 0.1, **SIZES},
        "data": {"train": "openwebtext", "wrap": True, "list": [1, 2]},
    }


@pytest.fixture
def bpe(tmp_path: Path) -> str:
    return str(write_bpe(tmp_path / "bpe"))


@pytest.mark.parametrize("averaged", [True, False])
def test_the_average_of_mdlm_by_default(tmp_path: Path, bpe: str, averaged: bool) -> None:
    weights = random_weights("mdlm")
    average = {name: value + 0.1 for name, value in weights.items()}
    path = write(tmp_path / "last.ckpt", mdlm_config(), weights, list(average.values()))
    network, _, about = load(path, bpe, averaged)
    assert about["steps"] == 1000
    x_t, rate = inputs()
    raw = reference("mdlm", average if averaged else weights, x_t, -torch.log1p(-rate))
    found = network.double()(x_t).log_softmax(-1)
    torch.testing.assert_close(found, raw[..., :-1].log_softmax(-1), rtol=1e-5, atol=1e-5)


def test_it_is_imported_and_loaded(tmp_path: Path, bpe: str) -> None:
    weights = random_weights("mdlm")
    path = str(write(tmp_path / "last.ckpt", mdlm_config(), weights, list(weights.values())))
    assert main(["import", path, str(tmp_path / "m"), "--tokenizer", bpe]) == 0
    x_t, _ = inputs()
    torch.testing.assert_close(
        unmask.load(tmp_path / "m").network(x_t), unmask.load(path, tokenizer=bpe).network(x_t), rtol=0, atol=0
    )


@pytest.mark.parametrize("layout", ["mdlm", "bd3lm"])
def test_the_newer_trainers_name_their_algorithm(tmp_path: Path, bpe: str, layout: Any) -> None:
    weights = random_weights(layout)
    config = mdlm_config() | {"algo": {"name": layout, "parameterization": "subs", "time_conditioning": False}}
    del config["parameterization"]
    config |= {"block_size": LENGTH} if layout == "bd3lm" else {}
    path = write(tmp_path / "last.ckpt", config, weights, list(weights.values()))
    x_t, rate = inputs()
    raw = reference(layout, weights, x_t, -torch.log1p(-rate))
    found = load(path, bpe)[0].double()(x_t).log_softmax(-1)
    torch.testing.assert_close(found, raw[..., :-1].log_softmax(-1), rtol=1e-5, atol=1e-5)


def changed(**settings: Any) -> dict[str, Any]:
    return mdlm_config() | settings


@pytest.mark.parametrize(
    ("config", "average", "said"),
    [
        (mdlm_config(), "none", "no moving average"),
        (mdlm_config(), "short", "averages"),
        (mdlm_config(), "shape", "has shape"),
        (changed(algo={"name": "duo"}), "right", "its algorithm is 'duo'"),
        (changed(parameterization="d3pm"), "right", "parameterization"),
        (changed(algo={"name": "bd3lm"}, block_size=4), "right", "single block"),
        (changed(model={**SIZES, "hidden_size": 64}), "right", "hidden_size is 64"),
        ({"mode": "train"}, "right", "no settings"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path: Path, bpe: str, config: Any, average: str, said: str) -> None:
    weights = random_weights("mdlm")
    values = list(weights.values())
    averages = {"none": None, "short": values[:-1], "shape": [*values[:-1], torch.zeros(3)], "right": values}
    path = write(tmp_path / "last.ckpt", config, weights, averages[average])
    with pytest.raises(ValueError, match=said) as found:
        load(path, bpe)
    assert str(path) in str(found.value)


class Harm:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('run')",)


def test_nothing_of_it_is_run(tmp_path: Path, bpe: str) -> None:
    path = tmp_path / "harm.ckpt"
    torch.save({"state_dict": {"backbone.x": Harm()}, "hyper_parameters": Harm(), "ema": Harm()}, path)
    with pytest.raises(ValueError, match=r"harm\.ckpt"):
        load(path, bpe)
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="not a checkpoint of torch"):
        load(path, bpe)
    assert main(["import", str(path), str(tmp_path / "m"), "--tokenizer", bpe]) == 1


@pytest.mark.parametrize("size", [0.3, 0.9, 0.99])
def test_a_truncated_one_is_damaged(tmp_path: Path, bpe: str, size: float) -> None:
    weights = random_weights("mdlm")
    path = write(tmp_path / "last.ckpt", mdlm_config(), weights, list(weights.values()))
    path.write_bytes(path.read_bytes()[: int(size * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        load(path, bpe)


def test_a_tensor_reads_no_more_than_its_numbers(tmp_path: Path, bpe: str) -> None:
    """A shape, stride or offset beyond what is stored, and numbers that are packed, are refused."""
    weights = random_weights("mdlm")
    path = write(tmp_path / "last.ckpt", mdlm_config(), weights, list(weights.values()))
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(ValueError, match="a tensor is damaged"):
        load(packed, bpe)
