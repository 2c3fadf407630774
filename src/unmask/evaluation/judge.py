"""A causal language model that judges texts."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from unmask.codecs.tokenizer import Tokenizer
from unmask.evaluation.perplexity import Counted, causal_nll
from unmask.processes import in_order

JudgePrecision = Literal["float32", "bfloat16"]


class Judge:
    """A causal language model, and its tokens.

    Args:
        name: its folder, or its name on the Hub.
        precision: of its weights.
        device: that it runs on.

    Raises:
        ImportError: `transformers` is not installed.
        FileNotFoundError: the model cannot be had.
        ValueError: it is no causal language model, or has weights that only code could read.
    """

    def __init__(self, name: str, precision: JudgePrecision = "float32", device: torch.device | str = "cpu") -> None:
        try:
            from transformers import AutoModelForCausalLM
            from transformers.utils import logging
        except ImportError:
            raise ImportError("a judge needs the package transformers: pip install 'unmask[causal]'") from None
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        here = Path(name).is_dir()
        if not here and (Path(name).is_absolute() or name.startswith(".")):
            raise FileNotFoundError(f"judge {name}: no such folder")
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=getattr(torch, precision),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
            reason = str(error).strip().splitlines()[0]
            if here:
                raise ValueError(f"judge {name}: no causal language model with safetensors: {reason}") from None
            raise FileNotFoundError(
                f"judge {name}: no such folder, and not to be had from the Hub ({reason}); without a network name "
                "the folder of a copy"
            ) from None
        network, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"judge {name}: its weights lack {missing[0]} and {len(missing) - 1} more")
        self.network: Any = network.to(device).eval()
        self.name, self.precision, self.device = name, precision, device
        self.codec = Tokenizer(name)
        self.context = int(getattr(network.config, "max_position_embeddings", None) or 1024)
        self.commit = getattr(network.config, "_commit_hash", None)
        rows = network.get_input_embeddings().weight.shape[0]
        if self.codec.vocab_size > rows:
            raise ValueError(f"judge {name}: its tokenizer has {self.codec.vocab_size} tokens, its embedding {rows}")
        with torch.no_grad():
            one, other = (self.network(input_ids=torch.tensor([[0, 1, last]], device=device)).logits for last in (0, 1))
        if not torch.allclose(one[:, :2], other[:, :2], rtol=1e-6, atol=1e-6):
            raise ValueError(f"judge {name}: not left to right: what it says of a token depends on those that follow")

    def nll(self, rows: Iterable[list[int]], counted: Counted) -> list[torch.Tensor]:
        """Return -log p of the tokens of texts, in nats."""
        known = list(rows)
        end = None if counted == "all" else self.codec.end
        many = max(1, (1 << 30) // (self.context * self.codec.vocab_size * 4))  # a gigabyte of logits in float32

        def judge(_: int, start: int) -> list[torch.Tensor]:
            how: dict[str, Any] = {"context": self.context, "end": end, "counted": counted, "device": self.device}
            return causal_nll(self.network, known[start : start + 8 * many], **how, batch_size=many)

        batches = in_order(judge, range(0, len(known), 8 * many), title="judging")
        return [nll for batch in batches for nll in batch]

    def features(self, rows: list[list[int]]) -> torch.Tensor:
        """Return the judge's last hidden state at the last token of each text: (n, width)."""

        def look(_: int, row: list[int]) -> torch.Tensor:
            ids = torch.tensor([row[: self.context] or [self.codec.end]], device=self.device)
            with torch.no_grad():
                states = self.network(input_ids=ids, output_hidden_states=True).hidden_states
            return states[-1][0, -1].float().cpu()

        return torch.stack([*in_order(look, rows, title="features")])
