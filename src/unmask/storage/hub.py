"""The Hugging Face Hub: what goes wrong there, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

from unmask.storage.folders import CONFIG, TOKENIZER, WEIGHTS

CLIENTS = ("httpx", "httpx2", "requests", "urllib3", "huggingface_hub")
"""Packages whose errors are those of a connection."""


def download_model(repo_id: str, weights: tuple[str, ...], **download: Any) -> Path:
    """Download a model's folder from the Hub; `weights` are names that its weights may have.

    Raises:
        FileNotFoundError: no such repository within reach.
    """
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=[CONFIG, WEIGHTS, TOKENIZER], **download))
        if not (folder / WEIGHTS).is_file():  # some public checkpoints have none
            snapshot_download(repo_id, allow_patterns=[CONFIG, *weights], **download)
        return folder
    except HFValidationError:
        raise FileNotFoundError(f"{repo_id}: no such folder") from None
    except Exception as error:
        if not is_connection_error(error):
            raise
        reason = first_line(error)
        raise FileNotFoundError(f"{repo_id}: no such folder, and not to be had from the Hub ({reason})") from error


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
