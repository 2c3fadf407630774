"""unmask import SOURCE OUT: convert a public checkpoint of MDLM, SEDD or RADD, once."""

from pathlib import Path

from unmask.cli.common import Parser, parse
from unmask.storage.hub import check_model


def run(arguments: list[str]) -> None:
    """Run `unmask import`."""
    parser = Parser(
        "import",
        description="Convert a public checkpoint of MDLM, SEDD or RADD into a model of unmask: tensors are renamed, a "
        "modulation that is constant is folded into the weights, and the tokenizer is put beside them. Every command "
        "takes such a checkpoint as it is, too.",
        epilog="Example: unmask import kuleshov-group/mdlm-owt models/mdlm",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder as it was published, or its name on the Hub")
    parser.add_argument("out", metavar="OUT", help="folder for the model")
    parser.add_argument("--tokenizer", type=str, help="that of the folder, or GPT-2's from the Hub, if not given")
    settings = parse(parser, arguments)
    if Path(settings.out).exists():
        raise ValueError(f"{settings.out}: is there already; name another folder")
    check_model(settings.source)
    from unmask.model import import_checkpoint

    model = import_checkpoint(settings.source, settings.out, settings.tokenizer)
    folded = ", its constant modulation folded into the weights" if model.about["folded"] else ""
    print(f"{settings.out}: {model.about['layout']}, {model.parameter_count:,} parameters{folded}. Next:")
    print(f"  unmask sample {settings.out}\n  unmask evaluate {settings.out} --data TextFile --data.path FILE")
