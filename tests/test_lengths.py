"""Models of texts that are filled up to one length: the lengths are drawn, the filling is given, texts end."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

import unmask
from oracle import Table
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.data.base import DataSet, Split
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.padded import Padded
from unmask.networks.transformer import Transformer

TINY = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TINY += ["--precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TINY += ["--trainer.max_steps", "3", "--evaluate_examples", "8", "--ema", "0.5", "--checkpoint_every", "2"]


def uniforms(count: int) -> torch.Tensor:
    return unmask.randomness.uniform((count,), unmask.randomness.seeded(0), torch.device("cpu"))


def chi_square(n: torch.Tensor, p: torch.Tensor) -> float:
    counts = torch.bincount(n, minlength=len(p) + 1)[1:]
    return float(chisquare(counts.numpy(), (p * len(n)).numpy()).pvalue)


def test_lengths_are_drawn_from_what_the_bound_counts() -> None:
    lengths = Lengths(9, (50, 0, 30, 20), ((50, 0, 0, 10), (0, 0, 30, 10)))
    every = torch.arange(1, 5)
    p = lengths.log_p(every).exp()
    torch.testing.assert_close(p, torch.tensor([50.25, 0.25, 30.25, 20.25], dtype=torch.float64) / 101)
    assert chi_square(lengths.draw(uniforms(20_000)), p) > 1e-3
    label = torch.arange(3).repeat(20_000)
    drawn = lengths.draw(uniforms(60_000), label)
    for one in range(3):  # the last label stands for no class
        assert chi_square(drawn[label == one], lengths.log_p(every, torch.full((4,), one)).exp()) > 1e-3
    assert torch.equal(lengths.log_p(every, torch.full((4,), 2)), lengths.log_p(every))
    within = lengths.draw(uniforms(20_000), least=2, most=3) - 1
    assert chi_square(within, p[1:3] / p[1:3].sum()) > 1e-3
    assert lengths.log_p(torch.tensor([0, 5])).tolist() == [-torch.inf] * 2
    with pytest.raises(ValueError, match=r"lengths are in 1..4, got 3..5"):
        lengths.draw(uniforms(1), least=3, most=5)


def test_lengths_that_were_never_seen_are_smoothed_by_what_was() -> None:
    rng = np.random.default_rng(0)
    drawn = np.clip(rng.normal(150, 30, 400).round().astype(int), 1, 256)
    few = Lengths.of(drawn, 256, 0)
    unseen = np.clip(rng.normal(150, 30, 4000).round().astype(int), 1, 256)
    nats = -few.log_p(torch.from_numpy(unseen)).mean()
    assert nats < 4.95, "the entropy of these lengths is 4.82 nats; a bare histogram gives some no probability"
    torch.testing.assert_close(few.log_p(torch.arange(1, 257)).exp().sum().item(), 1.0)
    even = Lengths.of(np.repeat([10, 20, 30], 1000), 40, 0)
    assert even.log_p(torch.tensor([20])).exp() > 0.33, "lengths that are like nothing beside them are not spread"


def test_an_example_and_its_filling() -> None:
    lengths = Lengths(9, (5, 0, 3, 2))
    assert lengths.canvas(torch.tensor([1, 4]), 7).tolist() == [[7, 9, 9, 9], [7, 7, 7, 7]]
    row = torch.tensor([3, 9, 4, 9, 9])
    assert lengths.cut(row).tolist() == [3, 9, 4] and not len(lengths.cut(row[3:]))
    assert lengths.filled(row[None]).tolist() == [[False, False, False, True, True]]
    ended = Lengths(9, (5, 0, 3, 2), ended=True)
    assert ended.filled(row[None]).tolist() == [[False, False, False, False, True]]
    assert ended.filled(torch.tensor([[1, 2], [1, 9], [9, 9]])).tolist() == [
        [False, False],
        [False, False],
        [False, True],
    ]
    assert lengths.measure(torch.tensor([[3, 9, 9, -10], [-4, 9, -10, -10], [1, 2, 3, 4]])).tolist() == [3, 2, 4]
    assert Lengths(9, (5, 0), targets=True).measure(torch.tensor([[-4, 1, -10, -10]])).tolist() == [1]
    every = Lengths(9, (5, 1), ((5, 0), (0, 1)), targets=True, ended=True)
    for one in (lengths, ended, every):
        assert Lengths.read(json.loads(json.dumps(one.describe()))) == one
    assert Lengths.read(None) is None and Lengths.read({"fill": 1, "counts": [2]}) == Lengths(1, (2,))
    for wrong in (
        {"fill": 1},
        {"fill": 1, "counts": []},
        {"fill": 1, "counts": [-1, 2]},
        [3],
        {"fill": 1, "counts": [1], "by_class": [[1, 1]]},
    ):
        with pytest.raises(ValueError, match="about.lengths: expected the fill token and counts"):
            Lengths.read(wrong)


class TextsOfTwoSymbols(Table):
    """Texts of 1..3 of the symbols 0 and 1, filled up with 2; p(x | n) is a random table for each n."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        n = (self.states == 2).flip(1).long().cumprod(1).sum(1)
        n = 3 - n
        is_text = (n > 0) & ((self.states != 2) | (torch.arange(3) >= n[:, None])).all(1)
        self.states, self.n = self.states[is_text], n[is_text]
        p = self.p[is_text]
        self.weight = torch.nn.Parameter(torch.zeros(()))  # says where the network is
        self.p = p / torch.zeros(4, dtype=p.dtype).index_add(0, self.n, p)[self.n]

    def marginals(self, x_t: torch.Tensor, potential: torch.Tensor | None = None) -> torch.Tensor:
        every, p = self.states, self.p
        masked = x_t[:, None] == self.mask_id  # n is known: what is masked is no filling
        weight = ((every == x_t[:, None]) | (masked & (every != 2))).all(-1) * p
        return torch.einsum("bs,slv->blv", weight, F.one_hot(every, 3).to(p.dtype)) / weight.sum(1)[:, None, None]


def texts() -> tuple[MaskedDiffusion, torch.Tensor, torch.Tensor]:
    """Return a model whose distribution is known, all its examples, and their log-probabilities."""
    network = TextsOfTwoSymbols()
    lengths = Lengths(2, (500, 200, 300))
    model = MaskedDiffusion(network, unmask.codecs.Symbols(3), about={"lengths": lengths.describe()})
    return model, network.states, network.p.log() + lengths.log_p(network.n)


class Rows(Split):
    """The examples of `texts`, as a data set gives them."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = torch.where(x == 2, -3, x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, indices: np.ndarray) -> tuple[torch.Tensor, None]:
        return self.x[indices], None

    def _chunks(self) -> Iterator[bytes]:
        yield self.x.numpy().tobytes()


@dataclass(frozen=True)
class Known(DataSet):
    codec = unmask.codecs.Symbols(3)
    shape = (3,)

    def split(self, part: str) -> Split:
        return Rows(texts()[1])


def test_the_model_of_lengths_and_texts_is_exact() -> None:
    model, x, log_p = texts()
    torch.testing.assert_close(log_p.exp().sum().item(), 1.0)
    bound = model.nelbo(x, draws=20_000, generator=unmask.randomness.seeded(0))
    torch.testing.assert_close(-bound, log_p, atol=0.03, rtol=0)
    report = unmask.evaluation.likelihood(model, Known(), draws=2000)
    assert abs(report.rows[0]["nats_per_example"].value + log_p.mean()) < 0.02
    assert "counted" in report.protocol["lengths"]
    drawn = model.sample(20_000, generator=unmask.randomness.seeded(1))
    index = (drawn[:, None] == x).all(-1)
    assert (index.sum(1) == 1).all(), "only texts are drawn"
    assert chisquare(index.sum(0).numpy(), (log_p.exp() * len(drawn)).numpy()).pvalue > 1e-3
    two = model.sample(200, length=(2, 3), generator=unmask.randomness.seeded(2))
    assert set((two != 2).sum(1).tolist()) == {2, 3}
    assert model.empty_canvas(5, 0, length=(2, 3))[:3].equal(model.empty_canvas(3, 0, length=(2, 3)))


def test_lengths_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "range.npy"
    assert main(["sample", str(run), "-n", "8", "--length", "3-5", "--out", str(out)]) == 0
    end = unmask.load(run, device="cpu").lengths
    assert end is not None and (np.load(out)[:, 5:] == end.fill).all()
    for wrong, said in (
        ("5-3", "length 5-3: the range goes backwards; the model is of texts of 1..24 tokens"),
        ("3-x", "a range such as 20-60"),
    ):
        capsys.readouterr()
        assert main(["sample", str(run), "--length", wrong]) == 1
        assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of documents of different lengths, each in a sequence by itself."""
    folder = tmp_path_factory.mktemp("padded")
    write_bpe(folder / "tokenizer")
    texts = ["the cat", "the cat sat on the mat", "a dog", "the dog ran to the cat and sat"] * 30
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = ["prepare", str(folder / "texts.jsonl"), "--tokenizer", str(folder / "tokenizer")]
    assert main([*made, "--out", str(folder / "corpus")]) == 0
    data = [
        "--data",
        "Corpus",
        "--data.path",
        str(folder / "corpus"),
        "--data.length",
        "24",
        "--data.packing",
        "padded",
    ]
    data += ["--data.split_by", "90-5-5"]
    assert main(["train", "textfile", *data, *TINY, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_what_was_given_in_training_is_given_in_sampling(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = unmask.load(run, device="cpu")
    lengths = model.lengths
    assert lengths is not None and isinstance(model.codec, unmask.Tokenizer) and lengths.fill == model.codec.end
    tokens = [len(model.codec.encode(text)) + 1 for text in ("the cat", "a dog")]
    assert {n for n, count in enumerate(lengths.counts, 1) if count} >= {n for n in tokens if n <= 24}
    assert sum(lengths.counts) >= 108
    known = {n for n, count in enumerate(lengths.counts, 1) if count}
    canvas = model.empty_canvas(200, 0)
    open_positions = (canvas == model.network.mask_id).sum(1)
    seen = torch.isin(open_positions, torch.tensor(sorted(known)))
    assert seen.float().mean() > 0.95 and len(set(open_positions.tolist())) > 1
    assert ((canvas == model.network.mask_id) | (canvas == lengths.fill)).all()
    assert torch.equal(model.empty_canvas(3, 0), canvas[:3]), "example i depends on the seed and i alone"
    x = model.sample(20, generator=unmask.randomness.seeded(1))
    assert x.shape == (20, 24) and (x < model.network.mask_id).all()
    assert model.decode(x) == [model.codec.decode(lengths.cut(row)[None])[0] for row in x]
    capsys.readouterr()
    out = run.parent / "s.jsonl"
    assert main(["sample", str(run), "-n", "3", "--out", str(out)]) == 0
    texts = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert len(texts) == 3 and not any(text.endswith("<|endoftext|>") for text in texts)
    assert main(["sample", str(run), "-n", "3", "--out", str(run.parent / "s.npy")]) == 0
    assert model.decode(torch.from_numpy(np.load(run.parent / "s.npy"))) == texts


def test_a_shorter_text_is_filled_up_as_in_training(run: Path) -> None:
    model = unmask.load(run, device="cpu")
    assert model.lengths is not None
    canvas = torch.full((2, 5), model.network.mask_id)
    network = model.network_for(canvas)
    assert isinstance(network, Padded) and network.fill == model.lengths.fill
    whole = torch.cat((canvas, torch.full((2, 19), model.lengths.fill)), 1)
    assert torch.equal(network(canvas), model.network(whole)[:, :5])
    assert model.network_for(whole) is model.network


def test_the_bound_of_a_shorter_text_is_that_of_the_filled_row(run: Path) -> None:
    model = unmask.load(run, device="cpu")
    assert model.lengths is not None and model.lengths.ended
    whole = torch.full((3, 24), model.lengths.fill)
    whole[:, :5] = torch.randint(3, (3, 5), generator=unmask.randomness.seeded(0))
    short = whole[:, :6]  # with the token that ends it
    one, other = (model.nelbo(x, draws=2000, generator=unmask.randomness.seeded(1)) for x in (short, whole))
    torch.testing.assert_close(one, other, rtol=0.02, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_stays_in_its_mode(training: bool) -> None:
    """Dropout in a loop of the user's own, in which some texts are filled in now and then."""
    network = Transformer(4, (6,), width=8, depth=1, heads=1, absolute_positions=True, dropout=0.1).train(training)
    model = MaskedDiffusion(network, unmask.Symbols(4))
    wrapped = model.network_for(torch.full((1, 4), 4), torch.tensor([True, True, True, False]))
    assert wrapped.training == training and all(part.training == training for part in network.modules())
    assert model.nelbo(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()


def test_an_unfinished_run_knows_its_lengths_too(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "model")
    assert unmask.load(tmp_path / "r", device="cpu").lengths == unmask.load(run, device="cpu").lengths


def test_a_model_that_lost_its_lengths_is_not_sampled(run: Path) -> None:
    model = unmask.load(run, device="cpu")
    del model.about["lengths"]
    with pytest.raises(ValueError, match="does not know their lengths"):
        model.sample(1)


def test_what_fills_up_is_never_drawn_inside() -> None:
    torch.manual_seed(0)
    network = Transformer(4, (6,), width=8, depth=1, heads=1)
    torch.nn.init.normal_(network.head.weight, std=3.0)
    for apart, inside in ((True, False), (False, True)):
        lengths = Lengths(3, (0, 0, 0, 9, 9, 9), apart=apart)
        model = MaskedDiffusion(network, unmask.Symbols(4), about={"lengths": lengths.describe()})
        canvas = model.empty_canvas(60, 0)
        drawn = model.infill(canvas, generator=unmask.randomness.seeded(1))
        assert bool((drawn[canvas == 4] == 3).any()) == inside


def test_a_network_that_takes_any_length_sees_the_filling_that_it_learned_from() -> None:
    class AnyLength(Transformer):
        any_length = True

    torch.manual_seed(0)
    network = AnyLength(4, (6,), width=8, depth=1, heads=1).eval()
    torch.nn.init.normal_(network.head.weight)
    short, whole = torch.tensor([[4, 1, 4]]), torch.tensor([[4, 1, 4, 3, 3, 3]])
    about = {"lengths": Lengths(3, (1,) * 6).describe()}
    for known, expected in ((about, whole), ({"data": {"packing": "filled"}}, whole.masked_fill(whole == 3, 4))):
        model = MaskedDiffusion(network, unmask.Symbols(4), about=known)
        assert torch.equal(model.network_for(short)(short), network(expected)[:, :3])
    plain = MaskedDiffusion(network, unmask.Symbols(4))
    assert torch.equal(plain.network_for(short)(short), network(short))


def test_a_known_token_that_also_fills_up_is_shown() -> None:
    codec = unmask.Characters("abc")
    network = Transformer(3, (6,), width=8, depth=1, heads=1)
    model = MaskedDiffusion(network, codec, about={"lengths": Lengths(0, (1,) * 6).describe()})
    assert model.decode(torch.tensor([[2, 0, 0]])) == ["caa"]
    assert model.decode(torch.tensor([[2, 1, 0, 0, 0, 0]])) == ["cb"]
