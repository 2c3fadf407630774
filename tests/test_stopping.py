"""Samplers in blocks that stop where an end token has been drawn: fewer calls, the same tokens up to there."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unmask
from pretend_device import DEVICE, move, pretend_device
from small_bpe import write_bpe
from test_chat import CHATML, write_chat
from unmask.networks.constrained import Constrained
from unmask.randomness import generators
from unmask.samplers.base import State
from unmask.samplers.stopping import end_tokens, stop_early
from unmask.samplers.unmasking import Unmasking

V, L, END, BLOCK = 7, 24, 6, 8
AFTER = ["--sampler.blocks_after_prompt", "true"]
IN_BLOCKS = [
    unmask.FirstHitting(block_length=BLOCK),
    unmask.FirstHitting(tokens_per_call=3, order=2, block_length=BLOCK),
    unmask.FirstHitting(block_length=BLOCK, blocks_after_prompt=True, corrections=1),
    unmask.InOrder(block_length=BLOCK),
    unmask.Ancestral(steps=6, block_length=BLOCK),
    unmask.MostConfident(steps=4, block_length=BLOCK),
    unmask.MostConfident(steps=4, block_length=BLOCK, noise=1.0, corrections=1),
    unmask.EntropyBounded(2.0, block_length=BLOCK),
    unmask.llada(4, 1.0, block_length=BLOCK),
]


def network(forced: int | None = None) -> unmask.Network:
    """Return a random network, of which every example ends at one position and nowhere else, if it is given."""
    torch.manual_seed(0)
    made = unmask.Transformer(V, (L,), width=16, depth=1, heads=2).eval()
    torch.nn.init.normal_(made.head.weight, std=0.1)
    if forced is None:
        return made
    allowed = torch.arange(V).expand(L, V) != END
    allowed[forced] = ~allowed[forced]
    return Constrained(made, allowed)


def last(sampler: Any, model: unmask.Network, x: Tensor) -> State:
    *_, state = sampler.trajectory(model, x, generator=generators(0, len(x)))
    return state


@pytest.mark.parametrize("sampler", IN_BLOCKS, ids=str)
def test_calls_drop_and_what_comes_before_stays(sampler: Unmasking) -> None:
    x = torch.full((5, L), V)
    for forced, blocks in ((5, 1), (9, 2), (20, 3)):
        model = network(forced)
        whole, stopped = last(sampler, model, x), last(replace(sampler, stop_at=(END,)), model, x)
        kept = blocks * BLOCK
        assert (stopped.x[:, kept:] == END).all()
        assert torch.equal(stopped.x[:, :kept], whole.x[:, :kept]) or sampler.corrections
        assert (stopped.calls < whole.calls).all() if blocks < 3 else torch.equal(stopped.calls, whole.calls)
        first = x.clone()
        first[:, kept:] = 1  # what the blocks cost that were drawn
        assert blocks == 3 or (stopped.t == 0).all()
        if isinstance(sampler, unmask.InOrder | unmask.MostConfident):
            assert torch.equal(stopped.calls, last(sampler, model, first).calls)


@pytest.mark.parametrize("sampler", [one for one in IN_BLOCKS if not one.corrections], ids=str)
def test_each_example_stops_where_it_ends(sampler: Unmasking) -> None:
    x, model = torch.full((24, L), V), network()
    x[:, :2] = END  # given, which ends nothing
    x[:, 20] = 3  # given, which is kept
    x[:12, 0] = V
    stopping = replace(sampler, stop_at=END, blocks_after_prompt=False)
    whole, stopped = last(replace(sampler, blocks_after_prompt=False), model, x), last(stopping, model, x)
    drawn_ends = (whole.x == END) & (x == V)
    block = torch.where(drawn_ends, torch.arange(L) // BLOCK, 3).amin(1)
    assert len(block.unique()) >= 3, "the examples differ"
    after = torch.arange(L) // BLOCK > block.unsqueeze(1)
    expected = torch.where(after & (x == V), END, whole.x)
    assert torch.equal(stopped.x, expected)
    assert ((stopped.calls < whole.calls) == (block < 2)).all()
    states = list(stopping.trajectory(model, x, generator=generators(0, len(x))))
    for one, other in itertools.pairwise(states):
        assert (other.t <= one.t).all() and (other.calls >= one.calls).all()
        assert ((one.x == V) | (one.x == other.x)).all()


def test_on_another_device_it_waits_once_a_block() -> None:
    x, sampler = torch.full((3, L), V), unmask.FirstHitting(block_length=BLOCK)
    ended, whole = (last(replace(sampler, stop_at=END), network(forced), x) for forced in (9, 20))
    with pretend_device() as waits:
        there = x.to(DEVICE)

        def count(some: Unmasking, forced: int) -> tuple[Counter[str], Tensor]:
            model = network(forced)
            moved = Constrained(move(model.network), ~model.forbidden)  # type: ignore[arg-type, operator]
            moved(there)  # the angles of its positions are kept
            waits.clear()
            state = last(some, moved, there)
            return waits.copy(), state.x.cpu()

        plain, _ = count(sampler, 20)
        stopping, found = count(replace(sampler, stop_at=END), 20)
        assert torch.equal(found, whole.x)
        assert stopping.total() - plain.total() == 1 + L // BLOCK - 1, "the tokens to stop at, and once between blocks"
        assert torch.equal(count(replace(sampler, stop_at=END), 9)[1], ended.x)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"stop_at": 3}, "stop_at needs block_length"),
        ({"stop_at": (), "block_length": 4}, r"stop_at must be a token, or several, got \(\)"),
        ({"stop_at": (-1,), "block_length": 4}, "stop_at must be a token, or several"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        unmask.FirstHitting(**settings)


def test_a_token_that_the_model_lacks() -> None:
    with pytest.raises(ValueError, match=r"stop_at: the model's tokens are 0..6, got 7"):
        unmask.FirstHitting(stop_at=7, block_length=4)(network(), torch.full((1, L), V))


def test_an_answer_ends_with_a_special_token(tmp_path: Path) -> None:
    codec = unmask.Tokenizer.from_folder(write_chat(tmp_path, CHATML))
    assert end_tokens(codec)[0] == codec.end and set(end_tokens(codec)) == set(codec.special)
    assert end_tokens(unmask.Bytes()) == ()
    blocks = unmask.FirstHitting(block_length=4)
    assert stop_early(blocks, codec) == replace(blocks, stop_at=end_tokens(codec))
    assert stop_early(replace(blocks, stop_at=3), codec).stop_at == 3  # type: ignore[attr-defined]
    for sampler in (unmask.FirstHitting(), unmask.Remasking()):
        assert stop_early(sampler, codec) is sampler
        with pytest.raises(ValueError, match="stopping early takes a sampler in blocks"):
            stop_early(sampler, codec, needed=True)
    with pytest.raises(ValueError, match="stopping early takes a tokenizer with special tokens"):
        stop_early(blocks, unmask.Bytes(), needed=True)
    write_bpe(tmp_path / "plain")
    assert end_tokens(unmask.Tokenizer(str(tmp_path / "plain")))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from unmask.cli.main import main

    codec = unmask.Tokenizer.from_folder(write_chat(tmp_path, CHATML))
    torch.manual_seed(0)
    made = unmask.Transformer(codec.vocab_size, (256,), width=16, depth=1, heads=2)
    torch.nn.init.zeros_(made.head.weight)
    made.head.bias.data[list(codec.special)] += 5  # an end in almost every block
    unmask.MaskedDiffusion(made, codec).save_pretrained(tmp_path / "m")
    calls: list[int] = []
    forward = unmask.Transformer.forward
    monkeypatch.setattr(unmask.Transformer, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))

    def count(*options: str) -> tuple[int, str]:
        calls.clear()
        assert main(["infill", str(tmp_path / "m"), "--chat", "Hi", "--unknown", "32", *options]) == 0
        return len(calls), capsys.readouterr().out

    whole, shown = count("--sampler", "FirstHitting")
    assert whole == 32
    stopped, shown = count("--sampler", "FirstHitting", "--sampler.block_length", "8", *AFTER)
    assert stopped == 8
    ours = ["--sampler", "FirstHitting", "--sampler.block_length", "8", "--sampler.stop_at", "1", *AFTER]
    assert count(*ours)[0] == 32 and count(*ours)[1] == shown, "the answer ends where it did"
    published = ["--preset", "llada", "--steps", "4", "--temperature", "1"]
    assert count(*published)[0] == 4
    long = ["--unknown", "64"]
    assert count(*published, *long)[0] == 8 and count(*published, *long, "--stop_early")[0] == 4
    assert main(["infill", str(tmp_path / "m"), "a [3]", "--stop_early"]) == 1
    assert "--stop_early goes with --chat" in capsys.readouterr().err
