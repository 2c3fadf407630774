"""Training from the weights of a model that is there: tokens, shapes, frozen weights, adapters, the best evaluation."""

import csv
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

import unmask
from small_bpe import write_bpe
from test_pretrained import LENGTH, MASK, V, random_model
from unmask import MaskedDiffusion, Optimizer, Run, TimeFreeELBO, Transformer
from unmask.cli.main import main
from unmask.codecs import Characters, Symbols
from unmask.codecs.ended import Ended
from unmask.data import Arrays, TextFile
from unmask.inspection import info
from unmask.networks.adapters import Adapter, add_adapter, merge_adapter
from unmask.networks.fitting import fit_network
from unmask.randomness import seeded
from unmask.training.averages import MovingAverage
from unmask.training.beginning import begin
from unmask.training.optimizer import parameter_groups
from unmask.training.trained import freeze_weights
from unmask.training.trainee import Trainee

TEXT = "the cat sat on the mat and the dog ran to the cat. " * 60
OTHERS = {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false", "batch_size": "8", "ema": "0.5"}
OTHERS |= {"precision": "32-true", "evaluate_examples": "8", "evaluate_every": "2", "checkpoint_every": "2"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and a model of its characters with rotary positions."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "t.txt").write_text(TEXT)
    torch.manual_seed(0)
    codec = Characters("".join(sorted(set(TEXT))))
    network = Transformer(codec.vocab_size, (16,), width=16, depth=3, heads=2)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    MaskedDiffusion(network, codec).save_pretrained(folder / "base")
    return folder


def data(home: Path, length: int = 16) -> TextFile:
    return TextFile(str(home / "t.txt"), length=length)


def train(home: Path, out: Path, *, steps: int = 4, lr: float = 1e-2, length: int = 16, **run: Any) -> MaskedDiffusion:
    start, resume = run.pop("start", home / "base"), run.pop("resume", False)
    settings = {"batch_size": 8, "ema": 0.5, "evaluate_examples": 8, "evaluate_every": 2, "checkpoint_every": 2}
    return unmask.train(
        None,
        data(home, length),
        start=start,
        optimizer=Optimizer(lr=lr, warmup_steps=1, decay="constant"),
        run=Run(str(out), precision="32-true", **settings | run),
        trainer={"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False},
        resume=resume,
    )


def states(one: MaskedDiffusion, other: MaskedDiffusion) -> set[str]:
    """Return the names of the tensors that are not the same, to the last bit."""
    a, b = one.network.state_dict(), other.network.state_dict()
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_training_begins_with_the_weights_and_leaves_the_model_as_it_is(home: Path, tmp_path: Path) -> None:
    base = unmask.load(home / "base", device="cpu")
    before = base.weights_sha256
    begun = begin(None, data(home, 24), base, Run(str(tmp_path / "r")))
    assert begun.network.shape == (24,) and begun.network.training
    for name, tensor in begun.network.state_dict().items():
        assert torch.equal(tensor, base.network.state_dict()[name])
    model = train(home, tmp_path / "r", start=base, length=24)
    assert base.weights_sha256 == before and states(model, base) == set(base.network.state_dict())
    assert model.shape == (24,) and model.codec == base.codec
    kept = json.loads((tmp_path / "r/run.json").read_text())["start"]
    assert kept == {"name": str((home / "base").resolve()), "sha256": kept["sha256"]} and len(kept["sha256"]) == 64
    assert unmask.load(tmp_path / "r", device="cpu").about["start"] == kept
    assert kept["sha256"] in (tmp_path / "r/model/README.md").read_text()


def test_what_does_not_fit_the_weights_is_refused(home: Path, tmp_path: Path) -> None:
    run = Run(str(tmp_path / "r"))
    (tmp_path / "other.txt").write_text(TEXT.upper())
    with pytest.raises(ValueError, match=r"other.txt: character 'T' .* at offset 0"):
        unmask.train(None, TextFile(str(tmp_path / "other.txt"), length=16), start=home / "base", run=run)
    with pytest.raises(ValueError, match=r"has the tokens .* those of .*: without --data.tokens they are cut"):
        begin(None, TextFile(str(home / "t.txt"), length=16, tokens="bytes"), home / "base", run)
    codec = Ended(Characters("".join(sorted(set(TEXT)))))
    MaskedDiffusion(Transformer(codec.vocab_size, (16,), width=8, heads=1), codec).save_pretrained(tmp_path / "lines")
    with pytest.raises(
        ValueError, match=r"those of Ended\(.*: lines of a file are cut as that model does by unmask train lines"
    ):
        begin(None, data(home), tmp_path / "lines", run)
    with pytest.raises(ValueError, match="network.width cannot be chosen: it comes with the weights"):
        begin({"width": 8}, data(home), home / "base", run)
    with pytest.raises(ValueError, match="Transformer has no such setting"):
        begin({"gradient_checkpointing": True}, data(home), home / "base", run)
    with pytest.raises(ValueError, match="with start the network comes from there"):
        begin(Transformer(5, (16,), width=8, heads=1), data(home), home / "base", run)
    with pytest.raises(ValueError, match="give a network, or start"):
        begin(None, data(home), None, run)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        begin(None, data(home), "./nowhere", run)
    absolute = Transformer(5, (4, 4, 1), width=8, heads=1, absolute_positions=True)
    with pytest.raises(ValueError, match="their positions are learned"):
        fit_network(absolute, (4, 5, 1))
    with pytest.raises(ValueError, match=r"shape \(16,\), the network of shape \(4, 4, 1\)"):
        fit_network(absolute, (16,))
    assert not list(tmp_path.glob("r*"))


def test_frozen_weights_stay_as_they_are_to_the_last_bit(home: Path, tmp_path: Path) -> None:
    base = unmask.load(home / "base", device="cpu")
    found = {
        "head": {"head.weight", "head.bias"},
        "embed,head.bias": {"embed.weight", "head.bias"},
        "last:1": {name for name in base.network.state_dict() if name.startswith("blocks.2.")},
        "last:2,*norm.weight": {n for n in base.network.state_dict() if n.startswith(("blocks.1", "blocks.2", "norm"))},
    }
    for i, (patterns, names) in enumerate(found.items()):
        model = train(home, tmp_path / str(i), train=patterns, steps=2)
        assert states(model, base) == names, patterns
    model = train(home, tmp_path / "f", freeze="embed,*attention*", steps=2)
    frozen = {name for name in base.network.state_dict() if "attention" in name or name == "embed.weight"}
    assert states(model, base) == set(base.network.state_dict()) - frozen
    for wrong, said in (("heat", "no weight is called 'heat'"), ("last:0", "no weight is called 'last:0'")):
        with pytest.raises(ValueError, match=said):
            freeze_weights(base.network, wrong, None)
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze_weights(base.network, "head", "*")


def test_an_adapter_is_saved_alone_and_belongs_to_its_base(home: Path, tmp_path: Path) -> None:
    base = unmask.load(home / "base", device="cpu")
    shutil.copytree(home / "base", tmp_path / "base")
    model = train(home, tmp_path / "r", start=str(tmp_path / "base"), lora=2, length=24)
    saved = load_file(tmp_path / "r/model/model.safetensors")
    assert saved and all(".lora_" in name for name in saved)
    kept = load_file(tmp_path / "r/checkpoints/last.safetensors")
    assert not any("base_layer" in name and "state" in name for name in kept)
    loaded = unmask.load(tmp_path / "r", device="cpu")
    x = torch.randint(0, base.codec.vocab_size + 1, (3, 24), generator=seeded(0))
    assert torch.equal(loaded.network(x), model.network(x))
    for name, tensor in base.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict().get(name, tensor), tensor), "the base is not trained"
    assert not torch.allclose(loaded.network(x), fit_network(base.network, (24,))(x))
    unfinished = tmp_path / "u"
    shutil.copytree(tmp_path / "r", unfinished)
    shutil.rmtree(unfinished / "model")
    assert torch.equal(unmask.load(unfinished, device="cpu").network(x), model.network(x))
    assert main(["import", str(tmp_path / "r"), str(tmp_path / "merged")]) == 0
    merged = unmask.load(tmp_path / "merged", device="cpu")
    assert merged.network.state_dict().keys() == base.network.state_dict().keys()
    torch.testing.assert_close(merged.network(x), model.network(x), atol=1e-5, rtol=1e-5)
    again = train(home, tmp_path / "again", start=str(tmp_path / "merged"), lora=2, length=24, steps=2)
    assert again.about["adapter"]["base"] == str(tmp_path / "merged")
    with pytest.raises(ValueError, match="is an adapter itself: unmask import merges it"):
        train(home, tmp_path / "n", start=tmp_path / "r", lora=2, length=24)
    full = train(home, tmp_path / "full", start=tmp_path / "r", length=24, steps=2)
    assert full.network.state_dict().keys() == base.network.state_dict().keys(), "it is merged, then trained"
    base.save_pretrained(tmp_path / "base")
    base.network.head.bias.data += 1
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="whose weights are not what they were when it was trained"):
        unmask.load(tmp_path / "r", device="cpu")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match="an adapter of the model .*base, which is not there"):
        unmask.load(tmp_path / "r", device="cpu")


def test_an_adapter_of_full_rank_makes_the_step_of_full_training(home: Path) -> None:
    """With orthonormal A, alpha = rank = width and gradient descent, B A = -lr G Aᵀ A = -lr G."""
    x = torch.randint(0, 5, (8, 16), generator=seeded(0))

    def step(network: Transformer) -> torch.Tensor:
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        TimeFreeELBO()(network, x, generator=seeded(1)).loss.backward()
        optimizer.step()
        return network(x).detach()

    def new() -> Transformer:
        torch.manual_seed(0)
        network = Transformer(5, (16,), width=16, depth=1, heads=2, hidden=16).double()
        torch.nn.init.normal_(network.head.weight)
        return network

    full, adapted = new(), new()
    full.requires_grad_(False)
    names = add_adapter(adapted, Adapter(16, 16.0))
    assert names == ["blocks.0.attention.qkv", "blocks.0.attention.out", "blocks.0.mlp.up", "blocks.0.mlp.out"]
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:
            torch.nn.init.orthogonal_(parameter)
    for name in names:
        full.get_parameter(f"{name}.weight").requires_grad_(True)
    before = adapted(x)
    assert torch.equal(before, full(x)), "an adapter changes nothing at first"
    one, other = step(full), step(adapted)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert (one - before).abs().max() > 1e-3
    merge_adapter(adapted)
    torch.testing.assert_close(adapted(x), one, rtol=1e-10, atol=1e-10)


def test_adapters_that_cannot_be(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no linear map of the name \*.q_proj for an adapter; it has blocks.0"):
        train(home, tmp_path / "r", lora=2, lora_targets="*.q_proj")
    with pytest.raises(ValueError, match="lora_alpha goes with lora"):
        Run("r", lora_alpha=3.0)
    with pytest.raises(ValueError, match="lora must be at least 1"):
        Run("r", lora=0)
    for alpha in (0.0, -5.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="the alpha of an adapter must be positive and finite, got"):
            Adapter(2, alpha)
    with pytest.raises(ValueError, match="either lora, or train and freeze"):
        train(home, tmp_path / "r", lora=2, train="head")
    with pytest.raises(ValueError, match="lora is for the weights of a model that is there"):
        begin(Transformer(5, (16,), width=8, heads=1), data(home), None, Run("r", lora=2))
    memory = MaskedDiffusion(Transformer(5, (16,), width=8, heads=1), Symbols(5))
    with pytest.raises(ValueError, match="save the model first"):
        begin(None, Known(), memory, Run("r", lora=2))
    assert main(["train", "textfile", "--data.path", str(home / "t.txt"), "--lora", "2", "--out", "r"]) == 1


class Known(TextFile):
    codec = Symbols(5)
    shape = (16,)

    def __init__(self) -> None:
        super().__init__("t")


def test_a_run_from_weights_resumes_exactly(home: Path, tmp_path: Path) -> None:
    for extra in ({}, {"lora": 2}, {"train": "head", "keep_best": True}):
        whole = train(home, tmp_path / "whole", steps=4, **extra)
        train(home, tmp_path / "part", steps=2, **extra)
        resumed = train(home, tmp_path / "part", steps=4, resume=True, start=None, **extra)
        assert not states(whole, resumed), extra
        if extra == {}:
            with pytest.raises(ValueError, match="cannot resume from another start"):
                train(home, tmp_path / "part", steps=6, resume=True, start=tmp_path / "whole")
        for name in ("whole", "part"):
            shutil.rmtree(tmp_path / name)
    network = unmask.load(home / "base", device="cpu").network
    unmask.train(
        network,
        data(home),
        run=Run(str(tmp_path / "new"), evaluate_examples=8),
        trainer={"max_steps": 1, "accelerator": "cpu"},
    )
    with pytest.raises(ValueError, match=r"new began with new weights, not with those of .*base: resume it without"):
        train(home, tmp_path / "new", steps=2, resume=True)


def test_the_best_evaluation_is_kept_and_training_ends_without_a_better_one(home: Path, tmp_path: Path) -> None:
    """A rate that is far too high makes every evaluation after the first ones worse."""
    model = train(home, tmp_path / "r", steps=40, lr=1.0, keep_best=True, patience=3)
    best, steps = model.about["weights_of_step"], model.about["steps"]
    assert steps == best + 6, "three evaluations, of two steps each, brought nothing"
    again = train(home, tmp_path / "s", steps=best, lr=1.0)
    assert not states(model, again), "the weights are the averages at that step"
    assert not states(unmask.load(tmp_path / "r", device="cpu"), model)
    rest = train(home, tmp_path / "r", steps=40, lr=1.0, keep_best=True, patience=3, resume=True)
    assert rest.about["steps"] == steps, "it is over"
    assert not states(rest, model)
    assert info(tmp_path / "r").rows[0]["weights_of_step"] == best


def test_recomputed_blocks_have_the_same_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = Transformer(5, (16,), width=16, depth=3, heads=2, checkpointing=checkpointing).double()
        torch.nn.init.normal_(network.head.weight)
        x = torch.randint(0, 5, (4, 16), generator=seeded(0))
        loss = TimeFreeELBO()(network.train(), x, generator=seeded(1)).loss
        grads.append(torch.autograd.grad(loss, list(network.parameters())))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def llama(folder: Path, tied: bool = True) -> Path:
    """Write a small left-to-right model with a tokenizer, as others publish them."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers import PreTrainedTokenizerFast as Fast

    write_bpe(folder / "bpe")
    tokenizer = unmask.Tokenizer.from_folder(str(folder / "bpe"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "llama")
    Fast(tokenizer_object=tokenizer.tokenizer, eos_token="<|endoftext|>").save_pretrained(folder / "llama")
    return folder / "llama"


def test_a_left_to_right_model_becomes_one_of_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = llama(tmp_path)
    (tmp_path / "t.txt").write_text("\n\n".join(TEXT.split(". ")))
    corpus, out = str(tmp_path / "corpus"), str(tmp_path / "run")
    how = ["--tokenizer", str(source), "--boundary", "blank_line", "--out", corpus]
    assert main(["prepare", str(tmp_path / "t.txt"), *how]) == 0
    others = [f"--{name}={value}" for name, value in OTHERS.items()]
    wanted = ["train", "openwebtext", "--data.path", corpus, "--data.length", "16", "--data.split_by", "90-5-5"]
    wanted += [*others, "--optimizer.warmup_steps=1", "--out", out, "--trainer.max_steps", "2", "--compile", "false"]
    assert main([*wanted, "--from", str(source), "--network.gradient_checkpointing", "true"]) == 0
    model = unmask.load(out, device="cpu")
    assert isinstance(model.network, unmask.Pretrained) and model.network.shifted and model.shape == (16,)
    assert model.network.gradient_checkpointing and next(model.network.parameters()).dtype == torch.float32
    x = torch.full((1, 16), model.network.mask_id)
    x[0, 8] = 5
    other = x.clone()
    other[0, 8] = 6
    assert not torch.allclose(model.network(x)[0, 3], model.network(other)[0, 3]), "the left sees the right"
    assert main(["train", out, "--resume", "--trainer.max_steps", "4"]) == 0
    assert main(["sample", out, "-n", "1", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main([*wanted, "--from", str(source), "--network.width", "8", "--overwrite"]) == 2
    assert "--network.width cannot be chosen: the network comes with --from" in capsys.readouterr().err
    assert main([*wanted, "--from", out, "--lora", "2", "--out", f"{out}2"]) == 0
    adapted = unmask.load(f"{out}2", device="cpu")
    assert adapted.own_tensors().keys() < adapted.state_dict().keys()
    (tmp_path / "c.yaml").write_text("from: nowhere\n")
    capsys.readouterr()
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    assert "from is for the command line" in capsys.readouterr().err


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_a_left_to_right_model_finds_its_base_as_it_was(tied: bool, tmp_path: Path) -> None:
    source = llama(tmp_path, tied)
    (tmp_path / "t.txt").write_text(TEXT.replace(". ", "\n"))
    wanted = ["train", "lines", "--data.path", str(tmp_path / "t.txt"), "--data.length", "48", "--from", str(source)]
    wanted += [f"--{name}={value}" for name, value in OTHERS.items()]
    out = tmp_path / "run"
    assert main([*wanted, "--lora", "2", "--trainer.max_steps", "2", "--out", str(out)]) == 0
    torch.manual_seed(1)
    one = unmask.load(out, device="cpu")
    torch.manual_seed(2)
    assert not states(one, unmask.load(out, device="cpu"))
    assert main(["import", str(out), str(tmp_path / "merged")]) == 0


def test_tokens_that_are_never_predicted_are_given_in_training(tmp_path: Path) -> None:
    from unmask.training.trainee import Trainee

    network = Transformer(5, (8,), width=8, depth=1, heads=1)
    network.excluded = (3, 4)
    x = torch.tensor([[0, 1, 3, 4, 2, -1, 3, 0]])
    seen: dict[str, Any] = {}

    class Watch(TimeFreeELBO):
        def __call__(self, network: Any, x: Any, label: Any = None, *, given: Any = None, generator: Any = None) -> Any:
            seen.update(x=x, given=given)
            return super().__call__(network, x, label, given=given, generator=generator)

    trainee = Trainee(MaskedDiffusion(network, Symbols(5)), Watch(), Optimizer(), 0, 0.0)
    trainee._trainer = type("T", (), {"accumulate_grad_batches": 1, "global_step": 0, "global_rank": 0})()  # type: ignore[assignment]
    trainee.log = lambda *_, **__: None  # type: ignore[method-assign]
    trainee.training_step((x, None), 0)
    assert seen["given"].tolist() == [[False, False, True, True, False, True, True, False]]
    assert seen["x"].tolist() == [[0, 1, 3, 4, 2, 0, 3, 0]]


def test_averages_of_a_network_with_tokens_that_are_never_predicted(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    body = {"model_type": "bert", "vocab_size": 12, "max_position_embeddings": 16} | sizes
    network = unmask.Pretrained(12, (8,), body=body, mask=4, special=(0, 1, 2, 3))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(5, 12, (60, 8)))
    model = unmask.train(
        network,
        Arrays(str(tmp_path / "x.npy"), vocab_size=12),
        run=Run(str(tmp_path / "r"), batch_size=4, evaluate_every=2, precision="32-true"),
        trainer={"max_steps": 4, "accelerator": "cpu", "enable_progress_bar": False},
    )
    with open(tmp_path / "r/logs/version_0/metrics.csv", newline="") as file:
        measured = [float(row["valid_bits"]) for row in csv.DictReader(file) if row["valid_bits"]]
    assert len(measured) == 2 and all(map(math.isfinite, measured))
    logits = model.network(torch.full((1, 8), 12))
    assert logits[..., :5].isneginf().all() and logits[..., 5:].isfinite().all()
    assert torch.equal(unmask.load(tmp_path / "r", device="cpu").network(torch.full((1, 8), 12)), logits)


def test_an_adapter_can_be_trained_on_resumed_and_given_another_length(home: Path, tmp_path: Path) -> None:
    train(home, tmp_path / "a", lora=2, steps=2)
    whole = train(home, tmp_path / "whole", start=tmp_path / "a", steps=4)
    train(home, tmp_path / "part", start=tmp_path / "a", steps=2)
    resumed = train(home, tmp_path / "part", start=None, steps=4, resume=True)
    assert not states(whole, resumed)
    longer = train(home, tmp_path / "b", start=tmp_path / "a", steps=2, length=24)
    assert longer.shape == (24,)


def test_training_never_replaces_what_it_starts_from(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "base", tmp_path / "r" / "model")
    for start in (tmp_path / "r", tmp_path / "r" / "model"):
        with pytest.raises(ValueError, match="which a new run replaces: give another --out"):
            train(home, tmp_path / "r", start=start, lora=2)
    train(home, tmp_path / "a", lora=2, steps=2)
    config = tmp_path / "a/model/config.json"
    about = json.loads(config.read_text())
    about["about"]["adapter"]["base"] = str(tmp_path / "a/model")
    config.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="an adapter of itself"):
        unmask.load(tmp_path / "a", device="cpu")


def test_a_learned_schedule_of_a_model_in_memory_stays_as_it_is(home: Path, tmp_path: Path) -> None:
    codec = unmask.load(home / "base", device="cpu").codec
    network = Transformer(codec.vocab_size, (16,), width=8, depth=1, heads=1, time_conditioning=True)
    model = MaskedDiffusion(network, codec, unmask.TokenPolynomial(codec.vocab_size, 2.0))
    before = model.weights_sha256
    trained = unmask.train(
        None,
        data(home),
        start=model,
        objective=unmask.TokenELBO(),
        run=Run(str(tmp_path / "r"), batch_size=4, precision="32-true"),
        trainer={"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False},
    )
    assert model.weights_sha256 == before and trained.weights_sha256 != before
    assert isinstance(trained.schedule, unmask.TokenPolynomial)
    assert (trained.schedule.powers - 2).abs().max() < 0.1, "learned on from what it was"


def test_a_best_evaluation_that_never_came_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = train(home, tmp_path / "r", keep_best=True, evaluate_every=500, steps=2)
    assert "none came within 2 steps (--evaluate_every is 500)" in capsys.readouterr().err
    assert "weights_of_step" not in model.about


def test_what_is_trained_of_weights_in_half_precision_is_float32(home: Path, tmp_path: Path) -> None:
    base = unmask.load(home / "base", device="cpu").bfloat16()
    run = {"out": str(tmp_path / "r")}
    for settings, kept in (({}, False), ({"train": "head"}, False), ({"precision": "bf16-true"}, True)):
        network = begin(None, data(home), base, Run(**run | settings)).network
        found = {parameter.dtype for parameter in network.parameters()}
        assert found == ({torch.bfloat16} if kept else {torch.float32}), settings
    base.save_pretrained(tmp_path / "half")
    network = begin(None, data(home), tmp_path / "half", Run(**run, lora=2)).network
    types = {parameter.requires_grad: parameter.dtype for parameter in network.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    assert next(base.network.parameters()).dtype == torch.bfloat16


def test_weights_that_are_not_those_of_the_model_are_not_taken(home: Path, tmp_path: Path) -> None:
    train(home, tmp_path / "a", lora=2, steps=2)
    for model in (unmask.load(home / "base", device="cpu"), unmask.load(tmp_path / "a", device="cpu")):
        whole = model.own_tensors()
        name = next(iter(whole))
        for wrong in ({n: t for n, t in whole.items() if n != name}, whole | {"network.other": whole[name]}):
            with pytest.raises(RuntimeError, match="Missing key|Unexpected key"):
                model.load_own_tensors(wrong)
        model.load_own_tensors(whole)


def test_a_resumed_run_keeps_the_best_from_then_on_if_it_was_not_kept_before(home: Path, tmp_path: Path) -> None:
    train(home, tmp_path / "r", steps=4, lr=1.0, patience=9)
    assert not (tmp_path / "r/checkpoints/best.safetensors").exists()
    model = train(home, tmp_path / "r", steps=8, lr=1.0, patience=9, keep_best=True, resume=True)
    assert model.about["weights_of_step"] in (6, 8)


def test_frozen_weights_are_held_once_and_tied_embeddings_do_not_decay() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    body = {"model_type": "bert", "vocab_size": 5, "max_position_embeddings": 16} | sizes
    network = unmask.Pretrained(5, (8,), body=body, mask=4)
    assert network.tied
    freeze_weights(network, None, "*attention*")
    model = MaskedDiffusion(network, Symbols(5))
    trainee, averages = Trainee(model, TimeFreeELBO(), Optimizer(weight_decay=0.1), 0, 0.0), MovingAverage(0.9)
    averages.on_fit_start(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), trainee)
    state, held = averages.averaged(trainee), {average.data_ptr() for average in averages.held}
    for name, current in trainee.state_dict(keep_vars=True).items():
        assert (state[name].data_ptr() == current.data_ptr()) != current.requires_grad
        assert (state[name].data_ptr() in held) == current.requires_grad
    decaying, others = parameter_groups(model, Optimizer(weight_decay=0.1))
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0
    embedding = network.head.linear.weight
    assert any(p is embedding for p in others["params"]) and not any(p is embedding for p in decaying["params"])
    assert all(p.requires_grad for group in (decaying, others) for p in group["params"])


def test_an_adapter_is_seen_wherever_logits_are_asked_for() -> None:
    torch.manual_seed(0)
    network = Transformer(5, (16,), width=16, depth=2, heads=2).double()
    torch.nn.init.normal_(network.head.weight)
    x = torch.randint(0, 6, (3, 16), generator=seeded(0))
    before = network(x)
    add_adapter(network, Adapter(2, targets=("*qkv",)))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    whole, few = network(x), torch.zeros(3, 16, dtype=torch.bool)
    few[:, ::7] = True
    torch.testing.assert_close(network(x, at=few), whole[few], rtol=1e-10, atol=1e-10)
    assert (whole - before).abs().max() > 0.1


def test_an_adapter_of_gpt2_is_put_on_without_a_warning() -> None:
    """Whose linear maps are transposed."""
    network = unmask.Pretrained(V, (LENGTH,), body=random_model("gpt2"), mask=MASK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = add_adapter(network, Adapter(2))
    assert len(chosen) == 8 and all("lora" not in name for name in chosen)
