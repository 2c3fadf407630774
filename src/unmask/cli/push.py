"""unmask push FOLDER NAME: publish a model on the Hugging Face Hub, or put a model or a corpus elsewhere."""

from pathlib import Path

from unmask.cli.common import Parser, load_model, parse
from unmask.storage.folders import INDEX
from unmask.storage.remote import is_remote, upload_folder


def run(arguments: list[str]) -> None:
    """Run `unmask push`."""
    parser = Parser(
        "push",
        description="Publish a model on the Hugging Face Hub: weights as safetensors, config.json, the tokenizer if it "
        "has one, and a card with the figures that `unmask evaluate MODEL --record` wrote. Or copy a model or a "
        "prepared corpus to a URL.",
        epilog="Log in first, with `hf auth login`. Examples: unmask push runs/digits me/digits; unmask push data/owt "
        "s3://bucket/owt",
    )
    parser.add_argument("model", metavar="FOLDER", help="of a model, a run, or a prepared corpus")
    parser.add_argument("name", metavar="NAME", help="on the Hub: yourself/model; or a URL: s3://bucket/model")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    settings = parse(parser, arguments)
    if Path(settings.model, INDEX).is_file():
        if not is_remote(settings.name):
            raise ValueError(f"{settings.model} is a corpus: give a URL to copy it to, such as s3://bucket/corpus")
        if settings.private:
            raise ValueError("--private is for models on the Hub")
        print(upload_folder(settings.model, settings.name))
        return
    print(load_model(settings.model, "cpu").push_to_hub(settings.name, private=settings.private))
