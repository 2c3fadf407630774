"""What `unmask serve` does, with cheap checks first."""

from collections.abc import Sequence
from pathlib import Path

from unmask.serving.address import listen
from unmask.serving.keys import read_keys
from unmask.serving.limits import Limits
from unmask.storage.files import check_writable
from unmask.storage.hub import check_model


def start(
    models: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Path | str | None = None,
    seconds: float = 60.0,
    examples: int = 16,
    queue: int = 256,
    export: Path | str | None = None,
    out: Path | str | None = None,
    device: str | None = None,
) -> None:
    """Load models once, and serve them under their names until interrupted; or export a trajectory.

    Args:
        models: what `unmask.load` takes.
        host, port: see `unmask.serving.serve`.
        keys: a file; see `unmask.serving.keys.read_keys`.
        seconds, examples, queue: see `Limits`.
        export: in place of models: a saved trajectory, to be written as a page.
        out: that page; beside the trajectory if None.
        device: of the models.

    Raises:
        ValueError: neither models nor a trajectory are given, or both; or what the others refuse.
        FileNotFoundError: something is not there.
        OSError: the port is in use, or a file cannot be written.
        ImportError: fastapi or uvicorn is not installed.
    """
    if bool(models) == bool(export):
        raise ValueError("serve takes models, as in: unmask serve runs/digits; or --export, a file that the page saved")
    if export is not None:
        print(export_file(export, out))
        return
    if out is not None:
        raise ValueError("--out goes with --export")
    limits = Limits(examples=examples, queue=queue, seconds=seconds, batch=max(64, examples))
    known = read_keys(keys) if keys is not None else ()
    for name in models:
        check_model(name)
    with listen(host, port) as listening:
        from unmask.opening import load
        from unmask.serving.server import serve

        opened = {name: load(name, device=device) for name in dict.fromkeys(models)}
        serve(opened, limits=limits, keys=known, listening=listening)


def export_file(saved: Path | str, out: Path | str | None = None) -> Path:
    """Write the trajectories of a file as one HTML file, and return its path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; names the line.
        OSError: the page cannot be written.
    """
    if not Path(saved).is_file():
        raise FileNotFoundError(f"{saved}: no such file")
    out = Path(saved).with_suffix(".html") if out is None else Path(out)
    check_writable(out, "--out", (".html", ".htm"))
    from unmask.serving.export import export_page
    from unmask.serving.trajectory import Trajectory

    export_page(Trajectory.read(saved), out, title=f"{Path(saved).stem}: samples, as they are unmasked")
    return out
