"""unmask reproduce TABLE: the rows of a paper's table, trained under one protocol, beside the published figures."""

from jsonargparse import Namespace

from unmask.cli.common import Option, Parser, parse
from unmask.reproduction.request import Request
from unmask.reproduction.tables import TABLES

OPTIONS: tuple[Option, ...] = (
    ("scale", str, "cpu", "cpu: small and complete; paper: the full size"),
    ("minutes", float, None, "of training of each run; 10 at the scale cpu"),
    ("steps", int, None, "of each run, in place of minutes"),
    ("seeds", int, 3, "runs of each row"),
    ("data.path", str, None, "the table's data; text8: any text of its 27 characters; openwebtext: a prepared corpus"),
    ("rows", str, None, "those that are wanted, with commas; all if not given"),
    ("models", str, None, "models that are measured in place of trained ones: ROW=FOLDER, with commas"),
    ("draws", int, 4, "masks per test example"),
    ("limit", int, 512, "test examples; or samples of each sampler, of generative and fid"),
    ("root", str, None, "zeroshot: folder with the sets' files; the Hub if not given"),
    ("judge", str, None, "of samples: a causal model (GPT-2 large if not given); fid: a model of images, or inception"),
    ("out", str, None, "folder; runs/reproduce-TABLE if not given. What is finished there is not done again"),
)


def run(arguments: list[str]) -> None:
    """Run `unmask reproduce`."""
    parser = Parser("reproduce", description="Train the rows of a paper's table, beside the published figures.")
    parser.add_argument("table", metavar="TABLE", help=f"one of {', '.join(TABLES)}")
    parser.add_options(*OPTIONS)
    settings = parse(parser, arguments)
    Request(**asked(settings))  # before torch is imported
    from unmask.reproduction.tabling import reproduce

    print(reproduce(**asked(settings)))


def asked(settings: Namespace) -> dict:
    """Return the arguments of `reproduce`.

    Raises:
        ValueError: models are named in another form.
    """
    found = {name.partition(".")[0]: settings[name] for name in ("table", *(option[0] for option in OPTIONS))}
    models: dict[str, str] = {}
    for one in [] if settings.models is None else settings.models.split(","):
        row, _, folder = one.partition("=")
        if not row or not folder or row in models:
            raise ValueError(f"--models takes ROW=FOLDER, with commas, each row once; got {settings.models!r}")
        models[row] = folder
    rows = None if settings.rows is None else [row for row in settings.rows.split(",") if row]
    return found | {"rows": rows, "models": models}
