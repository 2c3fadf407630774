"""Data sets: one file each. They yield clean tokens and nothing else; importing one downloads nothing."""

from unmask.data.arrays import Arrays
from unmask.data.base import DataSet, Examples, Split, Windows
from unmask.data.categories import Categories
from unmask.data.cifar10 import CIFAR10
from unmask.data.corpus import Corpus
from unmask.data.digits import Digits
from unmask.data.fasta import FASTA
from unmask.data.imagenet64 import ImageNet64
from unmask.data.images import Images
from unmask.data.lines import Lines
from unmask.data.mnist import MNIST
from unmask.data.pairs import Pairs
from unmask.data.pydocs import PyDocs
from unmask.data.sequences import Sequences
from unmask.data.smiles import SMILES
from unmask.data.text8 import Text8
from unmask.data.textfile import TextFile

__all__ = [
    "CIFAR10",
    "FASTA",
    "MNIST",
    "SMILES",
    "Arrays",
    "Categories",
    "Corpus",
    "DataSet",
    "Digits",
    "Examples",
    "ImageNet64",
    "Images",
    "Lines",
    "Pairs",
    "PyDocs",
    "Sequences",
    "Split",
    "Text8",
    "TextFile",
    "Windows",
]
