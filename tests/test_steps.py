"""The loop around the steps: which weights move, at which rates, and what is waited for."""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
from unmask.data import Arrays
from unmask.storage.checkpoint import averaged_weights
from unmask.training.optimizer import new_optimizer, parameter_groups
from unmask.training.trained import freeze_weights
from unmask.training.trainee import Trainee


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    path = tmp_path_factory.mktemp("steps") / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 5, (400, 8)).cumsum(1) % 5)
    return Arrays(str(path), vocab_size=5)


def network(**settings: Any) -> unmask.Transformer:
    torch.manual_seed(0)
    return unmask.Transformer(5, (8,), **{"width": 16, "depth": 2, "heads": 2} | settings)


def go(net: Any, data: Arrays, out: Path, steps: int, resume: bool = False, **run: Any) -> unmask.MaskedDiffusion:
    run = {"batch_size": 8, "precision": "32-true", "evaluate_examples": 16, "checkpoint_every": 5} | run
    trainer = {"max_steps": steps, "logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer |= {"log_every_n_steps": 50}
    optimizer = unmask.Optimizer(lr=3e-2, warmup_steps=5)
    return unmask.train(net, data, optimizer=optimizer, run=unmask.Run(str(out), **run), trainer=trainer, resume=resume)


def evaluations(out: Path) -> list[str]:
    lines = (out / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("valid_bits")
    return [line for line in lines[1:] if line.split(",")[place]]


def test_a_signal_makes_no_evaluation_of_its_own(data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else patience would be used up, and another step kept as the best, by each stop."""
    whole = go(network(), data, tmp_path / "a", 40, evaluate_every=10, patience=3, keep_best=True)
    original = Trainee.training_step
    for at in (12, 15, 19):  # the last of these ends where an evaluation is due
        monkeypatch.setattr(Trainee, "training_step", stopping_at(at))
        with pytest.raises(KeyboardInterrupt, match=f"stopped by SIGTERM at step {at + 1}"):
            go(network(), data, tmp_path / "b", 40, at > 12, evaluate_every=10, patience=3, keep_best=True)
        monkeypatch.setattr(Trainee, "training_step", original)
    cut = go(network(), data, tmp_path / "b", 40, True, evaluate_every=10, patience=3, keep_best=True)
    assert evaluations(tmp_path / "a") == evaluations(tmp_path / "b")
    assert whole.about["steps"] == cut.about["steps"]
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_in_half_precision_goes_on_with_its_averages(data: Arrays, tmp_path: Path) -> None:
    settings = {"precision": "bf16-true", "evaluate_every": 4, "ema": 0.999}
    whole = go(network(), data, tmp_path / "a", 12, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainee, "training_step", stopping_at(7))
        with pytest.raises(KeyboardInterrupt):
            go(network(), data, tmp_path / "b", 12, **settings)
    held = averaged_weights(tmp_path / "b/checkpoints/last.safetensors")[0]
    assert {tensor.dtype for tensor in held.values() if tensor.is_floating_point()} == {torch.float32}
    cut = go(network(), data, tmp_path / "b", 12, True, **settings)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert one.dtype == torch.bfloat16 and torch.equal(one, other)


def stopping_at(at: int) -> Any:
    """Return a training step that asks for the end of training at a step."""
    original = Trainee.training_step

    def step(self: Trainee, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    return step


def test_a_run_that_is_made_longer_goes_on_at_the_rate_of_the_longer_one(
    data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(network(), data, tmp_path / "run", 20)
    rates, original = [], torch.optim.AdamW.step

    def step(self: Any, *args: Any, **more: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    go(network(), data, tmp_path / "run", 40, resume=True)
    optimizer = unmask.Optimizer(lr=3e-2, warmup_steps=5)
    assert rates == [3e-2 * optimizer.factor(step, 40) for step in range(20, 40)]


def test_a_network_in_evaluation_mode_is_trained_in_training_mode(
    data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, seen, original = network(dropout=0.3).eval(), [], Trainee.training_step

    def step(self: Trainee, batch: Any, batch_idx: int) -> Any:
        seen.append(all(part.training for part in self.model.network.modules()))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Trainee, "training_step", step)
    go(net, data, tmp_path / "run", 2)
    assert seen == [True, True] and not net.training


def test_no_figure_is_read_in_a_step_that_does_not_show_it(
    data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for a GPU."""
    count: Counter[int] = Counter()
    item = torch.Tensor.item
    for steps in (50, 150):

        def counted(self: Any, steps: int = steps) -> Any:
            count[steps] += 1
            return item(self)

        monkeypatch.setattr(torch.Tensor, "item", counted)
        go(network(), data, tmp_path / str(steps), steps, evaluate_every=1000, checkpoint_every=1000)
    assert count[150] - count[50] < 50, count


def test_embed_and_last_are_the_tokens_and_the_blocks() -> None:
    """Not positions, of which there may be more than tokens, nor the tables of windows, which may be the largest."""
    for settings in (dict(absolute_positions=True), dict(ngrams=3), dict()):
        net = network(**settings)
        freeze_weights(net, "embed", None)
        assert [name for name, p in net.named_parameters() if p.requires_grad] == ["embed.weight"]
        net = network(**settings)
        freeze_weights(net, "last:1", None)
        trained = [name for name, p in net.named_parameters() if p.requires_grad]
        assert trained and all(name.startswith("blocks.1.") for name in trained)


def test_with_scaled_gradients_the_optimizer_leaves_scaling_to_the_scaler() -> None:
    """A step whose gradients overflow is then skipped whole, and the others are clipped at their own norm."""
    model = unmask.MaskedDiffusion(network(), unmask.Symbols(5))
    for kind in ("AdamW", "Muon"):
        for fused in (True, False):
            optimizer = new_optimizer(model, unmask.Optimizer(kind=kind), fused)
            assert bool(getattr(optimizer, "_step_supports_amp_scaling", False)) == fused
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.grad = torch.full_like(p, torch.inf)
        scaler.scale(torch.ones(()))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        assert scaler.get_scale() == 2.0**15


def test_all_matrices_of_a_public_network_decay() -> None:
    """Also GPT-2's, which are no linear layers."""
    transformers = pytest.importorskip("transformers")
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(
        vocab_size=12, n_embd=16, n_layer=1, n_head=2, n_positions=8, is_causal=False, **ends
    )
    gpt2 = unmask.Pretrained(12, (8,), body=transformers.GPT2LMHeadModel(config), mask=11)
    model = unmask.MaskedDiffusion(gpt2, unmask.Symbols(12))
    for kind in ("AdamW", "Muon"):
        groups = parameter_groups(model, unmask.Optimizer(kind=kind, weight_decay=0.1))
        decays = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        named = {name.split("model.", 1)[-1] for name, p in gpt2.named_parameters() if id(p) in decays}
        assert {name.rsplit(".", 2)[-2] for name in named} >= {"c_attn", "c_proj", "c_fc"}
        assert not any("wte" in name or "wpe" in name or "ln" in name or "bias" in name for name in named)


def test_experts_decay_and_are_not_for_muon() -> None:
    """They are one parameter of three axes, which is no matrix."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"moe_intermediate_size": 8, "num_experts": 3, "num_experts_per_tok": 1, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(vocab_size=12, is_causal=False, **sizes, **experts)
    net = unmask.Pretrained(12, (8,), body=transformers.Qwen3MoeForCausalLM(config), mask=11)
    stacked = {id(p): name for name, p in net.named_parameters() if p.dim() == 3}
    assert len(stacked) == 2
    for kind in ("AdamW", "Muon"):
        groups = parameter_groups(unmask.MaskedDiffusion(net, unmask.Symbols(12)), unmask.Optimizer(kind=kind))
        of_experts = [group for group in groups if stacked.keys() & {id(p) for p in group["params"]}]
        assert len(of_experts) == 1 and of_experts[0]["weight_decay"] > 0 and "momentum" not in of_experts[0]
