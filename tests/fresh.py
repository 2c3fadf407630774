"""Commands in processes of their own, where no class of a user's is imported yet, without the seconds that torch takes.

A server that has imported unmask's dependencies once forks each process.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ["unmask.model", "unmask.training.loop", "unmask.cli.train", "sklearn.datasets"]
PRELOADED += ["torch.utils.tensorboard", "s3fs", "matplotlib.backends.backend_agg"]  # of the start and end of training
SERVER.set_forkserver_preload(PRELOADED)


def run(folder: Path, *arguments: str, path: Path | None = None) -> CompletedProcess[str]:
    """Run a command in a folder, as `unmask` would; `path` comes before Python's path."""
    return finish(_command, arguments, path or folder, folder=folder)


def python(folder: Path, code: str) -> CompletedProcess[str]:
    """Run some code in a folder, as `python -c` would."""
    return finish(_code, code, folder, folder=folder)


def start_command(folder: Path, *arguments: str, shown: Path | None = None) -> BaseProcess:
    """Begin to run a command in a folder; what it prints is lost, or in the files out and err in `shown`."""
    return start(_command, arguments, folder, folder=folder, shown=shown)


def start(work: Callable[..., Any], *arguments: Any, folder: Path, shown: Path | None = None) -> BaseProcess:
    """Begin to call a function in a process of its own, which prints to the files out and err in `shown`."""
    process = SERVER.Process(target=_work, args=(work, arguments, dict(os.environ), folder, shown))
    process.start()
    return process


def finish(work: Callable[..., Any], *arguments: Any, folder: Path) -> CompletedProcess[str]:
    """Call a function of a module in a process of its own, and wait for its end."""
    with tempfile.TemporaryDirectory() as place:
        process = start(work, *arguments, folder=folder, shown=Path(place))
        process.join()
        out, err = (Path(place, name).read_text(encoding="utf-8") for name in ("out", "err"))
    return CompletedProcess([], process.exitcode or 0, out, err)


def _work(work: Callable[..., Any], arguments: tuple, environment: dict, folder: Path, shown: Path | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        target = os.open(shown / name if shown else os.devnull, os.O_WRONLY | os.O_CREAT)
        os.dup2(target, number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.exit(work(*arguments))


def _command(arguments: tuple[str, ...], path: Path) -> None:
    sys.path.insert(0, str(path))
    sys.argv = [str(Path(sys.executable).with_name("unmask")), *arguments]  # lightning starts others with the same
    from unmask.cli.main import command

    command()


def _code(code: str, path: Path) -> None:
    sys.path.insert(0, str(path))
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
