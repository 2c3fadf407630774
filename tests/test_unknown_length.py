"""Holes of unknown length: their posterior on distributions in which it is known, its errors, and what is refused."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

import unmask
from oracle import MarkovChain, Oracle, Table
from test_pretrained import LENGTH, MASK, SPECIAL, random_model
from test_pretrained import V as WORDS
from unmask.canvas import text_canvas
from unmask.cli.main import main
from unmask.evaluation.known_text import known_text_nats
from unmask.evaluation.unknown_length import (
    LengthPosterior,
    hole_ranges,
    infill_unknown_length,
    length_posterior,
    log_p_of_lengths,
    read_prior,
)
from unmask.networks.marginal import Marginal
from unmask.networks.pretrained import Pretrained
from unmask.randomness import seeded

LETTERS, FILL, MOST = 3, 3, 6


class Texts(Oracle):
    """Texts of 1..6 letters, a table for each length, filled up with a fourth token."""

    def __init__(self) -> None:
        super().__init__(LETTERS + 1, (MOST,))
        self.tables = nn.ModuleList(Table(LETTERS, n, seed=n, peak=2.0) for n in range(1, MOST + 1))
        self.place = nn.Parameter(torch.zeros(1))

    def marginals(self, x_t: Tensor, potential: Tensor | None = None) -> Tensor:
        n = MOST - (x_t == FILL).flip(1).long().cumprod(1).sum(1)
        assert not (x_t == FILL)[:, 0].any() and len(n.unique()) == 1
        count = int(n[0])
        inside = torch.where(x_t == self.mask_id, LETTERS, x_t)[:, :count]
        p = torch.zeros(*x_t.shape, LETTERS + 1, dtype=torch.float64)
        p[:, :count, :LETTERS] = self.tables[count - 1].marginals(inside)
        p[:, count:, FILL] = 1
        return p


class Chain(MarkovChain):
    """A Markov chain that takes texts of any length."""

    any_length = True

    def __init__(self, length: int = 40, seed: int = 0) -> None:
        super().__init__(3, length, seed)
        self.place = nn.Parameter(torch.zeros(1))

    def log_p_known(self, canvas: Tensor) -> float:
        """The probability of what a canvas shows, by the forward algorithm."""
        seen = torch.nn.functional.one_hot(canvas, 4)[:, :3].double() + (canvas == 3).double().unsqueeze(1)
        forward = self.start * seen[0]
        for row in seen[1:]:
            forward = forward @ self.step * row
        return math.log(forward.sum())


def texts(counts: tuple[int, ...] | None = (4, 1, 3, 6, 2, 1)) -> unmask.MaskedDiffusion:
    about = {} if counts is None else {"lengths": {"fill": FILL, "counts": list(counts)}}
    return unmask.MaskedDiffusion(Texts(), unmask.Characters("abc."), about=about)


def chain(length: int = 40) -> unmask.MaskedDiffusion:
    return unmask.MaskedDiffusion(Chain(length), unmask.Characters("abc"))


def p_known(table: Table, canvas: Tensor) -> float:
    """The probability of what a canvas shows, by enumeration."""
    return float(table.p[((table.states == canvas) | (canvas == LETTERS + 1)).all(1)].sum())


PRIORS: list[Any] = [
    ("a[1-3]b", None),
    ("a[1-3]b", [1, 4, 2]),
    ("[1-4]c", [1.0, 0.0, 2.0, 1.0]),
    ("[1-2]a[1-2]c", None),
    ("[1-2]a_[1-2]", [[1, 2], [3, 1]]),
    ("[1-5]", None),
]


@pytest.mark.parametrize(("text", "prior"), PRIORS)
def test_the_posterior_is_exact_for_an_exact_network(text: str, prior: Any) -> None:
    model = texts()
    found = length_posterior(model, text, prior=prior)
    weights = [1.0] * len(found.k) if prior is None else prior
    if prior and isinstance(prior[0], list):
        weights = [math.prod(pair) for pair in itertools.product(*prior)]
    exact = []
    for k, weight, bound in zip(found.k, weights, found.bound, strict=True):
        canvas = text_canvas(model.codec, found.filled_in(k), MOST)
        known = p_known(model.network.tables[len(canvas) - 1], canvas)  # type: ignore[index, arg-type]
        assert bound == pytest.approx(-math.log(known), abs=1e-6)
        p_n = float(log_p_of_lengths(model, torch.tensor([len(canvas)])).exp())
        exact.append(weight * p_n * known)
    p = torch.tensor(exact, dtype=torch.float64) / sum(exact)
    torch.testing.assert_close(torch.tensor(found.probability).double(), p, rtol=0, atol=1e-6)
    assert max(found.error) < 1e-6 and max(found.bound_error) < 1e-6
    assert found.best() == found.k[int(p.argmax())]
    weight = torch.tensor(found.log_weight, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(weight, p, rtol=0, atol=1e-6)
    draws = [found.choose("draw", 7, i) for i in range(3000)]
    counts = [draws.count(k) for k in found.k]
    wanted = [3000 * float(q) for q in p if q]
    assert chisquare([c for c, q in zip(counts, p, strict=True) if q], wanted).pvalue > 1e-3
    assert sum(counts) == 3000 and not any(c for c, q in zip(counts, p, strict=True) if not q)


def test_the_distribution_of_lengths_matters() -> None:
    p = length_posterior(texts((0, 0, 50, 0, 50, 0)), "a[1-3]b").probability
    assert p[1] < 0.1 * min(p[0], p[2])
    assert log_p_of_lengths(texts((0, 0, 50, 0, 50, 0)), torch.tensor([3])).exp() == pytest.approx(0.5, abs=0.02)
    assert log_p_of_lengths(chain(), torch.tensor([3, 4])).tolist() == [0, 0]


def test_a_network_of_one_length_marginalises_what_follows() -> None:
    model = unmask.MaskedDiffusion(Table(4, 5, seed=3), unmask.Characters("abcd"))
    model.network.place = nn.Parameter(torch.zeros(1))
    table = model.network
    assert isinstance(table, Table)
    found = length_posterior(model, "b[1-3]d")
    for k, bound in zip(found.k, found.bound, strict=True):
        x = table.states
        assert bound == pytest.approx(-math.log(table.p[(x[:, 0] == 1) & (x[:, k[0] + 1] == 3)].sum()), abs=1e-6)


def test_on_a_chain_of_any_length_it_is_exact_too() -> None:
    model = chain()
    text = "abca[1-6]bbac"
    found = length_posterior(model, text, evaluations=64)
    exact = [model.network.log_p_known(text_canvas(model.codec, found.filled_in(k), 40)) for k in found.k]
    expected = torch.tensor(exact, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(torch.tensor(found.probability).double(), expected, rtol=0, atol=1e-6)
    assert len({round(p, 6) for p in found.probability}) == 6


LONG = "abcabbacabcccab" + "[1-3]" + "bbacacacbabcaab"


def test_estimates_are_right_within_their_errors() -> None:
    """With fewer evaluations than known tokens the bound is estimated; errors are neither too small nor too large."""
    model, seeds = chain(), range(60)
    found = [length_posterior(model, LONG, evaluations=112, seed=seed, batch_size=128) for seed in seeds]
    exact = [-model.network.log_p_known(text_canvas(model.codec, found[0].filled_in(k), 40)) for k in found[0].k]
    p = torch.tensor(exact, dtype=torch.float64).neg().softmax(0)
    for name, error, expected in (("bound", "bound_error", torch.tensor(exact)), ("probability", "error", p)):
        values = torch.tensor([getattr(one, name) for one in found], dtype=torch.float64)
        errors = torch.tensor([getattr(one, error) for one in found], dtype=torch.float64)
        spread = values.std(0)
        assert ((values.mean(0) - expected).abs() < 4 * spread / math.sqrt(len(found))).all(), name
        assert ((errors.square().mean(0).sqrt() / spread - 1).abs() < 0.3).all(), name
        assert spread.min() > 0


def test_masks_are_common_to_all_lengths() -> None:
    """The difference of two bounds is more precise than either."""
    model = chain()
    drawn = [
        known_text_nats(model, text_canvas(model.codec, LONG.replace("[1-3]", f"[{k}]"), 40), evaluations=112)
        for k in (2, 3)
    ]
    assert (drawn[0] - drawn[1]).std() < 0.2 * drawn[0].std()


def test_the_bound_of_a_network_that_is_not_exact_is_that_of_the_objective() -> None:
    torch.manual_seed(0)
    body = random_model("bert")
    network = Pretrained(WORDS, (LENGTH,), body=body, mask=MASK, special=SPECIAL).eval()
    model = unmask.MaskedDiffusion(network, unmask.Characters("".join(chr(ord("A") + i) for i in range(WORDS))))
    text = "AKL[2]MB"  # A and B are never predicted: they are given
    canvas = text_canvas(model.codec, text, LENGTH)
    counted = torch.tensor([0, 1, 1, 0, 0, 1, 0]).bool()
    exact = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations([1, 2, 5]):
        for i, position in enumerate(order):
            x = canvas.clone()
            x[list(order[i:])] = WORDS
            exact -= network(x[None])[0, position].double().log_softmax(0)[canvas[position]].detach() / 6
    found = known_text_nats(model, canvas, evaluations=900, batch_size=300)
    assert found.mean() == pytest.approx(float(exact), abs=4 * float(found.std()) / math.sqrt(len(found)))
    coarse = torch.stack([known_text_nats(model, canvas, evaluations=8, seed=seed).mean() for seed in range(100)])
    assert coarse.mean() == pytest.approx(float(exact), abs=4 * float(coarse.std()) / math.sqrt(100))
    marginal = Marginal(network, canvas, counted)
    loss = unmask.TimeFreeELBO()(marginal, canvas[counted].expand(2000, -1), generator=seeded(0))
    assert loss.nelbo.mean() == pytest.approx(float(exact), abs=4 * float(loss.nelbo.std()) / math.sqrt(2000))
    assert length_posterior(model, "AKL[1-2]MB", evaluations=8).error[0] > 0


def test_a_marginal_network_is_that_of_the_whole_canvas() -> None:
    torch.manual_seed(0)
    network = unmask.Transformer(7, (8,), width=16, depth=1, heads=2).eval()
    torch.nn.init.normal_(network.head.weight, std=0.3)
    canvas = torch.tensor([1, 7, 3, 7, 7, 2, 5, 7])
    marginal = Marginal(network, canvas, torch.tensor([1, 0, 1, 0, 0, 1, 0, 0]).bool())
    x_t = torch.tensor([[1, 7, 2], [7, 7, 7], [7, 3, 2]])
    whole = torch.tensor([[1, 7, 7, 7, 7, 2, 5, 7], [7, 7, 7, 7, 7, 7, 5, 7], [7, 7, 3, 7, 7, 2, 5, 7]])
    expected = network(whole)[:, [0, 2, 5]]
    torch.testing.assert_close(marginal(x_t), expected)
    at = x_t == 7
    torch.testing.assert_close(marginal(x_t, at=at), expected[at])
    torch.testing.assert_close(marginal(x_t, at=unmask.Positions.of(at)), expected[at])
    x = torch.tensor([[1, 3, 2]]).expand(3, -1)
    weight = torch.ones(int(at.sum()))
    _, nll = marginal.cross_entropy(x_t, x, at=unmask.Positions.of(at), weight=weight)
    torch.testing.assert_close(nll, -expected.log_softmax(-1)[at].gather(1, x[at].unsqueeze(1)).squeeze(1))
    with pytest.raises(ValueError, match="no token is counted"):
        Marginal(network, canvas, torch.zeros(8, dtype=torch.bool))


def test_completions_have_their_lengths() -> None:
    model = texts()
    found = infill_unknown_length(model, "a[1-3]b", samples=40, seed=1)
    assert {one.k for one in found} == {(1,), (2,), (3,)}
    for one in found:
        assert one.text[0] == "a" and one.text[-1] == "b" and len(one.text) == one.k[0] + 2 == len(one.tokens)
        assert set(one.text) <= set("abc")
    assert infill_unknown_length(model, "a[1-3]b", samples=3, seed=1)[2].text == found[2].text
    posterior = length_posterior(model, "a[1-3]b")
    best = infill_unknown_length(model, "a[1-3]b", choose="best", samples=3, posterior=posterior)
    assert {one.k for one in best} == {posterior.best()}
    allowed = torch.arange(4) == 2
    assert set(infill_unknown_length(model, "a[1-3]b", allowed=allowed)[0].text[1:-1]) == {"c"}


def test_classes_have_posteriors_of_their_own() -> None:
    torch.manual_seed(0)
    network = unmask.Transformer(3, (8,), classes=2, width=16, depth=1, heads=2).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model = unmask.MaskedDiffusion(network, unmask.Characters("abc"))
    ours = [length_posterior(model, "a[1-3]b", label=label).bound for label in (None, model.labels(0, 1))]
    assert ours[0] != ours[1]


@pytest.mark.parametrize(
    ("text", "settings", "match"),
    [
        ("a[2]b", {}, "^no hole is of unknown length"),
        ("a[3-2]b", {}, r"^\[3-2\] at offset 1 goes backwards"),
        ("a[0-2]b", {}, r"^\[0-2\] at offset 1: a hole has at least 1 token$"),
        ("[1-9]a[1-9]", {}, "^the holes have 81 combinations of lengths, .* at most 64$"),
        ("a[1-99999999999999999999]b", {}, "^the holes have 99999999999999999999 combinations of lengths"),
        ("a[1-5]b", {}, "^the text has 7 tokens, the model's sequences have 6: shorten it$"),
        ("ax[1-2]", {}, "character 'x'"),
        ("a[1-2]", {"prior": [1, 2, 3]}, "^the prior needs as many weights as each hole has lengths, 2; got 3$"),
        ("[1-2][1-2]", {"prior": [[1, 2]]}, "lengths, 2; 2; got 2$"),
        ("a[1-2]", {"prior": [0, 0]}, "^the prior's weights must be at least 0, and one of each hole positive"),
        ("a[1-2]", {"prior": [-1, 1]}, "must be at least 0"),
        ("a[1-2]", {"evaluations": 1}, "evaluations must be a whole number of at least 2"),
        ("a[1-2]", {"label": torch.tensor([0])}, "a label was given"),
    ],
)
def test_what_is_refused(text: str, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        length_posterior(texts(), text, **settings)
    assert "\n" not in str(caught.value)


def test_a_learned_schedule_is_refused() -> None:
    network = unmask.Transformer(3, (8,), width=16, depth=1, heads=2)
    model = unmask.MaskedDiffusion(network, unmask.Characters("abc"), unmask.TokenPolynomial(3))
    with pytest.raises(ValueError, match="the model has a state-dependent schedule, under which"):
        length_posterior(model, "a[1-2]")


def test_small_things() -> None:
    assert hole_ranges("a[1-3] b [2-2]") == [range(1, 4), range(2, 3)]
    assert read_prior("1,2;3,1") == [[1, 2], [3, 1]] and read_prior("0.5,1") == [[0.5, 1]]
    with pytest.raises(ValueError, match="prior '1,x': expected numbers"):
        read_prior("1,x")
    posterior = LengthPosterior("a[1-2]", ((1,), (2,)), (3.0, 4.0), (0.1, 0.1), (-3.0, -4.0), (0.7, 0.3), (0.01, 0.01))
    assert posterior.filled_in((2,)) == "a[2]" and [posterior.draw(u) for u in (0.0, 0.69, 0.71)] == [(1,), (1,), (2,)]
    assert "1   0.7000 ± 0.0100   3.00 ± 0.10" in str(posterior)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = unmask.Transformer(3, (12,), width=16, depth=1, heads=2).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    unmask.MaskedDiffusion(network, unmask.Characters("abc")).save_pretrained(tmp_path / "m")
    model = unmask.load(tmp_path / "m", device="cpu")
    lengths = set()
    for seed in range(4):
        assert main(["infill", str(tmp_path / "m"), "ab[1-4]c", "--seed", str(seed)]) == 0
        out, err = capsys.readouterr()
        assert err.strip() == str(length_posterior(model, "ab[1-4]c", seed=seed)) and err.count("\n") == 5
        assert out.strip() == infill_unknown_length(model, "ab[1-4]c", seed=seed)[0].text
        lengths.add(len(out.strip()))
    assert len(lengths) > 1
    run = ["infill", str(tmp_path / "m"), "ab[1-4]c_"]
    assert main([*run, "--prior", "0,0,1,0", "--choose", "best", "-n", "2"]) == 0
    out, err = capsys.readouterr()
    assert len([line for line in out.splitlines() if len(line) == 7 and line[:2] == "ab" and line[5] == "c"]) == 2
    (tmp_path / "t.txt").write_text("ab[1-2]c\n")
    assert main(["infill", str(tmp_path / "m"), "--text_file", str(tmp_path / "t.txt")]) == 0
    assert "probability" in capsys.readouterr().err
    for wrong, said in (
        (["a[2]", "--prior", "1,1"], "--prior is of a hole of unknown length"),
        (["a[1-2]", "--prior", "1;1"], "the prior needs as many weights"),
        (["a[1-20]"], "the model's sequences have 12"),
        (["a[1-2]b", "--placeholder", "_"], "is not in the alphabet"),
    ):
        assert main(["infill", str(tmp_path / "m"), *wrong]) == 1
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
