"""The bundle: a network, its schedule and its codec, saved and loaded together."""

import hashlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from unmask.checkpoints.ddit import WEIGHT_FILES, is_public
from unmask.checkpoints.ddit import load as load_public
from unmask.codecs.base import Codec
from unmask.codecs.tokenizer import TOKENIZER
from unmask.forward import all_masked
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.objectives.scalar import TimeFreeELBO
from unmask.objectives.token import TokenELBO
from unmask.randomness import Generators
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.token import TokenFirstHitting, TokenSampler
from unmask.schedules import Linear, Schedule, TokenPolynomial, require_schedule
from unmask.storage.card import model_card
from unmask.storage.description import build, describe
from unmask.storage.files import replacing
from unmask.types import Labels, Nats, Tokens, Where

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class MaskedDiffusion(
    nn.Module,
    ModelHubMixin,
    library_name="unmask",
    license="apache-2.0",
    tags=["masked-diffusion", "discrete-diffusion"],
):
    """A masked diffusion model of data: what is trained, evaluated, sampled, saved and shared.

    Args:
        network: predicts masked tokens.
        codec: turns data into the network's tokens and back.
        schedule: that it was trained with; `Linear` for a network trained without a time.
        about: plain facts that are saved with it, such as how it was trained.

    Attributes:
        folder: that it was loaded from, None for a model that was not.

    Raises:
        ValueError: network and codec disagree about the vocabulary.
    """

    def __init__(
        self,
        network: Network,
        codec: Codec,
        schedule: Schedule | TokenPolynomial | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if network.vocab_size != codec.vocab_size:
            raise ValueError(
                f"the network has a vocabulary of {network.vocab_size} tokens, the codec one of {codec.vocab_size}"
            )
        if isinstance(schedule, TokenPolynomial):
            require_schedule(schedule, network.vocab_size, "a model").check()
        self.network, self.codec, self.schedule, self.about = network, codec, schedule or Linear(), about or {}
        self.folder: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Dims of one example."""
        return self.network.shape

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def nelbo(
        self,
        x: Tokens,
        label: Labels | None = None,
        *,
        draws: int = 8,
        objective: Objective | None = None,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Nats:
        """Estimate the negative ELBO of each example in nats: the mean of `draws` low-discrepancy masks.

        The objective is `fit_objective()` unless another is named. With `given` it bounds -log p of the other tokens
        given those.
        """
        objective = self.fit_objective(objective)
        drawn = draw_loss(self.network, objective, x, label, draws=draws, given=given, generator=generator)
        return drawn.nelbo.view(draws, -1).mean(0)

    def sample(
        self, n: int, label: Labels | None = None, *, sampler: Sampler | None = None, generator: Generators = None
    ) -> Tokens:
        """Draw n examples: tokens (n, *shape), for `codec.decode`. The sampler is `fit_sampler()` unless given."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        canvas = all_masked(n, self.shape, self.network.mask_id, device=self.device)
        return self.infill(canvas, label, sampler=sampler, generator=generator)

    def infill(
        self, x: Tokens, label: Labels | None = None, *, sampler: Sampler | None = None, generator: Generators = None
    ) -> Tokens:
        """Draw the masked tokens of a canvas (value V, `network.mask_id`), given the others, which are kept."""
        return self.fit_sampler(sampler)(self.network, x, label, generator=generator)

    def fit_objective(self, objective: Objective | None = None) -> Objective:
        """Return the objective that bounds this model, or the one given with the model's schedule filled in.

        It is `TimeFreeELBO`, or `TokenELBO` for a model with a state-dependent schedule.

        Raises:
            ValueError: the objective is for the other kind of schedule.
        """
        if isinstance(self.schedule, TokenPolynomial):
            objective = objective or TokenELBO(masks=1)
            if not isinstance(objective, TokenELBO):
                raise ValueError(f"the model has a state-dependent schedule: its bound is TokenELBO, got {objective}")
            return objective if objective.schedule else replace(objective, schedule=self.schedule)
        if isinstance(objective, TokenELBO) and objective.schedule is None:
            raise ValueError(f"TokenELBO needs a state-dependent schedule, the model has {self.schedule}")
        return objective or TimeFreeELBO()

    def fit_sampler(self, sampler: Sampler | None = None) -> Sampler:
        """Return the exact sampler for this model, or the one given.

        It is `FirstHitting`, or `TokenFirstHitting` for a model with a state-dependent schedule, which is filled in.
        Other samplers keep the schedule that they were made with: the network knows of mask rates alone.

        Raises:
            ValueError: the sampler is for the other kind of schedule.
        """
        if isinstance(self.schedule, TokenPolynomial):
            sampler = sampler or TokenFirstHitting()
            if not isinstance(sampler, TokenSampler):
                raise ValueError(
                    f"the model has a state-dependent schedule: sample it with TokenFirstHitting or TokenAncestral, "
                    f"not {type(sampler).__name__}"
                )
            return sampler if sampler.schedule else replace(sampler, schedule=self.schedule)
        if isinstance(sampler, TokenSampler):
            raise ValueError(
                f"{type(sampler).__name__} is for state-dependent schedules, the model has {self.schedule}: "
                "sample it with FirstHitting or Ancestral"
            )
        return sampler or FirstHitting()

    def save_pretrained(self, save_directory: Path | str, **kwargs: Any) -> str | None:
        """Write config.json, model.safetensors and a model card; an error leaves what was there before.

        The keyword arguments are those of `huggingface_hub.ModelHubMixin.save_pretrained`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        kwargs.setdefault("repo_id", folder.name)
        kwargs["model_card_kwargs"] = {"name": kwargs["repo_id"]} | (kwargs.get("model_card_kwargs") or {})
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving") as temporary:
            url = super().save_pretrained(temporary, **kwargs)
            for name in sorted(os.listdir(temporary), reverse=True):  # weights, what the codec needs, then config.json
                os.replace(Path(temporary, name), folder / name)
        return url

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card: how to use the model, what was measured of it, how it was made."""
        parts = {"network": self.network, "codec": self.codec, "schedule": self.schedule}
        described = {name: describe(part) for name, part in parts.items()}
        described["codec"].pop("source", None)  # where a tokenizer lies on this machine
        count = sum(parameter.numel() for parameter in self.parameters())
        return model_card(kwargs.get("name", "model"), described, count, self.about)

    def record(self, folder: Path | str, report: dict[str, Any]) -> None:
        """Add a report of what was measured to the config.json and the card of the folder that the model is in."""
        path = Path(folder, CONFIG)
        description = _read_config(path)
        self.about.setdefault("measured", []).append(report)
        with replacing(path) as target:
            content = json.dumps(description | {"about": self.about}, indent=2, ensure_ascii=False)
            target.write_text(content + "\n", encoding="utf-8")
        with replacing(Path(folder, CARD)) as target:
            self.generate_model_card(name=Path(folder).resolve().name).save(target)

    def _save_pretrained(self, save_directory: Path) -> None:
        description = {
            "network": describe(self.network),
            "codec": describe(self.codec.saved(save_directory)),
            "schedule": describe(self.schedule),
        }
        weights = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, save_directory / WEIGHTS, metadata={"config": _digest(description)})
        config = json.dumps(description | {"about": self.about}, indent=2, ensure_ascii=False)
        (save_directory / CONFIG).write_text(config + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Path | str, *, tokenizer: str | None = None, **download: Any
    ) -> "MaskedDiffusion":
        """Load a model in evaluation mode from a folder or from the Hugging Face Hub. No code is loaded.

        Public checkpoints of MDLM, SEDD and RADD are read too (`unmask.checkpoints.ddit`): kuleshov-group/mdlm-owt,
        louaaron/sedd-small, JingyangOu/radd-lambda-dce and others of their layouts.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, or a repository's id.
            tokenizer: for public checkpoints: what `BPE` reads; that in the folder, or GPT-2's, if None.
            download: passed to `huggingface_hub.snapshot_download` (revision, token, cache_dir, ...).

        Raises:
            FileNotFoundError: no such folder, nor such a repository within reach; or a file is missing.
            ValueError: a file is damaged, or config.json does not belong to the weights; names the file.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _download(str(pretrained_model_name_or_path), **download)
        description = _read_config(folder / CONFIG)
        if is_public(description):
            network, codec, about = load_public(folder, tokenizer)
            model = cls(network, codec, about=about | {"source": str(pretrained_model_name_or_path)})
            model.folder = folder
            return model.eval()
        where = str(folder / CONFIG)
        parts: dict[str, Any] = {
            "network": build(Network, description.get("network"), f"{where}: network"),
            "codec": build(Codec, description.get("codec"), f"{where}: codec").opened(folder),
            "schedule": build((Schedule, TokenPolynomial), description.get("schedule"), f"{where}: schedule"),
        }
        model = cls(**parts, about=description.get("about"))
        _load_weights(model, folder / WEIGHTS, _digest({name: description[name] for name in parts}))
        model.folder = folder
        return model.eval()


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _download(repo_id: str, **download: Any) -> Path:
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=[CONFIG, WEIGHTS, TOKENIZER], **download))
        if not (folder / WEIGHTS).is_file():  # some public checkpoints have none
            snapshot_download(repo_id, allow_patterns=[CONFIG, *WEIGHT_FILES], **download)
        return folder
    except HFValidationError:
        raise FileNotFoundError(f"{repo_id}: no such folder") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"{repo_id}: no such folder, and not to be had from the Hub ({reason})") from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model's folder holds {CONFIG} and {WEIGHTS}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(description).__name__}")
    about = description.get("about", {})
    if not isinstance(about, dict) or not all(isinstance(about.get(name, {}), dict) for name in ("data", "run")):
        raise ValueError(f"{path}: about, about.data and about.run must be JSON objects")
    if not isinstance(about.get("measured", []), list):
        raise ValueError(f"{path}: about.measured must be a list of reports")
    names = about.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: about.class_names must be a list of names")
    return description


def _load_weights(model: nn.Module, path: Path, digest: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model's folder holds {CONFIG} and {WEIGHTS}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file: {error}") from error
    try:
        model.load_state_dict(weights)
        if isinstance(model.schedule, TokenPolynomial):
            model.schedule.check()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit {CONFIG}: {' '.join(str(error).split())}") from error
    if metadata.get("config", digest) != digest:
        raise ValueError(f"{path}: {CONFIG} beside it was changed after the weights were saved; restore it")
