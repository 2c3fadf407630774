"""Writing a model: its folder, its card, and the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.codecs.base import Codec
from unmask.kinds import kind_of
from unmask.networks.adapters import LORA, has_adapter
from unmask.networks.base import Network
from unmask.schedules import Schedule, TokenPolynomial
from unmask.storage.card import model_card
from unmask.storage.description import describe
from unmask.storage.folders import CONFIG, WEIGHTS
from unmask.storage.hub import publishing
from unmask.storage.model_files import config_digest, file_sums, saving, tensors_digest
from unmask.storage.remote import is_remote, uploading


class Saved(
    nn.Module,
    ModelHubMixin,
    library_name="unmask",
    license="apache-2.0",
    tags=["masked-diffusion", "discrete-diffusion"],
):
    """What writes a model's parts: the half of `MaskedDiffusion` that knows files."""

    network: Network
    codec: Codec
    schedule: Schedule | TokenPolynomial
    about: dict[str, Any]

    @property
    def parameter_count(self) -> int:
        """Number of parameters, those of a learned schedule among them."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights in memory; see `unmask.storage.model_files.tensors_digest`."""
        return tensors_digest(self.state_dict())

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are saved: all or, with an adapter, its own and not those of what it is put on."""
        state: dict[str, Tensor] = self.state_dict()
        if not has_adapter(self.network):
            return state
        return {name: tensor for name, tensor in state.items() if LORA in name or not name.startswith("network.")}

    def load_own_tensors(self, tensors: Mapping[str, Tensor], assign: bool = False) -> None:
        """Load what `own_tensors` returns; the tensors that it leaves out stay as they are.

        Args:
            tensors: by name.
            assign: whether the tensors become those of the model, not copies of them.

        Raises:
            RuntimeError: one is missing, unknown or of a wrong shape; says which.
        """
        others = {name: tensor for name, tensor in self.state_dict().items() if name not in self.own_tensors()}
        self.load_state_dict(others | dict(tensors), assign=assign)

    def save_pretrained(self, save_directory: Path | str, **kwargs: Any) -> str | None:
        """Write config.json, model.safetensors and a model card; an error leaves what was there before.

        A URL, such as s3://bucket/model, is written to when all is done (`unmask.storage.remote`).
        The keyword arguments are those of `huggingface_hub.ModelHubMixin.save_pretrained`.
        """
        if is_remote(save_directory):
            with uploading(str(save_directory)) as here:
                return self.save_pretrained(here, **kwargs)
        folder = Path(save_directory)
        kwargs.setdefault("repo_id", folder.name)
        kwargs["model_card_kwargs"] = {"name": kwargs["repo_id"]} | (kwargs.get("model_card_kwargs") or {})
        with saving(folder) as temporary:
            return super().save_pretrained(temporary, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Publish the model on the Hugging Face Hub: weights, config.json, the tokenizer if any, and the card.

        A URL, such as s3://bucket/model, is a place of your own to put it.
        The keyword arguments are those of `huggingface_hub.ModelHubMixin.push_to_hub` (private, token, ...).

        Raises:
            ValueError: not a name for the Hub.
            ConnectionError: not logged in, no such right, or no connection.
        """
        if is_remote(repo_id):
            self.save_pretrained(repo_id)
            return repo_id
        with publishing(repo_id):
            return super().push_to_hub(repo_id, **{"model_card_kwargs": {"name": repo_id}} | kwargs)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card: how to use the model, what was measured of it, how it was made."""
        parts = {"network": self.network, "codec": self.codec, "schedule": self.schedule}
        described = {name: describe(part) for name, part in parts.items()}
        described["codec"].pop("source", None)  # where a tokenizer lies on this machine
        kind = kind_of(self.network, self.schedule)
        return model_card(kwargs.get("name", "model"), described, self.parameter_count, self.about, kind=kind)

    def _save_pretrained(self, save_directory: Path) -> None:
        description = {
            "network": describe(self.network),
            "codec": describe(self.codec.saved(save_directory)),
            "schedule": describe(self.schedule),
        }
        weights = {name: tensor.detach().contiguous() for name, tensor in self.own_tensors().items()}
        save_file(weights, save_directory / WEIGHTS, metadata={"config": config_digest(description)})
        content = description | file_sums(save_directory) | {"about": self.about}
        config = json.dumps(content, indent=2, ensure_ascii=False)
        (save_directory / CONFIG).write_text(config + "\n", encoding="utf-8")
