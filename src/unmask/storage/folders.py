"""Where things lie in the folders of models and runs. Light: nothing heavy is imported to look a folder up."""

import difflib
import hashlib
import os
from pathlib import Path

from unmask.storage.remote import MIRROR, child, fetch_folder, folders_in, is_remote, last_name

CONFIG, WEIGHTS, CARD, TOKENIZER = "config.json", "model.safetensors", "README.md", "tokenizer.json"
TEMPLATE = "chat_template.jinja"
"""Files of a model's folder."""
SAVED = ".saved"
"""In a model's folder: files that belong into it (`unmask.storage.model_files.finish_saving`)."""
RUN, CHECKPOINT, MODEL = "run.json", Path("checkpoints", "last.safetensors"), "model"
BEST = Path("checkpoints", "best.safetensors")
"""Of a run's folder: its settings, its last checkpoint, and the folder of its model once it is finished."""
INDEX = "index.json"
"""Of a corpus's folder: the file that says what it is."""
KINDS = (".json", ".safetensors", ".jinja", ".txt", ".bin", ".model", ".md")
"""Endings of what is copied of a model elsewhere."""


def cache_folder() -> Path:
    """Return the folder for downloads and encoded texts: $UNMASK_CACHE, else unmask under the user's cache."""
    if "UNMASK_CACHE" in os.environ:
        return Path(os.environ["UNMASK_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unmask"


def _copy(url: str) -> Path:
    """Copy the model of a URL, or the run that has none yet, as far as it changed; return the folder of the copy."""
    place = cache_folder() / "models" / f"{last_name(url)}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:16]}"
    names = folders_in(url)
    if MIRROR in names:
        from unmask.storage.mirror import receive_model

        return receive_model(url, place)
    if CONFIG not in names and MODEL in names:
        return fetch_folder(child(url, MODEL), place, lambda name: name.endswith(KINDS))
    if not names & {CONFIG, RUN}:
        raise FileNotFoundError(f"{url}: neither a model nor a run: no {CONFIG} or {RUN} there")
    folder = fetch_folder(url, place, lambda name: name.endswith(KINDS))
    if CONFIG not in names and CHECKPOINT.parent.name in names:
        above = child(url, CHECKPOINT.parent.name)
        fetch_folder(above, folder / CHECKPOINT.parent, lambda name: name == CHECKPOINT.name)
    return folder


def is_weights(name: str) -> bool:
    """Return whether a name is that of a file of weights, which some public models consist of alone."""
    return name.endswith((".safetensors", ".ckpt")) and Path(name).is_file()


def find_folder(name: str) -> Path | None:
    """Return the folder of a model or of an unfinished run that a name stands for; None: it can only be on the Hub.

    Raises:
        FileNotFoundError: there is no such folder, and it is no name for the Hub or one of a similar name is there.
        ConnectionError: it is a URL, such as s3://bucket/model, of which no copy can be had.
        ValueError: it is a file.
    """
    if is_remote(name):
        return _copy(name)
    path = Path(name)
    if path.is_file():
        raise ValueError(f"{path}: is a file; a model is a folder, of a run or as save_pretrained writes it")
    if not path.is_dir():
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
        if close := difflib.get_close_matches(path.name, beside, n=1):
            raise FileNotFoundError(f"{path}: no such folder (did you mean {close[0]!r}?)")
        if path.is_absolute() or name.startswith(".") or len(path.parts) > 2:  # the Hub's names: one word, or two
            raise FileNotFoundError(f"{path}: no such folder")
        return None
    from unmask.storage.run_folder import settle_run

    settle_run(path)
    inner = path / MODEL
    return inner if not (path / CONFIG).exists() and ((inner / CONFIG).exists() or (inner / SAVED).exists()) else path
