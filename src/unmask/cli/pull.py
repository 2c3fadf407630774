"""unmask pull URL FOLDER: fetch what `unmask train --mirror` or `unmask push` has put elsewhere."""

from unmask.cli.common import Parser, parse


def run(arguments: list[str]) -> None:
    """Run `unmask pull`."""
    parser = Parser("pull", description="Fetch a run, a model or a corpus, or bring a run to its copy's checkpoint.")
    parser.add_argument("url", metavar="URL", help="of it, such as s3://bucket/run")
    parser.add_argument("folder", metavar="FOLDER", help="to write; of a run, it may hold an earlier checkpoint")
    settings = parse(parser, arguments)
    from unmask.training import pull

    step = pull(settings.url, settings.folder)
    how = f"  unmask train {settings.folder} --resume --mirror {settings.url}"
    print(settings.folder if step is None else f"{settings.folder} holds step {step:,}. Next:\n{how}")
