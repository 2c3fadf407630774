"""The Hugging Face Hub: what goes wrong there, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

from unmask.storage.folders import CHECKPOINT, CONFIG, RUN, TEMPLATE, TOKENIZER, WEIGHTS, find_folder, is_weights

SMALL = (
    CONFIG,
    TOKENIZER,
    "added_tokens.json",
    TEMPLATE,
    "merges.txt",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Files of models beside their weights."""
SHARDS = {"model.safetensors.index.json": "model-*.safetensors", "pytorch_model.bin.index.json": "pytorch_model-*.bin"}
"""What the files of weights are called that an index names."""
CLIENTS = ("httpx", "httpx2", "requests", "urllib3", "huggingface_hub")
"""Packages whose errors are those of a connection."""


def download_model(repo_id: str, weights: tuple[str, ...], **download: Any) -> Path:
    """Download a model's folder from the Hub; `weights` are names that its weights may have.

    Raises:
        FileNotFoundError: no such repository within reach.
    """
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=[*SMALL, WEIGHTS], **download))
        if not (folder / WEIGHTS).is_file():  # some public models have none
            shards = next((pattern for index, pattern in SHARDS.items() if (folder / index).is_file()), None)
            snapshot_download(repo_id, allow_patterns=[CONFIG, *([shards] if shards else weights)], **download)
        return folder
    except HFValidationError:
        raise FileNotFoundError(f"{repo_id}: no such folder") from None
    except Exception as error:
        if not is_connection_error(error):
            raise
        reason = first_line(error)
        raise FileNotFoundError(
            f"{repo_id}: no such folder, and the Hub cannot be asked or has none ({reason})"
        ) from error


def check_model(name: str) -> None:
    """Raise an error, without importing torch, where there is no folder of that name, nor a model on the Hub.

    Raises:
        FileNotFoundError: neither; or a run that has no checkpoint yet.
        ValueError: it is a file.
    """
    if is_weights(name):
        return
    folder = find_folder(name)
    if folder is None:
        download_model(name, ())
    elif not (folder / CONFIG).is_file() and not (folder / CHECKPOINT).is_file():
        run = (folder / RUN).is_file()
        raise FileNotFoundError(
            f"{folder}: a run that has neither a model nor a checkpoint yet: let it go on with --resume"
            if run
            else f"{folder / CONFIG}: no such file; a model's folder holds {CONFIG} and {WEIGHTS}"
        )


@contextmanager
def publishing(name: str) -> Iterator[None]:
    """Turn what goes wrong when something is published under a name into one line.

    Raises:
        ValueError: (in place of the Hub's errors) not a name for the Hub.
        ConnectionError: not logged in, no such right, or no connection.
    """
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{name}: not a name for the Hub, such as yourself/model: {error}") from None
    except LocalTokenNotFoundError:
        raise ConnectionError("not logged in to the Hub: hf auth login") from None
    except Exception as error:
        if not is_connection_error(error):
            raise
        raise ConnectionError(f"{name}: cannot be published: {first_line(error)} (hf auth login?)") from None


def is_connection_error(error: Exception) -> bool:
    """Return whether an error is one of the network's, of the Hub's, or of the operating system's."""
    return isinstance(error, OSError) or any(cls.__module__.split(".")[0] in CLIENTS for cls in type(error).__mro__)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
