"""Constraints: predictions restricted to allowed tokens, and classes of characters and numbers that name them."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from scipy.stats import chisquare
from torch import Tensor

import unmask
from oracle import Table
from small_bpe import write_bpe
from test_device import OTHERS, PLANNED
from test_pretrained import LENGTH, MASK, SPECIAL, random_model
from test_pretrained import V as WORDS
from unmask.cli.main import main
from unmask.codecs.classes import allowed_tokens, parse_class
from unmask.codecs.ended import Ended
from unmask.lengths import Lengths
from unmask.networks.constrained import Constrained, check_allowed
from unmask.networks.padded import Padded
from unmask.networks.pretrained import Pretrained
from unmask.randomness import generators, seeded
from unmask.samplers.gumbel import GumbelAncestral

V, L = 3, 3
BY_POSITION = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1]]).bool()
FOR_ALL = torch.tensor([1, 0, 1]).bool()


def network(vocab_size: int = 7, length: int = 8, **settings: Any) -> unmask.Transformer:
    torch.manual_seed(0)
    made = unmask.Transformer(vocab_size, (length,), width=16, depth=1, heads=2, **settings).eval()
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made


def enumerated(oracle: Table, allowed: Tensor) -> Tensor:
    """The distribution of a draw with one token per call in a random order, every conditional renormalised."""
    allowed = allowed.expand(L, V)
    total = torch.zeros(len(oracle.states), dtype=torch.float64)
    orders = list(itertools.permutations(range(L)))
    for order, (number, state) in itertools.product(orders, enumerate(oracle.states)):
        x, probability = torch.full((1, L), V), 1.0
        for i in order:
            p = oracle.marginals(x)[0, i] * allowed[i]
            probability *= float(p[state[i]] / p.sum())
            x[0, i] = state[i]
        total[number] += probability / len(orders)
    return total


def p_value(x: Tensor, oracle: Table, p: Tensor) -> float:
    counts = torch.bincount(oracle.index(x), minlength=len(p))
    assert not counts[p == 0].any()
    return chisquare(counts[p > 0], p[p > 0] / p.sum() * len(x)).pvalue


@pytest.mark.parametrize("allowed", [FOR_ALL, BY_POSITION], ids=["for all", "by position"])
def test_every_conditional_is_renormalised(allowed: Tensor) -> None:
    oracle, n = Table(V, L, seed=1), 20_000
    expected = enumerated(oracle, allowed)
    inside = allowed.expand(L, V)[torch.arange(L), oracle.states].all(1)
    conditioned = torch.where(inside, oracle.p, 0) / oracle.p[inside].sum()
    constrained, canvas = Constrained(oracle, allowed), torch.full((n, L), V)
    for sampler in (
        unmask.FirstHitting(),
        unmask.FirstHitting(tokens_per_call=1, order=2),
        unmask.MostConfident(steps=L, measure="random", grid="uniform"),
    ):
        x = sampler(constrained, canvas, generator=seeded(3))
        assert p_value(x, oracle, expected) > 1e-3, sampler
        assert p_value(x, oracle, conditioned) < 1e-6, "it is not the joint distribution, conditioned"


def test_a_constraint_on_what_is_revealed_first_conditions_the_joint_distribution() -> None:
    oracle, allowed = Table(V, L, seed=1), torch.ones(L, V, dtype=torch.bool)
    allowed[1, 0] = False
    x = unmask.InOrder(order=(1, 0, 2))(Constrained(oracle, allowed), torch.full((20_000, L), V), generator=seeded(0))
    assert p_value(x, oracle, torch.where(oracle.states[:, 1] > 0, oracle.p, 0)) > 1e-3


@pytest.mark.parametrize("form", ["thinned", "frozen", "ancestral"])
def test_under_a_learned_schedule_too(form: Any) -> None:
    """Independent positions: whatever the times, what is drawn is their distribution restricted to what is allowed."""
    oracle, schedule = Table(V, L), unmask.TokenPolynomial(V)
    schedule.powers.data = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    single = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
    oracle.p = single[torch.arange(L), oracle.states].prod(1)
    made = (
        unmask.TokenAncestral(schedule, steps=400) if form == "ancestral" else unmask.TokenFirstHitting(schedule, form)
    )
    n = 4_000 if form == "ancestral" else 20_000
    x = made(Constrained(oracle.under(schedule.powers), BY_POSITION), torch.full((n, L), V), generator=seeded(5))
    restricted = single * BY_POSITION / (single * BY_POSITION).sum(1, keepdim=True)
    if form != "frozen":  # which is not exact for different exponents
        assert p_value(x, oracle, restricted[torch.arange(L), oracle.states].prod(1)) > 1e-3
    assert BY_POSITION[torch.arange(L), x].all()


ALL = [*PLANNED, *OTHERS, unmask.FirstHitting(top_p=0.5), unmask.FirstHitting(top_k=4), GumbelAncestral(steps=8)]


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_every_sampler_draws_allowed_tokens_only(sampler: unmask.Sampler, by_position: bool) -> None:
    x = torch.full((6, 8), 7)
    x[:, :2] = 6  # what is given is kept, allowed or not
    allowed = torch.rand(8, 7, generator=seeded(1)) < 0.5
    allowed[torch.arange(8), torch.arange(8) % 6] = True
    allowed[:, 6] = False
    allowed = allowed if by_position else torch.tensor([0, 1, 1, 0, 0, 1, 0]).bool()
    generator = generators(2, 6)
    found = sampler(Constrained(network(time_conditioning=True), allowed), x, generator=generator)
    assert (found[:, :2] == 6).all()
    assert allowed.expand(8, 7)[torch.arange(8), found][:, 2:].all()
    if by_position and not isinstance(sampler, GumbelAncestral):
        every = torch.ones(8, 7, dtype=torch.bool)
        free = sampler(Constrained(network(time_conditioning=True), every), x, generator=generators(2, 6))
        assert torch.equal(free, sampler(network(time_conditioning=True), x, generator=generators(2, 6)))


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.0])
def test_guidance(guidance: float) -> None:
    net, label, x = network(classes=2), torch.tensor([0, 1, 0, 1]), torch.full((4, 8), 7)
    allowed = torch.arange(7) > 4
    for sampler in (unmask.FirstHitting(tokens_per_call=2, order=2), unmask.EntropyBounded(0.5)):
        sampler = replace(sampler, guidance=guidance)
        drawn = sampler(Constrained(net, allowed), x, label, generator=generators(0, 4))
        assert (drawn > 4).all()
        guided = [sampler.predict(one, x, torch.ones(4), label, x == 7) for one in (Constrained(net, allowed), net)]
        assert torch.equal(guided[0], guided[1].masked_fill(~allowed, -torch.inf))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_logits_everywhere_at_flags_and_at_positions_are_the_same(dtype: torch.dtype) -> None:
    net, allowed = network().to(dtype), torch.rand(8, 7, generator=seeded(0)) < 0.5
    allowed[:, 0] = True
    constrained, x = Constrained(net, allowed), torch.full((2, 8), 7)
    at = torch.rand(2, 8, generator=seeded(1)) < 0.5
    whole = constrained(x)
    assert whole.dtype == dtype and torch.equal(whole.isneginf(), ~allowed.expand(2, 8, 7))
    assert torch.equal(whole[allowed.expand(2, 8, 7)], net(x)[allowed.expand(2, 8, 7)])
    torch.testing.assert_close(constrained(x, at=at), whole[at])
    torch.testing.assert_close(constrained(x, at=unmask.Positions.of(at)), whole[at])
    images = unmask.UNet(5, (4, 4, 1), widths=(16, 16), heads=2).eval() if dtype == torch.float64 else None
    if images is not None:
        some = torch.rand(4, 4, 1, 5, generator=seeded(0)) < 0.7
        some[..., 0] = True
        found = Constrained(images, some)(torch.full((1, 4, 4, 1), 5), torch.ones(1))
        assert torch.equal(found.isneginf()[0], ~some)


def test_short_texts_are_constrained_at_their_own_positions() -> None:
    net, x = network(), torch.full((3, 5), 7)
    model = unmask.MaskedDiffusion(net, unmask.Characters("abcdefg"))
    allowed = torch.zeros(5, 7, dtype=torch.bool)
    allowed[torch.arange(5), torch.tensor([4, 2, 0, 1, 3])] = True
    assert model.codec.decode(model.infill(x, allowed=allowed)) == ["ecabd"] * 3
    around = Padded(Constrained(net, torch.cat((allowed, torch.ones(3, 7, dtype=torch.bool)))))
    assert torch.equal(unmask.FirstHitting()(around, x), model.infill(x, allowed=allowed))
    assert set("".join(model.codec.decode(model.sample(5, allowed=torch.arange(7) < 2)))) == set("ab")
    with pytest.raises(ValueError, match=r"`allowed` is for examples of shape \(5,\), got some of shape \(6,\)"):
        model.infill(torch.full((3, 6), 7), allowed=allowed)


def test_what_leaves_nothing_is_refused() -> None:
    net = network()
    none = torch.ones(8, 7, dtype=torch.bool)
    none[5] = False
    for allowed, match in (
        (none, "^position 5: no token is allowed$"),
        (none[5], "^no token is allowed$"),
        (torch.ones(9, dtype=torch.bool), r"must be of shape \(7,\) or \(8, 7\), one flag for each token; got \(9,\)"),
        (torch.ones(9, 7, dtype=torch.bool), r"got \(9, 7\)"),
        (torch.ones(7), "must be a tensor of bool, .* got torch.float32"),
        ([True], "got list"),
    ):
        with pytest.raises(ValueError, match=match):
            check_allowed(allowed, net)
    about = {"lengths": Lengths(6, (1,) * 8, apart=True).describe()}  # which allows some tokens alone itself
    model = unmask.MaskedDiffusion(net, unmask.Symbols(7), about=about)
    with pytest.raises(ValueError, match=r"must be of shape \(7,\) or \(8, 7\), one flag for each token; got \(9,\)"):
        model.sample(2, allowed=torch.ones(9, dtype=torch.bool))
    images = unmask.UNet(5, (4, 4, 1), widths=(16, 16), heads=2)
    some = torch.ones(4, 4, 1, 5, dtype=torch.bool)
    some[2, 3] = False
    with pytest.raises(ValueError, match=r"position \(2, 3, 0\): no token is allowed"):
        Constrained(images, some)


def test_tokens_that_are_never_predicted_are_not_enough() -> None:
    net = Pretrained(WORDS, (LENGTH,), body=random_model("bert"), mask=MASK, special=SPECIAL)
    assert net.excluded
    only = torch.zeros(net.vocab_size, dtype=torch.bool)
    only[list(net.excluded)] = True
    with pytest.raises(ValueError, match="^no token is allowed but some that the model never predicts$"):
        Constrained(net, only)
    only[MASK + 1] = True
    assert Constrained(net, only).excluded == net.excluded


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("abc", "abc"),
        ("a-c", "abc"),
        ("a-cx", "abcx"),
        ("-a", "-a"),
        ("a-", "a-"),
        (r"a\-c", "a-c"),
        (r"\\", "\\"),
        (r"\n\t ", "\n\t "),
        ("+--", "+,-"),
    ],
)
def test_classes(text: str, members: str) -> None:
    alphabet = "abcdx-+,.\\ \n\t"
    allowed = allowed_tokens(unmask.Characters(alphabet), text)
    assert {c for c, flag in zip(alphabet, allowed, strict=True) if flag} == set(members)
    rest = allowed_tokens(unmask.Characters(alphabet + "!"), forbid=text)
    assert {c for c, flag in zip(alphabet + "!", rest, strict=True) if flag} == set(alphabet + "!") - set(members)


def test_classes_of_a_tokenizer(tmp_path: Path) -> None:
    write_bpe(tmp_path)
    codec = unmask.Tokenizer(str(tmp_path))
    pieces = codec.pieces()
    shown = {piece: i for i, piece in enumerate(pieces) if piece}
    assert {"th", "the", " the", " a", " an", "in"} <= set(shown) and pieces[codec.end] == ""

    def found(*classes: str | None, **settings: bool) -> set[str]:
        return {pieces[i] for i in allowed_tokens(codec, *classes, **settings).nonzero().flatten().tolist()}

    assert found("a-hnt") == {*"abcdefghnt", "th", "the", "an"}
    assert found("a-h ") == {*"abcdefgh ", " a"}
    assert found("a-h ", special=True) == {*"abcdefgh ", " a", ""}
    assert found("a-h ", " ") == set("abcdefgh")
    forbidden = found(None, "t")
    assert "" in forbidden and not any("t" in piece for piece in forbidden) and " an" in forbidden
    assert "�" in forbidden and "�" not in found(None, "t-ÿ") and "�" not in found("a-z")
    everything = allowed_tokens(codec)
    assert everything.all() and everything.shape == (codec.vocab_size,)


def test_a_space_that_every_token_adds_does_not_count(tmp_path: Path) -> None:
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel({c: i for i, c in enumerate("CNO=?")}, unk_token="?"))
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    letters.save(str(tmp_path / "tokenizer.json"))
    codec = unmask.Tokenizer(str(tmp_path / "tokenizer.json"))
    assert codec.decode(torch.tensor([[0, 1]])) == ["C N"] and codec.pieces() == list("CNO=?")
    assert allowed_tokens(codec, "A-Z", "N").tolist() == [True, False, True, False, False]


def test_classes_of_numbers() -> None:
    codec = unmask.Symbols(20)
    assert allowed_tokens(codec, "0-3, 7,12-13").nonzero().flatten().tolist() == [0, 1, 2, 3, 7, 12, 13]
    assert allowed_tokens(codec, "0-3", "1").nonzero().flatten().tolist() == [0, 2, 3]
    assert allowed_tokens(unmask.Pixels(4), forbid="0").tolist() == [False, True, True, True]
    assert allowed_tokens(unmask.Bytes(), "a-c").nonzero().flatten().tolist() == [97, 98, 99]


@pytest.mark.parametrize(
    ("codec", "classes", "match"),
    [
        (unmask.Characters("abc"), ("",), "^allow '': names no character$"),
        (unmask.Characters("abc"), ("c-a",), "^allow 'c-a': the range c-a goes backwards$"),
        (unmask.Characters("abc"), ("ax",), r"^allow 'ax': the character 'x' \(U\+0078\) is in no token of the model$"),
        (unmask.Characters("abc"), (None, "x-z"), "^forbid 'x-z': the range x-z is in no token of the model$"),
        (unmask.Characters("abc"), (None, "a-z"), "^forbid 'a-z': no token of the model is left"),
        (unmask.Characters("abc"), ("a", "a"), "^allow 'a', forbid 'a': no token of the model is left"),
        (unmask.Characters("abc"), ("a\\",), "ends in a single"),
        (unmask.Bytes(), ("é",), "is in no token of the model; its tokens are bytes"),
        (Ended(unmask.Bytes()), ("é",), "is in no token of the model; its tokens are bytes"),
        (unmask.Symbols(9), ("5-3",), "^allow '5-3': the range 5-3 goes backwards$"),
        (unmask.Symbols(9), (None, "9"), r"^forbid '9': the model's tokens are 0..8, got 9$"),
        (unmask.Symbols(9), ("1;2",), "^allow '1;2': expected numbers and ranges such as 0-9,12; got '1;2'$"),
        (unmask.Symbols(9), (None, "0-8"), "no token of the model is left"),
    ],
)
def test_wrong_classes(codec: unmask.Codec, classes: tuple[str | None, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        allowed_tokens(codec, *classes)
    assert "\n" not in str(caught.value)


def test_a_class_is_read_into_ranges() -> None:
    assert parse_class(r"a-f\-0-9 ") == [("a", "f"), ("-", "-"), ("0", "9"), (" ", " ")]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unmask.MaskedDiffusion(network(), unmask.Characters("abcdefg")).save_pretrained(tmp_path / "m")
    assert main(["sample", str(tmp_path / "m"), "-n", "4", "--allow", "a-d", "--forbid", "b"]) == 0
    assert set(capsys.readouterr().out) <= set("acd\n")
    assert main(["infill", str(tmp_path / "m"), "gg[4]g", "--forbid", "a-f"]) == 0
    assert capsys.readouterr().out == "ggggggg\n"
    assert main(["infill", str(tmp_path / "m"), "gg[4]g", "--allow", "f-d"]) == 1
    out, err = capsys.readouterr()
    assert not out and err == "unmask: error: allow 'f-d': the range f-d goes backwards\n"
    unmask.MaskedDiffusion(network(), unmask.Symbols(7)).save_pretrained(tmp_path / "s")
    assert main(["sample", str(tmp_path / "s"), "--allow", "2-3,6", "--out", str(tmp_path / "s.npy")]) == 0
    assert set(np.load(tmp_path / "s.npy").flatten().tolist()) <= {2, 3, 6}
