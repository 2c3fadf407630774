"""The HTTP API, and the page that uses it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from unmask.model import MaskedDiffusion
from unmask.serving.guard import Guard
from unmask.serving.jobs import LAST, Event, Job
from unmask.serving.limits import Limits
from unmask.serving.preparing import Preparer
from unmask.serving.requests import AlternativesRequest, Common, InfillRequest, SampleRequest, ScoreRequest
from unmask.serving.served import Served
from unmask.serving.worker import BusyError, Worker

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/docs": ("api.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/view.js": ("view.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/api.js": ("api.js", "text/javascript"),
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "what does not fit the model, or is more than is served; `error` says what would do"},
    401: {"description": "a key is needed"},
    404: {"description": "no such model"},
    413: {"description": "the body is too large"},
    422: {"description": "a field that is missing, unknown or of another kind"},
    503: {"description": "too many requests wait; try again"},
    504: {"description": "the request took too long"},
}


class Plain(JSONResponse):
    """JSON in ASCII, so that any text can be sent."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


class Client:
    """The events of a request, for the client that waits for them.

    Args:
        request: of the client.
        job: that it waits for.
    """

    def __init__(self, request: Request, job: Job) -> None:
        self.request, self.job = request, job
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(event: Event) -> None:
            with suppress(RuntimeError):  # the server has closed
                loop.call_soon_threadsafe(self.events.put_nowait, event)

        job.send = send

    async def first(self) -> Event | None:
        """Return the first event; None if the client has gone before it came."""
        event, gone = asyncio.create_task(self.events.get()), asyncio.create_task(self._gone())
        try:
            await asyncio.wait((event, gone), return_when=asyncio.FIRST_COMPLETED)
            return event.result() if event.done() else None
        finally:
            event.cancel()
            gone.cancel()

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    async def lines(self, event: Event) -> AsyncIterator[bytes]:
        """Yield the events as lines of JSON, from the first one on."""
        try:
            while True:
                yield json.dumps(event, allow_nan=False).encode() + b"\n"
                if event["event"] in LAST:
                    return
                event = await self.events.get()
        finally:
            self.job.over = True  # also where the client has gone


def create_app(
    models: MaskedDiffusion | Mapping[str, MaskedDiffusion],
    *,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> FastAPI:
    """Return an application that serves models: a page at /, and an API that /docs explains.

    Args:
        models: by the names that requests choose them by, the first by default; or one alone, called "model".
        limits: what is refused; `Limits()` if None.
        keys: one of which every request to the API must have, as `Authorization: Bearer KEY`; none: no key is needed.
        hosts: names by which the server may be called, to keep other sites' pages out; none: any.

    Raises:
        ValueError: there is no model.

    Example:
        app = create_app({"digits": unmask.load("runs/digits")})
        uvicorn.run(app)
    """
    named = {"model": models} if isinstance(models, MaskedDiffusion) else dict(models)
    if not named:
        raise ValueError("there is no model to serve")
    limits = limits or Limits()
    served = {name: Served(name, model.eval()) for name, model in named.items()}
    preparer, worker = Preparer(served, limits), Worker(limits)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await run_in_threadpool(worker.close)

    app = FastAPI(
        title="unmask",
        version=version("unmask"),
        description="Samples, completions and likelihoods of masked diffusion models.",
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(HTTPBearer(auto_error=False))] if keys else [],
    )
    app.state.worker = worker
    app.add_middleware(Guard, limits=limits, keys=tuple(keys), hosts=tuple(hosts), free=(*FILES, "/openapi.json"))
    _add_errors(app)
    for path, (name, kind) in FILES.items():
        app.get(path, include_in_schema=False)(_file((PAGE / name).read_bytes(), kind))
    described = Plain([one.describe() for one in served.values()])

    @app.get("/models", summary="What is served, and the samplers that each model has")
    async def models_() -> Response:
        return described

    @app.post("/sample", summary="New examples", responses=ERRORS)
    async def sample(request: Request, asked: SampleRequest) -> Response:
        return await _answer(request, asked, preparer, worker)

    @app.post("/infill", summary="Alternatives for what is unknown of an example", responses=ERRORS)
    async def infill(request: Request, asked: InfillRequest) -> Response:
        return await _answer(request, asked, preparer, worker)

    @app.post("/score", summary="A bound on the likelihood of an example, token by token", responses=ERRORS)
    async def score(request: Request, asked: ScoreRequest) -> Response:
        return await _answer(request, asked, preparer, worker)

    @app.post("/alternatives", summary="The likeliest tokens at single positions, given all others", responses=ERRORS)
    async def alternatives(request: Request, asked: AlternativesRequest) -> Response:
        return await _answer(request, asked, preparer, worker)

    return app


async def _answer(request: Request, asked: Common, preparer: Preparer, worker: Worker) -> Response:
    """Check a request, let it wait for its turn, and return the result, or its events as they come."""
    try:
        job = await run_in_threadpool(preparer.prepare, asked)
        client = Client(request, job)
        worker.start()
        worker.submit(job)
    except LookupError as error:
        return _error(404, str(error.args[0]))
    except (ValueError, OverflowError) as error:
        return _error(400, str(error))
    except BusyError as error:
        return _error(503, str(error))
    try:
        event = await client.first()
    except BaseException:
        job.over = True
        raise
    if event is None:
        job.over = True
        return Response(status_code=499)
    if event["event"] == "error":
        return _error(event["status"], event["message"])
    if job.stream:
        return StreamingResponse(client.lines(event), media_type="application/x-ndjson")
    return Plain({name: value for name, value in event.items() if name != "event"})


def _error(status: int, message: str) -> Response:
    headers = {"Retry-After": "1"} if status == 503 else None
    return Plain({"error": " ".join(message.split())[:1000]}, status, headers)


def _add_errors(app: FastAPI) -> None:
    """Answer every error with {"error": one line}."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = []
        for one in error.errors()[:3]:
            place = ".".join(str(part) for part in one["loc"][1:])
            if not place and "json" not in request.headers.get("content-type", ""):
                return _error(415, "send the fields as JSON, with the header Content-Type: application/json")
            found.append(f"{place}: {one['msg']}" if place else str(one["msg"]))
        return _error(422, "; ".join(found))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _error(500, f"unexpected {type(error).__name__}; the server's log says where")


def _file(content: bytes, kind: str) -> Any:
    async def page() -> Response:
        return Response(content, media_type=kind)

    return page
