"""An adapter for lm-evaluation-harness.

    python -m unmask.evaluation.harness --model unmask --model_args pretrained=MODEL,draws=64 --tasks arc_easy

Log-likelihoods are lower bounds, estimated with `draws` masks each; those of a left-to-right model are exact. They are
of a continuation given its context: what is given is never masked.
"""

from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from torch import Tensor
from tqdm import tqdm

from unmask.codecs.text import Text
from unmask.codecs.tokenizer import Tokenizer
from unmask.kinds import require_masked
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.objectives.estimate import draw_loss
from unmask.opening import load
from unmask.randomness import seeded
from unmask.samplers.base import Sampler
from unmask.samplers.confidence import MostConfident
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.left_to_right import LeftToRight
from unmask.schedules import TokenPolynomial


@register_model("unmask")
class Harness(LM):
    """A model of texts, as the harness wants it.

    Args:
        pretrained: a model, its folder or that of a run, or a name on the Hub; public checkpoints too.
        draws: masks by which each log-likelihood is estimated; a continuation of one token needs no more than one.
        padded: whether a text shorter than the model's sequences is followed by masks up to their length: what the
            model was trained on, and slower. False: the network sees the text alone.
        max_new_tokens: of what is generated, where a task does not say.
        tokens_per_call: that are revealed from one network call in generation.
        block_length: generate from left to right in blocks of so many tokens; None: all at once.
        batch_size: only "1" and "auto", which the harness gives by itself: requests are taken one by one, their draws
            together.
        device: cpu, cuda, ...; a GPU where there is one if None.
        seed: of the masks and of what is sampled.
    """

    def __init__(
        self,
        pretrained: str | MaskedDiffusion,
        draws: int = 32,
        padded: bool = True,
        max_new_tokens: int = 128,
        tokens_per_call: int = 1,
        block_length: int | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        seed: int = 0,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("draws", draws), ("max_new_tokens", max_new_tokens), ("tokens_per_call", tokens_per_call)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if isinstance(pretrained, str):
            pretrained = load(pretrained, device=device)
        self.model = pretrained
        if not isinstance(self.model.codec, Text):
            raise ValueError(f"the harness is for models of texts; this one's tokens are {self.model.codec}")
        if isinstance(self.model.schedule, TokenPolynomial):
            raise ValueError("the harness is for models of a scalar schedule; this one's is state-dependent")
        require_masked(self.model.kind, "the harness, which asks for the likelihood of what follows a text,")
        self.codec: Text = self.model.codec
        self.draws, self.padded, self.max_new_tokens, self.seed = draws, padded, max_new_tokens, seed
        self.tokens_per_call, self.block_length = tokens_per_call, block_length
        self.room = self.model.shape[0] - sum(map(len, self.codec.wrap))

    @property
    def tokenizer_name(self) -> str:
        """What identifies the tokens, for the harness's cache."""
        return self.codec.checksum if isinstance(self.codec, Tokenizer) else str(self.codec)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) a bound on log p(continuation | context), and if it is greedy.

        A context that is too long loses its beginning.
        """
        bar = tqdm(requests, desc="log-likelihoods", disable=disable_tqdm)
        return [self._score(*self._encode_pair(*request.args)) for request in bar]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return for each text a bound on its log-likelihood; one that is too long is cut into parts by themselves."""
        found = []
        for request in tqdm(requests, desc="log-likelihoods", disable=disable_tqdm):
            parts = self._tokens(request.args[0]).split(self.room)
            nothing = torch.empty(0, dtype=torch.long)
            found.append(sum(self._bound(nothing, part) for part in parts if len(part)))
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each context, up to the first of the texts in `until` or the end of the text.

        Without `do_sample`, or at temperature 0, the likeliest token of the surest position comes first; else first
        hitting draws. A left-to-right model takes, or draws, the next token.
        """
        found = []
        for number, request in enumerate(tqdm(requests, desc="generating", disable=disable_tqdm)):
            context, settings = request.args
            found.append(self._continue(context, settings, number))
        return found

    def _tokens(self, text: str) -> Tensor:
        return self.codec.encode(text)

    def _encode_pair(self, context: str, continuation: str) -> tuple[Tensor, Tensor]:
        """Cut both into tokens as one text; spaces at the end of the context belong to the continuation."""
        kept = context.rstrip(" ")
        whole, before = self._tokens(context + continuation), self._tokens(kept)
        if len(whole) <= len(before):  # the border was cut through: each by itself
            whole = torch.cat((before, self._tokens(context[len(kept) :] + continuation)))
        return whole[: len(before)], whole[len(before) :]

    def _canvas(self, context: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Network]:
        """Return both as one wrapped example (1, L), which of it is given, and the network that takes it."""
        if len(tokens) > self.room:
            raise ValueError(f"a continuation of {len(tokens)} tokens is longer than the model's {self.room}")
        context = context[max(0, len(context) + len(tokens) - self.room) :]
        x = self.codec.wrapped(torch.cat((context, tokens))).unsqueeze(0).to(self.model.device)
        start = len(self.codec.wrap[0]) + len(context)
        given = torch.ones_like(x, dtype=torch.bool)
        given[:, start : start + len(tokens)] = False
        return x, given, self.model.network_for(x) if self.padded else self.model.network

    def _bound(self, context: Tensor, tokens: Tensor) -> float:
        """Return a bound on log p(tokens | context)."""
        x, given, network = self._canvas(context, tokens)
        draws = self.draws if len(tokens) > 1 else 1
        objective, generator = self.model.fit_objective(), seeded(self.seed, device=x.device)
        return -float(draw_loss(network, objective, x, draws=draws, given=given, generator=generator).nelbo.mean())

    def _score(self, context: Tensor, tokens: Tensor) -> tuple[float, bool]:
        if not len(tokens):
            return 0.0, True
        return self._bound(context, tokens), self._is_greedy(context, tokens)

    @torch.no_grad()
    def _is_greedy(self, context: Tensor, tokens: Tensor) -> bool:
        """Return whether the likeliest token of the surest position, again and again, gives the tokens."""
        x, given, network = self._canvas(context, tokens)
        if network.causal:  # every prediction at once
            return bool((network(x, at=~given).argmax(-1) == x[~given]).all())
        x_t = x.masked_fill(~given, network.mask_id)
        for _ in tokens:
            at = x_t == network.mask_id
            rate = at.sum(1).double() / (~given).sum(1)
            best = network(x_t, rate, at=at).log_softmax(-1).max(-1)
            place = at[0].nonzero()[best.values.argmax()]
            if best.indices[best.values.argmax()] != x[0, place]:
                return False
            x_t[0, place] = x[0, place]
        return True

    def _continue(self, context: str, settings: dict[str, Any], number: int) -> str:
        many = min(int(settings.get("max_gen_toks", self.max_new_tokens)), self.room - 1)
        unknown = torch.full((many,), self.model.network.mask_id)
        x, _, network = self._canvas(self._tokens(context), unknown)
        x = self._sampler(settings, many)(network, x, generator=seeded(self.seed, number, device=x.device))
        end = x.shape[1] - len(self.codec.wrap[1])
        row = x[0, end - many : end].tolist()
        if isinstance(self.codec, Tokenizer) and self.codec.end in row:
            row = row[: row.index(self.codec.end)]
        text = self.codec.decode(torch.tensor([row], dtype=torch.long))[0]
        stops = settings.get("until") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text

    def _sampler(self, settings: dict[str, Any], many: int) -> Sampler:
        temperature = float(settings.get("temperature") or 0)
        if self.model.network.causal:
            greedy = not settings.get("do_sample") or not temperature
            return self.model.fit_sampler(LeftToRight(top_k=1) if greedy else LeftToRight(temperature=temperature))
        if not settings.get("do_sample") or not temperature:
            steps = -(-min(self.block_length or many, many) // self.tokens_per_call)  # of a block
            return MostConfident(steps=steps, grid="uniform", block_length=self.block_length, top_k=1)
        return FirstHitting(
            tokens_per_call=self.tokens_per_call, block_length=self.block_length, temperature=temperature
        )


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
