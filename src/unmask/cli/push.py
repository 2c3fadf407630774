"""unmask push MODEL NAME: publish a model on the Hugging Face Hub."""

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from unmask.cli.common import find_model, new_parser, parse
from unmask.model import MaskedDiffusion


def run(arguments: list[str]) -> None:
    """Run `unmask push`."""
    parser = new_parser(
        "push",
        description="Publish a model on the Hugging Face Hub: weights as safetensors, config.json, the tokenizer if it "
        "has one, and a card with the figures that `unmask evaluate MODEL --record` wrote.",
        epilog="Log in first, with `hf auth login`. Example: unmask push runs/digits me/digits",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run")
    parser.add_argument("name", metavar="NAME", help="on the Hub: yourself/model")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    settings = parse(parser, arguments)
    model = MaskedDiffusion.from_pretrained(find_model(settings.model))
    card = {"name": settings.name}
    try:
        print(model.push_to_hub(settings.name, private=settings.private, model_card_kwargs=card))
    except HFValidationError as error:
        raise ValueError(f"{settings.name}: not a name for the Hub, such as yourself/model: {error}") from None
    except LocalTokenNotFoundError:
        raise ConnectionError("not logged in to the Hub: hf auth login") from None
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConnectionError(f"{settings.name}: cannot be published: {reason} (hf auth login?)") from None
