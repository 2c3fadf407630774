"""The tables: which rows they have, how each is trained at which scale, and which published figure stands beside it."""

import math
from dataclasses import replace

from unmask.reproduction.published import (
    CIFAR10,
    FINITE_STEPS,
    IMAGENET64,
    OPENWEBTEXT,
    SETS,
    TEXT8,
    ZEROSHOT,
)
from unmask.reproduction.table import TIMED, Described, Row, Scale, Table


def _schedule(name: str) -> Described:
    return {"class": "ContinuousELBO", "schedule": {"class": name}}


UNIFORM = {"class": "UniformELBO", "steps": 1000, "schedule": {"class": "CosineSignal"}}
ABSORB = {"class": "HybridELBO", "steps": 1000, "auxiliary": 0.01}
TEXT_ROWS = {
    "left-to-right": Row(
        "left to right (autoregressive)",
        "left-to-right",
        {"class": "NextToken"},
        {"class": "CausalTransformer"},
        published="Transformer AR",
    ),
    "any-order": Row("any-order (ARDM)", "masked", {"class": "TimeFreeELBO"}, published="ARDM"),
    "sedd-absorb": Row(
        "SEDD absorb",
        "scores",
        {"class": "ScoreEntropy", "schedule": {"class": "Linear"}},
        TIMED,
        published="SEDD absorb",
    ),
    "d3pm-absorb": Row("D3PM absorb", "masked", ABSORB, TIMED, published="D3PM absorb"),
    "d3pm-uniform": Row("D3PM uniform", "uniform", UNIFORM, TIMED, published="D3PM uniform"),
    "gaussian": Row(
        "Gaussian diffusion (Plaid)",
        "vectors",
        {"class": "GaussianELBO"},
        {"class": "GaussianTransformer", "dim": 16, "self_conditioning": False},
        {"schedule_lr": 1e-2},
        published="Plaid",
    ),
    **{
        f"md4-{name.lower()}": Row(f"MD4, {name.lower()} schedule", "masked", _schedule(name), TIMED, published="MD4")
        for name in ("Linear", "Polynomial", "Geometric", "Cosine")
    },
    "genmd4": Row(
        "GenMD4", "learned schedule", {"class": "TokenELBO"}, TIMED, {"schedule_lr": 5e-3}, published="GenMD4"
    ),
}
PIXEL_ROWS = {
    "left-to-right": Row(
        "left to right (autoregressive)",
        "left-to-right",
        {"class": "NextToken"},
        {"class": "CausalTransformer"},
        published="Sparse Transformer",
        paper=False,
    ),
    "any-order": Row("any-order (ARDM)", "masked", {"class": "TimeFreeELBO"}, paper=False),
    "d3pm-absorb": Row("D3PM absorb", "masked", ABSORB | {"auxiliary": 0.001}, TIMED, published="D3PM absorb"),
    "d3pm-uniform": Row("D3PM uniform", "uniform", UNIFORM, TIMED),
    "md4-transformer": Row("MD4, transformer", "masked", _schedule("Cosine"), TIMED, paper=False),
    "md4": Row(
        "MD4, U-Net",
        "masked",
        _schedule("Cosine"),
        {"class": "UNet", "widths": (32,), "blocks": 2, "dropout": 0.1} | TIMED,
        published="MD4",
    ),
}
SMALL = {"lr": 2e-3, "warmup_steps": 100, "decay": "cosine", "weight_decay": 0.01}
TEXT8_TABLE = Table(
    "bits per character of text8",
    "bits_per_character",
    TEXT_ROWS,
    {
        "cpu": Scale(
            {"class": "Text8", "length": 128},
            {"class": "Transformer", "width": 128, "depth": 4, "heads": 8, "rotary_base": 100.0},
            SMALL,
            {"batch_size": 16, "ema": 0.995, "label_dropout": 0.0, "evaluate_examples": 256},
            5000,
            True,
        ),
        "paper": Scale(
            {"class": "Text8", "length": 256},
            {"class": "Transformer", "width": 768, "depth": 12, "heads": 12, "rotary_base": 10_000.0},
            {"lr": 5e-4, "warmup_steps": 2000, "decay": "cosine", "weight_decay": 0.03},
            {"batch_size": 512, "ema": 0.9999, "label_dropout": 0.0, "evaluate_examples": 2048},
            1_000_000,
            True,
        ),
    },
    TEXT8,
)
CIFAR10_TABLE = Table(
    "bits per dimension of CIFAR-10; at --scale cpu of scikit-learn's digits",
    "bits_per_dimension",
    PIXEL_ROWS,
    {
        "cpu": Scale(
            {"class": "Digits", "labels": False},
            {
                "class": "Transformer",
                "width": 96,
                "depth": 4,
                "heads": 4,
                "dropout": 0.1,
                "absolute_positions": True,
                "rotary_base": 100.0,
            },
            {"lr": 3e-3, "warmup_steps": 50, "decay": "cosine", "weight_decay": 0.05},
            {"batch_size": 32, "ema": 0.995, "label_dropout": 0.0, "evaluate_examples": 200},
            1200,
            False,
        ),
        "paper": Scale(
            {"class": "CIFAR10", "flip": True},
            {"class": "UNet", "widths": (128,), "blocks": 32, "dropout": 0.1},
            {"lr": 2e-4, "warmup_steps": 100, "decay": "constant", "beta2": 0.99, "weight_decay": 0.01},
            {"batch_size": 128, "ema": 0.9999, "evaluate_examples": 1000},
            1_000_000,
            True,
        ),
    },
    CIFAR10,
)
STEPS_TABLE = Table(
    "the bound of T steps, bits per character of text8; published: MD4 small's perplexity on LAMBADA",
    "bits_per_character",
    {name: TEXT_ROWS[name] for name in ("md4-linear", "md4-cosine")},
    TEXT8_TABLE.scales,
    FINITE_STEPS,
    (1, 10, 100, 1000, 10_000, math.inf),
)
TOKEN_ROWS = {
    name: replace(TEXT_ROWS[name], published=published, title=title)
    for name, title, published in (
        ("left-to-right", "left to right (autoregressive)", None),
        ("any-order", "any-order (ARDM)", None),
        ("sedd-absorb", "SEDD absorb", "SEDD absorb"),
        ("d3pm-absorb", "D3PM absorb", None),
        ("gaussian", "Gaussian diffusion (Plaid)", "Gaussian diffusion"),
        ("md4-linear", "MD4", "MD4"),
        ("genmd4", "GenMD4", "GenMD4"),
    )
}
CORPUS = {"class": "Corpus", "packing": "concatenated", "split_by": "last-2-percent"}
CORPUS_NEEDED = "the folder of a corpus that `unmask prepare` made"
OPENWEBTEXT_TABLE = Table(
    "perplexity per token of OpenWebText, or of any corpus",
    "perplexity_per_token",
    TOKEN_ROWS,
    {
        "cpu": Scale(
            CORPUS | {"length": 128},
            TEXT8_TABLE.scales["cpu"].network,
            SMALL,
            TEXT8_TABLE.scales["cpu"].run,
            3000,
            True,
            needed=CORPUS_NEEDED,
        ),
        "paper": Scale(
            CORPUS | {"length": 1024},
            {"class": "Transformer", "width": 768, "depth": 12, "heads": 12, "rotary_base": 10_000.0},
            {"lr": 3e-4, "warmup_steps": 2000, "decay": "cosine", "weight_decay": 0.03},
            {
                "batch_size": 32,
                "ema": 0.9999,
                "label_dropout": 0.0,
                "precision": "bf16-mixed",
                "compile": True,
                "evaluate_examples": 512,
                "workers": 2,
            },
            1_000_000,
            True,
            {"accumulate_grad_batches": 16},
            CORPUS_NEEDED,
        ),
    },
    OPENWEBTEXT,
)
ZEROSHOT_TABLE = Table(
    "zero-shot perplexity per token of models of a corpus",
    "perplexity_per_token",
    TOKEN_ROWS,
    OPENWEBTEXT_TABLE.scales,
    {},
    sets=SETS,
    published_sets=ZEROSHOT,
)
IMAGENET64_TABLE = Table(
    "bits per dimension of ImageNet 64x64; at --scale cpu of CIFAR-10",
    "bits_per_dimension",
    {
        "left-to-right": replace(PIXEL_ROWS["left-to-right"], published="Sparse Transformer"),
        **{name: PIXEL_ROWS[name] for name in ("any-order", "md4-transformer", "md4")},
    },
    {
        "cpu": Scale(
            {"class": "CIFAR10"},
            CIFAR10_TABLE.scales["cpu"].network,
            CIFAR10_TABLE.scales["cpu"].optimizer,
            CIFAR10_TABLE.scales["cpu"].run | {"batch_size": 8, "evaluate_examples": 16},
            500,
            True,
        ),
        "paper": Scale(
            {"class": "ImageNet64", "flip": True},
            {
                "class": "UNet",
                "widths": (128, 256),
                "blocks": 3,
                "middle_depth": 17,
                "middle_width": 768,
                "heads": 12,
                "dropout": 0.0,
                "checkpointing": True,
            },
            {"lr": 2e-4, "warmup_steps": 10_000, "decay": "constant", "beta2": 0.99, "weight_decay": 0.01},
            {"batch_size": 64, "ema": 0.9999, "evaluate_examples": 1000},
            2_000_000,
            True,
            needed="a folder of ImageNet 64x64",
        ),
    },
    IMAGENET64,
)
GENERATIVE_TABLE = Table(
    "perplexity of samples under a left-to-right model, and their entropy; neither means anything alone",
    "perplexity",
    {name: TOKEN_ROWS[name] for name in ("left-to-right", "sedd-absorb", "md4-linear", "genmd4")},
    OPENWEBTEXT_TABLE.scales,
    {},
    judged="texts",
    sampling_steps=(16, 64, 256),
)
FID_TABLE = Table(
    "Fréchet distance of samples; at --scale cpu of scikit-learn's digits",
    "distance",
    {name: PIXEL_ROWS[name] for name in ("md4-transformer", "md4")},
    CIFAR10_TABLE.scales | {"paper": IMAGENET64_TABLE.scales["paper"]},
    {},
    judged="images",
    sampling_steps=(64, 128, 256, 512),
)
TABLES = {
    "text8": TEXT8_TABLE,
    "openwebtext": OPENWEBTEXT_TABLE,
    "zeroshot": ZEROSHOT_TABLE,
    "cifar10": CIFAR10_TABLE,
    "imagenet64": IMAGENET64_TABLE,
    "finite-steps": STEPS_TABLE,
    "generative": GENERATIVE_TABLE,
    "fid": FID_TABLE,
}
