"""Keys of an API."""

from pathlib import Path


def read_keys(path: Path | str) -> tuple[str, ...]:
    """Return the keys of a file, one a line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: there is none, or one that has spaces, other characters than ASCII, or fewer than 16 of them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of keys")
    keys = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    for number, key in enumerate(keys, 1):
        if key and (len(key) < 16 or not key.isascii() or len(key.split()) > 1):
            raise ValueError(f"{path}:{number}: a key has at least 16 ASCII characters, none of them a space")
    if not any(keys):
        raise ValueError(f"{path}: has no key; a line is one, of at least 16 characters")
    return tuple(key for key in keys if key)
