"""unmask serve MODEL ...: a page in the browser, and an HTTP API; or a saved trajectory as a page by itself."""

from unmask.cli.common import DEVICE, Parser, parse


def run(arguments: list[str]) -> None:
    """Run `unmask serve`."""
    parser = Parser("serve", description="Show models in the browser, and answer requests over HTTP.")
    parser.add_argument("models", metavar="MODEL", nargs="*", help="folders of models or runs, or names on the Hub")
    parser.add_options(
        ("host", str, "127.0.0.1", "address to listen at; by default this machine alone can reach it"),
        ("port", int, 8000, "0: any that is free"),
        ("keys", str, None, "a file of keys, one a line, of which each request to the API must have one"),
        ("seconds", float, 60.0, "that a request may take"),
        ("examples", int, 16, "most examples of a request"),
        ("queue", int, 256, "requests that may wait"),
        ("export", str, None, "a saved trajectory, to be written as one HTML file; nothing is served"),
        ("out", str, None, "for --export: the file to write; by default beside it, ending in .html"),
        DEVICE,
    )
    settings = parse(parser, arguments)
    from unmask.serving.starting import start

    start(**{name: value for name, value in settings.items() if name != "import"})
