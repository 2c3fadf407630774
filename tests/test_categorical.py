import pytest
import torch
from scipy import stats

from unmask.categorical import categorical, filter_logits
from unmask.randomness import seeded, uniform


def draw(logits: torch.Tensor, n: int, temperature: float = 1.0) -> torch.Tensor:
    u = uniform((n,), seeded(0), logits.device)
    return categorical(filter_logits(logits, temperature).expand(n, -1), u)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_frequencies(temperature: float, dtype: torch.dtype, device: torch.device) -> None:
    logits = torch.tensor([0.0, -1.0, 2.5, -4.0, 1.0], dtype=dtype, device=device)
    counts = draw(logits, 100_000, temperature).bincount(minlength=5).cpu()
    expected = 100_000 * (logits.double().cpu() / temperature).softmax(0)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_each_token_has_its_own_interval_however_improbable(device: torch.device) -> None:
    """Probabilities down to 1e-11 of a large vocabulary: the draw at the middle of token i's interval is i."""
    p = torch.full((50_257,), 1e-11, dtype=torch.float64, device=device)
    p[1000], p[40_000] = 0.6, 1 - 0.6 - p.sum() + 2e-11
    tokens = torch.tensor([0, 1, 999, 1000, 1001, 39_999, 40_000, 40_001, 50_256], device=device)
    u = p.cumsum(0)[tokens] - p[tokens] / 2
    assert categorical(p.log().expand(len(u), -1), u).tolist() == tokens.tolist()


def test_a_tail_that_float32_noise_would_cut_is_drawn(device: torch.device) -> None:
    """50,000 tokens of 4e-8 each, 0.2 % together: Gumbel-max on float32 uniforms draws them too rarely."""
    tail = 50_000
    logits = torch.cat((torch.zeros(1), torch.full((tail,), -17.0))).to(device)
    share = tail * 2.718281828459045**-17 / (1 + tail * 2.718281828459045**-17)
    hits = sum(
        int((categorical(logits.expand(500, -1), uniform((500,), seeded(1, i), device)) > 0).sum()) for i in range(16)
    )
    assert stats.binomtest(hits, 8000, share).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_uniform_number_finds_a_token(dtype: torch.dtype) -> None:
    u = torch.full((2000,), 1 - 2**-53, dtype=torch.float64)
    for vocab in (512, 513, 600, 767, 768, 769, 1000):
        logits = 3 * torch.randn(2000, vocab, dtype=dtype, generator=seeded(vocab))
        logits[:, -1] = -torch.inf
        assert categorical(logits, u).max() < vocab - 1


def test_excluded_tokens_are_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    assert set(draw(logits, 10_000).tolist()) == {1, 3}
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert categorical(logits.expand(2, -1), ends).tolist() == [1, 3]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_without_a_distribution_gives_the_mask(bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    logits[2] = -torch.inf
    assert categorical(logits, torch.full((3,), 0.3, dtype=torch.float64)).tolist() == [1, 4, 4]


@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 0.999])
def test_the_nucleus_of_a_large_vocabulary(scale: float, top_p: float, device: torch.device) -> None:
    """Of wide rows and narrow ones in one batch, found without sorting the narrow ones: the smallest set as likely."""
    logits = scale * torch.randn(6, 20_000, generator=seeded(0))
    logits[0, 7] += 30
    logits[1, :17_000] = -torch.inf
    found = filter_logits(logits.to(device), top_p=top_p).cpu()
    kept = found > -torch.inf
    assert torch.equal(found[kept], logits[kept])
    p = logits.double().softmax(1)
    total = (p * kept).sum(1)
    least = torch.where(kept, p, 2).min(1).values
    assert (total >= top_p - 1e-7).all() and (total - least < top_p + 1e-7).all()
    assert (torch.where(kept, 0, p).max(1).values <= least).all()
