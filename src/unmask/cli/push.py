"""unmask push MODEL NAME: publish a model on the Hugging Face Hub."""

from unmask.cli.common import Parser, load_model, parse


def run(arguments: list[str]) -> None:
    """Run `unmask push`."""
    parser = Parser(
        "push",
        description="Publish a model on the Hugging Face Hub: weights as safetensors, config.json, the tokenizer if it "
        "has one, and a card with the figures that `unmask evaluate MODEL --record` wrote.",
        epilog="Log in first, with `hf auth login`. Example: unmask push runs/digits me/digits",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run")
    parser.add_argument("name", metavar="NAME", help="on the Hub: yourself/model; or a URL: s3://bucket/model")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    settings = parse(parser, arguments)
    print(load_model(settings.model, "cpu").push_to_hub(settings.name, private=settings.private))
