"""Figures of the library at fixed seeds, recorded once, so that a change of its structure changes none of them.

python -m tests.golden    # writes tests/golden.json anew: only where results are meant to change
"""

import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import unmask
from unmask.cli.main import main
from unmask.networks.transformer import Transformer

STORED = Path(__file__).with_suffix(".json")
VOCAB, LENGTH, BATCH = 7, 12, 6


def machine() -> dict[str, Any]:
    """Return what decides the last bits of float32 arithmetic."""
    name = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")
    return {
        "torch": torch.__version__,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()} {hashlib.sha256(name.encode()).hexdigest()[:12]}",
    }


def small_network(time_conditioning: bool = False, classes: int | None = None) -> Transformer:
    """Return a network of float64 with random weights."""
    settings: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "time_conditioning": time_conditioning}
    torch.manual_seed(0)
    network = Transformer(VOCAB, (LENGTH,), classes, **settings).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return network


def objectives() -> dict[str, float]:
    """Return the loss, the bound and the norm of the gradient of each objective."""
    schedule = unmask.TokenPolynomial(VOCAB).double()
    with torch.no_grad():
        schedule.raw.copy_(torch.linspace(-1, 1, VOCAB))
    chosen = {
        "continuous": unmask.ContinuousELBO(),
        "continuous, cosine": unmask.ContinuousELBO(unmask.Cosine()),
        "continuous, geometric": unmask.ContinuousELBO(unmask.Geometric()),
        "discrete": unmask.DiscreteELBO(unmask.Polynomial(2.0), steps=10),
        "time-free": unmask.TimeFreeELBO(),
        "time-free, power 0.5": unmask.TimeFreeELBO(power=0.5),
        "token": unmask.TokenELBO(schedule),
    }
    x = torch.randint(0, VOCAB, (BATCH, LENGTH), generator=unmask.randomness.seeded(1))
    given = torch.zeros_like(x, dtype=torch.bool)
    given[:, ::3] = True
    found = {}
    for name, objective in chosen.items():
        for what, hidden in (("", None), (", given", given)):
            network = small_network(time_conditioning=True)
            loss = objective(network, x, given=hidden, generator=unmask.randomness.seeded(2))
            loss.loss.backward()
            norm = sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
            found |= {f"{name}{what}, loss": loss.loss.item(), f"{name}{what}, gradient": norm}
            found[f"{name}{what}, bound"] = loss.nelbo.sum().item()
    return found


def samplers() -> dict[str, list[list[int]]]:
    """Return the tokens of each sampler."""
    chosen: dict[str, unmask.Sampler] = {
        "first hitting": unmask.FirstHitting(),
        "first hitting, blocks, corrections": unmask.FirstHitting(block_length=4, corrections=1),
        "first hitting, order 2": unmask.FirstHitting(tokens_per_call=3, order=2),
        "first hitting, predictor": unmask.FirstHitting(tokens_per_call=3, order=2, form="predictor-corrector"),
        "ancestral": unmask.Ancestral(unmask.Cosine(), steps=6),
        "ancestral, uniform": unmask.Ancestral(steps=5, grid="uniform", temperature=0.8, top_k=4),
        "in order": unmask.InOrder(tokens_per_call=2, top_p=0.9),
        "most confident": unmask.MostConfident(steps=4, noise=1.0),
        "entropy bounded": unmask.EntropyBounded(1.0),
        "remasking": unmask.Remasking(steps=8, form="rescale", eta=0.3),
        "remasking, confidence": unmask.Remasking(steps=8, eta=0.3, confidence=True),
        "guided": unmask.FirstHitting(guidance=1.5),
        "token first hitting": unmask.TokenFirstHitting(unmask.TokenPolynomial(VOCAB, 1.5)),
        "token first hitting, frozen": unmask.TokenFirstHitting(unmask.TokenPolynomial(VOCAB, 1.5), "frozen"),
        "token ancestral": unmask.TokenAncestral(unmask.TokenPolynomial(VOCAB, 1.5), steps=5),
    }
    found = {}
    for name, sampler in chosen.items():
        guided = sampler.guidance != 1
        network = small_network(time_conditioning=True, classes=3 if guided else None)
        canvas = torch.full((4, LENGTH), network.mask_id)
        canvas[:, 2] = 1
        label = torch.tensor([0, 1, 2, 0]) if guided else None
        found[name] = sampler(network, canvas, label, generator=unmask.generators(3, 4)).tolist()
    return found


def runs() -> dict[str, Any]:
    """Return the bound of a short run on digits, and the weights of one that went on from its checkpoint."""
    plain = ["--precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    plain += ["--network.convolution", "0", "--optimizer", "AdamW"]  # as digits was when its figures were recorded
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/digits"
        assert main(["train", "digits", *plain, "--trainer.max_steps", "20", "--out", out]) == 0
        assert main(["evaluate", out, "--draws", "1", "--json", f"{folder}/m.json"]) == 0
        report = json.loads(Path(folder, "m.json").read_text())
        row = report["rows"][0] if "rows" in report else report
        resumed = ["train", "digits", *plain, "--optimizer.decay", "constant", "--checkpoint_every", "5"]
        resumed += ["--network.width", "32", "--network.depth", "1", "--out", f"{folder}/resumed"]
        assert main([*resumed, "--trainer.max_steps", "5"]) == 0
        assert main([*resumed, "--trainer.max_steps", "10", "--resume"]) == 0
        state = unmask.MaskedDiffusion.from_pretrained(f"{folder}/resumed/model").state_dict()
    digest = hashlib.sha256(b"".join(name.encode() + state[name].numpy().tobytes() for name in sorted(state)))
    total = sum(float(value.double().abs().sum()) for value in state.values())
    return {"digits": row["bits_per_dimension"], "resumed": digest.hexdigest(), "resumed, sum": total}


def record() -> dict[str, Any]:
    """Return every figure."""
    return {"machine": machine(), "objectives": objectives(), "samplers": samplers(), "runs": runs()}


def write(target: Path, threads: int) -> None:
    """Write every figure, with a number of threads, to a file."""
    torch.set_num_threads(threads)
    target.write_text(json.dumps(record(), indent=1) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else STORED
    write(target, torch.get_num_threads())
    print(target, file=sys.stderr)
