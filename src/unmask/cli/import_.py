"""unmask import SOURCE OUT: convert a public model, once."""

from pathlib import Path

from unmask.cli.common import Option, Parser, parse
from unmask.storage.hub import check_model

OPTIONS: tuple[Option, ...] = (
    ("tokenizer", str, None, "that of the folder, or GPT-2's from the Hub, if not given"),
    ("bidirectional", bool, None, "make a left-to-right model see both sides, to be trained from there"),
    ("shifted", bool | None, None, "whether position i is predicted at i - 1; as the family was trained if not given"),
    ("length", int, None, "the longest sequence, in tokens; what the model was trained with if not given"),
    ("averaged", bool | None, None, "of a .ckpt, whether to take the moving average of the weights; yes if not given"),
)


def run(arguments: list[str]) -> None:
    """Run `unmask import`."""
    parser = Parser(
        "import",
        description="Convert a public model into a model of unmask: tensors are renamed, what is constant is folded "
        "into the weights, and the tokenizer is put beside them. Every command takes most public models as they are, "
        "too. Read are MDLM, SEDD, RADD, BD3LM, LLaDA, Dream, SMDM, DiffuGPT, masked language models of transformers, "
        "and checkpoints of trainers (.ckpt); docs/models.md lists them. An adapter (train --lora) is "
        "merged with its base.",
        epilog="Examples: unmask import kuleshov-group/mdlm-owt models/mdlm; unmask import SmolLM2 models/start "
        "--bidirectional",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder as it was published, its name on the Hub, or a file")
    parser.add_argument("out", metavar="OUT", help="folder for the model")
    parser.add_options(*OPTIONS)
    settings = parse(parser, arguments)
    if Path(settings.out).exists():
        raise ValueError(f"{settings.out}: is there already; name another folder")
    check_model(settings.source)
    from unmask.opening import import_checkpoint
    from unmask.prompts import next_commands

    options = {name: settings[name] or None if kind is bool else settings[name] for name, kind, *_ in OPTIONS}
    model = import_checkpoint(settings.source, settings.out, **options)
    folded = ", its constant modulation folded into the weights" if model.about.get("folded") else ""
    what = "merged with its adapter" if model.about.get("merged") else model.about["layout"]
    print(f"{settings.out}: {what}, {model.parameter_count:,} parameters{folded}. Next:")
    print(next_commands(model, settings.out))
