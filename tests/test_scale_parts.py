"""What training on many devices is made of, in one process: shards, signs of life, restarts, plans."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file
from torch.distributed import TCPStore, distributed_c10d

import unmask
from unmask.cli.main import main
from unmask.data.digits import Digits
from unmask.storage import restarts
from unmask.storage.checkpoint import averaged_weights, find_rows, load_tree, remove_unused_shards, save_tree
from unmask.storage.shards import Rows, join_shards, write_shard
from unmask.training import Cluster, Optimizer, dry_run, heartbeat, plan, stopping, watching, weightless
from unmask.training.cost import forward_flops
from unmask.training.optimizer import new_optimizer
from unmask.training.planning import _count_saved, memory_per_device

WHOLE = torch.arange(21.0).view(7, 3)


def write_two(folder: Path, step: int = 1) -> Path:
    """Write a checkpoint of two processes, with four rows and three."""
    frozen = [{"model.w": Rows(WHOLE[4 * rank :][:4], 4 * rank, (7, 3))} for rank in (0, 1)]
    trees = [{"global_step": step, "state_dict": one, "current_model_state": one, "x": WHOLE[0]} for one in frozen]
    place = folder / f"shards-{step}-ab"
    described = [write_shard(find_rows(tree), place / f"{rank:05}.safetensors") for rank, tree in enumerate(trees)]
    save_tree(trees[0], folder / "last.safetensors", join_shards(find_rows(trees[0]), described))
    return folder / "last.safetensors"


def test_shards_are_read_whole_or_in_rows(tmp_path: Path) -> None:
    path = write_two(tmp_path)
    assert all(torch.equal(load_tree(path)[name]["model.w"], WHOLE) for name in ("state_dict", "current_model_state"))
    assert len(load_file(path.parent / "shards-1-ab" / "00001.safetensors")) == 1, "what is the same is there once"
    weights, step = averaged_weights(path)
    assert torch.equal(weights["w"], WHOLE) and step == 1
    for first, count in ((0, 0), (0, 2), (3, 3), (5, 2)):
        wanted = load_tree(path, rows=lambda name, shape, some=(first, count): some if len(shape) == 2 else None)
        assert torch.equal(wanted["state_dict"]["model.w"], WHOLE[first : first + count])
        assert torch.equal(wanted["x"], WHOLE[0])
    save_tree({"w": WHOLE}, tmp_path / "plain.safetensors")
    assert torch.equal(load_tree(tmp_path / "plain.safetensors", rows=lambda *_: (2, 2))["w"], WHOLE[2:4])
    (tmp_path / "shards-9-cut").mkdir()
    write_two(tmp_path, step=2)
    remove_unused_shards(tmp_path)
    assert [entry.name for entry in tmp_path.glob("shards-*")] == ["shards-2-ab"]


def test_shards_that_are_damaged_or_gone_are_named(tmp_path: Path) -> None:
    path = write_two(tmp_path)
    shard = tmp_path / "shards-1-ab" / "00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"00001.safetensors: the SHA-256 of .state_dict.model.w is not what it was"):
        load_tree(path)
    assert torch.equal(load_tree(path, rows=lambda *_: (0, 4))["state_dict"]["model.w"], WHOLE[:4]), "of the other one"
    shard.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"00001.safetensors: no such file; .*a shard of the checkpoint is miss"
    ):
        load_tree(path)
    path.write_bytes(path.read_bytes().replace(b"shards-1-ab/00001", b"../../../etc/000x"))
    with pytest.raises(ValueError, match="damaged, or not a checkpoint"):
        load_tree(path)
    with pytest.raises(ValueError, match="not every row of it was written"):
        join_shards(find_rows({"w": Rows(WHOLE[:4], 0, (7, 3))}), [])
    with pytest.raises(ValueError, match="nothing says where the rows of .w are"):
        save_tree({"w": Rows(WHOLE[:4], 0, (7, 3))}, path)


def test_a_process_that_gives_no_sign_of_life_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three in one process: one ends with an error, one falls silent."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    monkeypatch.setattr(distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(heartbeat, "EVERY", 0.05)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    hearts = [heartbeat.Heartbeat(rank, 3, silent=0.6, said="; go on") for rank in range(3)]
    for heart in hearts:
        heart.start()
    time.sleep(0.3)
    assert not ended and hearts[0].ended(0.3) == ""
    hearts[2]._over.set()  # as a machine that is gone
    until = time.monotonic() + 20
    while len(ended) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    shown = capsys.readouterr().err
    assert "process 0 of 3: process 2 (" in shown and "has given no sign of life for 1 s; go on" in shown
    assert hearts[0].ended(0.3).startswith("process 2 (") and "ended early" in hearts[0].ended(0.3)
    hearts[1].stop("ValueError: no")
    assert hearts[0].ended(0.3).endswith("ended: ValueError: no")
    hearts[0].stop()
    assert set(ended) == {1}


def test_a_command_that_was_started_again_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun does it: with a checkpoint it goes on from there, without one it begins again."""
    for name in restarts.RESTARTS:
        monkeypatch.delenv(name, raising=False)
    small = [
        "--network.width",
        "16",
        "--network.depth",
        "1",
        "--network.heads",
        "2",
        "--batch_size",
        "8",
        "--precision",
    ]
    small += ["32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    command = ["train", "digits", *small, "--evaluate_examples", "4", "--out", str(tmp_path / "r")]
    assert main([*command, "--trainer.max_steps", "1"]) == 0
    assert main([*command, "--trainer.max_steps", "2"]) == 1
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main([*command, "--trainer.max_steps", "2"]) == 0
    assert unmask.load(tmp_path / "r").about["steps"] == 2
    assert restarts.how_to_begin(tmp_path / "r", False, True) == (True, False)
    (tmp_path / "r" / "checkpoints" / "last.safetensors").unlink()
    assert restarts.how_to_begin(tmp_path / "r", True, False) == (False, True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert restarts.how_to_begin(tmp_path / "r", True, False) == (True, False)


def test_a_job_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$2" = 7_3 ] || {{ echo no such job >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    stopping.requeue()
    assert not (tmp_path / "asked").exists()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    stopping.requeue()
    assert "scontrol requeue 12: no such job; go on with --resume" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    stopping.requeue()
    assert (tmp_path / "asked").read_text() == "requeue 12\nrequeue 7_3\n" and not capsys.readouterr().err
    before = signal.getsignal(signal.SIGTERM)
    with stopping.unhurried():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert stopping.Stopped.status == 128 + signal.SIGTERM


class Figures(Logger):
    """Keeps the figures of every step."""

    name, version = "figures", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_hyperparams(self, *arguments: Any, **settings: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))


def test_a_run_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its figures go to the user's logger, and a line to the console."""
    logger, network = Figures(), unmask.Transformer(17, (8, 8, 1), 10, width=16, depth=1, heads=2)
    settings = {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False, "logger": [logger]}
    run = unmask.training.Run(str(tmp_path / "r"), batch_size=4, precision="32-true", evaluate_examples=4)
    unmask.training.train(network, Digits(labels=True), run=run, trainer=settings | {"log_every_n_steps": 1})
    rows = [row for row in logger.rows if "mfu" in row]
    assert len(rows) == 3
    for row in rows:
        assert 0 < row["mfu"] < 1 and 0 <= row["data_wait"] < 1 and 0.05 < row["memory_gib"] < 64
        assert row["tokens/s"] > 0 and row["grad_norm"] > 0 and row["skipped_steps"] == 0
    assert re.search(r"tokens/s, \d+% of peak \(measured\), at most \d+\.\d\d GiB a process", capsys.readouterr().out)
    several = watching.summary([{**rows[-1], "tokens/s": 3000.0, "skipped_steps": 2.0}], 2, "H100")
    assert several.startswith("3,000 tokens/s (1,500 a process), ") and several.endswith(", 2 steps skipped")


def small(**settings: Any) -> unmask.Transformer:
    return unmask.Transformer(27, (32,), width=32, depth=3, heads=2, **settings)


def test_the_memory_of_a_plan_is_what_training_holds() -> None:
    """Weights, gradients, moments, averages to the byte; what is kept for the backward pass on tensors with memory."""
    network = small()
    model = unmask.MaskedDiffusion(network, unmask.Characters("abcdefghijklmnopqrstuvwxyz ."[:27]))
    optimizer = new_optimizer(model, Optimizer())
    x = torch.zeros(1, 32, dtype=torch.long)
    kept: dict[int, torch.Tensor] = {}
    own = {id(parameter) for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own and tensor.is_floating_point():
            kept[base.untyped_storage().data_ptr()] = base
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(x).sum()
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert _count_saved(network) == pytest.approx(held, rel=0.1)
    loss.backward()
    optimizer.step()
    moments = [one for state in optimizer.state.values() for one in state.values() if one.dim()]
    tensors = [*network.parameters(), *(p.grad for p in network.parameters()), *network.parameters(), *moments]
    state = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
    assert memory_per_device(network, Cluster(1), 1, False)["state"] == state
    assert memory_per_device(network, Cluster(8, strategy="fsdp2"), 1, False)["state"] == state / 8
    assert memory_per_device(network, Cluster(8, 4, strategy="fsdp2_hybrid"), 1, False)["state"] == state / 2
    fewer = memory_per_device(small(checkpointing=True), Cluster(1), 1, False)["activations"]
    assert fewer < 0.6 * memory_per_device(network, Cluster(1), 1, False)["activations"]


def test_operations_are_those_of_the_formula() -> None:
    """Two per weight of a matrix and position, and 4 L width per layer and position for attention."""
    network = small()
    matrices = sum(p.numel() for name, p in network.named_parameters() if p.dim() == 2 and "embed" not in name)
    assert forward_flops(network) == 32 * (2 * matrices + 3 * 4 * 32 * 32)


def test_a_plan_for_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    with weightless():
        large = unmask.Transformer(128_256, (4096,), width=4096, depth=4, heads=32, hidden=32_768, checkpointing=True)
    rows = {}
    for strategy in ("ddp", "fsdp2", "fsdp2_hybrid"):
        (rows[strategy],) = plan(large, Cluster(64, 8, strategy=strategy), batch_size=1, steps=1000).rows
    block = 4 * 4096**2 + 3 * 4096 * 32_768 + 2 * 4096
    assert rows["ddp"]["parameters"] == 4 * block + (2 * 128_256 + 1 + 1) * 4096 + 128_256
    assert not rows["ddp"]["fits"] and rows["fsdp2"]["fits"]
    assert rows["ddp"]["state_gib"] == pytest.approx(8 * rows["fsdp2_hybrid"]["state_gib"], rel=1e-2)
    step = max(rows["fsdp2"]["compute_s"], rows["fsdp2"]["exchange_s"])
    assert rows["fsdp2"]["tokens_per_second"] == pytest.approx(64 * 4096 / step, rel=1e-3)
    assert rows["fsdp2_hybrid"]["exchange_s"] < rows["fsdp2"]["exchange_s"]
    run = unmask.training.Run("never", batch_size=4)
    (row,) = dry_run(small(), Digits(), run=run, on=Cluster(2)).rows
    assert row["tokens_per_step"] == 2 * 4 * 32
    command = ["train", "digits", "--dry-run", "--devices", "64", "--nodes", "8", "--gpu", "A100"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "64 x A100 (80 GB) in 8 node(s)" in " ".join(shown.split()) and "memory gib" in shown
    for settings, message in (((3, 2), "a multiple of nodes"), ((1, 1, "Z80"), "gpu must be one of B200, H200")):
        with pytest.raises(ValueError, match=message):
            Cluster(*settings)
