"""The bundle: a network, its schedule and its codec, saved and loaded together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unmask.checks import check_whole
from unmask.codecs.base import Codec
from unmask.codecs.ended import until_end
from unmask.forward import all_masked
from unmask.given import mark_given
from unmask.kinds import OWN, Kind, check_belongs, fit_redrawing, kind_of, own_objective, own_sampler, require_masked
from unmask.labels import find_labels
from unmask.lengths import Lengths
from unmask.loading import read_model
from unmask.networks.accelerated import Accelerated
from unmask.networks.base import Network, check_tokens
from unmask.networks.constrained import Constrained, check_allowed
from unmask.networks.padded import Padded
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.objectives.next_token import NextToken, check_objective
from unmask.objectives.scalar import TimeFreeELBO
from unmask.objectives.token import TokenELBO
from unmask.randomness import Generators, seeded, uniform
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.left_to_right import LeftToRight, check_sampler
from unmask.samplers.token import TokenFirstHitting, TokenSampler
from unmask.saving import Saved
from unmask.schedules import Linear, Schedule, TokenPolynomial, require_schedule
from unmask.storage.folders import CONFIG
from unmask.types import Allowed, Labels, Nats, Tokens, Where


class MaskedDiffusion(Saved):
    """A masked diffusion model of data: what is trained, evaluated, sampled, saved and shared.

    A network that is causal makes it a left-to-right model of the same data, for comparison (docs/baselines.md).

    Args:
        network: predicts masked tokens; or, a causal one, the next token.
        codec: turns data into the network's tokens and back.
        schedule: that it was trained with (`Objective.process`); `Linear` for a network trained without a time. A
            causal one does not use it.
        about: plain facts that are saved with it, such as how it was trained.

    Attributes:
        folder: that it was loaded from, None for a model that was not.
        accelerated: the network that it is sampled with in place of its own, if any; see `unmask.accelerate`.

    Raises:
        ValueError: network and codec disagree about the vocabulary, or a causal network has a state-dependent schedule.

    Examples:
        >>> network = unmask.Transformer(27, (16,), width=32, depth=1, heads=2)
        >>> model = unmask.MaskedDiffusion(network, unmask.Characters("abcdefghijklmnopqrstuvwxyz "))
        >>> canvas = model.empty_canvas(2)
        >>> canvas[:, :3] = model.codec.encode("the")
        >>> texts = model.decode(model.infill(canvas, sampler=unmask.FirstHitting(tokens_per_call=4)))
        >>> [(text[:3], len(text)) for text in texts]
        [('the', 16), ('the', 16)]
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
            if network.causal or network.vectors:
                what = "reads noisy vectors" if network.vectors else "reads from left to right"
                raise ValueError(f"a network that {what} has no schedule")
            require_schedule(schedule, network.vocab_size, "a model").check()
        self.network, self.codec, self.schedule, self.about = network, codec, schedule or Linear(), about or {}
        self.folder: Path | None = None
        self.accelerated: tuple[Accelerated, ...] = ()

    @property
    def kind(self) -> Kind:
        """Whether it is a masked model, or a baseline of which some things cannot be asked (docs/baselines.md)."""
        return kind_of(self.network, self.schedule)

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
        batch_size: int = 64,
    ) -> Nats:
        """Estimate the negative ELBO of each example in nats: the mean of `draws` low-discrepancy masks.

        Where examples have lengths (`lengths`), what they are filled up with is given, and −log p(n) is added.

        Args:
            x: clean tokens (n, *dims).
            label: class of each example, for a model with classes.
            draws: random masks of each example.
            objective: the bound; `fit_objective()` if None.
            given: tokens that are conditioned on; the bound is then on -log p of the others given these.
            generator: see `unmask.randomness`; a sequence has one for each draw of each example, draws first.
            batch_size: examples at a time, each with all its draws.
        """
        self._check_examples(x, self.network.vocab_size)
        check_whole(1, batch_size=batch_size)
        objective, lengths = self.fit_objective(objective), self.lengths
        network = self._for_length(self.network, x) if self.kind == "masked" else self.network
        found = []
        if lengths is not None:
            filled = lengths.filled(x)
            given = filled if given is None else given | filled
        for start in range(0, len(x), batch_size):
            here = slice(start, start + batch_size)
            labels, known = (None if part is None else part[here] for part in (label, given))
            chosen = generator
            if isinstance(generator, Sequence):
                chosen = [one for i in range(draws) for one in generator[i * len(x) : (i + 1) * len(x)][here]]
            drawn = draw_loss(network, objective, x[here], labels, draws=draws, given=known, generator=chosen)
            found.append(drawn.nelbo.view(draws, -1).mean(0))
            if lengths is not None and given is not None:
                found[-1] = found[-1] - lengths.log_p(lengths.measure(mark_given(x[here], given[here])), labels)
        return torch.cat(found)

    def sample(
        self,
        n: int,
        label: Labels | None = None,
        *,
        sampler: Sampler | None = None,
        length: int | tuple[int, int] | None = None,
        generator: Generators = None,
        allowed: Allowed | None = None,
    ) -> Tokens:
        """Draw n examples: tokens (n, *shape), for `codec.decode`. The sampler is `fit_sampler()` unless given.

        Args:
            n: number of examples.
            label: class of each example, for a model with classes.
            sampler: how the tokens are drawn.
            length: see `empty_canvas`.
            generator: see `unmask.randomness`.
            allowed: see `infill`.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        canvas = self.empty_canvas(n, generator, length=length, label=label)
        return self.infill(canvas, label, sampler=sampler, generator=generator, allowed=allowed)

    @property
    def lengths(self) -> Lengths | None:
        """How long examples are, for a model of texts that were filled up to one length; None for others."""
        found = Lengths.read(self.about.get("lengths"))
        if found is None and (self.about.get("data") or {}).get("packing") == "padded":
            raise ValueError("the model was trained on texts that were filled up, but does not know their lengths")
        return found

    def empty_canvas(
        self,
        n: int,
        generator: Generators | int = None,
        *,
        length: int | tuple[int, int] | None = None,
        label: Labels | None = None,
    ) -> Tokens:
        """Return n examples of which every token is masked, but for what every example begins and ends with.

        Where examples have lengths these are drawn, and what follows is filled up as it was in training.

        Args:
            n: number of examples.
            generator: of the lengths; or a seed, of which example i has a generator of its own.
            length: masked tokens of each text: a number or, for a model that knows the lengths of its examples, a range
                from which they are drawn; None: as many as fit, or a length that is drawn.
            label: class of each example, which its length may depend on.

        Raises:
            ValueError: `length` is given and the examples are no texts, or shorter.
        """
        lengths, around = self.lengths, sum(map(len, self.codec.wrap))
        whole = (1, self.shape[0] - around)
        least, most = whole if length is None else (length, length) if isinstance(length, int) else length
        if length is not None:
            room = self.shape[0] - around
            if len(self.shape) > 1 or not 1 <= least <= most <= room:
                kind = f"texts of 1..{room} tokens" if len(self.shape) == 1 else f"examples of shape {self.shape}"
                said = f"{least}-{most}" if isinstance(length, tuple) else length
                backwards = "the range goes backwards; " if least > most else ""
                raise ValueError(f"length {said}: {backwards}the model is of {kind}")
        if lengths is None and least < most and length is not None:
            raise ValueError(f"length {least}-{most}: the model does not know how long its examples are: name one")
        if lengths is None or isinstance(length, int):
            shape = self.shape if length is None else (most + around,)
            x = all_masked(n, shape, self.network.mask_id, device=self.device)
            stop = torch.full((n,), shape[0], device=self.device)
        else:
            if isinstance(generator, int):
                generator = [seeded(generator, i, 1) for i in range(n)]
            u = uniform((n,), generator, self.device)
            stop = lengths.draw(u, label, min(least + around, self.shape[0]), most + around)
            x = lengths.canvas(stop, self.network.mask_id)
        before, after = (torch.tensor(part, dtype=x.dtype, device=x.device) for part in self.codec.wrap)
        if len(before):
            x[:, : len(before)] = before
        if len(after):
            place = stop.unsqueeze(1) - len(after) + torch.arange(len(after), device=x.device)
            x.scatter_(1, place, after.expand(n, -1))
        return x

    @property
    def filled(self) -> bool:
        """Whether the model learned tokens that end a text, of which its examples are full from there on."""
        return (self.about.get("data") or {}).get("packing") == "filled"

    @property
    def conditional(self) -> bool:
        """Whether the model learned answers to prompts, so that an example without a prompt is like none of these."""
        pairs = self.filled and {"given", "target"} <= self.about["data"].keys()
        return pairs or (self.lengths is not None and self.lengths.targets)

    @property
    def ends(self) -> bool:
        """Whether the model learned the token that ends a text, after which a sample means nothing."""
        data = self.about.get("data") or {}
        learned = self.filled or (data.get("packing") == "padded" and "target" in data)
        return learned and data.get("messages") is None  # a conversation has ends within

    def decode(self, x: Tokens) -> Any:
        """Return the data of a batch of examples, texts without what is around them, ends them or fills them up."""
        lengths, codec = self.lengths, self.codec
        if lengths is None and codec.padding is None and not any(codec.wrap) and not self.ends:
            return codec.decode(x)
        filled = lengths is not None and x.shape[1:] == self.shape  # a text by itself is not
        rows = (codec.unwrapped(lengths.cut(row) if filled and lengths is not None else row) for row in x)
        rows = (until_end(codec, row) if self.ends else row for row in rows)
        return [codec.decode(row.unsqueeze(0))[0] for row in rows]

    def infill(
        self,
        x: Tokens,
        label: Labels | None = None,
        *,
        sampler: Sampler | None = None,
        generator: Generators = None,
        allowed: Allowed | None = None,
    ) -> Tokens:
        """Draw the masked tokens of a canvas (value V, `network.mask_id`), given the others, which are kept.

        Args:
            x: (n, *shape); a text may be shorter than the model's sequences.
            label: class of each example, for a model with classes.
            sampler: `fit_sampler()` unless given.
            generator: see `unmask.randomness`.
            allowed: which tokens may be drawn, at every position (V,) or at each one (*dims, V), dims those of x;
                `unmask.codecs.allowed_tokens` makes one. Each prediction is restricted to them and renormalised, which
                is not the same as conditioning the joint distribution on them (see `Constrained`).

        Raises:
            ValueError: tokens, labels or shapes do not fit the model, or a position is left with no allowed token.
        """
        self._check_examples(x, self.network.vocab_size + 1)
        network = self.network_for(x, allowed, to_draw=True)
        return self.fit_sampler(sampler)(network, x, label, generator=generator)

    def _check_examples(self, x: Tokens, count: int) -> None:
        """Raise a ValueError unless x holds examples of the model, or texts no longer than those."""
        check_tokens(x, count)
        fits = x.shape[1:] == self.shape or (x.dim() == 2 and len(self.shape) == 1 and x.shape[1] <= self.shape[0])
        if not fits:
            hint = "; x.unsqueeze(0) makes a batch of one example" if x.shape == self.shape else ""
            raise ValueError(f"expected examples of shape (n, *{self.shape}), got {tuple(x.shape)}{hint}")

    def network_for(self, x: Tokens, allowed: Allowed | None = None, *, to_draw: bool = False) -> Network:
        """Return the network for a canvas: for texts shorter than the model's sequences one that takes them.

        With `allowed`, or a codec that allows some tokens alone, it is one that predicts these alone; see `infill`. The
        token that examples are filled up with is not predicted inside them. The one `to_draw` samples with may be
        `accelerated`.
        """
        network: Network = self.accelerated[0] if to_draw and self.accelerated else self.network
        if x.dim() == 2 and x.shape[1:] != self.shape:
            require_masked(self.kind, f"a text of {x.shape[1]} tokens, not the {self.shape[0]} of its training,")
            network = self._for_length(network, x)
        own, lengths = self.codec.allowed, self.lengths
        if lengths is not None and lengths.apart and lengths.fill not in network.excluded:
            fills = torch.arange(network.vocab_size) == lengths.fill
            own = ~fills if own is None else own & ~fills
        if own is not None and allowed is not None:
            check_allowed(allowed, network)
            allowed = own & allowed.to(own.device)
        elif own is not None:
            allowed = own
        return network if allowed is None else _alike(Constrained(network, allowed))

    def _for_length(self, network: Network, x: Tokens) -> Network:
        """Return a network as it is, or one that fills shorter texts up where it learned from rows of one length."""
        lengths = self.lengths
        if x.shape[1:] == self.shape:
            return network
        seen = lengths is not None and getattr(self.network, "padding", None) != lengths.fill
        if network.any_length and not seen and not self.filled:
            return network
        return _alike(Padded(network, None if lengths is None else lengths.fill))

    def labels(self, name: str | int | None, count: int) -> Labels | None:
        """Return the label of each of `count` examples.

        Args:
            name: a class, by name or number; "all": count / classes examples of each class in turn; None: no label.
            count: number of examples.

        Raises:
            ValueError: the model has no classes, no such class, or `count` is no multiple of their number.
        """
        numbers = find_labels(name, count, self.network.classes, self.about.get("class_names") or [])
        return None if numbers is None else numbers.to(self.device)

    def fit_objective(self, objective: Objective | None = None) -> Objective:
        """Return the objective that bounds this model, or the one given with the model's schedule filled in.

        It is `TimeFreeELBO`, `TokenELBO` for a model with a state-dependent schedule, `NextToken` for a left-to-right
        model, or that which another baseline was trained with (`unmask.kinds`).

        Raises:
            ValueError: the objective is for the other kind of schedule, or of network.
        """
        if objective is not None:
            check_objective(objective, self.network)
            check_belongs(objective, self.kind)
        elif self.network.causal:
            return NextToken()
        if isinstance(self.schedule, TokenPolynomial):
            objective = objective or TokenELBO(masks=1)
            if not isinstance(objective, TokenELBO):
                raise ValueError(f"the model has a state-dependent schedule: its bound is TokenELBO, got {objective}")
            return objective if objective.schedule else replace(objective, schedule=self.schedule)
        if isinstance(objective, TokenELBO) and objective.schedule is None:
            raise ValueError(f"TokenELBO needs a state-dependent schedule, the model has {self.schedule}")
        return objective or own_objective(self.network, self.schedule) or TimeFreeELBO()

    def fit_sampler(self, sampler: Sampler | None = None) -> Sampler:
        """Return the exact sampler for this model, or the one given.

        It is `FirstHitting`, or `TokenFirstHitting` for a model with a state-dependent schedule, which is filled in.
        Other samplers keep the schedule that they were made with: the network knows of mask rates alone. For a
        left-to-right model it is `LeftToRight`, told what examples end with and are filled up with; other baselines
        have samplers of their own (`unmask.kinds`).

        Raises:
            ValueError: the sampler is for the other kind of schedule, or of network.
        """
        if sampler is not None:
            check_sampler(sampler, self.network)
            check_belongs(sampler, self.kind)
        filling = (*self.codec.wrap[1], *(() if self.lengths is None else (self.lengths.fill,)))
        if self.kind in OWN:
            shown = (*self.codec.wrap[0], *filling)
            return fit_redrawing(sampler, self.network, self.schedule, shown, self.conditional)
        if self.network.causal:
            chosen = sampler if isinstance(sampler, LeftToRight) else LeftToRight()
            return replace(chosen, filling=chosen.filling or filling)
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
        return sampler or own_sampler(self.network, self.schedule) or FirstHitting()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Path | str,
        *,
        trust: Sequence[str] = (),
        tokenizer: str | None = None,
        verify: bool = False,
        bidirectional: bool | None = None,
        shifted: bool | None = None,
        length: int | None = None,
        averaged: bool | None = None,
        to_train: bool = False,
        **download: Any,
    ) -> "MaskedDiffusion":
        """Load a model in evaluation mode; see `unmask.load`, which also puts it on a device.

        Args:
            pretrained_model_name_or_path: see `unmask.load`; so are the others.
            to_train: whether it is to be trained: a left-to-right model then sees both sides.
            download: passed to `huggingface_hub.snapshot_download` (revision, token, cache_dir, ...).
        """
        how = {"bidirectional": bidirectional, "shifted": shifted, "length": length, "averaged": averaged}
        found = read_model(str(pretrained_model_name_or_path), trust, tokenizer, verify, how, to_train, **download)
        model = cls(found.network, found.codec, found.schedule, found.about)
        if found.weights is not None:
            try:
                model.load_own_tensors(found.weights, assign=True)
                if isinstance(model.schedule, TokenPolynomial):
                    model.schedule.check()
            except ValueError as error:
                raise ValueError(f"{found.path}: {error}") from None
            except RuntimeError as error:
                message = " ".join(str(error).split())
                raise ValueError(
                    f"{found.path}: does not fit {found.path.with_name(CONFIG).name}: {message}"
                ) from error
        if found.altered:
            raise ValueError(f"{found.path}: {CONFIG} beside it was changed after the weights were saved; restore it")
        model.folder = found.folder
        return model.eval()


def _alike(wrapper: Constrained | Padded) -> Network:
    """Return a network in the mode, training or evaluation, of the one that it wraps, which stays in it."""
    wrapper.training = wrapper.network.training
    return wrapper
