"""Muon and AdamW as one optimizer."""

import copy
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import unmask
from several import together
from unmask import MaskedDiffusion, Optimizer, TimeFreeELBO, Transformer
from unmask.cli.main import main
from unmask.codecs import Symbols
from unmask.networks.unet import UNet
from unmask.randomness import seeded
from unmask.training.muon import COEFFICIENTS, Muon, orthogonalise
from unmask.training.optimizer import new_optimizer, parameter_groups


def model_of(**settings: int) -> MaskedDiffusion:
    torch.manual_seed(0)
    network = Transformer(5, (8,), **{"width": 16, "depth": 2, "heads": 2, "convolution": 3} | settings)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    return MaskedDiffusion(network, Symbols(5))


def backward(model: MaskedDiffusion, step: int = 0) -> None:
    model.zero_grad()
    x = torch.randint(0, 5, (4, 8), generator=seeded(1, step))
    TimeFreeELBO()(model.network, x, generator=seeded(2, step)).loss.backward()


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (3, 5, 2), (1, 4)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=seeded(0))
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalise(matrices).double(), u * s.unsqueeze(-2) @ v, rtol=1e-3, atol=1e-3)
    assert s.max() < 1.3 and s.min() > 0.3
    assert orthogonalise(torch.zeros(shape)).abs().max() == 0


def test_matrices_move_as_with_torch_and_the_rest_as_with_adamw() -> None:
    settings = Optimizer(kind="Muon", lr=0.01, matrix_lr=0.03, momentum=0.9, weight_decay=0.1)
    model, other = model_of(), model_of()
    ours = new_optimizer(model, settings)
    inside = [p for n, p in other.network.named_parameters() if n.startswith("blocks") and p.dim() == 2]
    muon = torch.optim.Muon(inside, lr=0.03, weight_decay=0.1, momentum=0.9, eps=1e-7)
    rest = [group for group in parameter_groups(other, settings) if "momentum" not in group]
    adam = torch.optim.AdamW(rest, betas=(settings.beta1, settings.beta2), fused=True)
    assert sum(len(group["params"]) for group in rest) + len(inside) == len(list(other.parameters()))
    for step in range(3):
        for m in (model, other):  # matrices of full rank: torch iterates in bfloat16, which blurs small singular values
            generator = seeded(3, step)
            for p in m.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
        before = copy.deepcopy(other.state_dict())
        ours.step()
        muon.step()
        adam.step()
        for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
            if any(q is matrix for matrix in inside):
                moved, expected = p.detach() - before[name], q.detach() - before[name]
                assert (moved - expected).norm() < 0.03 * expected.norm()
            else:
                torch.testing.assert_close(p, q, rtol=0, atol=0)
        other.load_state_dict(model.state_dict())


def test_what_is_a_matrix() -> None:
    def names(network: unmask.Network) -> set[str]:
        model = MaskedDiffusion(network, Symbols(5))
        for rate in (None, 0.1):
            groups = parameter_groups(model, Optimizer(kind="Muon", embedding_lr=rate))
            assert Counter(id(p) for g in groups for p in g["params"]) == Counter(map(id, model.parameters()))
            assert {g["lr"] for g in groups} == {0.02, 1e-3} | ({rate} - {None})
            decays = {id(p) for g in groups for p in g["params"] if g["weight_decay"]}
            inner = (torch.nn.Embedding, torch.nn.LayerNorm, torch.nn.GroupNorm)
            assert not decays & {id(p) for m in network.modules() if isinstance(m, inner) for p in m.parameters()}
            head = network.head.linear if isinstance(network, unmask.Pretrained) else network.head
            tied = any(m.weight is head.weight for m in network.modules() if isinstance(m, torch.nn.Embedding))
            assert (id(head.weight) in decays) != tied
        group = parameter_groups(model, Optimizer(kind="Muon"))[0]
        return {n for n, p in network.named_parameters() if any(p is q for q in group["params"])}

    block = {"attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.out.weight"}
    text = Transformer(5, (8,), width=16, depth=1, heads=2, convolution=3)
    assert names(text) == {f"blocks.0.{name}" for name in block}
    unet = UNet(5, (8, 8, 1), widths=(16, 32), blocks=1, middle_depth=1)
    found = names(unet)
    assert found and all(p.dim() >= 2 for n, p in unet.named_parameters() if n in found)
    assert not any(n.startswith(("head", "embed")) for n in found)
    body = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    body |= {"intermediate_size": 16, "vocab_size": 5, "max_position_embeddings": 16}
    pretrained = names(unmask.Pretrained(5, (8,), body=body, mask=4))
    assert pretrained and not any("embeddings" in n or n.startswith("head") for n in pretrained)


class Table(unmask.Network):
    """A distribution for each position, whatever stands at the others."""

    vocab_size, shape, classes = 5, (8,), None

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(8, 5))

    def forward(self, x_t: Tensor, noise: object = None, label: object = None, *, at: object = None) -> Tensor:
        return self.logits.expand(len(x_t), 8, 5)


@pytest.mark.parametrize("kind", ["AdamW", "Muon"])
def test_embeddings_and_head_have_their_own_rate(kind: Literal["AdamW", "Muon"]) -> None:
    settings = Optimizer(kind=kind, lr=0.01, embedding_lr=0.2, weight_decay=0.0)
    model = model_of(absolute_positions=True)
    optimizer, before = new_optimizer(model, settings), copy.deepcopy(model.state_dict())
    backward(model)
    optimizer.step()
    tables = {"network.embed.weight", "network.embed_position.weight", "network.head.weight", "network.head.bias"}
    assert tables < set(before)
    for name, p in model.named_parameters():
        assert p.grad is not None
        moved = (p.detach() - before[name])[p.grad.abs() > 1e-6].abs()  # the first step of Adam is the rate's size
        assert len(moved), name
        rate = 0.2 if name in tables else 0.01
        if name in tables or kind == "AdamW" or p.dim() == 1:
            torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-2, atol=0)
    gaussian = MaskedDiffusion(unmask.GaussianTransformer(5, (8,), width=16, depth=1, heads=2, dim=4), Symbols(5))
    own = {id(p) for g in parameter_groups(gaussian, settings) if g["lr"] == 0.2 for p in g["params"]}
    assert own == {id(gaussian.network.table), *map(id, gaussian.network.head.parameters())}
    gaussian.network.table.requires_grad_(False)
    gaussian.network.head.requires_grad_(False)
    for neither in (MaskedDiffusion(Table(), Symbols(5)), gaussian):  # there are none; they are frozen
        with pytest.raises(ValueError, match=r"optimizer\.embedding_lr is for embeddings and .* trains neither"):
            parameter_groups(neither, settings)
    with pytest.raises(ValueError, match=r"optimizer\.embedding_lr must be positive, got -1"):
        Optimizer(embedding_lr=-1.0)


def test_it_goes_on_from_its_state() -> None:
    settings = Optimizer(kind="Muon")
    model = model_of()
    optimizer = new_optimizer(model, settings)
    for step in range(2):
        backward(model, step)
        optimizer.step()
    other = copy.deepcopy(model)
    again = new_optimizer(other, settings)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (other, again)):
        backward(m, 2)
        o.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def steps_of_both(rank: int, folder: Path) -> bool:
    """Take steps with whole and with sharded parameters of the same gradients, in one of two processes."""
    torch.distributed.init_process_group("gloo")
    mesh, generator = init_device_mesh("cpu", (2,)), seeded(0)
    shapes = ((6, 4), (4, 9), (4,))

    def sharded(value: Tensor) -> Tensor:
        return distribute_tensor(value.clone(), mesh, [Shard(0)])

    values = [torch.randn(shape, generator=generator) for shape in shapes]
    whole, parts = ([torch.nn.Parameter(how(v)) for v in values] for how in (Tensor.clone, sharded))
    optimizers = [
        Muon([{"params": p[:2], "weight_decay": 0.1, "lr": 0.02, "momentum": 0.9}, {"params": p[2:]}], (0.9, 0.98))
        for p in (whole, parts)
    ]
    for _ in range(3):
        for p, q in zip(whole, parts, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = sharded(p.grad)
        for optimizer in optimizers:
            optimizer.step()
    assert optimizers[1].state[parts[0]]["momentum_buffer"].to_local().shape == (3, 4)
    same = all(torch.equal(p, q.full_tensor()) for p, q in zip(whole, parts, strict=True))  # type: ignore[attr-defined]
    torch.distributed.destroy_process_group()
    return same


def test_sharded_parameters_move_as_whole_ones(tmp_path: Path) -> None:
    assert together(steps_of_both, 2, tmp_path) == [True, True]


def test_a_run_resumes_exactly(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("the cat sat on the mat. " * 60)

    def train(out: str, steps: int, *more: str) -> dict[str, Tensor]:
        sizes = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--data.length", "16"]
        run = ["--trainer.max_steps", str(steps), "--evaluate_every", "2", "--checkpoint_every", "2"]
        run += ["--trainer.enable_progress_bar", "false", "--batch_size", "4", "--network.convolution", "3"]
        run += ["--optimizer", "Muon", "--optimizer.decay", "constant", "--data.path", str(text)]
        assert main(["train", "textfile", *run, *sizes, "--out", str(tmp_path / out), *more]) == 0
        return unmask.load(tmp_path / out).state_dict()

    whole = train("a", 6)
    train("b", 4)
    for name, value in train("b", 6, "--resume").items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--optimizer", "Adam"]) == 2
    assert "Adam" in (said := capsys.readouterr().err) and "Muon" in said and said.count("\n") == 1
    with pytest.raises(ValueError, match=r"optimizer\.momentum must be in \[0, 1\), got 1"):
        Optimizer(momentum=1.0)
    with pytest.raises(ValueError, match=r"optimizer\.matrix_lr must be positive, got 0"):
        Optimizer(matrix_lr=0.0)
