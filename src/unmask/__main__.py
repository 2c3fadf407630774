"""The command line as `python -m unmask`."""

from unmask.cli.main import command

command()
