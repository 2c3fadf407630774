import pytest
import torch

from unmask.evaluation.statistics import Statistics, frechet_distance, frechet_with_error, gather
from unmask.randomness import seeded


def normal(n: int, width: int, seed: int) -> torch.Tensor:
    mix = torch.randn(width, width, generator=seeded(seed, 1))
    return torch.randn(n, width, generator=seeded(seed)) @ mix + seed


def test_one_dimension_by_hand() -> None:
    a = Statistics(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double(), 10)
    b = Statistics(torch.tensor([4.0]).double(), torch.tensor([[9.0]]).double(), 10)
    assert frechet_distance(a, b) == pytest.approx(3**2 + (2 - 3) ** 2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_it_is_the_librarys() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    real, fake = normal(200, 12, 0), normal(150, 12, 1)
    metric = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2), normalize=True).set_dtype(torch.float64)
    metric.update(real.view(-1, 3, 2, 2), real=True)
    metric.update(fake.view(-1, 3, 2, 2), real=False)
    assert frechet_distance(Statistics.of([real]), Statistics.of([fake])) == pytest.approx(
        float(metric.compute()), rel=1e-3
    )


def test_few_images_and_singular_covariances() -> None:
    few = Statistics.of([normal(5, 12, 0)])  # of rank 4
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5 * float(few.covariance.trace()))
    with pytest.raises(ValueError, match="at least 2 images are needed to fit a distribution, got 1"):
        Statistics.of([torch.zeros(1, 3)])


def test_the_error_is_the_spread_over_samples() -> None:
    real = Statistics.of(normal(20_000, 4, 0).split(3000))
    mix = torch.randn(4, 4, generator=seeded(0, 1))
    samples = [torch.randn(400, 4, generator=seeded(seed, 9)) @ mix + 0.3 for seed in range(60)]
    values, errors = torch.tensor([frechet_with_error(real, sample) for sample in samples]).T
    assert 0.6 < errors.mean() / values.std() < 1.6
    assert frechet_with_error(real, samples[0][:12])[1] is None


def test_the_error_of_labelled_samples_leaves_no_class_out() -> None:
    centres = 5 * torch.randn(10, 4, generator=seeded(0))
    real = Statistics.of([centres.repeat(2000, 1) + torch.randn(20_000, 4, generator=seeded(1))])
    samples = [centres.repeat(40, 1) + 1.2 * torch.randn(400, 4, generator=seeded(seed, 9)) for seed in range(60)]
    values, errors = torch.tensor([frechet_with_error(real, sample, period=10) for sample in samples]).T
    assert 0.6 < errors.mean() / values.std() < 1.6


def test_gather_keeps_the_order() -> None:
    x = torch.arange(10).view(5, 2)
    assert torch.equal(gather(lambda t: 2 * t, [x[:3], x[3:]]), 2 * x)
