"""unmask info MODEL|RUN|CORPUS: what it is, and what was measured of it."""

from pathlib import Path

from unmask.cli.common import Parser, parse
from unmask.storage.folders import find_folder
from unmask.storage.replacing import is_there


def run(arguments: list[str]) -> None:
    """Run `unmask info`."""
    parser = Parser(
        "info",
        description="Say what a model is: parameters by part, vocabulary, shape, what it was trained on and how, what "
        "was measured. Or how far a run is, or what a prepared corpus holds.",
    )
    parser.add_argument("what", metavar="MODEL|RUN|CORPUS", help="a folder, or a model's name on the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON")
    settings = parse(parser, arguments)
    if Path(settings.what).is_file() or not is_there(Path(settings.what)):
        find_folder(settings.what)
    from unmask.inspection.info import info

    found = info(settings.what)
    print(found.to_json() if settings.json else found)
