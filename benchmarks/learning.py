"""What a shipped configuration learns in equal seconds, with and without what makes small models learn faster.

    python -m benchmarks.learning text8_cpu --data wiki27.txt.bz2 --minutes 11 --plot curves.png

The configuration as it is shipped, against the plain one: no convolution, no n-grams, AdamW with one rate for all
weights, and the settings of `PLAIN`. They take turns of half a minute in one process, so that both see the same
machine; the learning rates fall by the clock. Measured are bits per token of validation examples under the time-free
bound, of the averaged weights, whose measurement does not count. Errors are over the examples.
"""

import argparse
import copy
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import yaml

import unmask
from benchmarks.timing import report
from unmask.codecs import Symbols
from unmask.configs import find_config
from unmask.data.base import DataSet
from unmask.display.measured import learning_figure
from unmask.randomness import seeded
from unmask.training.optimizer import new_optimizer

TURN = 30.0
"""Seconds of a turn."""
PLAIN: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {"optimizer": {"lr": 3e-3}, "objective": {"power": 1.0}},
    "mnist": {"optimizer": {"lr": 2e-3}},
    "text8_cpu": {"optimizer": {"lr": 2e-3}},
}
"""For a configuration, what the plain one has in place of its settings, by part."""


@dataclass
class Contender:
    """A model that is being trained.

    Attributes:
        name: shipped or plain.
        settings: of the configuration.
        seconds: of training until now.
        steps: taken.
        curve: (seconds, tokens, bits, error) of each measurement.
    """

    name: str
    settings: dict[str, Any]
    data: DataSet
    seed: int
    seconds: float = 0.0
    steps: int = 0
    curve: list[tuple[float, int, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        network = built(self.settings["network"], self.data.codec.vocab_size, self.data.shape, self.data.classes)
        self.model = unmask.MaskedDiffusion(network, Symbols(network.vocab_size))
        self.average = copy.deepcopy(network)
        self.objective = built(self.settings["objective"])
        self.how = unmask.Optimizer(**self.settings["optimizer"])
        self.optimizer = new_optimizer(self.model, self.how)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.order = np.random.default_rng(self.seed)
        self.train = self.data.split("train")

    def go(self, seconds: float, total: float) -> None:
        """Train until a turn is over, of `total` seconds in all."""
        network, batch = self.model.network.train(), self.settings["batch_size"]
        start = time.perf_counter() - self.seconds
        stop = min(total, self.seconds + seconds)
        while self.seconds < stop:
            factor = min(1.0, (self.steps + 1) / max(1, self.how.warmup_steps))
            factor *= 0.5 + 0.5 * math.cos(math.pi * self.seconds / total)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
            x, label = self.train[self.order.integers(len(self.train), size=batch)]
            generator = seeded(self.seed, self.steps)
            torch.manual_seed(generator.initial_seed())
            if label is not None:
                dropped = torch.rand(batch, generator=generator) < self.settings["label_dropout"]
                label = label.masked_fill(dropped, network.classes or 0)
            (self.objective(network, x, label, generator=generator).loss / x[0].numel()).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.settings["trainer"]["gradient_clip_val"])
            self.optimizer.step()
            self.optimizer.zero_grad()
            decay = min(self.settings["ema"], (1 + self.steps) / (10 + self.steps))
            with torch.no_grad():
                torch._foreach_lerp_([*self.average.parameters()], [*network.parameters()], 1 - decay)
            self.steps += 1
            self.seconds = time.perf_counter() - start

    @torch.no_grad()
    def measure(self, examples: int) -> None:
        """Add a point to the curve: the bound of validation examples, with the same masks each time."""
        network, found = self.average.eval(), []
        for i, (x, label) in enumerate(self.data.split("valid").batches(64, examples)):
            found.append(unmask.TimeFreeELBO()(network, x, label, generator=seeded(1, i)).nelbo / x[0].numel())
        bits = torch.cat(found) / math.log(2)
        tokens = self.steps * self.settings["batch_size"] * math.prod(self.data.shape)
        self.curve.append((self.seconds, tokens, bits.mean().item(), (bits.std() / len(bits) ** 0.5).item()))


def built(part: dict[str, Any], *arguments: Any) -> Any:
    """Return the object that a part of a configuration names."""
    return getattr(unmask, part["class_path"])(*arguments, **part.get("init_args", {}))


def plain(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without what makes learning faster."""
    found = copy.deepcopy(settings)
    for setting in ("convolution", "ngrams"):
        found["network"]["init_args"].pop(setting, None)
    found["optimizer"]["kind"] = "AdamW"
    found["optimizer"].pop("embedding_lr", None)
    for part, values in PLAIN.get(name, {}).items():
        (found[part].get("init_args", found[part])).update(values)
    return found


def plot(curves: dict[str, list[list[tuple[float, int, float, float]]]], path: str) -> None:
    """Draw bits against seconds and against tokens, a line a seed."""
    millions = {name: [[(p[0], p[1] / 1e6, p[2]) for p in run] for run in runs] for name, runs in curves.items()}
    learning_figure(millions).savefig(path, dpi=150)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a shipped configuration")
    parser.add_argument("--data", help="file of its data, where it needs one")
    parser.add_argument("--minutes", type=float, default=11.0, help="of training each")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--points", type=int, default=6, help="of each curve")
    parser.add_argument("--examples", type=int, default=1024, help="that are measured for each point")
    parser.add_argument("--json")
    parser.add_argument("--plot")
    settings = parser.parse_args()
    config = yaml.safe_load(find_config(settings.config).read_text())
    if settings.data:
        config["data"]["init_args"]["path"] = settings.data
    data = getattr(unmask.data, config["data"]["class_path"])(**config["data"].get("init_args", {}))
    total, rows, curves = 60 * settings.minutes, [], {"shipped": [], "plain": []}
    every = {"shipped": config, "plain": plain(settings.config, config)}
    for seed in range(settings.seeds):
        both = [Contender(name, how, data, seed) for name, how in every.items()]
        turn = 0.0
        while turn < total:
            turn += TURN
            for one in both:
                one.go(TURN, total)
                if math.floor(min(turn, total) / total * settings.points) > len(one.curve):
                    one.measure(settings.examples)
        for one in both:
            seconds, tokens, bits, error = one.curve[-1]
            print(f"seed {seed}, {one.name}: {bits:.3f} ± {error:.3f} bits per token after {one.steps:,} steps, "
                  f"{tokens / 1e6:.1f} million tokens, {seconds:.0f} s")  # fmt: skip
            rows.append({"seed": seed, "name": one.name, "steps": one.steps, "curve": one.curve})
            curves[one.name].append(one.curve)
    if settings.plot:
        plot(curves, settings.plot)
    report(rows, settings.json)


if __name__ == "__main__":
    main()
