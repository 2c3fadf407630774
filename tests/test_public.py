"""Public checkpoints, against the three architectures written down again from what is known of their layouts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from small_bpe import write_bpe
from unmask.checkpoints.ddit import Sizes, fold, names
from unmask.cli.main import main
from unmask.model import MaskedDiffusion

ROWS, WIDTH, DEPTH, HEADS, LENGTH, CONDITION = 265, 32, 2, 4, 12, 24
SIZES = Sizes(ROWS, WIDTH, DEPTH, 4 * WIDTH, CONDITION)
LAYOUTS: tuple[Any, ...] = ("mdlm", "sedd", "radd", "bd3lm")


def random_weights(layout: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.5) + ("norm" in name)
        for name, shape in names(layout, SIZES).items()
    }


def config(layout: str) -> dict[str, Any]:
    if layout in ("mdlm", "bd3lm"):
        found = {"model_type": layout, "vocab_size": ROWS, "time_conditioning": False, "dropout": 0.1}
        found |= {"hidden_dim": WIDTH, "cond_dim": CONDITION, "n_blocks": DEPTH, "n_heads": HEADS}
        one_block = {"adaln": False, "cross_attn": True, "attn_backend": "flex", "causal": False, "block_size": LENGTH}
        return found | {"model_length": LENGTH} | (one_block if layout == "bd3lm" else {})
    model = {"hidden_size": WIDTH, "cond_dim": CONDITION, "length": LENGTH, "n_blocks": DEPTH, "n_heads": HEADS}
    if layout == "sedd":
        noise = {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20}
        model |= {"name": "small", "type": "ddit", "scale_by_sigma": True, "dropout": 0.1}
        return {"ngpus": 8, "tokens": ROWS - 1, "graph": {"type": "absorb"}, "noise": noise, "model": model}
    return {"tokens": ROWS - 1, "model": model | {"name": "small_radd", "type": "ddit_wot", "dtype": "float16"}}


def write(folder: Path, layout: Any, weights: dict[str, Tensor] | None = None, form: str = "safetensors") -> Path:
    """Write a checkpoint as it is published."""
    folder.mkdir(parents=True)
    write_bpe(folder)
    (folder / "config.json").write_text(json.dumps(config(layout)))
    prefix = "backbone." if layout in ("mdlm", "bd3lm") else ""
    weights = {prefix + name: value for name, value in (weights or random_weights(layout)).items()}
    half = WIDTH // HEADS
    weights[f"{prefix}rotary_emb.inv_freq"] = 1 / 10_000 ** (torch.arange(0, half, 2).float() / half)
    if form == "safetensors":
        save_file(weights, folder / "model.safetensors")
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return folder


# --- the three, written again


def layer_norm(x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def turn(x: Tensor) -> Tensor:
    """Rotary positions on (batch, length, heads, head): entry j is paired with j + head / 2."""
    half = x.shape[-1] // 2
    turned = torch.empty_like(x)
    for position in range(x.shape[1]):
        for j in range(half):
            angle = position / 10_000 ** (2 * j / (2 * half))
            a, b = x[:, position, :, j], x[:, position, :, j + half]
            turned[:, position, :, j] = a * math.cos(angle) - b * math.sin(angle)
            turned[:, position, :, j + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def reference(layout: str, w: dict[str, Tensor], ids: Tensor, sigma: Tensor) -> Tensor:
    """Return the raw output of a public model, (batch, length, rows)."""
    w = {name: value.double() for name, value in w.items()}
    batch, length = ids.shape
    modulated = layout in ("mdlm", "sedd")

    def linear(name: str, x: Tensor) -> Tensor:
        out = torch.einsum("...i,oi->...o", x, w[f"{name}.weight"])
        return out + w[f"{name}.bias"] if f"{name}.bias" in w else out

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x) * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)

    def parts(name: str, count: int) -> list[Tensor]:
        return list(linear(name, c).view(batch, 1, count, WIDTH).unbind(2)) if modulated else []

    c = torch.empty(0)
    if modulated:
        sigma = torch.zeros_like(sigma) if layout == "mdlm" else sigma
        f = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
        angle = sigma[:, None] * f
        c = swish(linear("sigma_map.mlp.2", swish(linear("sigma_map.mlp.0", torch.cat((angle.cos(), angle.sin()), 1)))))
    x = w["vocab_embed.embedding"][ids]
    for i in range(DEPTH):
        b = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = parts(f"{b}.adaLN_modulation", 6) or (0, 0, 1, 0, 0, 1)
        h = norm(f"{b}.norm1", x) * (1 + scale1) + shift1
        q, k, v = linear(f"{b}.attn_qkv", h).view(batch, length, 3, HEADS, -1).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", turn(q), turn(k)) / math.sqrt(WIDTH / HEADS)
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(batch, length, WIDTH)
        x = x + gate1 * linear(f"{b}.attn_out", mixed)
        h = norm(f"{b}.norm2", x) * (1 + scale2) + shift2
        x = x + gate2 * linear(f"{b}.mlp.2", gelu(linear(f"{b}.mlp.0", h)))
    shift, scale = parts("output_layer.adaLN_modulation", 2) or (0, 0)
    return linear("output_layer.linear", norm("output_layer.norm_final", x) * (1 + scale) + shift)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randint(0, ROWS, (5, LENGTH), generator=generator)
    x_t[:, ::3] = ROWS - 1
    return x_t, torch.tensor([0.0, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_predictions_as_the_original(layout: Any, form: str, tmp_path: Path) -> None:
    model = MaskedDiffusion.from_pretrained(write(tmp_path / layout, layout, form=form))
    x_t, rate = inputs()
    raw = reference(layout, random_weights(layout), x_t, -torch.log1p(-rate))
    expected = raw[..., :-1].log_softmax(-1)  # the mask is never predicted
    found = model.network(x_t, rate).log_softmax(-1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    at = x_t == ROWS - 1
    torch.testing.assert_close(model.network(x_t, rate, at=at).log_softmax(-1), found[at], rtol=1e-5, atol=1e-5)
    assert model.network.mask_id == ROWS - 1 and model.shape == (LENGTH,)


def test_a_score_becomes_a_law_over_tokens(tmp_path: Path) -> None:
    """SEDD's score of token y at a masked position is its law times alpha / (1 - alpha), to be normalised."""
    model = MaskedDiffusion.from_pretrained(write(tmp_path / "sedd", "sedd"))
    x_t, rate = inputs()
    sigma = -torch.log1p(-rate[1:])
    raw = reference("sedd", random_weights("sedd"), x_t[1:], sigma)
    log_score = raw - torch.expm1(sigma).log()[:, None, None] - math.log(ROWS - 1)
    law = log_score[..., :-1].exp() * torch.expm1(sigma)[:, None, None]
    law = law / law.sum(-1, keepdim=True)
    torch.testing.assert_close(model.network(x_t[1:], rate[1:]).softmax(-1).double(), law, rtol=1e-4, atol=1e-6)


def test_noise_is_cut_off_where_those_models_ended(tmp_path: Path) -> None:
    network = MaskedDiffusion.from_pretrained(write(tmp_path / "sedd", "sedd")).network
    x_t = torch.full((2, LENGTH), ROWS - 1)
    out = network(x_t, torch.tensor([1.0, 0.999], dtype=torch.float64))
    torch.testing.assert_close(out[0], out[1])


def test_folding_is_exact() -> None:
    """MDLM with its noise at zero and what it is folded into are the same function."""
    w = {name: value.double() for name, value in random_weights("mdlm").items()}
    folded = fold(w, DEPTH)
    assert {name: tuple(value.shape) for name, value in folded.items()} == names("radd", SIZES)
    x_t, rate = inputs()
    torch.testing.assert_close(
        reference("radd", folded, x_t, rate), reference("mdlm", w, x_t, rate), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("layout", "sizes", "tensors", "count"),
    [
        ("mdlm", Sizes(50258, 768, 12, 3072, 128), 130, 169_627_218),
        ("sedd", Sizes(50258, 768, 12, 3072, 128), 130, 169_627_218),
        ("sedd", Sizes(50258, 1024, 24, 4096, 128), 250, 424_477_010),
        ("radd", Sizes(50258, 768, 12, 3072, 0), 125, 162_265_682),
        ("radd", Sizes(50258, 1024, 24, 4096, 0), 245, 405_191_762),
    ],
)
def test_names_and_shapes_of_the_published_sizes(layout: Any, sizes: Sizes, tensors: int, count: int) -> None:
    found = names(layout, sizes)
    assert len(found) == tensors and sum(math.prod(shape) for shape in found.values()) == count
    width = sizes.width
    golden = {
        "vocab_embed.embedding": (50258, width),
        "blocks.11.attn_qkv.weight": (3 * width, width),
        "blocks.0.attn_out.weight": (width, width),
        "blocks.0.mlp.0.weight": (4 * width, width),
        "blocks.0.mlp.2.bias": (width,),
        "blocks.0.norm1.weight": (width,),
        "output_layer.linear.bias": (50258,),
    }
    timed = {"sigma_map.mlp.0.weight": (128, 256), "blocks.0.adaLN_modulation.weight": (6 * width, 128)}
    timed |= {"sigma_map.mlp.2.bias": (128,), "output_layer.adaLN_modulation.bias": (2 * width,)}
    free = {"blocks.0.norm1.bias": (width,), "output_layer.norm_final.bias": (width,)}
    golden |= free if layout == "radd" else timed
    assert golden.items() <= found.items()
    assert not (timed if layout == "radd" else free).keys() & found.keys()
    assert "blocks.0.attn_qkv.bias" not in found and "blocks.0.attn_out.bias" not in found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_wrong_is_named(layout: Any, tmp_path: Path) -> None:
    good = random_weights(layout)
    name = "blocks.1.mlp.2.bias"
    for i, (weights, message) in enumerate(
        (
            ({key: value for key, value in good.items() if key != name}, f"the tensor {name} is missing"),
            (good | {name: torch.zeros(3)}, rf"the tensor {name} has shape \(3,\), expected \(32,\)"),
            (good | {"blocks.1.gate": torch.zeros(3)}, "the tensor blocks.1.gate is unknown"),
            (good | {name: torch.full((WIDTH,), math.nan)}, f"the tensor {name} holds a value that is not finite"),
        )
    ):
        with pytest.raises(ValueError, match=rf"model.safetensors: {message}"):
            MaskedDiffusion.from_pretrained(write(tmp_path / str(i), layout, weights))


@pytest.mark.parametrize(
    ("layout", "changed", "message"),
    [
        ("mdlm", {"n_heads": 2}, "rotary_emb.inv_freq has 4 frequencies, which 2 heads do not"),
        ("mdlm", {"hidden_dim": 64}, "hidden_dim is 64, but the tensors have 32"),
        ("mdlm", {"time_conditioning": "false"}, "time_conditioning must be true or false, got 'false'"),
        ("sedd", {"graph": {"type": "uniform"}}, "the diffusion is uniform; only absorb"),
        ("sedd", {"tokens": 9}, "tokens is 9, but the tensors have 264 and the mask"),
        ("radd", {"model": config("radd")["model"] | {"n_blocks": 3}}, "n_blocks is 3, but the tensors have 2"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors(
    layout: Any, changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", layout)
    (folder / "config.json").write_text(json.dumps(config(layout) | changed))
    with pytest.raises(ValueError, match=message):
        MaskedDiffusion.from_pretrained(folder)


def test_geometric_noise_ends_later(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "sedd")
    noise = {"noise": {"type": "geometric", "sigma_min": 1e-4, "sigma_max": 20}}
    (folder / "config.json").write_text(json.dumps(config("sedd") | noise))
    assert MaskedDiffusion.from_pretrained(folder).network.eps == pytest.approx(math.exp(-20))  # type: ignore[arg-type]


def test_half_precision_is_folded_in_float32(tmp_path: Path) -> None:
    half = {name: value.bfloat16() for name, value in random_weights("mdlm").items()}
    network = MaskedDiffusion.from_pretrained(write(tmp_path / "a", "mdlm", half)).network
    x_t, rate = inputs()
    expected = reference("mdlm", half, x_t, rate)[..., :-1].log_softmax(-1)
    torch.testing.assert_close(network(x_t).log_softmax(-1).double(), expected, rtol=1e-5, atol=1e-5)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "radd")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"model.safetensors: damaged"):
        MaskedDiffusion.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds neither model.safetensors nor pytorch_model.bin"):
        MaskedDiffusion.from_pretrained(folder)

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "harm").touch, ())

    torch.save({"x": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin: damaged, or holds more than tensors"):
        MaskedDiffusion.from_pretrained(folder)
    assert not (tmp_path / "harm").exists()  # nothing in it ran
    torch.save({"state_dict": {"x": torch.zeros(1)}}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin: expected tensors by name"):
        MaskedDiffusion.from_pretrained(folder)
    for odd in (torch.eye(3).to_sparse(), torch.empty(3, device="meta")):
        torch.save({"x": torch.zeros(1), "odd": odd}, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"pytorch_model.bin: the tensor odd is sparse, quanti"):
            MaskedDiffusion.from_pretrained(folder)
    other = write(tmp_path / "b", "radd", random_weights("radd"))
    (other / "config.json").write_text(json.dumps({"model": {"length": LENGTH}}))
    with pytest.raises(ValueError, match=r"config.json: expected whole numbers for n_heads and the length, got None"):
        MaskedDiffusion.from_pretrained(other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_works_on_them(layout: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(write(tmp_path / "source", layout)), str(tmp_path / "imported")
    (tmp_path / "words.txt").write_text("the man in an inn " * 40)
    assert main(["evaluate", source, "--draws", "1", "--record", "--data", "PyDocs"]) == 1
    assert "is as it was published; unmask import" in capsys.readouterr().err
    assert main(["import", source, out]) == 0
    shown = capsys.readouterr().out
    assert layout in shown and "unmask sample" in shown
    a, b = (MaskedDiffusion.from_pretrained(path) for path in (source, out))
    x_t, rate = inputs()
    assert torch.equal(a.network(x_t, rate), b.network(x_t, rate)) and a.codec == b.codec
    assert main(["sample", source, "-n", "1"]) == 0  # as it is, too
    for sampler in ("FirstHitting", "Ancestral", "InOrder", "MostConfident", "EntropyBounded", "Remasking"):
        assert main(["sample", out, "-n", "1", "--sampler", sampler]) == 0
    assert main(["infill", out, "the [2] inn", "-n", "3"]) == 0
    assert main(["prepare", str(tmp_path / "words.txt"), "--tokenizer", source, "--out", str(tmp_path / "c")]) == 0


def test_import_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source", "radd")
    assert main(["import", str(source), str(tmp_path / "out")]) == 0
    for arguments, message in (
        ([str(source), str(tmp_path / "out")], "out: is there already"),
        ([str(tmp_path / "gone"), str(tmp_path / "new")], "gone: no such folder"),
        ([str(tmp_path / "out"), str(tmp_path / "new")], "is a model of unmask already"),
        ([str(source), str(tmp_path / "new"), "--tokenizer", str(tmp_path)], "holds no tokenizer.json"),
    ):
        capsys.readouterr()
        assert main(["import", *arguments]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def own_mdlm() -> dict[str, Any]:
    """What MDLM's own code writes as config.json: its settings, with the number of rows."""
    model = {"name": "small", "type": "ddit", "scale_by_sigma": True, "dropout": 0.1, "tie_word_embeddings": False}
    model |= {"hidden_size": WIDTH, "cond_dim": CONDITION, "length": LENGTH, "n_blocks": DEPTH, "n_heads": HEADS}
    settings = {"mode": "train", "diffusion": "absorbing_state", "backbone": "dit", "parameterization": "subs"}
    noise = {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20}
    rest = {"time_conditioning": False, "T": 0, "subs_masking": False, "noise": noise, "model": model}
    return settings | rest | {"vocab_size": ROWS}


def write_own(folder: Path, changed: dict[str, Any], prefix: str = "") -> Path:
    """Write the weights of an MDLM with the config.json of its own code."""
    write(folder, "mdlm")
    save_file({prefix + name: value for name, value in random_weights("mdlm").items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(own_mdlm() | changed))
    return folder


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("timed", [False, True])
def test_mdlm_as_its_own_code_saves_it(timed: bool, prefix: str, tmp_path: Path) -> None:
    """It is not told the noise, though its tensors are SEDD's, unless it says so."""
    model = MaskedDiffusion.from_pretrained(write_own(tmp_path / "own", {"time_conditioning": timed}, prefix))
    x_t, rate = inputs()
    raw = reference("sedd" if timed else "mdlm", random_weights("mdlm"), x_t, -torch.log1p(-rate))
    found = model.network(x_t, rate).log_softmax(-1)
    torch.testing.assert_close(found.double(), raw[..., :-1].log_softmax(-1), rtol=1e-5, atol=1e-5)
    assert model.about["layout"] == "mdlm" and model.about["folded"] == (not timed)


def test_time_conditioning_of_mdlm_on_the_hub(tmp_path: Path) -> None:
    folder = write(tmp_path / "hub", "mdlm")
    (folder / "config.json").write_text(json.dumps(config("mdlm") | {"time_conditioning": True}))
    x_t, rate = inputs()
    raw = reference("sedd", random_weights("mdlm"), x_t, -torch.log1p(-rate))[..., :-1]
    found = MaskedDiffusion.from_pretrained(folder).network(x_t, rate)
    torch.testing.assert_close(found.log_softmax(-1).double(), raw.log_softmax(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parameterization": "d3pm"}, "parameterization is 'd3pm'; only subs is read"),
        ({"parameterization": "sedd"}, "parameterization is 'sedd'; only subs is read"),
        ({"diffusion": "uniform"}, "diffusion is 'uniform'; only absorbing_state is read"),
        ({"backbone": "dimamba"}, "backbone is 'dimamba'; only dit and hf_dit is read"),
        ({"time_conditioning": "true"}, "time_conditioning must be true or false, got 'true'"),
        ({"time_conditioning": True, "noise": {"type": "odd"}}, "the noise 'odd' is not known"),
        ({"vocab_size": 9}, "vocab_size is 9, but the tensors have 265"),
        ({"model_type": "duo"}, "model_type 'duo' is not read here; read are MDLM as on the Hub"),
        ({"model_type": None, "parameterization": None}, "it is of a kind that is not read here"),
    ],
)
def test_other_kinds_of_mdlm_are_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        MaskedDiffusion.from_pretrained(write_own(tmp_path / "own", changed))


@pytest.mark.parametrize(
    "found",
    [
        {"model_type": "t5", "architectures": ["T5Model"], "d_model": 4096},
        {"algo": {"name": "duo", "parameterization": "mean"}, "model": config("sedd")["model"]},
        {"model": config("sedd")["model"]},  # SEDD's tensors, but nothing says what they are
        {"tokens": ROWS - 1},
        {},
    ],
)
def test_what_is_not_known_is_refused_with_what_is(found: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "sedd")
    (folder / "config.json").write_text(json.dumps(found))
    with pytest.raises(
        ValueError, match=r"config.json: .* not read here; read are MDLM as on the Hub .*; SEDD .*; RADD"
    ):
        MaskedDiffusion.from_pretrained(folder)


def test_the_weights_of_what_is_refused_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')  # and no weights beside it
    with pytest.raises(ValueError, match="model_type 't5' is not read here"):
        MaskedDiffusion.from_pretrained(tmp_path / "t5")
