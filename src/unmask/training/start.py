"""unmask.train: a model from a network and data, or the rest of a run that was cut off."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from unmask.codecs.ended import find_end
from unmask.data.base import DataSet
from unmask.display.figures import loss_curve
from unmask.kinds import check_belongs, kind_of, own_objective
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.networks.fitting import IN_TRAINING
from unmask.objectives.base import Objective
from unmask.objectives.next_token import NextToken, check_objective
from unmask.objectives.scalar import TimeFreeELBO
from unmask.objectives.token import TokenELBO
from unmask.objectives.uniform import UniformELBO
from unmask.prompts import next_commands
from unmask.schedules import Linear, Schedule, TokenPolynomial
from unmask.storage.checkpoint import checkpoint_step
from unmask.storage.description import describe
from unmask.storage.files import replacing
from unmask.storage.folders import RUN
from unmask.storage.restarts import how_to_begin, restarted
from unmask.storage.run_folder import CONTENTS, contents, held, new_run
from unmask.training.beginning import Start, begin
from unmask.training.loop import plan_training, take_weights
from unmask.training.mirroring import Mirroring
from unmask.training.placing import divided_anew, division_of, placed, processes_of, trained_on
from unmask.training.precision import Choice, decide
from unmask.training.run import (
    check_same,
    find_checkpoint,
    is_run,
    new_record,
    plain_settings,
    read_record,
    write_record,
)
from unmask.training.settings import Optimizer, Run, TrainerSettings
from unmask.training.trainee import NotFiniteError


def train(
    network: Network | dict[str, Any] | None,
    data: DataSet,
    *,
    start: Start | None = None,
    objective: Objective | None = None,
    optimizer: Optimizer | None = None,
    run: Run,
    trainer: TrainerSettings | dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> MaskedDiffusion:
    """Train a network on data, and return the model with its averaged weights; the folder of the run keeps all.

    A run that was interrupted goes on with `resume`, and ends with the weights of one that was not, to the last bit; on
    another number of processes, with as many examples a step, up to rounding. One that torchrun or SLURM has started
    again goes on by itself.

    Args:
        network: a new one; seed torch before you make it for a run that can be repeated. With `start` None, or those
            of its settings that are for training: dropout and checkpointing.
        data: its train and valid parts are used. With `start` they are cut into its tokens, as far as the settings of
            the data leave that open.
        start: a model whose weights are trained further, or what `unmask.load` reads: a model or a run, a public model,
            or a left-to-right model of `transformers`, which is made to see both sides. `run.train`, `run.freeze` and
            `run.lora` say what of it is trained. The vocabulary stays; so does the length, but where positions are
            rotary.
        objective: what is minimised; if None, `TimeFreeELBO`, or `NextToken` for a causal network.
        optimizer: how.
        run: where, how long, how often.
        trainer: settings of lightning's Trainer, also as a dict.
        resume: whether to go on from the run's last checkpoint; what decides the outcome must be as it was.
        overwrite: whether to replace a run that is in the folder. It comes back if this one ends before its first
            checkpoint.

    Raises:
        ValueError: settings that do not fit each other or the data; or a run is in the way, or there is none to resume.
        BlockingIOError: another process trains into the folder.
        FloatingPointError: the loss is not finite; says what can be done.
        ConnectionError: of several processes, another one did not come, or ended; says which.
        KeyboardInterrupt: says how to go on.
    """
    settings = placed(TrainerSettings(**trainer) if isinstance(trainer, dict) else trainer or TrainerSettings())
    resume, overwrite = how_to_begin(run.out, resume, overwrite)
    there = resume and Path(run.out, RUN).is_file()  # else it is said below, or who trains there
    before = read_record(Path(run.out)) if there else {}
    if before:
        run, settings = divided_anew(run, settings, before)
    if before and not isinstance(network, Network):
        known = (before.get("start") or {}).get("name")
        if known is None and isinstance(start, Path | str):
            raise ValueError(f"{run.out} began with new weights, not with those of {start}: resume it without --from")
        start = start or known
        kept = {name: before["network"][name] for name in IN_TRAINING if name in before["network"]}
        network = kept | (network or {})
    if isinstance(start, Path | str) and not resume:
        check_apart(start, Path(run.out))
    begun = begin(network, data, start, run)
    objective = with_schedule(objective, begun.network, begun.schedule)
    model = MaskedDiffusion(begun.network, begun.data.codec, objective.process, begun.record)
    data = begun.data
    check_data(model, data)
    task = Task(model, data, objective, optimizer or Optimizer(), run, settings)
    if getattr(rank_zero_only, "rank", 0):  # of several processes the first looks after the folder
        task, _ = task.with_precision(resume)
        task.plan()()
        return model
    out = Path(run.out)
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if resume and not out.is_dir():
        raise ValueError(f"nothing to resume: {out / RUN} does not exist")
    with held(out):
        check_folder(out, resume, overwrite)
        return _train_alone(task, out, resume, overwrite)


def check_data(model: MaskedDiffusion, data: DataSet) -> None:
    """Raise a ValueError unless the network was made for such data."""
    network = model.network
    if network.shape != data.shape:
        raise ValueError(f"{data.name} has examples of shape {data.shape}, the network takes {network.shape}")
    if network.classes != data.classes:
        raise ValueError(
            f"{data.name} has {data.classes or 'no'} classes, the network was made with classes={network.classes}"
        )
    if getattr(data, "packing", None) == "filled" and find_end(data.codec) in network.excluded:
        raise ValueError(
            "packing filled learns the token that ends a text, which this network never predicts; take packing padded"
        )


@dataclass(frozen=True)
class Task:
    """All that is needed to train."""

    model: MaskedDiffusion
    data: DataSet
    objective: Objective
    optimizer: Optimizer
    run: Run
    trainer: TrainerSettings

    def plan(self, mirroring: Mirroring | None = None) -> Any:
        return plan_training(self.model, self.data, self.objective, self.optimizer, self.run, self.trainer, mirroring)

    def with_precision(self, resume: bool) -> tuple["Task", Choice]:
        """Return the same with a precision in place of "auto": what the run began with, or what the rule says."""
        before = read_record(Path(self.run.out)).get("precision") if resume else None
        if self.run.precision != "auto":
            choice = Choice(self.run.precision, "as asked for")
            if isinstance(before, dict) and before.get("choice") == choice.precision:
                choice = Choice(choice.precision, str(before.get("reason")))
        elif isinstance(before, dict):
            choice = Choice(str(before.get("choice")), str(before.get("reason")))
        else:
            choice = decide(self.model.network, trained_on(self.trainer), processes_of(self.trainer))
        return replace(self, run=replace(self.run, precision=choice.precision)), choice


def check_apart(start: Path | str, out: Path) -> None:
    """Raise a ValueError where training would replace the model that it starts from."""
    if Path(start).exists() and Path(start).resolve().is_relative_to(out.resolve()):
        raise ValueError(f"--from {start} lies in --out {out}, which a new run replaces: give another --out")


def check_folder(out: Path, resume: bool, overwrite: bool) -> None:
    """Raise a ValueError where a run is in the way, or there is none to go on with."""
    place = out.resolve()
    for parent in () if resume else place.parents:
        if place.relative_to(parent).parts[0] in CONTENTS and is_run(parent):
            raise ValueError(f"{out} lies in what the run {parent} writes: give another --out")
    there = contents(out)
    if there and not (resume or overwrite):
        raise ValueError(f"{out} holds a run ({', '.join(there)}): give --resume, --overwrite, or another --out")
    if overwrite and there and RUN not in there:
        raise ValueError(f"{out} holds {', '.join(there)} but no {RUN}: not a run, so nothing is overwritten")
    if resume:
        read_record(out)
        if find_checkpoint(out) is None:
            raise ValueError(f"nothing to resume: {out} has no checkpoint; start again with --overwrite")


def _train_alone(task: Task, out: Path, resume: bool, overwrite: bool) -> MaskedDiffusion:
    """Train as the process that looks after the run's folder."""
    model, data = task.model, task.data
    task, choice = task.with_precision(resume)
    record = _record(task, choice, resume)
    if resume:
        record = _continued(record, out)
    mirroring = Mirroring(out, task.run.mirror, record["id"]) if task.run.mirror else None
    go = task.plan(mirroring)
    if mirroring is not None:
        step = checkpoint_step(task.run.checkpoint) if resume else -1
        mirroring.check(step, overwrite and not restarted())  # from another machine, it would begin anew
    count = sum(p.numel() for p in model.parameters())
    print(f"{data.name}: {count:,} parameters, {choice.precision} ({choice.reason}), {task.run.out}/", flush=True)
    with nullcontext() if resume else new_run(out):
        write_record(out, record, None if resume else model)
        with mirroring.kept() if mirroring else nullcontext(), _stops_noted(out, record):
            steps = go()
    best = _take_best(task, steps)
    model.about = {
        "data": record["data"],
        "class_names": record["class_names"],
        **{name: record[name] for name in ("lengths", "start", "adapter") if record.get(name)},
        "train_sha256": record["data_sha256"],
        "objective": describe(task.objective),
        "steps": steps,
        **({} if best is None else {"weights_of_step": best}),
        "run": plain_settings(replace(task.run, mirror=None)),
        "unmask": version("unmask"),
    }
    model.save_pretrained(out / "model")
    model.folder = out / "model"
    with suppress(FileNotFoundError), replacing(out / "loss.png") as path:  # it ended before the first row
        loss_curve(out).savefig(path)
    if mirroring is not None:
        mirroring.finish(steps)
    _say_the_end(task, steps, best)
    return model


def _take_best(task: Task, steps: int) -> int | None:
    """Give the model the weights of the best evaluation, if these are kept; return the step that they are of."""
    if not task.run.keep_best:
        return None
    if not task.run.best.is_file():
        every = task.run.evaluate_every
        why = f"none came within {steps:,} steps (--evaluate_every is {every:,})" if steps < every else "none is kept"
        print(f"unmask: warning: there is no best evaluation, {why}: the weights are the last", file=sys.stderr)
        return None
    return take_weights(task.model, task.run.best)


def _record(task: Task, choice: Choice, resume: bool) -> dict[str, Any]:
    try:
        return new_record(task.model, task.data, task.objective, task.optimizer, task.run, task.trainer, choice)
    except ValueError as error:
        if not resume:
            raise
        where = Path(task.run.out, RUN)
        raise ValueError(f"cannot resume on other data than {where} names: {error}") from error


def _continued(now: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return the record of a run that goes on: as it was, but for what may change.

    Raises:
        ValueError: something else has changed.
    """
    before = read_record(out)
    checkpoint = find_checkpoint(out)
    step = checkpoint_step(checkpoint) if checkpoint else 0
    changes = check_same(before, now, out / RUN, step)
    kept = ("codec", "codec_files", "stopped", "changes", "id")
    record = now | {name: before[name] for name in kept if name in before}
    if "begun" in before or division_of(before) != division_of(now):
        record["begun"] = before.get("begun") or division_of(before)
    if "mirror" in before and "mirror" not in now:
        given = f"is copied there no more: give --mirror {before['mirror']}"
        print(f"unmask: note: the run {given}", file=sys.stderr)
    if changes:
        record["changes"] = [*record.get("changes", []), {"step": step} | changes]
    return record


def _advice(record: dict[str, Any]) -> str:
    """Return which settings of a run may help against a loss that is not finite."""
    optimizer, clipped = record["optimizer"], record["trainer"].get("gradient_clip_val")
    used = {"matrix_lr": optimizer.get("kind") == "Muon", "embedding_lr": optimizer.get("embedding_lr")}
    used |= {"schedule_lr": optimizer.get("schedule_lr")}
    rates = ["lr", *(name for name, here in used.items() if here)]
    clipping = f" or --trainer.gradient_clip_val {clipped / 10 if clipped and clipped <= 1 else 1:g}"
    return "a lower " + ", ".join(f"--optimizer.{name}" for name in rates) + clipping


@contextmanager
def _stops_noted(out: Path, record: dict[str, Any]) -> Iterator[None]:
    """Note in run.json that the loss was not finite, and say what can be done about it."""
    try:
        yield
    except NotFiniteError as error:
        checkpoint = find_checkpoint(out)
        if checkpoint is None:
            raise FloatingPointError(
                f"{error}. There is no checkpoint yet: start again with {_advice(record)}"
            ) from None
        step = checkpoint_step(checkpoint)
        if any(change["step"] == step for change in record.get("changes", [])):
            raise FloatingPointError(
                f"{error}. The checkpoint of step {step} has led there before: start again with --overwrite, and "
                f"{_advice(record)}"
            ) from None
        write_record(out, record | {"stopped": {"step": step, "why": str(error)}})
        raise FloatingPointError(
            f"{error}. The checkpoint of step {step} is kept: go on from it with --resume and {_advice(record)}"
        ) from None


def _say_the_end(task: Task, steps: int, best: int | None) -> None:
    out = task.run.out
    if best is not None and best < steps:
        print(f"the weights are those of step {best:,}, the best evaluation on the validation part")
    if steps < task.trainer.max_steps:
        left = task.optimizer.factor(steps, task.trainer.max_steps)
        limits = ["trainer.max_time"] * bool(task.trainer.max_time) + ["patience"] * bool(task.run.patience)
        print(
            f"stopped by {' or '.join(limits)} after {steps:,} of {task.trainer.max_steps:,} steps: the learning rate "
            f"had not decayed, it was {left:.2g} of its highest"
        )
    parts = (task.model.network, task.data, task.objective, task.model.schedule, task.data.codec)
    modules = dict.fromkeys(type(part).__module__ for part in parts)
    if "__main__" in modules:
        what = "a class of this run is defined in a script: move it into a module, so that other programs can load it"
        print(f"unmask: note: {what}", file=sys.stderr)
    own = "".join(f" --import {name}" for name in modules if name.partition(".")[0] not in ("unmask", "__main__"))
    curve = f", {out}/loss.png its loss curve" if Path(out, "loss.png").is_file() else ""
    print(f"{out}/model holds the model{curve}. Next:")
    print(next_commands(task.model, out, own), flush=True)


def with_schedule(
    objective: Objective | None, network: Network, known: Schedule | TokenPolynomial | None = None
) -> Objective:
    """Give a state-dependent objective the schedule to learn, if it has none, and check that it can learn it.

    Args:
        objective: of the training; None: that of the kind of network.
        network: that is trained.
        known: the schedule of the model that training starts from: learned further, if it is state-dependent.
    """
    objective = objective or own_objective(network, Linear()) or (NextToken() if network.causal else TimeFreeELBO())
    check_objective(objective, network)
    check_belongs(objective, kind_of(network, objective.process))
    if isinstance(objective, UniformELBO) and not getattr(network, "time_conditioning", True):
        note = "how many of its tokens are replaced is not seen from an example"
        print(f"unmask: note: {note}: take --network.time_conditioning true", file=sys.stderr)
    if not isinstance(objective, TokenELBO):
        return objective
    first = known if isinstance(known, TokenPolynomial) else TokenPolynomial(network.vocab_size)
    objective = objective if objective.schedule else replace(objective, schedule=first)
    if objective.masks < 2 and objective.schedule.learned:  # type: ignore[union-attr]
        raise ValueError(f"to learn a schedule, objective.masks must be at least 2, got {objective.masks}")
    if not getattr(network, "time_conditioning", True):
        print(
            "unmask: note: under a state-dependent schedule the best prediction depends on the time; "
            "the network cannot see it without --network.time_conditioning true",
            file=sys.stderr,
        )
    return objective
