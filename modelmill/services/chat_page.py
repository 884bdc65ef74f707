"""The address of an OpenAI-compatible server → a web application with a chat page, which passes /v1 through to it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TEMPLATES = Path(__file__).parent / "templates"
# Headers that belong to one connection (RFC 9110, section 7.6.1), and those that the client library sets itself.
_NOT_PASSED = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}


def chat_app(engine_url: str, name: str, examples: Sequence[str] = ()) -> Starlette:
    """Page at `/`, the engine's API under `/v1/`, its state at `/health`; one origin, so no cross-origin rules.

    `examples` are questions that the page offers before the first message.
    """
    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("chat.html")
    page = template.render(model=name, examples=examples)
    # No limit on reading: a reply may take as long as it needs, and a closed page ends the request.
    client = httpx.AsyncClient(base_url=engine_url, timeout=httpx.Timeout(10.0, read=None))

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_POLICY})

    async def pass_through(request: Request) -> Response:
        return await forwarded(client, request)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    methods = ["GET", "POST", "DELETE", "OPTIONS"]
    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", pass_through),
            Route("/v1/{path:path}", pass_through, methods=methods),
        ],
        lifespan=lifespan,
    )


# The page holds its own style and script and talks to its own server only.
CONTENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


async def forwarded(client: httpx.AsyncClient, request: Request) -> Response:
    """Send a request on and stream the answer back as it comes; when the browser leaves, the engine is told."""
    outgoing = client.build_request(
        request.method,
        httpx.URL(path=request.url.path, query=request.url.query.encode()),
        headers=[(key, value) for key, value in request.headers.items() if key not in _NOT_PASSED],
        content=await request.body(),
    )
    try:
        answer = await client.send(outgoing, stream=True)
    except httpx.TransportError as error:
        message = f"the inference engine does not answer ({error or type(error).__name__}); start `mill serve` again"
        return JSONResponse({"error": {"message": message, "type": "engine_unavailable"}}, status_code=502)
    headers = {key: value for key, value in answer.headers.items() if key not in _NOT_PASSED}
    return StreamingResponse(
        closing(answer), status_code=answer.status_code, headers=headers, background=BackgroundTask(answer.aclose)
    )


async def closing(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The answer's bytes; leaving early closes the connection, at which vLLM stops generating."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
