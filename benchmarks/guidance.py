"""Does a class-conditional model draw the class that it is asked for? A small classifier says.

    python -m benchmarks.guidance MODEL [-n 500] [--tokens_per_call 4]

The classifier (support vectors, of scikit-learn) has learned from the training images, and has not seen the model.
"""

import argparse
import math

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.sampling import show
from unmask.data.base import DataSet
from unmask.evaluation.perplexity import mean_error, token_entropy
from unmask.opening import load
from unmask.randomness import generators
from unmask.samplers.first_hitting import FirstHitting
from unmask.storage.description import build

MOST = 10_000
"""Training images that the classifier sees."""


def main() -> None:
    """Print the table."""
    from sklearn.svm import SVC

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-n", "--samples", type=int, default=500)
    parser.add_argument("--tokens_per_call", type=int, default=1)
    settings = parser.parse_args()
    model = load(settings.model)
    classes = model.network.classes
    if classes is None:
        raise SystemExit(f"{settings.model}: the model has no classes")
    data: DataSet = build(DataSet, model.about["data"], settings.model)
    train, test = data.split("train"), data.split("test")
    few = np.random.default_rng(0).permutation(len(train))[:MOST]
    x, y = train[np.sort(few)]
    classifier = SVC().fit(x.flatten(1).numpy(), y.numpy())
    x, y = test[np.arange(len(test))]
    label = torch.arange(settings.samples) % classes
    rows = {"real test images": accuracy(classifier, x, y)}
    for guidance in tqdm((0.0, 1.0, 2.0, 4.0), desc="guidance"):
        sampler = FirstHitting(guidance=guidance, tokens_per_call=settings.tokens_per_call)
        parts = []
        for start in range(0, settings.samples, 100):
            here = label[start : start + 100]
            parts.append(model.sample(len(here), here, sampler=sampler, generator=generators(0, len(here), start)))
        drawn = torch.cat(parts)
        entropy = mean_error(token_entropy(drawn))
        rows[f"guidance {guidance:g}"] = (
            f"{accuracy(classifier, drawn, label)}, entropy {entropy[0]:.3f} ± {entropy[1]:.3f}"
        )
    show("share that the classifier gives the class asked for; entropy of an image's tokens in nats", rows)


def accuracy(classifier: object, x: torch.Tensor, y: torch.Tensor) -> str:
    """Return the share of images that get their label, with its standard error."""
    share = float((classifier.predict(x.flatten(1).numpy()) == y.numpy()).mean())  # type: ignore[attr-defined]
    return f"{share:.3f} ± {math.sqrt(share * (1 - share) / len(y)):.3f}"


if __name__ == "__main__":
    main()
