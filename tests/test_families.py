"""Public models whose networks are models of transformers, against their architectures written down again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import unmask
from small_bpe import write_bpe
from test_pretrained import OTHER, SMALL
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.codecs.tokenizer_files import load_tokenizer
from unmask.networks.pretrained import Pretrained
from unmask.networks.transformers_models import build_model

WIDTH, DEPTH, HEADS, GROUPS, HIDDEN, LENGTH = 32, 2, 4, 2, 48, 40


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that has a mask."""
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer = load_tokenizer(str(write_bpe(tmp_path_factory.mktemp("pair"))))
    tokenizer.add_special_tokens(["<|mask|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<|mask|>"}))
    return folder


def write(folder: Path, bpe: Path, config: dict[str, Any] | None, weights: dict[str, Tensor], shards: int = 1) -> Path:
    """Write a model as it is published, its weights in one file or in several."""
    folder.mkdir()
    for path in bpe.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = sorted(weights)
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.3)
        + ("norm" in name or "ln_" in name)
        for name, shape in shapes.items()
    }


# --- the transformer that they share, written again


def rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x * gain / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def rotate(x: Tensor, base: float) -> Tensor:
    """Turn the pairs (j, j + half) of each head (batch, length, heads, head) by position · base^(−2j / head)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * base ** (-torch.arange(half) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attend(q: Tensor, k: Tensor, v: Tensor, base: float, causal: bool = False) -> Tensor:
    """Attention of every position to every other; queries in groups share keys and values."""
    q, k = rotate(q, base), rotate(k, base)
    k, v = (part.repeat_interleave(q.shape[2] // k.shape[2], 2) for part in (k, v))
    score = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    if causal:
        score = score.masked_fill(torch.ones(score.shape[-2:]).triu(1).bool(), -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", score.softmax(-1), v).flatten(2)


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    g = x @ gate.T
    return (g * torch.sigmoid(g) * (x @ up.T)) @ down.T


def llada_shapes(rows: int) -> dict[str, tuple[int, ...]]:
    key = WIDTH // HEADS * GROUPS
    found: dict[str, tuple[int, ...]] = {"model.transformer.wte.weight": (rows, WIDTH)}
    for i in range(DEPTH):
        block = f"model.transformer.blocks.{i}."
        found |= {f"{block}{name}.weight": (WIDTH,) for name in ("attn_norm", "ff_norm")}
        found |= {f"{block}q_proj.weight": (WIDTH, WIDTH), f"{block}attn_out.weight": (WIDTH, WIDTH)}
        found |= {f"{block}{name}.weight": (key, WIDTH) for name in ("k_proj", "v_proj")}
        found |= {f"{block}{name}.weight": (HIDDEN, WIDTH) for name in ("ff_proj", "up_proj")}
        found[f"{block}ff_out.weight"] = (WIDTH, HIDDEN)
    return found | {"model.transformer.ln_f.weight": (WIDTH,), "model.transformer.ff_out.weight": (rows, WIDTH)}


def llada(x: Tensor, w: dict[str, Tensor], base: float, causal: bool = False) -> Tensor:
    """LLaDA (arXiv:2502.09992), under its own names."""
    h = w["model.transformer.wte.weight"][x]
    for i in range(DEPTH):
        b = {name.split(".")[-2]: value for name, value in w.items() if f".blocks.{i}." in name}
        y = rms(h, b["attn_norm"], 1e-5)
        q, k, v = ((y @ b[f"{name}_proj"].T).unflatten(-1, (-1, WIDTH // HEADS)) for name in "qkv")
        h = h + attend(q, k, v, base, causal) @ b["attn_out"].T
        h = h + gated(rms(h, b["ff_norm"], 1e-5), b["ff_proj"], b["up_proj"], b["ff_out"])
    return rms(h, w["model.transformer.ln_f.weight"], 1e-5) @ w["model.transformer.ff_out.weight"].T


def llada_config(rows: int, mask: int) -> dict[str, Any]:
    return {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
        "activation_type": "silu",
        "alibi": False,
        "block_type": "llama",
        "d_model": WIDTH,
        "embedding_size": rows,
        "include_bias": False,
        "include_qkv_bias": False,
        "layer_norm_type": "rms",
        "mask_token_id": mask,
        "max_sequence_length": LENGTH,
        "mlp_hidden_size": HIDDEN,
        "n_heads": HEADS,
        "n_kv_heads": GROUPS,
        "n_layers": DEPTH,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 5000.0,
        "vocab_size": rows,
        "weight_tying": False,
    }


def check(
    model: unmask.MaskedDiffusion, expected: Any, weights: dict[str, Tensor] | Any, mask: int, shifted: bool = False
) -> None:
    """Compare a model's predictions with logits of the body's own tokens; both in float64."""
    codec = model.codec
    x = torch.randint(0, 200, (2, 11), generator=torch.Generator().manual_seed(1))
    hidden = torch.arange(11) % 3 == 1
    model = model.double()
    exact = {name: value.double() for name, value in weights.items()} if isinstance(weights, dict) else weights.double()
    with torch.no_grad():
        found = model.network(x.masked_fill(hidden, codec.vocab_size))
        wanted = expected(x.masked_fill(hidden, mask), exact)[..., : codec.vocab_size]
    if shifted:
        wanted = torch.cat((wanted[:, :1], wanted[:, :-1]), 1)
    kept = [i for i in range(codec.vocab_size) if i != mask]
    torch.testing.assert_close(found[..., kept], wanted[..., kept], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shards", [1, 3])
def test_llada(tmp_path: Path, bpe: Path, shards: int) -> None:
    codec = Tokenizer.from_folder(bpe)
    rows, mask = codec.vocab_size + 5, codec.mask
    assert mask is not None
    weights = draw(llada_shapes(rows))
    folder = write(tmp_path / "m", bpe, llada_config(rows, mask), weights, shards)
    model = unmask.load(folder)
    assert model.about["layout"] == "llada"
    assert model.shape == (LENGTH,)
    check(model, lambda x, w: llada(x, w, 5000.0), weights, mask)
    with pytest.raises(AssertionError):  # a left-to-right body is another model
        check(model, lambda x, w: llada(x, w, 5000.0, causal=True), weights, mask)


def dream_shapes(rows: int) -> dict[str, tuple[int, ...]]:
    key = WIDTH // HEADS * GROUPS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, WIDTH)}
    for i in range(DEPTH):
        block = f"model.layers.{i}."
        found |= {f"{block}{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
        for letter, out in (("q", WIDTH), ("k", key), ("v", key)):
            found |= {
                f"{block}self_attn.{letter}_proj.weight": (out, WIDTH),
                f"{block}self_attn.{letter}_proj.bias": (out,),
            }
        found[f"{block}self_attn.o_proj.weight"] = (WIDTH, WIDTH)
        found |= {f"{block}mlp.{name}_proj.weight": (HIDDEN, WIDTH) for name in ("gate", "up")}
        found[f"{block}mlp.down_proj.weight"] = (WIDTH, HIDDEN)
    return found | {"model.norm.weight": (WIDTH,), "lm_head.weight": (rows, WIDTH)}


def dream(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Dream (arXiv:2508.15487), before its logits are shifted."""
    h = w["model.embed_tokens.weight"][x]
    for i in range(DEPTH):
        b = {name.split(f"layers.{i}.")[-1]: value for name, value in w.items() if f"layers.{i}." in name}
        y = rms(h, b["input_layernorm.weight"], 1e-6)
        q, k, v = (
            (y @ b[f"self_attn.{name}_proj.weight"].T + b[f"self_attn.{name}_proj.bias"]).unflatten(
                -1, (-1, WIDTH // HEADS)
            )
            for name in "qkv"
        )
        h = h + attend(q, k, v, 2000.0) @ b["self_attn.o_proj.weight"].T
        y = rms(h, b["post_attention_layernorm.weight"], 1e-6)
        h = h + gated(y, *(b[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down")))
    return rms(h, w["model.norm.weight"], 1e-6) @ w["lm_head.weight"].T


def dream_config(rows: int, mask: int) -> dict[str, Any]:
    return {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "mask_token_id": mask,
        "max_position_embeddings": 131072,
        "num_attention_heads": HEADS,
        "num_hidden_layers": DEPTH,
        "num_key_value_heads": GROUPS,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 2000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": rows,
    }


def test_dream(tmp_path: Path, bpe: Path) -> None:
    codec = Tokenizer.from_folder(bpe)
    rows, mask = codec.vocab_size + 2, codec.mask
    assert mask is not None
    weights = draw(dream_shapes(rows))
    folder = write(tmp_path / "m", bpe, dream_config(rows, mask), weights)
    model = unmask.load(folder)
    assert model.shape == (2048,)
    check(model, dream, weights, mask, shifted=True)
    assert unmask.load(folder, length=64).shape == (64,)
    check(unmask.load(folder, shifted=False), dream, weights, mask)


def smdm_weights(rows: int, width: int, heads: int) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows + 1, width)}
    for i in range(DEPTH):
        block = f"transformer.h.{i}."
        shapes |= {f"{block}{name}.weight": (width,) for name in ("norm_1", "norm_2")}
        shapes |= {f"{block}attn.attn.weight": (3 * width, width), f"{block}attn.proj.weight": (width, width)}
        shapes |= {f"{block}mlp.swiglu.{name}.weight": (HIDDEN, width) for name in ("w1", "w2")}
        shapes[f"{block}mlp.swiglu.w3.weight"] = (width, HIDDEN)
    return draw(shapes | {"transformer.ln_f.weight": (width,), "lm_head.weight": (rows, width)})


def smdm(x: Tensor, w: dict[str, Tensor], heads: int) -> Tensor:
    """SMDM (arXiv:2410.18514): head by head its queries, keys and values stand together."""
    h = w["transformer.wte.weight"][x]
    for i in range(DEPTH):
        b = {name.split(f"h.{i}.")[-1]: value for name, value in w.items() if f".h.{i}." in name}
        y = rms(h, b["norm_1.weight"], 1e-5) @ b["attn.attn.weight"].T
        q, k, v = y.unflatten(-1, (heads, 3, -1)).unbind(-2)
        h = h + attend(q, k, v, 10_000.0) @ b["attn.proj.weight"].T
        y = rms(h, b["norm_2.weight"], 1e-5)
        h = h + gated(y, *(b[f"mlp.swiglu.{name}.weight"] for name in ("w1", "w2", "w3")))
    return rms(h, w["transformer.ln_f.weight"], 1e-5) @ w["lm_head.weight"].T


def test_smdm_is_a_single_file(tmp_path: Path, bpe: Path) -> None:
    """Its mask is the row after its tokens, which it cannot predict; the size says how wide a head is."""
    source = tmp_path / "plain"
    source.mkdir()
    write_bpe(source)
    rows, heads = Tokenizer.from_folder(source).vocab_size, 2
    weights = smdm_weights(rows, 128, heads)
    path = tmp_path / "mdm.safetensors"
    save_file(weights, path)
    model = unmask.load(path, tokenizer=str(source))
    assert model.about["layout"] == "smdm"
    assert model.shape == (2048,)
    check(model, lambda x, w: smdm(x, w, heads), weights, rows)
    assert main(["import", str(path), str(tmp_path / "out"), "--tokenizer", str(source)]) == 0
    check(unmask.load(tmp_path / "out"), lambda x, w: smdm(x, w, heads), weights, rows)


def published(model_type: str, rows: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json and tensors of a small model as transformers saves it."""
    sizes = SMALL | {"vocab_size": rows, "max_position_embeddings": LENGTH} | OTHER.get(model_type, {})
    config = {"model_type": model_type, "is_causal": False, "num_key_value_heads": 2} | sizes
    if model_type == "gpt2":
        config = {"model_type": "gpt2", "is_causal": False, **OTHER["gpt2"], "vocab_size": rows}
    model = build_model(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    weights = {name: value.clone() for name, value in model.state_dict().items() if "rotary" not in name}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
        weights.pop("cls.predictions.decoder.weight", None)
        weights.pop("cls.predictions.decoder.bias", None)
    return model, config, weights


def test_a2d_is_the_decoder_that_sees_both_sides(tmp_path: Path, bpe: Path) -> None:
    codec = Tokenizer.from_folder(bpe)
    body, config, weights = published("qwen3", codec.vocab_size)
    config |= {"model_type": "a2d-qwen3", "architectures": ["A2DQwen3LMHeadModel"]}
    del config["is_causal"]
    model = unmask.load(write(tmp_path / "m", bpe, config, weights))
    assert codec.mask is not None
    check(model, lambda x, body: body(input_ids=x).logits, body, codec.mask)


def test_diffugpt(tmp_path: Path, bpe: Path) -> None:
    codec = Tokenizer.from_folder(bpe)
    body, config, weights = published("gpt2", codec.vocab_size)
    del config["is_causal"]
    renamed = {
        name.replace("transformer.wte.", "embed_tokens.").replace("transformer.", "denoise_model."): value
        for name, value in weights.items()
    }
    model = unmask.load(write(tmp_path / "m", bpe, config, renamed))
    assert codec.mask is not None
    check(model, lambda x, body: body(input_ids=x).logits, body, codec.mask, shifted=True)


def test_a_left_to_right_model_is_made_bidirectional_on_request(tmp_path: Path, bpe: Path) -> None:
    source = tmp_path / "plain"
    source.mkdir()
    write_bpe(source)
    codec = Tokenizer.from_folder(source)
    body, config, weights = published("llama", codec.vocab_size)
    folder = write(tmp_path / "m", source, config | {"is_causal": True}, weights)
    with pytest.raises(ValueError, match="--bidirectional"):
        unmask.load(folder)
    model = unmask.load(folder, bidirectional=True)
    network = model.network
    assert isinstance(network, Pretrained)
    assert network.shifted
    assert network.mask == codec.vocab_size  # a new row, the mean of the others
    rows = network.model.get_input_embeddings().weight
    torch.testing.assert_close(rows[-1], rows[:-1].mean(0))
    x = torch.randint(0, 200, (1, 9))
    torch.testing.assert_close(network(x)[:, 1:, :200], body(input_ids=x).logits[:, :-1, :200], rtol=0, atol=1e-5)
    assert main(["import", str(folder), str(tmp_path / "out"), "--bidirectional", "--shifted", "false"]) == 0
    again = unmask.load(tmp_path / "out").network
    assert isinstance(again, Pretrained)
    assert not again.shifted


def test_an_exported_model_comes_back(tmp_path: Path, bpe: Path) -> None:
    codec = Tokenizer.from_folder(bpe)
    rows, mask = codec.vocab_size, codec.mask
    assert mask is not None
    weights = draw(dream_shapes(rows))
    model = unmask.load(write(tmp_path / "m", bpe, dream_config(rows, mask), weights))
    unmask.export(model, tmp_path / "plain")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "plain")
    assert (theirs.mask_token_id, theirs.model_max_length) == (mask, 2048)
    again = unmask.load(tmp_path / "plain")
    assert again.about["layout"] == "bidirectional decoder"
    check(again, dream, weights, mask, shifted=True)


def test_a_masked_language_model_in_every_command(
    tmp_path: Path, bpe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = Tokenizer.from_folder(bpe)
    _, config, weights = published("bert", codec.vocab_size)
    del config["is_causal"]
    folder = str(write(tmp_path / "m", bpe, config, weights))
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 60)
    assert (
        main(
            [
                "prepare",
                str(tmp_path / "a.txt"),
                "--tokenizer",
                folder,
                "--out",
                str(tmp_path / "c"),
                "--boundary",
                "line",
            ]
        )
        == 0
    )
    data = ["--data", "Corpus", "--data.path", str(tmp_path / "c"), "--data.length", "16"]
    assert main(["evaluate", folder, *data, "--split", "all", "--limit", "8", "--draws", "2"]) == 0
    assert main(["infill", folder, "the [3] sat", "-n", "2", "--score", "4"]) == 0
    assert main(["sample", folder, "-n", "2", "--length", "12", "--out", str(tmp_path / "s.txt")]) == 0
    assert "nats" in capsys.readouterr().out
    assert main(["info", folder]) == 0
    said = capsys.readouterr().out
    model = unmask.load(folder, device="cpu")
    for fact in (
        "sees                     both sides",
        f"length                   {model.shape[0]}\n",
        f"vocabulary               {model.codec.vocab_size}\n",
    ):
        assert fact in said, said


def test_what_a_tokenizer_does_not_know_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFG")))
    (tmp_path / "a.txt").write_text("ACDX\nXXG\n")
    command = ["prepare", str(tmp_path / "a.txt"), "--tokenizer", str(folder), "--boundary", "line", "--out"]
    assert main([*command, str(tmp_path / "c")]) == 0
    assert "note: 3 of 7 tokens are [UNK]" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("ACD\nG\n")
    assert main([*command, str(tmp_path / "d")]) == 0
    assert "[UNK]" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "names it"),
        (lambda f: cut(f / "model-00002-of-00002.safetensors"), "damaged"),
        (lambda f: edit(f / "model.safetensors.index.json", weight_map={"a": "../x.safetensors"}), "weight_map"),
        (
            lambda f: edit(f / "model.safetensors.index.json", weight_map={"a": "model-00001-of-00002.safetensors"}),
            "lacks the tensor a",
        ),
        (lambda f: edit(f / "config.json", model_type="moonshine"), "'moonshine' is not read here; read are"),
        (lambda f: edit(f / "config.json", d_model="x"), "config.json"),
        (lambda f: edit(f / "config.json", d_model=64), "config.json"),
        (lambda f: edit(f / "config.json", n_layers=3), "missing"),
        (lambda f: edit(f / "config.json", n_layers=10**6), "many more parameters"),
        (lambda f: edit(f / "config.json", mlp_hidden_size=10**9), "many more parameters"),
        (lambda f: edit(f / "config.json", n_layers=1), "unknown"),
        (
            lambda f: edit(f / "config.json", mlp_hidden_size=HIDDEN + 8),
            f"has shape ({WIDTH}, {HIDDEN}), config.json says",
        ),
        (lambda f: edit(f / "config.json", mask_token_id="abc"), "mask_token_id must be"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter"),
        (lambda f: edit(f / "config.json", block_type="sequential"), "block_type: 'sequential' is not read"),
        (lambda f: edit(f / "config.json", mask_token_id=10**6), "mask"),
        (lambda f: drop(f / "config.json", "mask_token_id", f / "tokenizer_config.json"), "mask token"),
    ],
)
def test_what_is_damaged_costs_one_line(tmp_path: Path, bpe: Path, damage: Any, said: str) -> None:
    codec = Tokenizer.from_folder(bpe)
    assert codec.mask is not None
    rows = codec.vocab_size
    folder = write(tmp_path / "m", bpe, llada_config(rows, codec.mask), draw(llada_shapes(rows)), 2)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as found:
        unmask.load(folder)
    assert said in str(found.value)
    assert str(folder) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("length", [0, LENGTH + 3])
def test_a_length_that_the_model_has_no_positions_for_is_refused(tmp_path: Path, bpe: Path, length: int) -> None:
    _, config, weights = published("bert", Tokenizer.from_folder(bpe).vocab_size)
    folder = write(tmp_path / "m", bpe, config, weights)
    with pytest.raises(ValueError, match=f"positions for {LENGTH} tokens; got {length}"):
        unmask.load(folder, length=length)
    assert unmask.load(folder, length=LENGTH).shape == (LENGTH,)


def test_a_masked_model_that_is_a_decoder_is_refused(tmp_path: Path, bpe: Path) -> None:
    _, config, weights = published("bert", Tokenizer.from_folder(bpe).vocab_size)
    folder = write(tmp_path / "m", bpe, config | {"is_decoder": True}, weights)
    with pytest.raises(ValueError, match="is_decoder: true sees what is to the left alone"):
        unmask.load(folder)


def test_weights_that_hold_code_are_refused_in_our_words(tmp_path: Path, bpe: Path) -> None:
    _, config, weights = published("bert", Tokenizer.from_folder(bpe).vocab_size)
    folder = write(tmp_path / "m", bpe, config, weights)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could run code; it is not read") as found:
        unmask.load(folder)
    assert "weights_only" not in str(found.value)


class Harm:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('run')",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def drop(path: Path, name: str, other: Path) -> None:
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    other.unlink()
    tokenizer = other.with_name("tokenizer.json")
    tokenizer.write_text(tokenizer.read_text().replace("<|mask|>", "<|other|>"))


def test_another_models_tokenizer_is_refused(tmp_path: Path, bpe: Path) -> None:
    codec = Tokenizer.from_folder(bpe)
    assert codec.mask is not None
    rows = codec.vocab_size - 20
    folder = write(tmp_path / "m", bpe, llada_config(rows, 5), draw(llada_shapes(rows)))
    with pytest.raises(ValueError, match="another's"):
        unmask.load(folder)
