"""The adapter for lm-evaluation-harness, on the exact conditionals of a known distribution."""

import itertools
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from oracle import Table
from unmask.codecs.pixels import Pixels
from unmask.codecs.text import Characters
from unmask.evaluation.harness import Harness
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.schedules import TokenPolynomial

ORACLE = Table(3, 4, peak=2.5)
ORACLE.anchor = torch.nn.Parameter(torch.zeros(()))  # says on which device it is


def ask(*pairs: Any) -> Any:
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


def exact(context: str, continuation: str) -> float:
    """Return log p(continuation | context), whatever comes after."""

    def log_p(text: str) -> float:
        codec = Characters("abc")
        agree = (ORACLE.states[:, : len(text)] == codec.encode(text)).all(1)
        return float((agree * ORACLE.p).sum().log())

    return log_p(context + continuation) - log_p(context)


@pytest.fixture
def harness() -> Harness:
    return Harness(MaskedDiffusion(ORACLE, Characters("abc")), draws=20_000)


def test_log_likelihoods_are_those_of_the_distribution(harness: Harness) -> None:
    pairs = [("ab", "ca"), ("", "abca"), ("a", "b"), ("", "bc"), ("c", "ab"), ("abcab", "ca")]
    found = harness.loglikelihood(ask(*pairs), disable_tqdm=True)
    expected = [exact(context, continuation) for context, continuation in pairs[:-1]]
    expected.append(exact("ab", "ca"))  # what is too long loses its beginning
    assert [value for value, _ in found] == pytest.approx(expected, abs=0.03)
    one = Harness(MaskedDiffusion(ORACLE, Characters("abc")), draws=1).loglikelihood(
        ask(("ab", "c")), disable_tqdm=True
    )
    assert one[0][0] == pytest.approx(exact("ab", "c"), abs=1e-9)  # a single token needs one draw
    rolling = harness.loglikelihood_rolling(ask(("abcaab",)), disable_tqdm=True)
    assert rolling == pytest.approx([exact("", "abca") + exact("", "ab")], abs=0.05)


def test_greedy_is_found_by_going_through_all(harness: Harness) -> None:
    """Exactly one continuation of a context is the greedy one: that which is generated."""
    harness = Harness(harness.model, draws=2)
    for context, length in (("", 4), ("b", 3), ("ca", 2), ("a", 1)):
        texts = ["".join(letters) for letters in itertools.product("abc", repeat=length)]
        found = harness.loglikelihood(ask(*((context, text) for text in texts)), disable_tqdm=True)
        greedy = [text for text, (_, is_greedy) in zip(texts, found, strict=True) if is_greedy]
        assert len(greedy) == 1
        if length < 4:
            request = ask((context, {"max_gen_toks": length}))
            assert harness.generate_until(request, disable_tqdm=True) == greedy


def test_generation_stops_where_it_should(harness: Harness) -> None:
    (whole,) = harness.generate_until(ask(("a", {"max_gen_toks": 3})), disable_tqdm=True)
    (cut,) = harness.generate_until(ask(("a", {"max_gen_toks": 3, "until": [whole[1]]})), disable_tqdm=True)
    assert cut == whole.split(whole[1])[0]
    (cut,) = harness.generate_until(ask(("a", {"max_gen_toks": 3, "until": whole[2]})), disable_tqdm=True)
    assert cut == whole.split(whole[2])[0]
    drawn = {"max_gen_toks": 3, "do_sample": True, "temperature": 1.0}
    texts = harness.generate_until(ask(*(("a", drawn) for _ in range(400))), disable_tqdm=True)
    counts = {text: texts.count(text) / 400 for text in set(texts)}
    best = max(counts, key=counts.__getitem__)
    assert abs(counts[best] - torch.tensor(exact("a", best)).exp()) < 4 * 0.5 / 20


def test_spaces_go_to_the_continuation() -> None:
    codec = Characters(" ab")
    harness = Harness(MaskedDiffusion(Transformer(3, (8,), width=8, depth=1, heads=1), codec), draws=4)
    context, continuation = harness._encode_pair("ab ", "ba")
    assert codec.decode(context[None]) == ["ab"] and codec.decode(continuation[None]) == [" ba"]
    assert harness.loglikelihood(ask(("ab", "")), disable_tqdm=True) == [(0.0, True)]


def test_the_harness_knows_it_by_name(tmp_path: Any) -> None:
    from lm_eval.api.registry import get_model

    model = MaskedDiffusion(Transformer(3, (8,), width=8, depth=1, heads=1), Characters("abc"))
    model.save_pretrained(tmp_path)
    made = get_model("unmask").create_from_arg_string(f"pretrained={tmp_path},draws=3,padded=False", {"batch_size": 1})
    assert isinstance(made, Harness) and made.draws == 3 and not made.padded
    assert made.loglikelihood(ask(("ab", "c")), disable_tqdm=True)[0][0] < 0


def test_refusals() -> None:
    images = MaskedDiffusion(Transformer(4, (2, 2, 1), width=8, depth=1, heads=1), Pixels(4))
    with pytest.raises(ValueError, match="the harness is for models of texts"):
        Harness(images)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        Harness(images, draws=0)
    model = MaskedDiffusion(Transformer(3, (8,), width=8, depth=1, heads=1), Characters("abc"))
    learned = MaskedDiffusion(model.network, model.codec, TokenPolynomial(3))
    with pytest.raises(ValueError, match="the harness is for models of a scalar schedule"):
        Harness(learned)
    with pytest.raises(ValueError, match="a continuation of 9 tokens is longer than the model's 8"):
        Harness(model).loglikelihood(ask(("a", "b" * 9)), disable_tqdm=True)
