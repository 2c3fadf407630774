"""Train a small causal language model on a prepared corpus: a judge for `unmask evaluate generate MODEL`.

    python -m benchmarks.judge CORPUS OUT --steps 2000

Its perplexities compare with each other alone. It is GPT-2's architecture, from the library `transformers`, at a
size that two CPU cores can train in minutes; the last line is its own perplexity on the test documents, with its
standard error.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from unmask.data.corpus import Corpus
from unmask.evaluation.nelbo import Likelihood


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder that unmask prepare made")
    parser.add_argument("out", type=Path, help="folder for the judge")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    settings = parser.parse_args()
    data = Corpus(settings.corpus, settings.length)
    torch.manual_seed(0)
    sizes = {"n_embd": settings.width, "n_layer": settings.depth, "n_head": settings.width // 32}
    sizes |= {"vocab_size": data.codec.vocab_size, "n_positions": settings.length}
    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    network = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01)
    train, order = data.split("train"), np.random.default_rng(0)
    warmup = min(200, settings.steps // 10 + 1)
    for step in tqdm(range(settings.steps), desc="training"):
        rate = min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * rate
        x, _ = train[order.integers(0, len(train), settings.batch_size)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(input_ids=x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    network.eval().save_pretrained(settings.out)
    data.codec.saved(settings.out)
    nats = []
    with torch.no_grad():
        for x, _ in tqdm(data.split("test").batches(settings.batch_size, 2000), desc="measuring"):
            law = network(input_ids=x).logits[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(law.flatten(0, 1), x[:, 1:].flatten(), reduction="none")
            nats.append(nll.view(len(x), -1).sum(1).double())
    found = torch.cat(nats)
    value, error = Likelihood.of(found, torch.full((len(found),), settings.length - 1), 0).perplexity
    print(f"perplexity per token on {len(found)} test sequences of {settings.length}: {value:.2f} ± {error:.2f}")


if __name__ == "__main__":
    main()
