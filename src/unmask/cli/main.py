"""The entry point: pick the command, run it, and turn what users can fix into one line."""

import importlib
import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from keyword import iskeyword

from unmask.processes import one_voice, rank, said_once
from unmask.storage.failures import explain_failure
from unmask.storage.names import imports_last
from unmask.storage.signatures import nearest
from unmask.storage.sums import verifying

COMMANDS = {
    "prepare": "tokenise documents once: files of text, JSON or Parquet, or a data set of the Hub",
    "train": "train a model from a shipped configuration or a YAML file of yours; every field can be overridden",
    "evaluate": "measure a model: likelihood, zero-shot perplexity, samples; each figure with error and protocol",
    "sample": "draw new examples from a model: text, images or arrays",
    "infill": "draw the unknown part of a text, an image or an array, and keep the rest",
    "serve": "show models in the browser, and answer requests over HTTP",
    "study": "compare all samplers on a model, or what float32 draws do to its samples",
    "reproduce": "train the rows of a paper's table under one protocol, beside the published figures",
    "info": "say what a model, a run or a corpus is, and what was measured of it",
    "plot": "draw the masking schedules, how samples are unmasked, or the loss curve of a run",
    "import": "convert a public model (LLaDA, Dream, MDLM, BERT, ...), or merge an adapter",
    "push": "publish a model on the Hugging Face Hub, with a card of what was measured; or copy a corpus elsewhere",
    "pull": "fetch a run, a model or a corpus that lies elsewhere, such as a run with train --mirror",
    "doctor": "check this machine: versions, devices, speed, and what is missing for which command",
}

USAGE = (
    "usage: unmask COMMAND ...\n\nMasked diffusion on discrete data.\n\ncommands:\n"
    + "".join(f"  {name:10} {text}\n" for name, text in COMMANDS.items())
    + "\nunmask COMMAND --help explains a command. --import MODULE, with every command, imports classes of your own;\n"
    "--debug prints the traceback of an error; --verify compares every file that is read with its SHA-256.\n"
    "Start with: unmask train digits\n"
)
FLAGS = ("--debug", "--verify")
SHARED = ("train", "evaluate", "sample", "infill")
"""What all processes of torchrun do together; the first alone does the others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 for a run that failed, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    debug, always = "--debug" in arguments, "--verify" in arguments
    try:
        arguments = imports_last(arguments)
    except ArgumentError as error:
        return _fail(*explain_failure(error, arguments[0]))
    name, *rest = [argument for argument in arguments if argument not in FLAGS] or arguments[:1]
    rest += ["--verify"] * (always and name == "prepare")  # which does nothing else then
    if name == "--version":
        print(f"unmask {version('unmask')}")
        return 0
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}{nearest(name, COMMANDS)}; the commands are {', '.join(COMMANDS)}", 2)
    try:
        if rank() and name not in SHARED:
            return 0
        with verifying(always), one_voice() if name != "train" else nullcontext():
            importlib.import_module(f"unmask.cli.{name}{'_' * iskeyword(name)}").run(rest)
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            traceback.print_exception(error)
        return _fail(*explain_failure(error, name), said_once if name != "train" else str)
    return 0


def _fail(message: str, status: int, said: Callable[[str], str | None] = said_once) -> int:
    if (line := said(" ".join(message.split()))) is not None:
        print(f"unmask: error: {line}", file=sys.stderr)
    return status


def command() -> None:
    """Run as a program."""
    warnings.formatwarning = lambda message, *_, **__: f"unmask: warning: {message}\n"
    sys.exit(main())


if __name__ == "__main__":
    command()
