import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import unmask
from oracle import MarkovChain, Table
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.data.base import Joined
from unmask.data.corpora import prepare_corpus
from unmask.data.corpus import Corpus
from unmask.data.images import Mirrored
from unmask.data.textfile import TextFile
from unmask.evaluation.breakdown import Breakdown, text_bytes
from unmask.evaluation.nelbo import Likelihood, evaluate
from unmask.given import mark_given
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.objectives.scalar import ContinuousELBO, DiscreteELBO, TimeFreeELBO
from unmask.objectives.token import TokenELBO
from unmask.randomness import seeded
from unmask.schedules import Cosine, TokenPolynomial


def test_it_finds_the_entropy_within_its_standard_error() -> None:
    oracle = MarkovChain(3, 64)
    x = oracle.sample(400, seeded(0))
    result = evaluate(oracle, TimeFreeELBO(), [(part, None) for part in x.split(64)], draws=4)
    exact = -oracle.log_prob(x).mean().item()
    spread = oracle.log_prob(x).std().item() / math.sqrt(400)
    assert abs(result.nats - exact) < 4 * math.sqrt(max(result.nats_error**2 - spread**2, 1e-4))
    assert spread < result.nats_error < 1.5 * spread
    assert (result.examples, result.length, result.calls) == (400, 64, 1600)
    assert oracle.evaluations == 1600


@pytest.mark.parametrize("objective", [TimeFreeELBO(), ContinuousELBO(Cosine())], ids=str)
def test_the_standard_error_covers(objective: TimeFreeELBO | ContinuousELBO) -> None:
    """Over many data sets, the results scatter around the entropy as their standard errors say, or less."""
    oracle = Table(3, 4)
    entropy = -(oracle.p * oracle.p.log()).sum().item()
    results = []
    for i in range(200):
        index = torch.multinomial(oracle.p, 100, replacement=True, generator=seeded(1, i))
        results.append(evaluate(oracle, objective, [(oracle.states[index], None)], draws=2, seed=i))
    scatter = stats.tstd([result.nats for result in results])
    said = math.sqrt(sum(result.nats_error**2 for result in results) / 200)
    assert abs(sum(result.nats for result in results) / 200 - entropy) < 4 * scatter / math.sqrt(200)
    assert 0.6 < scatter / said < 1.15


def test_draws_of_an_example_are_spread_evenly() -> None:
    oracle = Table(3, 4)
    seen = []
    oracle.register_forward_pre_hook(lambda _, arguments: seen.append((arguments[0] == oracle.mask_id).sum(1)))
    draw_loss(oracle, TimeFreeELBO(), oracle.states[:5], draws=8, generator=seeded(0))
    for example in seen[0].view(8, 5).T:
        assert example.bincount(minlength=5).tolist() == [0, 2, 2, 2, 2]


def test_units() -> None:
    nats = math.log(2) * torch.tensor([10 - 3**0.5, 10.0, 10 + 3**0.5], dtype=torch.float64)
    result = Likelihood.of(nats, torch.tensor([5, 5, 5]), calls=3)
    assert result.nats == pytest.approx(10 * math.log(2)) and result.nats_error == pytest.approx(math.log(2))
    assert result.bits == pytest.approx((2.0, 0.2))
    assert result.perplexity == pytest.approx((4.0, 4 * math.log(2) / 5))


def test_the_error_per_token_of_examples_of_many_lengths() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        tokens = rng.integers(1, 30, 200)
        nats = 2.5 * tokens + rng.normal(size=200) * tokens**0.5
        found.append(Likelihood.of(torch.from_numpy(nats), torch.from_numpy(tokens), 1).nats_per_token)
    values, errors = np.array(found).T
    assert abs(values.mean() - 2.5) < 4 * values.std() / 20
    assert 0.9 < values.std() / np.sqrt((errors**2).mean()) < 1.1


def test_given_tokens_are_conditioned_upon_and_not_counted() -> None:
    oracle = Table(3, 4)
    x, flags = oracle.states[[5, 40, 77]], torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    seen = ((oracle.states == x[:, None]) | ~flags[:, None]).all(-1)  # the states that agree with what is given
    exact = (seen * oracle.p).sum(1).log() - oracle.log_prob(x)
    result = evaluate(oracle, TimeFreeELBO(), [(torch.where(flags, -1 - x, x), None)], draws=20_000)
    assert result.length == pytest.approx(9 / 3) and result.examples == 3
    assert result.nats == pytest.approx(float(exact.mean()), abs=0.02)
    with pytest.raises(ValueError, match="every token of an example is given"):
        evaluate(oracle, TimeFreeELBO(), [(-1 - x, None)], draws=1)


def test_refusals() -> None:
    oracle = Table(3, 2)
    with pytest.raises(ValueError, match="no examples"):
        evaluate(oracle, TimeFreeELBO(), [], draws=1)
    with pytest.raises(ValueError, match="tokens must be in 0..2, got 3"):
        evaluate(oracle, TimeFreeELBO(), [(torch.tensor([[0, 3]]), None)], draws=1)
    oracle.p[:] = torch.nan
    with pytest.raises(FloatingPointError, match="example 0 has a likelihood that is not finite"):
        evaluate(oracle, TimeFreeELBO(), [(oracle.states, None)], draws=1)
    single = evaluate(Table(3, 2), TimeFreeELBO(), [(torch.tensor([[0, 1]]), None)], draws=1)
    assert math.isnan(single.nats_error)


@pytest.mark.parametrize(
    "objective",
    [TimeFreeELBO(), ContinuousELBO(Cosine()), DiscreteELBO(steps=5), TokenELBO(TokenPolynomial(3), masks=2)],
)
def test_where_the_bits_go(objective: Objective) -> None:
    oracle = Table(3, 4)
    x = oracle.states[::4]
    loss = draw_loss(oracle, objective, x, draws=2, generator=seeded(0))
    assert loss.parts.shape == (2 * len(x), 4)
    torch.testing.assert_close(loss.parts.sum(1), loss.nelbo)
    breakdown = Breakdown.empty(4, 3)
    batches = [(x[:9], None), (x[9:], None)]
    found = evaluate(oracle, objective, batches, draws=3, breakdown=breakdown)
    assert breakdown.positions.tolist() == [len(x)] * 4
    assert breakdown.values.tolist() == x.flatten().bincount(minlength=3).tolist()
    for sums in (breakdown.by_position, breakdown.by_value):
        assert sums.sum().item() / len(x) == pytest.approx(found.nats)


def test_where_the_bits_of_a_simple_law_go() -> None:
    oracle = Table(3, 4)
    oracle.p[:] = 1e-300
    oracle.p[oracle.index(torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]]))] = 0.5  # one fair coin at the second place
    breakdown = Breakdown.empty(4, 3)
    x = torch.tensor([[0, 0, 1, 2]] * 5 + [[0, 1, 1, 2]] * 5)
    evaluate(oracle, TimeFreeELBO(), [(x, None)], draws=400, breakdown=breakdown)
    mean, value = breakdown.mean_bits()
    torch.testing.assert_close(mean, torch.tensor([0.0, 1, 0, 0], dtype=torch.float64), atol=0.1, rtol=0)
    torch.testing.assert_close(value, torch.tensor([1 / 3, 1 / 3, 0], dtype=torch.float64), atol=0.1, rtol=0)


def test_given_tokens_are_no_part_of_where_the_bits_go() -> None:
    network = unmask.Transformer(4, (8,), width=8, depth=1, heads=2).eval()  # 2 bits for every token
    x = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0]] * 6)
    given = torch.zeros_like(x, dtype=torch.bool)
    given[:, :4] = given[:3, 4] = True
    breakdown = Breakdown.empty(8, 4)
    evaluate(network, TimeFreeELBO(), [(mark_given(x, given), None)], draws=200, breakdown=breakdown)
    mean, value = breakdown.mean_bits()
    expected = torch.tensor([0.0] * 4 + [2.0] * 4, dtype=torch.float64)
    torch.testing.assert_close(mean, expected, atol=0.2, rtol=0)
    torch.testing.assert_close(value, torch.tensor([2.0, 2, 0, 0], dtype=torch.float64), atol=0.1, rtol=0)
    assert breakdown.values.tolist() == [12, 9, 0, 0] and breakdown.positions.tolist() == [0] * 4 + [3, 6, 6, 6]


def test_a_model_that_has_diverged(tmp_path: Path) -> None:
    """A perplexity that no float holds is infinite; what is not finite ends after the first batch."""
    network = unmask.Transformer(4, (8,), width=8, depth=1, heads=2).eval()
    network.head.bias.data[0] = 1e5
    x, seen = torch.ones(2, 8, dtype=torch.long), []

    def batches() -> Iterator[tuple[Tensor, None]]:
        for i in range(200):
            seen.append(i)
            yield x, None

    assert evaluate(network, TimeFreeELBO(), [(x, None)], draws=1).perplexity[0] == math.inf
    network.head.bias.data[0] = math.nan
    with pytest.raises(FloatingPointError, match="example 0 has a likelihood that is not finite"):
        evaluate(network, TimeFreeELBO(), batches(), draws=1)
    assert len(seen) < 200


def test_the_bound_of_each_example() -> None:
    """Each scatters around the exact value, by less than its error says, and their mean is the figure."""
    oracle = Table(3, 4)
    x, flags = oracle.states, torch.rand(81, 4, generator=seeded(0)) < 0.3
    flags[flags.all(1)] = False
    seen = ((oracle.states == x[:, None]) | ~flags[:, None]).all(-1)
    exact = (seen * oracle.p).sum(1).log() - oracle.log_prob(x)
    batches = [(part, None) for part in torch.where(flags, -1 - x, x).split(20)]
    result = evaluate(oracle, TimeFreeELBO(), batches, draws=200)
    assert result.each is not None and result.each.tokens.tolist() == (~flags).sum(1).tolist()
    assert float(result.each.nats.mean()) == result.nats and len(result.each.nats) == 81
    off = (result.each.nats - exact) / result.each.error.clamp(min=1e-9)
    certain = result.each.tokens == 1
    torch.testing.assert_close(result.each.nats[certain], exact[certain])
    assert 0.3 < float(off[~certain].square().mean().sqrt()) < 1.3 and float(off[~certain].abs().max()) < 5
    single = evaluate(oracle, TimeFreeELBO(), [(x, None)], draws=1)
    assert single.each is not None and single.each.error.isnan().all()


def text_model(folder: Path) -> tuple[unmask.MaskedDiffusion, TextFile]:
    (folder / "t.txt").write_text("the cat sat on the mat and the dog ran to it\n" * 60)
    data = TextFile(str(folder / "t.txt"), length=16)
    network = unmask.Transformer(data.codec.vocab_size, data.shape, width=16, depth=1, heads=2)
    torch.nn.init.normal_(network.head.weight, generator=seeded(0))
    return unmask.MaskedDiffusion(network, data.codec).eval(), data


def test_a_report_writes_the_bound_of_each_example(tmp_path: Path) -> None:
    model, data = text_model(tmp_path)
    report = unmask.evaluation.likelihood(model, data, draws=4, limit=5, batch_size=2, per_example=True)
    report.write_examples(tmp_path / "e.jsonl")
    found = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert report.per_example is not None and found == [*report.per_example.rows()] and len(report.per_example) == 5
    assert set(found[0]) == {"index", "token", "nats", "error", "tokens"}
    assert np.mean([one["nats"] for one in found]) == pytest.approx(report.rows[0]["nats_per_example"].value, rel=1e-12)
    split, text = data.split("test"), (tmp_path / "t.txt").read_text()
    assert [one["index"] for one in found] == [i * len(split) // 5 for i in range(5)]
    for one in found:
        (x, _) = split[np.array([one["index"]])]
        assert model.codec.decode(x)[0] == text[one["token"] : one["token"] + 16] and one["tokens"] == 16
    plain = unmask.evaluation.likelihood(model, data, draws=4, limit=5, batch_size=2)
    assert plain.per_example is None and plain.rows == report.rows
    with pytest.raises(ValueError, match="measured with per_example=True"):
        plain.write_examples(tmp_path / "no.jsonl")
    with pytest.raises(ValueError, match="neither objective, breakdown nor per_example"):
        unmask.evaluation.likelihood(model, data, steps=[4], per_example=True)
    with pytest.raises(ValueError, match="a Report does not hold"):
        unmask.Report((), {}).write_examples(tmp_path / "no.jsonl")


def test_the_command_writes_the_bound_of_each_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = text_model(tmp_path)
    model.save_pretrained(tmp_path / "m")
    out = tmp_path / "e.jsonl"
    of = [str(tmp_path / "m"), "--data", "TextFile", "--data.path", data.path, "--data.length", "16"]
    assert main(["evaluate", "likelihood", *of, "--draws", "2", "--per_example", str(out)]) == 0
    assert str(out) in capsys.readouterr().out and len(out.read_text().splitlines()) == len(data.split("test"))
    assert main(["evaluate", *of, "--per_example", "e.txt"]) == 1
    assert "--per_example e.txt: the file must end in .jsonl" in capsys.readouterr().err


def test_places() -> None:
    x = np.arange(12).reshape(6, 2)
    some = unmask.Examples(x, chosen=np.array([4, 1]))
    joined = Joined([some, Mirrored(unmask.Examples(x[:, :, None, None]))])
    assert [some.place(i) for i in (0, 1)] == [{"row": 4}, {"row": 1}]
    assert joined.place(1) == {"split": 0, "row": 1}
    assert joined.place(9) == {"split": 1, "row": 1, "mirrored": True}
    assert unmask.Windows(np.arange(50), 8, 3, start=100).place(4) == {"token": 112}
    assert [*unmask.Windows(np.arange(50), 8, 3).spread(4)] == [0, 3, 7, 11]


def test_bits_per_byte_count_the_text_alone(tmp_path: Path) -> None:
    texts = ["the cat", "ein Käse", "a dog ran to the inn", "x"] * 10
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prepare_corpus(tmp_path / "made", [str(tmp_path / "t.jsonl")], tokenizer=str(write_bpe(tmp_path / "bpe")))
    for packing in ("padded", "filled"):
        data = Corpus(str(tmp_path / "made"), 32, packing)
        counted = text_bytes(data.split("all"), data.codec)
        assert counted.tolist() == [len(text.encode()) for text in texts]
        network = unmask.Transformer(data.codec.vocab_size, (32,), width=8, depth=1, heads=1)
        model = unmask.MaskedDiffusion(network, data.codec)
        report = unmask.evaluation.likelihood(model, data, split="all", draws=2, batch_size=3)
        row = report.rows[0]
        nats = row["nats_per_example"].value * len(texts)
        assert row["bits_per_byte"].value == pytest.approx(nats / (counted.sum().item() * math.log(2)))
