"""Training on several processes equals training on one: losses, weights, checkpoints, and what goes wrong.

The processes are started twice, four and then two of them; each start makes many short trainings one after another.
"""

import csv
import json
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from several import together
from unmask.storage import shards
from unmask.storage.checkpoint import averaged_weights, checkpoint_step, load_tree
from unmask.storage.folders import CHECKPOINT
from unmask.storage.mirror import receive_model, send
from unmask.training import MovingAverage, Optimizer, Run, mirroring, pull, train, watching
from unmask.training.sharding import local
from unmask.training.watching import Watch

V, L = 5, 8
RUNS: dict[str, Any] = {"batch_size": 2, "precision": "32-true", "evaluate_every": 2, "checkpoint_every": 2}
RUNS |= {"evaluate_examples": 22, "ema": 0.9}
TRAINER: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
TRAINER |= {"log_every_n_steps": 1, "gradient_clip_val": 0.5}
SLOW = Optimizer(lr=1e-3, warmup_steps=1, decay="constant")


@dataclass(frozen=True)
class Rings(unmask.DataSet):
    """Walks on a ring, in two classes; of one seed in all processes, unless they are to differ."""

    seed: int = 0
    given: bool = False

    @property
    def codec(self) -> unmask.Codec:
        return unmask.Symbols(V)

    @property
    def shape(self) -> tuple[int, ...]:
        return (L,)

    @property
    def classes(self) -> int:
        return 2

    @property
    def has_given(self) -> bool:
        return self.given

    def split(self, part: str) -> unmask.Examples:
        rng = np.random.default_rng((self.seed, len(part)))
        x = (rng.integers(0, 2, (50, L)) * 2 - 1).cumsum(1) % V
        if self.given:
            x = np.where(rng.random(x.shape) < rng.random((50, 1)) / 2, -1 - x, x)
        return unmask.Examples(x, rng.integers(0, 2, 50))


class Squares(Rings):
    """The first of each walk, as images."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (2, 2, 1)

    def split(self, part: str) -> unmask.Examples:
        whole = super().split(part)
        return unmask.Examples(whole.x[:, :4].reshape(-1, 2, 2, 1), whole.labels)


def learn(out: Path, steps: int = 4, kind: str = "transformer", data: Any = None, **settings: Any) -> Any:
    """Train a small model, and return it."""
    torch.manual_seed(0)
    timed: dict[str, Any] = {"checkpointing": True, "time_conditioning": True}
    if kind == "unet":
        data, made = Squares(), unmask.UNet(V, (2, 2, 1), 2, widths=(8,), blocks=1, **timed)
    else:
        made = unmask.Transformer(V, (L,), 2, width=16, depth=2, heads=2, **timed)
    torch.nn.init.normal_(made.head.weight, std=0.1)
    names = {name: settings.pop(name) for name in list(settings) if name in Run.__dataclass_fields__}
    begin = {name: settings.pop(name) for name in ("resume", "objective") if name in settings}
    run = Run(str(out), **RUNS | names)
    return train(
        made, data or Rings(), run=run, trainer=TRAINER | {"max_steps": steps} | settings, optimizer=SLOW, **begin
    )


def losses(out: Path) -> list[list[float]]:
    """Return the loss, the bits and the validation bits of every step."""
    with open(out / "logs" / "version_0" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [[float(row[name]) for name in ("loss", "bits", "valid_bits") if row[name]] for row in rows]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def refused(work: Any) -> str:
    """Return what is said of an error."""
    try:
        work()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def sizes(trainer: Any, module: Any, averages: MovingAverage) -> dict[str, int]:
    """Return the bytes that a process holds of the state of training."""
    kept = [one for state in trainer.optimizers[0].state.values() for one in state.values() if one.dim()]
    parts = {"weights": list(module.parameters()), "moments": kept, "averages": averages.held}
    return {name: sum(local(one).untyped_storage().nbytes() for one in some) for name, some in parts.items()}


def four(rank: int, folder: Path) -> dict[str, Any]:
    """What four processes do: two nodes of two."""
    found: dict[str, Any] = {}
    end = MovingAverage.on_train_end

    def measured(self: Any, trainer: Any, module: Any) -> None:
        found[Path(trainer.default_root_dir).name] = sizes(trainer, module, self)
        end(self, trainer, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MovingAverage, "on_train_end", measured)
        learn(folder / "ddp4", data=Rings(given=True), strategy="ddp")
        network = learn(folder / "fsdp4", strategy="fsdp2").network
        learn(folder / "hybrid4", strategy="fsdp2_hybrid", objective=unmask.TokenELBO())
    found["whole"] = [type(network).__name__, float(sum(p.double().abs().sum() for p in network.parameters()))]
    learn(folder / "changed", 2, strategy="fsdp2", keep_best=True)
    found["other data"] = refused(lambda: learn(folder / "other", data=Rings(int(rank == 3)), strategy="ddp"))
    found["other rate"] = refused(lambda: learn(folder / "other", strategy="ddp", ema=0.5 if rank == 2 else 0.9))
    if rank == 0:
        shutil.copytree(folder / "changed", folder / "again")
        shutil.copytree(folder / "changed", folder / "broken")
        for path in (folder / "broken" / "checkpoints").glob("shards-*/00002.safetensors"):
            path.unlink()
    torch.distributed.barrier()
    found["missing"] = refused(lambda: learn(folder / "broken", strategy="fsdp2", resume=True))
    learn(folder / "again", strategy="fsdp2", keep_best=True, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 2:
            patch.setattr(shards, "save_file", full_disk(after=1))
        found["full"] = refused(lambda: learn(folder / "full", strategy="fsdp2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "SHARE", 0.001)
        if rank == 1:
            patch.setattr(watching.Loader, "__iter__", slowly)
            patch.setattr(Watch, "on_train_batch_start", signalled)
        patch.setattr(mirroring, "send", leisurely)
        try:
            learn(folder / "stopped", 8, strategy="fsdp2", mirror=f"file://{folder / 'elsewhere'}")
        except KeyboardInterrupt as error:
            found["stopped"] = [str(error), error.status]  # type: ignore[attr-defined]
            found["copied"] = (folder / "copied").exists()
    return found


def leisurely(*args: Any) -> Any:
    """Copy a run elsewhere, and take longer over it than a step or a sign of life."""
    folder, *_ = args
    time.sleep(2.5)
    copied = send(*args)
    (folder.parents[2] / "copied").touch()
    return copied


def full_disk(after: int) -> Any:
    """Return what writes files in the place of `save_file`, and after some of them cannot any more."""
    count = iter(range(100))

    def write(*arguments: Any, **settings: Any) -> None:
        if next(count) >= after:
            raise OSError(28, "No space left on device")
        save_file(*arguments, **settings)

    return write


def slowly(loader: Any) -> Any:
    for batch in torch.utils.data.DataLoader.__iter__(loader):
        time.sleep(0.3)
        loader.waited += 0.3
        yield batch


def signalled(watch: Watch, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
    watch.begun = time.perf_counter()
    if trainer.global_step == 2:
        os.kill(os.getpid(), signal.SIGTERM)


def two(rank: int, folder: Path) -> dict[str, Any]:
    """What two processes do; in the end one of them is killed."""
    found: dict[str, Any] = {}
    learn(folder / "changed", strategy="ddp", keep_best=True, resume=True)
    learn(folder / "unet2", 2, "unet", strategy="fsdp2", precision="bf16-mixed", gradient_clip_algorithm="value")
    (folder / str(rank) / "result.json").write_text(json.dumps(found))
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(Watch, "on_before_backward", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        found["killed"] = refused(lambda: learn(folder / "killed", strategy="ddp"))
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of all runs, and what each process returned, of four and of two."""
    folder = tmp_path_factory.mktemp("scale")
    learn(folder / "one", batch_size=8)
    learn(folder / "given", batch_size=8, data=Rings(given=True))
    learn(folder / "token", batch_size=8, objective=unmask.TokenELBO())
    learn(folder / "unet", 2, "unet", batch_size=4, precision="bf16-mixed", gradient_clip_algorithm="value")
    of_four = together(four, 4, folder, nodes=2)
    said = [(folder / str(rank) / "err").read_text() for rank in range(4)]
    assert all(of_four), said
    return folder, of_four, said, together(two, 2, folder)


def test_losses_and_weights_are_those_of_one_process(done: Any) -> None:
    """On four processes, sharded or not; on two with bfloat16; and on four and then two, in two passes each."""
    folder, *_ = done
    assert len(losses(folder / "one")) == 6
    pairs = {"fsdp4": "one", "hybrid4": "token", "ddp4": "given", "unet2": "unet", "changed": "one"}
    for name, other in pairs.items():
        tolerance = 1e-2 if name == "unet2" else 1e-6
        for row, should in zip(losses(folder / name), losses(folder / other), strict=True):
            assert row == pytest.approx(should, rel=tolerance), name
        for key, value in weights(folder / other).items():
            close = {"rtol": 1e-5, "atol": 1e-6} if name != "unet2" else {"rtol": 0.1, "atol": 5e-3}
            torch.testing.assert_close(weights(folder / name)[key], value, **close)


def test_a_run_that_goes_on_with_as_many_processes_equals_one_that_was_not_cut(done: Any) -> None:
    folder, *_ = done
    whole, cut = (load_tree(folder / name / "checkpoints" / "last.safetensors") for name in ("fsdp4", "again"))
    for part in ("state_dict", "current_model_state"):
        assert whole[part].keys() == cut[part].keys()
        assert all(torch.equal(whole[part][name], cut[part][name]) for name in whole[part])
    moments = [tree["optimizer_states"][0]["state"] for tree in (whole, cut)]
    assert all(torch.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in moments[0][i])
    assert losses(folder / "fsdp4") == losses(folder / "again")


def test_each_process_holds_a_part_of_the_state(done: Any) -> None:
    """A quarter, or half where two nodes have all; and one file of a checkpoint each. The model is whole in all."""
    folder, of_four, *_ = done
    for name in ("weights", "moments", "averages"):
        whole = of_four[0]["ddp4"][name]
        assert sum(one["fsdp4"][name] for one in of_four) == pytest.approx(whole, rel=0.05)
        assert of_four[3]["fsdp4"][name] < 0.3 * whole
    assert len({tuple(one["whole"]) for one in of_four}) == 1 and of_four[0]["whole"][0] == "Transformer"
    expected = float(sum(value.double().abs().sum() for value in weights(folder / "fsdp4").values()))
    assert of_four[0]["whole"][1] == pytest.approx(expected)
    files = sorted(path.name for path in (folder / "fsdp4" / "checkpoints").glob("shards-*/*"))
    assert files == [f"{rank:05}.safetensors" for rank in range(4)]
    sizes = [path.stat().st_size for path in (folder / "fsdp4" / "checkpoints").glob("shards-*/*")]
    assert max(sizes) < 1.5 * min(sizes)
    assert not list(folder.glob("*/checkpoints/**/*.pt")) and unmask.load(folder / "stopped").about["steps"] < 8


def test_what_goes_wrong_ends_all_in_one_line_and_leaves_the_last_checkpoint(done: Any) -> None:
    folder, of_four, _, of_two = done
    expected = {
        "other data": r"process 3 of 4: other training data than process 0 \(.*every process must read the same files",
        "other rate": r"process 2 of 4: other ema than process 0 \(0.5, not 0.9\)",
        "missing": r"process \d of 4: .*00002.safetensors: no such file; .*a shard of the checkpoint is missing here",
        "full": r"process 2 of 4: cannot write .*/00002.safetensors: No space left on device",
    }
    for name, pattern in expected.items():
        assert len({one[name] for one in of_four}) == 1 and re.match(pattern, of_four[0][name]), of_four[0][name]
    kept = load_tree(folder / "full" / "checkpoints" / "last.safetensors")
    assert kept["global_step"] == 2 and not (folder / "other").exists()
    assert len(list((folder / "full" / "checkpoints").glob("shards-*"))) == 1
    assert of_two[1] == {}
    assert re.match(r"process 0 of 2: process 1 \(.+\) ended early, at step 0", of_two[0]["killed"])


def test_a_signal_to_one_process_stops_all_after_a_checkpoint(done: Any) -> None:
    """And after its copy elsewhere, all shards of it: a launcher ends the others once one process has ended."""
    folder, of_four, said, _ = done
    step = checkpoint_step(folder / "stopped" / "checkpoints" / "last.safetensors")
    line = f"stopped by SIGTERM at step {step}, after a checkpoint; go on with --resume"
    assert step == 3 and all(one["stopped"] == [line, 143] and one["copied"] for one in of_four)
    there, elsewhere = folder / "there", f"file://{folder / 'elsewhere'}"
    assert pull(elsewhere, there) == step and len(list((there / "checkpoints").glob("shards-*/*.safetensors"))) == 4
    copied, _ = averaged_weights(receive_model(elsewhere, folder / "cache") / CHECKPOINT)
    for name, tensor in averaged_weights(folder / "stopped" / CHECKPOINT)[0].items():
        assert torch.equal(tensor, averaged_weights(there / CHECKPOINT)[0][name]) and torch.equal(tensor, copied[name])
    warned = [rank for rank in range(4) if "holds the others up" in said[rank]]
    assert 1 in warned and re.search(r"process 1 of 4 \(.+\) holds the others up: it took .* median", said[1])
