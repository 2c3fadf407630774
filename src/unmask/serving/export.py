"""Saved trajectories as a page by itself: one file, without a server."""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from unmask.serving.trajectory import Trajectory
from unmask.storage.files import replacing

PAGE = Path(__file__).parent / "page"


def export_page(
    trajectories: Trajectory | Sequence[Trajectory], path: Path | str, *, title: str = "Samples, as they are unmasked"
) -> None:
    """Write trajectories as one HTML file: to be played, rewound and coloured, side by side, in any browser.

    Args:
        trajectories: one, or several.
        path: of the file.
        title: of the page.

    Raises:
        ValueError: there is none.
        OSError: the file cannot be written.

    Example:
        export_page(Trajectory.read("saved.ndjson"), "saved.html")
    """
    some = [trajectories] if isinstance(trajectories, Trajectory) else [*trajectories]
    if not some:
        raise ValueError("there is no trajectory to export")
    saved = json.dumps([[*one.events()] for one in some]).replace("<", "\\u003c")  # no text can end the script
    style, view = ((PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "view.js"))
    page = (PAGE / "saved.html").read_text(encoding="utf-8")
    parts = {"STYLE": style, "VIEW": view, "TITLE": escape(title), "SAVED": saved}
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], page)
    with replacing(path) as target:
        target.write_text(page, encoding="utf-8")
