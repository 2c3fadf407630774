"""unmask.pull: a run, a model or a corpus that lies elsewhere, in a folder of this machine."""

from contextlib import suppress
from pathlib import Path

from unmask.storage.checkpoint import checkpoint_step, remove_unused_shards
from unmask.storage.files import HOLDER, LOCK
from unmask.storage.folders import CHECKPOINT, CONFIG, INDEX, RUN
from unmask.storage.mirror import Mirror, read_mirror, receive
from unmask.storage.remote import check_url, child, fetch, is_remote, names_below
from unmask.storage.run_folder import CONTENTS, codec_files, held
from unmask.training.run import read_record


def pull(url: str, folder: Path | str) -> int | None:
    """Fetch what a run with `Run.mirror` has copied elsewhere, or what `unmask push` has put there.

    A run that is in the folder already is brought to the checkpoint of its copy, unless it is further than that.

    Args:
        url: of the run's copy, of a model or of a corpus, such as s3://bucket/run.
        folder: to write.

    Returns:
        The step of the run's checkpoint in the folder; None for a model or a corpus.

    Raises:
        FileNotFoundError: none of these is there, or no checkpoint was copied yet.
        ValueError: something else is in the folder, or what is fetched is damaged.
        BlockingIOError: a process trains into the folder.
        ConnectionError, ImportError: it cannot be read; says why.

    Example:
        step = unmask.pull("s3://bucket/runs/mine", "runs/mine")
    """
    check_url(url, "what is pulled")
    if not str(folder) or is_remote(folder) or Path(folder).is_file():
        raise ValueError(f"{str(folder)!r} is no folder of this machine")
    folder = Path(folder)
    mirror = read_mirror(url)
    if mirror is not None:
        return _pull_run(url, folder, mirror)
    names = names_below(url)
    if not {CONFIG, INDEX} & names:
        raise FileNotFoundError(f"{url}: no copy of a run, no model and no corpus is there")
    here = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    if here - names or here & {CONFIG, INDEX}:  # else an earlier one was cut off
        raise ValueError(f"{folder}: is not empty; name another folder")
    for name in sorted(names, key=lambda name: name in (CONFIG, INDEX)):
        fetch(child(url, name), folder / name)
    return None


def _pull_run(url: str, folder: Path, mirror: Mirror) -> int:
    with held(folder):
        known = read_record(folder).get("id") if (folder / RUN).is_file() else None
        others = [entry.name for entry in folder.iterdir() if entry.name not in (LOCK, HOLDER)]
        if known != mirror.run and (known is not None or others):
            raise ValueError(f"{folder}: holds something else than the run at {url}; name another folder")
        step = -1
        with suppress(FileNotFoundError, ValueError):  # none, or a damaged one
            step = checkpoint_step(folder / CHECKPOINT)
        if step > mirror.step:
            return step
        receive(url, folder, lambda path: path == RUN)  # which says what else is the run's
        own = {RUN, *CONTENTS, *codec_files(folder)}
        mirror = receive(url, folder, lambda path: path.partition("/")[0] in own)
        remove_unused_shards(folder / CHECKPOINT.parent)
        return mirror.step
