import json
import math
import re
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import fresh
from unmask.data.digits import Digits
from unmask.data.order import Division, Order
from unmask.forward import sample_counts, sample_times
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.objectives.scalar import TimeFreeELBO
from unmask.randomness import Share, seeded, uniform
from unmask.storage.checkpoint import load_tree, save_tree
from unmask.training import MovingAverage, Optimizer, Run, plan_training

CPU = torch.device("cpu")
SMALL = ["digits", "--network.width", "32", "--network.depth", "2", "--network.heads", "2", "--batch_size", "16"]
SMALL += ["--precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def test_order_is_a_permutation_each_epoch() -> None:
    order = iter(Order(10, Division(3), seed=0, start=lambda: 0))
    epochs = [np.concatenate([next(order) for _ in range(3)]) for _ in range(3)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 9 and epoch.max() < 10
    assert not np.array_equal(epochs[0], epochs[1])


def test_compilation_is_announced_and_gradients_are_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network, compiled = Transformer(17, (8, 8, 1), classes=10, width=16, depth=1, heads=1), []
    monkeypatch.setattr(network, "compile_body", lambda: compiled.append(True))
    data = Digits(labels=True)
    run = Run(str(tmp_path / "run"), batch_size=4, compile=True, precision="32-true", evaluate_examples=4)
    settings = {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False}
    plan_training(MaskedDiffusion(network, data.codec), data, TimeFreeELBO(), Optimizer(), run, settings)()
    shown = capsys.readouterr()
    assert compiled and "compiling" in shown.err
    assert re.search(r"first step after \d+\.\d s", shown.err)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("start", [0, 1, 2, 3, 7])
def test_order_goes_on_where_it_was(start: int) -> None:
    whole, later = (iter(Order(10, Division(3), seed=1, start=lambda first=first: first)) for first in (0, start))
    for _ in range(start):
        next(whole)
    for _ in range(5):
        assert np.array_equal(next(whole), next(later))


def test_order_of_several_processes_is_that_of_one() -> None:
    """Also where each takes the batches of a step one after another, and where the data are fewer than a step."""
    for count in (20, 13, 7):
        one = iter(Order(count, Division(12), seed=0, start=lambda: 3)) if count > 12 else None
        pairs = [iter(Order(count, Division(3, 2, 2, rank), seed=0, start=lambda: 3)) for rank in (0, 1)]
        several = [iter(Order(count, Division(3, 2, 2, rank), seed=0, start=lambda: 0)) for rank in (0, 1)]
        steps = [np.stack([next(part) for _ in range(2) for part in several], 1).flatten() for _ in range(9)]
        for step in steps[3:]:
            assert np.array_equal(step, np.stack([next(part) for _ in range(2) for part in pairs], 1).flatten())
            assert one is None or np.array_equal(step, next(one))
        assert len(set(np.concatenate(steps).tolist())) == count


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_example_gets_the_same_numbers_however_many_processes_share_the_batch(batch: int) -> None:
    """Times, counts, tokens; and each share has pairs that add up, so that the number of masks stays fixed."""
    whole = sample_counts(4 * batch, 10, generator=seeded(0))
    times, numbers = (
        draw(seeded(1))
        for draw in (lambda g: sample_times(4 * batch, generator=g), lambda g: uniform((4 * batch, 2), g, CPU))
    )
    for first in range(4):
        counts = sample_counts(batch, 10, generator=Share(seeded(0), first, 4))
        assert torch.equal(counts, whole[first::4]) and (batch % 2 or counts.sum() == batch // 2 * 11)
        assert torch.equal(sample_times(batch, generator=Share(seeded(1), first, 4)), times[first::4])
        assert torch.equal(uniform((batch, 2), Share(seeded(1), first, 4), CPU), numbers[first::4])


def test_a_step_is_divided_among_other_processes() -> None:
    assert Division(8, 4).over(2) == Division(8, 2, 2) and Division(8, 2, 2).over(4) == Division(8, 4)
    assert Division(8, 2).over(4) == Division(4, 4) and Division(8, 2, 3).over(4) == Division(4, 4, 3)
    assert Division(6, 2).over(3) == Division(4, 3) and Division(8, 4).over(4) == Division(8, 4)
    with pytest.raises(
        ValueError, match=r"a step has 32 examples \(4 process\(es\) x 1 x 8\), which 3 processes cannot"
    ):
        Division(8, 4).over(3)


def test_learning_rate() -> None:
    settings = Optimizer(lr=1.0, warmup_steps=10, decay="cosine", final=0.1)
    factors = [settings.factor(step, 110) for step in range(111)]
    assert factors[0] == 0.1 and factors[9] == 1.0 == max(factors)
    assert factors[60] == pytest.approx(0.55) and factors[110] == pytest.approx(0.1)
    assert Optimizer(warmup_steps=0, decay="constant").factor(99, 100) == 1
    assert Optimizer(warmup_steps=0, decay="linear").factor(25, 100) == 0.75


def test_moving_average_warms_up() -> None:
    average = MovingAverage(0.9)
    average.held = [torch.zeros(1)]
    for step, expected in ((0, 0.9), (1000, 0.9 + 0.1 * 0.1)):
        average.average([torch.ones(1)], step)
        assert average.held[0].item() == pytest.approx(expected)


def test_an_average_of_weights_in_half_precision_moves() -> None:
    module = torch.nn.Linear(1, 1, bias=False).bfloat16()
    average, trainer = MovingAverage(0.999), Mock(spec=Trainer, global_step=10_000)
    module.weight.data.fill_(1.0)
    average.on_fit_start(trainer, module)
    module.weight.data.fill_(2.0)
    average.count = 1
    for _ in range(100):
        trainer.global_step += 1
        average.on_train_batch_end(trainer, module, None, None, 0)
    assert average.held[0].item() == pytest.approx(2 - 0.999**100, abs=1e-5)
    average.on_validation_epoch_start(trainer, module)
    assert module.weight.item() == pytest.approx(2 - 0.999**100, abs=2**-8)
    average.on_validation_epoch_end(trainer, module)
    assert module.weight.item() == 2 and average.held[0].item() == pytest.approx(2 - 0.999**100, abs=1e-5)
    assert average.averaged(module)["weight"].dtype == torch.float32


def test_checkpoint_trees_round_trip(tmp_path: Path) -> None:
    tree = {
        "a": torch.arange(3),
        0: [1, 2.5, None, (True, "x")],
        "b": {"c": torch.tensor(1.5, dtype=torch.float64)},
        "d": {},
    }
    save_tree(tree, tmp_path / "t.safetensors")
    again = load_tree(tmp_path / "t.safetensors")
    assert torch.equal(again["a"], tree["a"]) and again["b"]["c"].dtype == torch.float64
    assert again[0] == tree[0] and again["d"] == {} and list(again) == list(tree)
    with pytest.raises(TypeError, match=r"\.x\.1: a set cannot be written"):
        save_tree({"x": [1, {2}]}, tmp_path / "t.safetensors")
    assert load_tree(tmp_path / "t.safetensors")["d"] == {}, "the failed save damaged the file"
    assert len(list(tmp_path.iterdir())) == 1, "a temporary file was left behind"


def test_only_tensors_that_share_memory_are_copied_for_a_checkpoint(tmp_path: Path) -> None:
    """A copy of everything on a GPU is what it may have no memory for."""
    a, b = torch.arange(6.0), torch.arange(6.0).reshape(2, 3)
    tree = {
        "a": a,
        "tied": a,
        "part": a[2:4],
        "b": b,
        "turned": b.T,
        "empty": torch.zeros(0),
        "none": torch.zeros(0, 3),
    }
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten.clone.default:
                copied.append(tuple(args[0].shape))
            return function(*args, **kwargs or {})

    with Copies():
        save_tree(tree, tmp_path / "t.safetensors")
    assert sorted(copied) == [(0, 3), (2,), (3, 2), (6,)], "empty tensors have no memory, and seem to share it"
    again = load_tree(tmp_path / "t.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in tree.items())


def test_damaged_checkpoints_are_errors_that_name_them(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(FileNotFoundError, match=r"t.safetensors: no such file"):
        load_tree(path)
    save_tree({"a": torch.arange(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"t.safetensors: damaged, or not a checkpoint"):
        load_tree(path)


def test_run_refuses() -> None:
    for settings, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"label_dropout": 1.0}, r"label_dropout must be in \[0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Run(out="x", **settings)
    with pytest.raises(ValueError, match="optimizer.lr must be positive, got 0"):
        Optimizer(lr=0.0)
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\), got 1"):
        MovingAverage(1.0)
    with pytest.raises(ValueError, match=r"batch_size 30 on 2 process\(es\) needs more than the 50 training examples"):
        Order(50, Division(30, 2), 0, lambda: 0)


def marginal_bits() -> float:
    """Bits per dimension of the best model whose pixels are independent, on the digits' test part."""
    x, _ = Digits().split("train")[np.arange(1297)]
    test, _ = Digits().split("test")[np.arange(300)]
    one_hot = torch.nn.functional.one_hot(x.flatten(1), 17).double()
    best = math.inf
    for smoothing in (0.03, 0.1, 0.3, 1.0):
        p = one_hot.sum(0) + smoothing
        log_p = (p / p.sum(1, keepdim=True)).log()
        nats = -log_p.gather(1, test.flatten(1).T).sum(0).mean()
        best = min(best, nats.item() / 64 / math.log(2))
    return best


@pytest.mark.slow
def test_a_short_training_beats_every_marginal_model(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    larger = ["--network.width", "48", "--network.depth", "2", "--network.heads", "4", "--network.dropout", "0.0"]
    steps = ["--trainer.max_steps", "150", "--optimizer.lr", "4e-3", "--batch_size", "32", "--evaluate_every", "150"]
    done = fresh.run(tmp_path, "train", *SMALL, *larger, *steps, "--out", out)
    assert done.returncode == 0, done.stderr
    done = fresh.run(tmp_path, "evaluate", out, "--draws", "4", "--json", f"{out}/metrics.json")
    assert done.returncode == 0, done.stderr
    bits, error = json.loads(Path(out, "metrics.json").read_text())["rows"][0]["bits_per_dimension"]
    assert bits + 4 * error < marginal_bits() - 0.1


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_equals_one_that_is_not(tmp_path: Path) -> None:
    """Weights, moving average and optimiser, to the last bit; with dropout, label dropout and accumulation."""
    steps = [
        "--trainer.max_steps",
        "24",
        "--checkpoint_every",
        "5",
        "--evaluate_every",
        "7",
        "--evaluate_examples",
        "32",
    ]
    steps += ["--trainer.accumulate_grad_batches", "2", "--network.dropout", "0.2"]
    assert fresh.run(tmp_path, "train", *SMALL, *steps, "--out", str(tmp_path / "whole")).returncode == 0
    checkpoint = tmp_path / "cut" / "checkpoints" / "last.safetensors"
    process = fresh.start_command(tmp_path, "train", *SMALL, *steps, "--out", str(tmp_path / "cut"))
    while not checkpoint.exists() and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert load_tree(checkpoint)["global_step"] < 24, "killed too late to show anything"
    done = fresh.run(tmp_path, "train", *SMALL, *steps, "--out", str(tmp_path / "cut"), "--resume")
    assert done.returncode == 0, done.stderr
    whole, cut = (load_tree(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("whole", "cut"))
    assert whole["global_step"] == cut["global_step"] == 24
    for name in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "averaging_state"):
        assert same(whole[name], cut[name]), name
    assert not same(whole["state_dict"], whole["current_model_state"])
    exported = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut")]
    assert same(*exported)
    prefix = "model."
    assert same(
        exported[0], {k.removeprefix(prefix): v for k, v in whole["state_dict"].items() if k.startswith(prefix)}
    )


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)  # type: ignore[arg-type]
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)  # type: ignore[attr-defined,index]
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    return a == b
