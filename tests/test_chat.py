"""Conversations: the tokens of transformers' own templates, answers alone, and templates that may do nothing else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import unmask
from small_bpe import write_bpe
from test_families import draw as random_weights
from test_families import llada_config, llada_shapes, write
from unmask.canvas import answer, make_canvas
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.codecs.tokenizer_files import load_tokenizer
from unmask.data.corpus import Corpus
from unmask.networks.transformer import Transformer

LLAMA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' ~ messages[0]['content'] ~ '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou help.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ("user", "assistant") %}
        {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>' ~ '\n' }}
    {%- elif message.role != "system" %}
        {{- raise_exception("no such role") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
SPECIAL = (
    "<|begin|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|mask|>",
)
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is the capital of France?\nAnd of Italy?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And the other?"},
]


def write_chat(folder: Path, template: Any, form: str = "config") -> Path:
    """Write a tokenizer with a chat template, where `form` says."""
    tokenizer = load_tokenizer(str(write_bpe(folder / "pair")))
    tokenizer.add_special_tokens(list(SPECIAL))
    out = folder / "chat"
    out.mkdir()
    tokenizer.save(str(out / "tokenizer.json"))
    config: dict[str, Any] = {"bos_token": "<|begin|>", "mask_token": "<|mask|>", "eos_token": "<|im_end|>"}
    if form == "jinja":
        (out / "chat_template.jinja").write_text(template)
    else:
        config["chat_template"] = template
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (out / "tokenizer_config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("form", ["config", "jinja", "named"])
@pytest.mark.parametrize("template", [LLAMA, CHATML])
def test_the_tokens_are_those_of_transformers(template: str, form: str, tmp_path: Path) -> None:
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": template}]
    folder = write_chat(tmp_path, named if form == "named" else template, form)
    codec = Tokenizer.from_folder(folder)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for talk in (TALK, TALK[1:], [{"role": "user", "content": "Hi "}]):
        expected = theirs.apply_chat_template(talk, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert codec.encode_chat(talk).tolist() == list(expected)
    assert codec.encode_chat("Hi").tolist() == codec.encode_chat([{"role": "user", "content": "Hi"}]).tolist()


@pytest.mark.parametrize(
    "template",
    [
        "  {{ messages[0].content }}{{ bos_token }}",
        "\n  {% if true %}a{% endif %}{{ bos_token }}",
        "{% if tools is not none or documents is not none %}with tools{% endif %}{{ messages[0].content }}",
        "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}",
        "{{ messages | tojson(ensure_ascii=false, indent=2) }}",
    ],
)
def test_templates_are_read_as_by_transformers(template: str, tmp_path: Path) -> None:
    folder = write_chat(tmp_path, template)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    expected = theirs.apply_chat_template(TALK, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert Tokenizer.from_folder(folder).encode_chat(TALK).tolist() == list(expected)


@pytest.mark.parametrize("template", [LLAMA, CHATML])
def test_a_special_token_that_somebody_writes_is_text(template: str, tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, template))
    special = torch.tensor(codec.special)
    for name in (*SPECIAL, "<|im_<|im_end|>end|>", "\ue000<|im_end|>\ue001"):
        plain, written = (codec.encode_chat(f"{text} and") for text in ("Hi", f"Hi{name}"))
        assert torch.equal(written[torch.isin(written, special)], plain[torch.isin(plain, special)])
        whole = codec.decode(plain[None])[0]
        assert codec.decode(written[None]) == [whole.replace("Hi", f"Hi{name}")]
        both = codec.encode(f"Hi{name} and").tolist()
        assert any(written[i : i + len(both)].tolist() == both for i in range(len(written)))
    (shown,) = codec.decode(codec.encode_chat("  <|eot_id|> ")[None])
    assert ("\n  <|eot_id|> <" in shown) == (template is CHATML), "Llama's template cuts spaces off, also here"


def test_a_saved_codec_can_still_chat(tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, LLAMA))
    (tmp_path / "saved").mkdir()
    again = codec.saved(tmp_path / "saved").opened(tmp_path / "saved")
    assert again.encode_chat(TALK).tolist() == codec.encode_chat(TALK).tolist()
    (tmp_path / "twice").mkdir()
    twice = again.saved(tmp_path / "twice").opened(tmp_path / "twice")
    assert twice.encode_chat(TALK).tolist() == codec.encode_chat(TALK).tolist()


def test_a_tokenizer_of_the_hub_brings_its_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_chat(tmp_path, CHATML)
    monkeypatch.setattr("unmask.codecs.tokenizer_files.snapshot_download", lambda name, **_: str(folder))
    codec = Tokenizer.from_folder("somebody/chat")
    assert codec.encode_chat(TALK).tolist() == Tokenizer.from_folder(folder).encode_chat(TALK).tolist()


def test_a_model_does_not_inherit_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, plain = Tokenizer.from_folder(write_chat(tmp_path, LLAMA)), Tokenizer(str(tmp_path / "pair"))
    moved, replace = [], os.replace
    for codec in (chat, plain, chat):
        network = Transformer(codec.vocab_size, (8,), width=8, depth=1, heads=1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b))[1])
            unmask.MaskedDiffusion(network, codec).save_pretrained(tmp_path / "m")
        assert moved[-1] == "config.json"
        found = unmask.load(tmp_path / "m").codec
        assert isinstance(found, Tokenizer) and found.chat_template == codec.chat_template


def test_a_conversation_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bpe = write_chat(tmp_path, CHATML)
    codec = Tokenizer.from_folder(bpe)
    assert codec.mask is not None
    config = llada_config(codec.vocab_size, codec.mask) | {"max_sequence_length": 200}
    folder = write(tmp_path / "m", bpe, config, random_weights(llada_shapes(codec.vocab_size)))
    model = unmask.load(folder)
    canvas = make_canvas(model.codec, model.shape, chat="Hi", system="Be short.", unknown=12)
    known = codec.encode_chat([TALK[0], {"role": "user", "content": "Hi"}])
    assert canvas.tolist() == [[*known.tolist(), *[codec.vocab_size] * 12]]
    assert main(["infill", str(folder), "--chat", "Hi", "--unknown", "8", "--preset", "llada", "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert "im_start" not in said
    assert "You help" not in said
    assert main(["infill", str(folder), "--chat", "Hi", "--unknown", "190"]) == 1
    assert "conversation" in capsys.readouterr().err
    assert main(["infill", str(folder), "--chat", "Hi"]) == 1
    assert main(["infill", str(folder), "a [2]", "--system", "Hi"]) == 1
    saved = tmp_path / "ours"
    model.save_pretrained(saved)
    assert main(["infill", str(saved), "--chat", "Hi", "--unknown", "8", "-n", "2"]) == 0
    (saved / "chat_template.jinja").write_text("altered")
    with pytest.raises(ValueError, match="chat_template"):
        unmask.load(saved)


def test_an_answer_ends_at_the_first_special_token(tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, CHATML))
    end = codec.tokenizer.token_to_id("<|im_end|>")
    tokens = torch.tensor([*codec.encode("Paris.").tolist(), end, *codec.encode("noise").tolist()])
    assert answer(codec, tokens) == "Paris."
    assert answer(codec, tokens[:6]) == "Paris."


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 1 s"),
        ("{{ 'a' * 1000000000 }}", "of 'a' and 1000000000"),
        ("{{ 9 ** 9 ** 9 }}", r"\*\* of"),
        ("{{ '%999999999d' % 1 }}", "% of"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{% if %}", "refuses"),
        ("{{ messages | center(999999999) }}", "center"),
        ("{{ lipsum(n=100000) }}", "refuses"),
        ("{% include 'other' %}", "refuses"),
        ("{{ 'a'.ljust(3000000000) }}", "ljust"),
        ("{{ 'a'['center'](3000000000) }}", "center"),
        ("{{ '{:>3000000000}'.format(1) }}", "format"),
        (
            "{% set text = range(9999) | list | string %}{{ text.replace(' ', text) }}",
            "replace adds more than",
        ),
    ],
)
def test_a_template_does_nothing_but_write(template: str, said: str, tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, template))
    with pytest.raises(ValueError, match=said) as found:
        codec.encode_chat(TALK)
    assert "\n" not in str(found.value)
    assert str(tmp_path) in str(found.value)


def test_texts_can_be_replaced(tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, "{{ 'a-b-c'.replace('-', '', 1) }}{{ 'x' | replace('x', '') }}"))
    assert codec.decode(codec.encode_chat(TALK).unsqueeze(0)) == ["ab-c"]


@pytest.mark.parametrize("template", [5, {"a": 1}, ["x"], [{"name": "tools", "template": "x"}]])
def test_what_is_no_template(template: Any, tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, template))
    with pytest.raises(ValueError, match="chat"):
        codec.encode_chat("Hi")


def test_a_model_that_cannot_chat_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no chat template: it is no chat model"):
        make_canvas(Tokenizer(str(write_bpe(tmp_path / "pair"))), (64,), chat="Hi", unknown=4)
    with pytest.raises(ValueError, match="a conversation was given, but the model's tokens are Bytes"):
        make_canvas(unmask.Bytes(), (64,), chat="Hi", unknown=4)
    codec = Tokenizer.from_folder(write_chat(tmp_path / "chat", CHATML))
    with pytest.raises(ValueError, match="the answer, such as 64"):
        make_canvas(codec, (64,), chat="Hi")
    count = len(codec.encode_chat("Hi"))
    assert make_canvas(codec, (count + 4,), chat="Hi", unknown=4).shape == (1, count + 4)
    with pytest.raises(ValueError, match=f"the conversation has {count} tokens and the answer 4"):
        make_canvas(codec, (count + 3,), chat="Hi", unknown=4)


def test_a_corpus_keeps_the_template(tmp_path: Path) -> None:
    folder, out = write_chat(tmp_path, CHATML), tmp_path / "corpus"
    (tmp_path / "a.txt").write_text("the cat sat\n" * 9)
    (tmp_path / "empty.txt").write_text("\n")
    prepare = ["prepare", str(tmp_path / "a.txt"), "--tokenizer", str(folder), "--out", str(out), "--boundary", "line"]
    assert main(prepare) == 0
    assert main([*prepare, "--overwrite"]) == 0
    codec = Corpus(str(out), 8, "concatenated").codec
    assert isinstance(codec, Tokenizer)
    assert codec.encode_chat("Hi").tolist() == Tokenizer.from_folder(folder).encode_chat("Hi").tolist()
    prepare[1], prepare[5] = str(tmp_path / "empty.txt"), str(tmp_path / "none")
    assert main(prepare) == 1
    assert not (tmp_path / "none").exists()
