"""unmask doctor: what this machine has, and what is missing for which command."""

from unmask.cli.common import Parser, parse


def run(arguments: list[str]) -> None:
    """Run `unmask doctor`."""
    parser = Parser("doctor", description="Check versions, devices, threads, bfloat16, compiler, disk and packages.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    settings = parse(parser, arguments)
    from unmask.inspection.doctor import doctor

    found = doctor()
    print(found.to_json() if settings.json else found)
