"""A server of models: its answers are the library's, whatever waits beside them, and nothing that is sent breaks it."""

import asyncio
import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from fastapi.testclient import TestClient

import unmask
from oracle import Table as Oracle
from served import letters, pictures, running, small
from unmask.codecs.table import Table
from unmask.infilling import infill_one
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.noise import Replacing
from unmask.objectives.estimate import draw_loss
from unmask.randomness import Repeated, generators, seeded
from unmask.serving import Limits, Trajectory, create_app, export_page, record
from unmask.serving.address import is_loopback, listen
from unmask.serving.drawing import Drawing
from unmask.serving.keys import read_keys
from unmask.serving.preparing import Preparer
from unmask.serving.requests import ScoreRequest
from unmask.serving.served import Served
from unmask.serving.starting import export_file, start
from unmask.serving.worker import Batch
from unmask.storage.failures import explain_failure

MODELS = {"letters": letters(), "pictures": pictures(), "numbers": small(unmask.Symbols(5), (6,))}
ALPHABET = "abcdefgh "


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(MODELS)) as one:
        yield one


def ask(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(client: TestClient, path: str, status: int, **body: Any) -> str:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"} and "\n" not in answer.json()["error"]
    return answer.json()["error"]


def lines(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


SAMPLERS = {
    "FirstHitting": (unmask.FirstHitting(tokens_per_call=3, order=2), {"tokens_per_call": 3, "order": 2}),
    "Ancestral": (unmask.Ancestral(unmask.Cosine(), 5, top_p=0.9), {"schedule": "Cosine", "steps": 5, "top_p": 0.9}),
    "MostConfident": (unmask.MostConfident(6, corrections=1), {"steps": 6, "measure": "confidence", "corrections": 1}),
    "Remasking": (unmask.Remasking(steps=8, eta=0.3), {"steps": 8, "eta": 0.3}),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_those_of_the_library(client: TestClient, name: str) -> None:
    sampler, settings = SAMPLERS[name]
    found = ask(client, "/sample", n=3, seed=7, sampler={"class": name, **settings})
    x = MODELS["letters"].sample(3, sampler=sampler, generator=generators(7, 3))
    assert [one["tokens"] for one in found["examples"]] == x.tolist()
    assert [one["text"] for one in found["examples"]] == MODELS["letters"].decode(x)
    assert found["sampler"].startswith(f"{name}(") and found["seed"] == 7
    rest = ask(client, "/sample", n=1, first=2, seed=7, sampler={"class": name, **settings})
    assert rest["examples"][0]["tokens"] == x[2].tolist()


def test_samples_of_images_have_labels_and_pixels(client: TestClient) -> None:
    model = MODELS["pictures"]
    found = ask(client, "/sample", model="pictures", n=2, label="ring", sampler={"guidance": 2})
    label = torch.tensor([1, 1])
    x = model.sample(2, label, sampler=unmask.FirstHitting(guidance=2.0), generator=generators(0, 2))
    assert [one["tokens"] for one in found["examples"]] == x.flatten(1).tolist()
    assert found["examples"][1]["pixels"] == model.codec.decode(x)[1].flatten().tolist()
    assert found["examples"][0]["calls"] == 32


def test_a_stream_is_the_trajectory_with_the_probabilities_of_what_was_drawn(
    client: TestClient, tmp_path: Path
) -> None:
    model, sampler = MODELS["letters"], unmask.MostConfident(5)
    body = {"n": 2, "seed": 3, "stream": True, "sampler": {"class": "MostConfident", "steps": 5}}
    answer = client.post("/sample", json=body)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    (tmp_path / "saved.ndjson").write_text(answer.text)
    (found,) = Trajectory.read(tmp_path / "saved.ndjson")
    canvas = model.empty_canvas(2)
    states = [state.x for state in sampler.trajectory(model.network, canvas, generator=generators(3, 2))]
    assert torch.equal(found.states(), torch.stack(states))
    assert found.end["examples"][0]["tokens"] == states[-1][0].tolist()
    known, drawn = 0, set[int]()
    for before, step in zip(states, found.steps, strict=False):
        p = model.network(before, torch.ones(2)).detach().softmax(-1)  # it is not told the noise
        for example, position, token, chance in step["changed"]:
            assert chance == pytest.approx(float(p[example, position, token]), abs=1e-4)
            known += 1
            drawn.add(token)
    assert known == 48
    seen = {str(token): text for step in found.steps for token, text in step.get("symbols", {}).items()}
    assert seen == {str(token): ALPHABET[token] for token in drawn}


def test_probabilities_with_guidance_are_those_of_the_label(client: TestClient) -> None:
    body = {"model": "pictures", "label": "dot", "stream": True, "sampler": {"guidance": 1.5, "tokens_per_call": 16}}
    _, step, _ = lines(client.post("/sample", json=body))
    model = MODELS["pictures"]
    p = model.network(model.empty_canvas(1), torch.ones(1), torch.tensor([2])).detach().softmax(-1).view(16, 4)
    for _, position, token, chance in step["changed"]:
        assert chance == pytest.approx(float(p[position, token]), abs=1e-4)


def test_what_is_known_is_kept(client: TestClient) -> None:
    model = MODELS["letters"]
    found = ask(client, "/infill", text="abc[4]de", n=3, seed=5)
    alone = infill_one(model, {"text": "abc[4]de"}, samples=3, seed=5, score=0)
    assert [one["text"] for one in found["examples"]] == [*alone.texts]
    assert all(re.fullmatch("abc.{4}de", one["text"]) for one in found["examples"])
    assert re.fullmatch("hhh.{5}a", ask(client, "/infill", prefix="hhh", unknown=5, suffix="a")["examples"][0]["text"])
    assert re.fullmatch("head.{20}", ask(client, "/infill", prefix="head", unknown="rest")["examples"][0]["text"])
    only = ask(client, "/infill", prefix="a", unknown=9, allow="b-d")["examples"][0]["text"]
    assert re.fullmatch("a[bcd]{9}", only)
    tokens = [1, -1, 2, -1] + [0] * 20
    found = ask(client, "/infill", tokens=tokens)["examples"][0]["tokens"]
    assert [found[0], found[2]] == [1, 2] and found[4:] == [0] * 20 and -1 not in found
    pixels, mask = [0, 85, 170, 255] * 4, [True] * 4 + [False] * 12
    found = ask(client, "/infill", model="pictures", pixels=pixels, mask=mask, label=1)["examples"][0]
    assert found["pixels"][4:] == pixels[4:] and found["calls"] == 4


def test_bounds_are_those_of_the_objective(client: TestClient) -> None:
    model = MODELS["letters"]
    x = model.codec.encode("a bad head cab").unsqueeze(0)
    found = ask(client, "/score", text="a bad head cab", draws=8, seed=2)["examples"][0]
    masks = Repeated([seeded(2, 0, 1)], 8)
    loss = draw_loss(model.network_for(x), model.fit_objective(), x, draws=8, generator=masks)
    assert found["nats"] == pytest.approx(float(loss.nelbo.mean()), abs=1e-5)
    assert sum(found["bits"]) == pytest.approx(found["nats"] / 0.6931471805599453, abs=1e-3)
    assert found["tokens"] == 14 and found["bits_per_token"] == pytest.approx(sum(found["bits"]) / 14, abs=1e-4)
    part = ask(client, "/score", text="a bad head cab", given=[True] * 10 + [False] * 4)["examples"][0]
    assert part["tokens"] == 4 and part["bits"][:10] == [None] * 10 and None not in part["bits"][10:]


def test_the_bound_with_a_known_length_has_that_of_the_length() -> None:
    codec = unmask.Characters("ab.")
    lengths = Lengths(2, (1, 2, 3, 2), apart=True)
    model = small(codec, (4,), {"lengths": lengths.describe()})
    with TestClient(create_app(model)) as client:
        found = ask(client, "/score", text="aba")["examples"][0]
        assert found["nats_of_length"] == pytest.approx(-float(lengths.log_p(torch.tensor([3]))[0]), abs=1e-6)
        assert found["tokens"] == 3 and found["bits"][3] is None
        x = model.infill(model.empty_canvas(4, 9), generator=generators(9, 4))  # as `unmask sample --seed 9` does
        assert [one["text"] for one in ask(client, "/sample", n=4, seed=9)["examples"]] == model.decode(x)
        texts = {one["text"] for one in ask(client, "/infill", prefix="a", n=8)["examples"]}
        assert len({len(text) for text in texts}) > 1 and all(text.startswith("a") for text in texts)


def test_alternatives_are_the_conditionals() -> None:
    oracle = Oracle(3, 3)
    oracle.register_parameter("place", torch.nn.Parameter(torch.zeros(())))
    with TestClient(create_app(MaskedDiffusion(oracle, unmask.Characters("abc")))) as client:
        found = ask(client, "/alternatives", tokens=[2, 0, -1], positions=[0, 2], k=2)["positions"]
        whole = ask(client, "/alternatives", tokens=[2, 0, 1], positions=[1], k=3)["positions"][0]
    p, states = oracle.p, oracle.states
    for one, wanted in zip(found, (states[:, 1] == 0, (states[:, 0] == 2) & (states[:, 1] == 0)), strict=True):
        exact = torch.stack([p[wanted & (states[:, one["position"]] == v)].sum() for v in range(3)]) / p[wanted].sum()
        best = exact.argsort(descending=True)[:2].tolist()
        assert [other["token"] for other in one["alternatives"]] == best
        assert [other["p"] for other in one["alternatives"]] == pytest.approx(exact[best].tolist(), rel=1e-4)
        assert one["alternatives"][0]["text"] == "abc"[best[0]]
    assert found[0]["now"]["token"] == 2 and found[1]["now"] is None
    assert sum(other["p"] for other in whole["alternatives"]) == pytest.approx(1, abs=1e-4)
    assert whole["now"] in whole["alternatives"]


MIXED: list[tuple[str, dict[str, Any]]] = [
    *(("/sample", {"n": 1 + i % 3, "seed": i, "stream": i % 2 == 0}) for i in range(5)),
    *(("/sample", {"seed": i, "sampler": {"class": "MostConfident", "steps": 7}}) for i in range(3)),
    *(("/infill", {"text": f"ab[{i}]c{'d' * (9 - i)}", "seed": 2}) for i in range(1, 7)),
    *(("/sample", {"model": "pictures", "label": i % 3, "seed": i, "stream": True}) for i in range(4)),
    *(("/alternatives", {"tokens": [i, -1, 2, -1, 4], "positions": [0, 1]}) for i in range(5)),
    *(("/score", {"text": "abc"[: 1 + i % 3], "seed": i}) for i in range(4)),
]


def test_answers_do_not_depend_on_what_they_are_batched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(MODELS, limits=Limits(gather=0.0))) as client:
        alone = [client.post(path, json=body).text for path, body in MIXED]
    sizes: list[int] = []
    real = Drawing.run
    monkeypatch.setattr(Drawing, "run", lambda self, jobs: (sizes.append(len(jobs)), real(self, jobs))[1])
    app = create_app(MODELS)
    worker = app.state.worker
    begin, worker.start = worker.start, lambda: None  # not before all are there
    with TestClient(app) as client, ThreadPoolExecutor(len(MIXED)) as pool:
        asked = [pool.submit(client.post, path, json=body) for path, body in MIXED]
        wait_until(lambda: len(worker.waiting) == len(MIXED))
        worker.start = begin
        begin()
        together = [one.result().text for one in asked]
    assert together == alone
    assert sorted(sizes) == [3, 4, 5, 6], sizes


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Slow(unmask.Transformer):
    """Waits in every call until it is let through."""

    def __init__(self) -> None:
        super().__init__(3, (8,), width=8, depth=1, heads=1)
        self.let, self.entered, self.count, self.pause = threading.Event(), threading.Event(), 0, 0.02

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        self.count += 1
        self.entered.set()
        assert self.let.wait(60)
        time.sleep(self.pause)
        return super().forward(*arguments, **settings)


def test_a_full_queue_refuses_and_late_requests_end() -> None:
    slow = Slow()
    limits = Limits(queue=2, seconds=1.0, running=1, gather=0.0, batch=1, examples=1)
    app = create_app(MaskedDiffusion(slow, unmask.Characters("abc")), limits=limits)
    with TestClient(app) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, "/sample", json={"seed": 1})
        assert slow.entered.wait(60)
        waiting = [pool.submit(client.post, "/sample", json={"seed": 2 + i}) for i in range(2)]
        wait_until(lambda: len(app.state.worker.waiting) == 2)
        assert "waiting" in refusal(client, "/sample", 503) and client.post("/sample", json={}).headers["retry-after"]
        time.sleep(1.1)
        slow.let.set()
        answers = [one.result() for one in (first, *waiting)]
        assert [one.status_code for one in answers] == [504] * 3 and "longer" in answers[0].json()["error"]
        slow.pause = 0.0
        assert slow.count == 1, "what is late takes no more network calls"
        assert ask(client, "/sample", seed=9)["examples"][0]["calls"] == 8


def test_corrections_end_in_time_too() -> None:
    slow = Slow()
    slow.let.set()
    with TestClient(create_app(MaskedDiffusion(slow, unmask.Characters("abc")), limits=Limits(seconds=0.3))) as client:
        refusal(client, "/sample", 504, sampler={"class": "InOrder", "tokens_per_call": 8, "corrections": 4000})
    assert slow.count < 20


def test_the_end_of_a_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    app = create_app(MaskedDiffusion(slow, unmask.Characters("abc")))
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/sample", json={})
        assert slow.entered.wait(60)
        closing = threading.Thread(target=app.state.worker.close)
        closing.start()
        slow.let.set()
        assert asked.result().status_code == 503
        closing.join()
        slow.let.clear()


def test_who_has_gone_is_not_worked_for_any_more() -> None:
    """With one batch at a time, the next request is answered only once the one before it, of hours, is given up."""
    slow = Slow()
    slow.let.set()
    models = {"slow": MaskedDiffusion(slow, unmask.Characters("abc"))}
    hours = {"class": "Ancestral", "steps": 4096, "corrections": 4096}
    with running(models, limits=Limits(running=1, seconds=3600.0)) as (host, port):
        for stream in (True, False):
            before, connection = slow.count, http.client.HTTPConnection(host, port)
            body = json.dumps({"stream": stream, "sampler": hours})
            connection.request("POST", "/sample", body, {"Content-Type": "application/json"})
            wait_until(lambda known=before: slow.count > known + 2)
            if stream:
                answer = connection.getresponse()
                assert json.loads(answer.readline())["event"] == "start"
                answer.close()
            connection.close()
            after = http.client.HTTPConnection(host, port, timeout=60)
            after.request("POST", "/sample", '{"seed": 3}', {"Content-Type": "application/json"})
            assert after.getresponse().status == 200
            after.close()


def test_200_requests_at_once_are_all_answered_and_none_is_mixed_up() -> None:
    model, times = MODELS["letters"], [0.0] * 200

    async def load(host: str, port: int) -> list[dict[str, Any]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", limits=limits, timeout=300) as many:

            async def one(seed: int) -> dict[str, Any]:
                began = time.monotonic()
                answer = await many.post("/sample", json={"seed": seed})
                times[seed] = time.monotonic() - began
                return answer.json()

            return await asyncio.gather(*map(one, range(200)))

    with running(MODELS, limits=Limits(seconds=300.0)) as (host, port):
        found = asyncio.run(load(host, port))
    wanted = model.sample(200, generator=[seeded(seed, 0) for seed in range(200)])
    assert [one["seed"] for one in found] == [*range(200)]
    assert [one["examples"][0]["tokens"] for one in found] == wanted.tolist()
    print(f"200 requests: median {sorted(times)[100]:.2f} s, slowest {max(times):.2f} s")


def test_keys_hosts_and_sizes(client: TestClient) -> None:
    app = create_app(
        MODELS, keys=["a-key-of-16-bytes", "another-of-16-bytes"], hosts=["here"], limits=Limits(bytes=500)
    )
    with TestClient(app, base_url="http://here:80") as guarded:
        assert guarded.post("/sample", json={}).status_code == 401 and guarded.get("/models").status_code == 401
        wrong = {"Authorization": "Bearer a-key"}
        assert guarded.post("/sample", json={}, headers=wrong).status_code == 401
        assert guarded.get("/").status_code == guarded.get("/docs").status_code == 200
        right = {"Authorization": "bearer another-of-16-bytes"}
        assert guarded.post("/sample", json={}, headers=right).status_code == 200
        assert guarded.post("/sample", json={"forbid": "a" * 600}, headers=right).status_code == 413
        assert guarded.post("/sample", content=(b"[" * 300 for _ in range(9)), headers=right).status_code == 413
        assert "HTTPBearer" in guarded.get("/openapi.json").text
        answer = guarded.get("/", headers={"host": "elsewhere.example"})
        assert answer.status_code == 400 and "here" in answer.json()["error"]
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]


HOSTILE: list[tuple[str, Any, str]] = [
    ("/sample", {"n": 0}, "n"),
    ("/sample", {"n": 17}, "at most 16"),
    ("/sample", {"n": 10**30}, "n"),
    ("/sample", {"n": 10**8}, "n is 100000000, at most 16"),
    ("/sample", {"seed": -1}, "seed"),
    ("/sample", {"seed": 2**63}, "seed"),
    ("/sample", {"model": "nosuch"}, "letters, pictures, numbers"),
    ("/sample", {"label": 1}, "without labels"),
    ("/sample", {"model": "pictures", "label": "9" * 5000}, ""),
    ("/sample", {"model": "pictures", "sampler": {"guidance": 2}}, "label"),
    ("/sample", {"unknown_field": 1}, "unknown_field"),
    ("/sample", {"length": 25}, "1..24"),
    ("/sample", {"length": "9-x"}, "20-60"),
    ("/sample", {"model": "pictures", "length": 3}, "(4, 4, 1)"),
    ("/sample", {"allow": "z-a"}, "z-a"),
    ("/sample", {"forbid": ALPHABET}, "token"),
    ("/sample", {"sampler": {"class": "Ancestrl"}}, "did you mean 'Ancestral'"),
    ("/sample", {"sampler": {"class": ["x"]}}, "unknown sampler"),
    ("/sample", {"sampler": {"class": "LeftToRight"}}, "this model has"),
    ("/sample", {"sampler": {"class": "Ancestral", "steps": 10**9}}, "at most 4096"),
    ("/sample", {"sampler": {"class": "Ancestral", "steps": 2.5}}, "whole number"),
    ("/sample", {"sampler": {"class": "Ancestral", "steps": True}}, "whole number"),
    ("/sample", {"sampler": {"class": "Ancestral", "stepz": 3}}, "did you mean 'steps'"),
    ("/sample", {"sampler": {"class": "Ancestral", "schedule": "Cosin"}}, "Linear"),
    ("/sample", {"sampler": {"class": "Ancestral", "schedule": "Scored"}}, "must be one of Linear"),
    ("/sample", {"sampler": {"class": "UniformAncestral"}}, "this model has Ancestral"),
    ("/sample", {"sampler": {"class": "Ancestral", "schedule": {"class": "Polynomial", "power": -1}}}, "power"),
    ("/sample", {"sampler": {"class": "Ancestral", "schedule": {"class": "Polynomial", "pow": 1}}}, "takes no pow"),
    ("/sample", {"sampler": {"temperature": -1}}, "temperature"),
    ("/sample", {"sampler": {"temperature": "hot"}}, "number"),
    ("/sample", {"sampler": {"top_k": 0}}, "top_k"),
    ("/sample", {"sampler": {"class": "InOrder", "order": [0, 1]}}, "canvas 24"),
    ("/sample", {"sampler": {"class": "InOrder", "order": list(range(5000))}}, "at most 4096"),
    ("/sample", {"sampler": {"class": "Remasking", "loop": [1, 2]}}, ""),
    ("/sample", {"sampler": {"block_length": 4, "stop_at": [99]}}, "0..8"),
    ("/infill", {}, "chat, row, tokens or pixels; got none of them"),
    ("/infill", {"unknown": 4}, "got none of them"),
    ("/infill", {"text": "a[2]", "prefix": "b"}, "got text, prefix"),
    ("/infill", {"tokens": [1, -1], "unknown": 1}, "unknown does not go with tokens"),
    ("/infill", {"text": "abc"}, "nothing is unknown"),
    ("/infill", {"text": "a[30]"}, "24: shorten it"),
    ("/infill", {"text": "a" * 30 + "[2]"}, "the model's sequences have 24: shorten it"),
    ("/infill", {"prefix": "a" * 30, "unknown": "rest"}, "no room"),
    ("/infill", {"text": "a[1-6]"}, "not served"),
    ("/infill", {"text": "a[2]xyz"}, "character 'x'"),
    ("/infill", {"text": "\ud800[2]"}, ""),
    ("/infill", {"text": "a[2]", "tokens": [1, -1]}, "got text, tokens"),
    ("/infill", {"text": "a[2]", "mask": [True]}, "mask"),
    ("/infill", {"prefix": "abc"}, "unknown"),
    ("/infill", {"chat": "hi", "unknown": 3}, "conversation"),
    ("/infill", {"row": {"a": "b"}}, "row"),
    ("/infill", {"tokens": []}, "0 tokens"),
    ("/infill", {"tokens": [1] * 24}, "nothing is unknown"),
    ("/infill", {"tokens": [9, -1]}, "0..8, got 9 at 0"),
    ("/infill", {"tokens": [-2, -1]}, "got -2"),
    ("/infill", {"tokens": [10**40, -1]}, "0..8"),
    ("/infill", {"tokens": [1, 2], "mask": [True]}, "the mask has 1 entries, there are 2 tokens"),
    ("/infill", {"model": "pictures", "tokens": [-1] * 15}, "have 16 (4 x 4 x 1)"),
    ("/infill", {"model": "pictures", "pixels": [0] * 16, "mask": [True] * 9}, "the mask has 9 entries"),
    ("/infill", {"model": "pictures", "pixels": [256] * 16, "mask": [True] * 16}, "0..255"),
    ("/infill", {"model": "pictures", "text": "a[2]"}, "the model's tokens are Pixels"),
    ("/infill", {"model": "numbers", "text": "a[2]"}, "the model's tokens are Symbols"),
    ("/infill", {"pixels": [0, 1], "mask": [True, True]}, "the model's tokens are Characters"),
    ("/infill", {"image": "/etc/passwd", "mask": "/etc/passwd"}, "image"),
    ("/score", {}, "give one of"),
    ("/score", {"text": ""}, "0 tokens"),
    ("/score", {"text": "a" * 25}, "24"),
    ("/score", {"tokens": [-1, 2]}, "0..8"),
    ("/score", {"text": "ab", "given": [True]}, "given has 1 entries"),
    ("/score", {"text": "ab", "given": [True, True]}, "nothing to measure"),
    ("/score", {"text": "ab", "draws": 65}, "at most 64"),
    ("/alternatives", {"tokens": [1, 2], "positions": [2]}, "0..1"),
    ("/alternatives", {"tokens": [1, 2], "positions": []}, "positions"),
    ("/alternatives", {"tokens": [1, 2], "positions": [0] * 65}, "positions"),
    ("/alternatives", {"positions": [0]}, "tokens"),
    ("/alternatives", {"tokens": [1, 2], "positions": [0], "label": "all"}, "label"),
]


@pytest.mark.parametrize(("path", "body", "said"), HOSTILE, ids=lambda one: str(one)[:40])
def test_hostile_requests_are_refused_in_one_line(client: TestClient, path: str, body: Any, said: str) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()) == {"error"} and said in answer.json()["error"] and len(answer.json()["error"]) <= 1000


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"seed": NaN}', b'{"sampler": {"temperature": NaN}}', b"[" * 100_000,
     b'{"sampler": {"temperature": Infinity}}', b'{"sampler": {"temperature": 1e-320}}', b'{"n": ' + b"9" * 5000 + b"}",
     b'{"sampler": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, b'{"n": 1, "n": "two"}', b'{"forbid": "\\ud800"}'],
    ids=lambda one: one[:30].decode("latin-1"),
)  # fmt: skip
def test_malformed_bodies_are_refused(client: TestClient, content: bytes) -> None:
    answer = client.post("/sample", content=content, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500 and set(answer.json()) == {"error"}, answer.text


def test_whatever_is_described_or_not_gives_no_server_error() -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings

    app = create_app(MODELS, limits=Limits(gather=0.0, seconds=2.0))
    how = {"max_examples": 6, "deadline": None, "derandomize": True, "database": None, "phases": [Phase.generate]}
    seen: dict[Any, int] = {}

    def check(case: Any) -> None:
        answer = case.call()
        seen[case.operation.path, answer.status_code] = 1
        assert answer.status_code < 500, (case.body, answer.text)

    with TestClient(app):
        for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
            for mode in schemathesis.GenerationMode if found.ok().method == "post" else ():
                cases = found.ok().as_strategy(generation_mode=mode)
                settings(**how, suppress_health_check=[*HealthCheck])(given(cases)(check))()
    assert {422, 400, 200} <= {status for _, status in seen} and len({path for path, _ in seen}) == 4


def test_other_kinds_of_models(client: TestClient) -> None:
    about = {one["name"]: one for one in client.get("/models").json()}
    assert [about[name]["kind"] for name in MODELS] == ["text", "image", "other"]
    assert "neither texts nor images" in about["numbers"]["note"] and about["letters"]["note"] is None
    assert about["pictures"]["labels"] == ["plus", "ring", "dot"]
    found = ask(client, "/sample", model="numbers")["examples"][0]
    assert found["tokens"] == MODELS["numbers"].sample(1, generator=generators(0, 1))[0].tolist()
    steps = {one["name"]: one for one in about["letters"]["samplers"]["Ancestral"]}
    assert steps["steps"] == {"name": "steps", "kind": "whole", "default": 256, "optional": False}
    assert steps["grid"]["choices"] == ["uniform", "cosine", "dream"] and steps["schedule"]["default"] == "Linear"
    causal = unmask.CausalTransformer(4, (6,), width=8, depth=1, heads=1)
    learned = MaskedDiffusion(
        small(unmask.Symbols(4), (6,), time_conditioning=True).network, unmask.Symbols(4), unmask.TokenPolynomial(4)
    )
    models = {"causal": MaskedDiffusion(causal, unmask.Characters("abcd")), "learned": learned}
    with TestClient(create_app(models)) as other:
        about = {one["name"]: one for one in other.get("/models").json()}
        assert [*about["causal"]["samplers"]] == ["LeftToRight"]
        assert {*about["learned"]["samplers"]} == {"TokenAncestral", "TokenFirstHitting"}
        for name, model in models.items():
            found = ask(other, "/sample", model=name, seed=3)["examples"][0]
            assert found["tokens"] == model.sample(1, generator=generators(3, 1))[0].tolist()
            assert lines(other.post("/sample", json={"model": name, "stream": True}))[-1]["event"] == "end"
            assert ask(other, "/score", model=name, tokens=[0, 1, 2, 3, 0, 1])["examples"][0]["tokens"] == 6
        assert "after an unknown one" in refusal(other, "/alternatives", 400, tokens=[0, -1, 2], positions=[2])
        assert "left-to-right" in refusal(other, "/infill", 400, tokens=[0, -1, 2])
        p = ask(other, "/alternatives", tokens=[0, 3, 2], positions=[1])["positions"][0]
        exact = causal(torch.tensor([[0, 4, 4]]), torch.ones(1)).detach()[0, 1].softmax(-1)
        assert p["now"]["p"] == pytest.approx(float(exact[3]), rel=1e-4)
    network = unmask.GaussianTransformer(4, (6,), width=16, depth=1, heads=2)
    models = {"uniform": MaskedDiffusion(learned.network, unmask.Characters("abcd"), Replacing(steps=4))}
    models["vectors"] = MaskedDiffusion(network, unmask.Characters("abcd"))
    with TestClient(create_app(models)) as other:
        about = {one["name"]: one for one in other.get("/models").json()}
        assert [*about["uniform"]["samplers"]] == ["UniformAncestral"]
        assert [*about["vectors"]["samplers"]] == ["GaussianAncestral"]
        for name in models:
            assert lines(other.post("/sample", json={"model": name, "stream": True}))[-1]["event"] == "end"
            assert ask(other, "/score", model=name, tokens=[0, 1, 2, 3, 0, 1])["examples"][0]["tokens"] == 6
            refused = refusal(other, "/alternatives", 400, model=name, tokens=[0, 1, 2, 3, 0, 1], positions=[2])
            assert "not for this model" in refused and "not masked" in refused
    answers = small(unmask.Characters("ab."), (4,), {"lengths": Lengths(2, (1, 1, 1, 1), targets=True).describe()})
    with TestClient(create_app(answers)) as other:
        assert "/infill" in refusal(other, "/sample", 400)


def test_a_row_of_a_table_is_completed_and_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Table(("colour", "size"), (("red", "blue"), ("big", "small")))
    with TestClient(create_app(small(codec, (2,)))) as client:
        assert client.get("/models").json()[0]["kind"] == "other"
        found = ask(client, "/infill", row={"colour": "blue"}, n=4)["examples"]
        assert all(one["row"]["colour"] == "blue" and one["row"]["size"] in ("big", "small") for one in found)
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "serving.md", "exec"), {})
    assert (tmp_path / "figure.html").stat().st_size > 10_000


def test_an_example_of_probability_0_is_its_own_error_alone() -> None:
    """Also where it waits for the model with others, in one batch."""
    preparer = Preparer(
        {"table": Served("table", small(Table(("a", "b"), (("x", "y"), ("1", "2", "3"))), (2,)))}, Limits()
    )
    said: list[Any] = []
    jobs = [preparer.prepare(ScoreRequest(tokens=tokens)) for tokens in ([3, 0], [0, 4])]
    for job in jobs:
        job.send = said.append
    batch = Batch(jobs)
    while batch.step():
        pass
    (error,) = [one for one in said if one["event"] == "error"]
    (end,) = [one for one in said if one["event"] == "end"]
    assert error["status"] == 400 and "the probability 0" in error["message"] and len(end["examples"]) == 1


def test_what_is_not_json_is_told_so(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/sample", content='{"n": 1}', headers={"Content-Type": kind})
        assert answer.status_code == 415 and "Content-Type: application/json" in answer.json()["error"]


def test_the_description_names_every_field(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    assert {*api["paths"]} == {"/models", "/sample", "/infill", "/score", "/alternatives"}
    for schema in ("SampleRequest", "InfillRequest", "ScoreRequest", "AlternativesRequest"):
        assert all(one.get("description") for one in api["components"]["schemas"][schema]["properties"].values())
    for path in ("/", "/docs", "/style.css", "/view.js", "/page.js", "/api.js"):
        page = client.get(path)
        assert page.status_code == 200
        assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page.text), (
            "nothing is loaded from elsewhere"
        )
    assert client.get("/nosuch").json() == {"error": "Not Found"} and client.get("/sample").status_code == 405


def test_a_page_of_a_trajectory_is_one_file(tmp_path: Path) -> None:
    model = small(unmask.Characters("</script>&\"'"), (12,))
    one = record(model, n=2, seed=4, draws=4)
    x = model.sample(2, generator=generators(4, 2))
    assert torch.equal(one.states()[-1], x) and len(one.end["examples"][0]["bits"]) == 12
    one.write(tmp_path / "saved.ndjson")
    assert Trajectory.read(tmp_path / "saved.ndjson") == [one]
    page = export_file(tmp_path / "saved.ndjson").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script") == 2
    assert not re.search(r"\b(src|href)=|https?://|fetch\(|{{", page)
    saved = re.search(r'id="saved">(.*?)</script', page, re.DOTALL)
    assert saved and json.loads(saved[1]) == [[*one.events()]]
    export_page([one, one], tmp_path / "two.html", title="{{SAVED}} <b>")
    assert "<title>{{SAVED}} &lt;b&gt;</title>" in (tmp_path / "two.html").read_text()
    canvas = model.empty_canvas(1)
    canvas[0, :10] = x[0, :10]
    part = record(model, canvas, sampler=unmask.InOrder())
    assert len(part.steps) == 2 and part.states()[-1][0, :10].tolist() == x[0, :10].tolist()
    with pytest.raises(ValueError, match="no trajectory to export"):
        export_page([], tmp_path / "none.html")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda events: events[1:], ":1: no line of a trajectory: 'step' cannot stand here"),
        (lambda events: events[:-1], "has no end"),
        (lambda events: [], "no trajectory"),
        (lambda events: [events[0] | {"shape": [10**6] * 9}, *events[1:]], ":1: .*shape|canvas"),
        (lambda events: [events[0] | {"canvas": [[3] * 5]}, *events[1:]], ":1: .*canvas must hold"),
        (lambda events: [events[0] | {"kind": "film"}, *events[1:]], ":1: .*kind"),
        (lambda events: [events[0], events[1] | {"changed": [[0, 5, 0, None]]}, events[-1]], ":2: .*cannot change"),
        (lambda events: [events[0], events[1] | {"changed": [[0, 0]]}, events[-1]], ":2: "),
        (lambda events: [events[0], events[1] | {"symbols": {"0": 3}}, events[-1]], ":2: .*symbols"),
        (lambda events: [{"event": "error", "message": "it broke"}], ":1: .*it broke"),
        (lambda events: [7], ":1: .*expected an event"),
    ],
)
def test_what_is_no_trajectory_is_named(change: Any, said: str, tmp_path: Path) -> None:
    one = record(small(unmask.Characters("abc"), (5,)))
    path = tmp_path / "saved.ndjson"
    path.write_text("".join(json.dumps(event) + "\n" for event in change([*one.events()])))
    with pytest.raises(ValueError, match=said):
        Trajectory.read(path)


def test_where_a_server_listens(tmp_path: Path) -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1") and not is_loopback("0.0.0.0") and not is_loopback("a.b")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is in use: choose another with --port"):
            listen("127.0.0.1", port)
    for host in ("203.0.113.7", "no such host"):
        with pytest.raises(OSError, match="no address of this machine"):
            listen(host, 0)
    with pytest.raises(ValueError, match=r"0\.\.65535"):
        listen("127.0.0.1", 70000)
    keys = tmp_path / "keys"
    keys.write_text("short\n")
    with pytest.raises(ValueError, match="keys:1: a key has at least 16"):
        read_keys(keys)
    keys.write_text("\n")
    with pytest.raises(ValueError, match="has no key"):
        read_keys(keys)
    keys.write_text("abcdefghijklmnop\n\nbcdefghijklmnopq\n")
    assert read_keys(keys) == ("abcdefghijklmnop", "bcdefghijklmnopq")


def test_the_command_says_what_is_wrong_before_it_loads_anything(tmp_path: Path) -> None:
    for wrong, said in (
        ({"models": []}, "serve takes models"),
        ({"models": ["a"], "export": "b"}, "serve takes models"),
        ({"models": ["nosuch/x/y"]}, "nosuch"),
        ({"models": [], "export": "no.ndjson"}, "no such file"),
        ({"models": ["a"], "out": "x.html"}, "--out goes with --export"),
        ({"models": ["a"], "queue": 0}, "queue must be"),
        ({"models": ["a"], "seconds": float("nan")}, "seconds must be positive and finite, got nan$"),
        ({"models": ["a"], "keys": "nokeys"}, "no such file of keys"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            start(**wrong)
    said, status = explain_failure(ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"), "serve")
    assert status == 1 and said.endswith("pip install 'unmask[serve]'")
    with pytest.raises(ValueError, match="no model to serve"):
        create_app({})
    with pytest.raises(ValueError, match="raise batch"):
        Limits(examples=100)
