"""Packages that are not needed by all: what needs them, and how they are installed."""

PACKAGES = {
    "lightning": ("unmask train", "train"),
    "matplotlib": ("unmask train, study and plot", "train"),
    "tensorboard": ("the logs of unmask train in TensorBoard", "train"),
    "PIL": ("images, pictures and animations", "images"),
    "sklearn": ("unmask train digits", "demo"),
    "tokenizers": ("unmask prepare, and models of tokenised text", "text"),
    "datasets": ("unmask prepare --hub", "text"),
    "pyarrow": ("Parquet files", "text"),
    "transformers": ("unmask evaluate generate: the judge", "causal"),
    "mauve": ("unmask evaluate generate --mauve", "mauve"),
    "torch_fidelity": ("unmask evaluate frechet with Inception's features", "fid"),
    "rdkit": ("unmask evaluate molecules", "molecules"),
    "datatrove": ("unmask.data.trove", "datatrove"),
    "s3fs": ("corpora and models under s3://", "remote"),
    "gcsfs": ("corpora and models under gs://", "remote"),
    "fastapi": ("unmask serve", "serve"),
    "uvicorn": ("unmask serve", "serve"),
    "lm_eval": ("python -m unmask.evaluation.harness", "harness"),
}
"""By the name of the module: what needs it, and the extra that installs it."""
