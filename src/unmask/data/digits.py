"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels with 17 levels, in 10 classes."""

from dataclasses import dataclass

from unmask.codecs.pixels import Pixels
from unmask.data.base import DataSet, Examples, Part, Split, shuffled_parts


@dataclass(frozen=True)
class Digits(DataSet):
    """The digits that come with scikit-learn: 1,297 to train, 200 to validate, 300 to test, split at random once.

    Args:
        labels: whether to give the classes; without them the model is unconditional.
    """

    labels: bool = True

    @property
    def codec(self) -> Pixels:
        return Pixels(17)

    @property
    def shape(self) -> tuple[int, ...]:
        return (8, 8, 1)

    @property
    def classes(self) -> int | None:
        return 10 if self.labels else None

    def split(self, part: Part) -> Split:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        chosen = None if part == "all" else shuffled_parts(len(images), valid=200, test=300)[part]
        return Examples(images.astype("uint8").reshape(-1, *self.shape), labels if self.labels else None, chosen)
