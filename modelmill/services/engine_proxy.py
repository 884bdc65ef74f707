"""Requests of clients → those that the inference engine may see, within limits, and its answers as they come.

The engine behind it has many more routes than may be reached, and its own limits protect nothing but its memory. So a
path is never passed on, only one of a few constants; and a body is passed on as it was understood here, written anew.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

# What of a client's headers the engine sees, and what of its answer's the client.
_TO_ENGINE = ("accept", "x-request-id")
_TO_CLIENT = ("content-type", "content-length", "x-request-id")
_OF_MODELS = ("id", "object", "created", "owned_by", "max_model_len")
_CLIENT_GONE = 499  # as nginx logs it; nobody reads the answer
_BODY_SECONDS = 30.0  # a client that sends slowly holds a connection, and there are not many
_GRACE_SECONDS = 5.0  # for a client to read the last piece


@dataclass(frozen=True)
class Limits:
    """What one request may take: megabytes of body, replies that it asks for, seconds until its last piece."""

    body_mb: float = 1.0
    replies: int = 16
    seconds: float = 600.0


class RefusedError(Exception):
    """A request that the engine never sees; its status and the sentence for its sender."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def problem(status: int, message: str, kind: str = "invalid_request_error", **headers: str) -> Response:
    """An error as OpenAI's clients read it."""
    return JSONResponse({"error": {"message": message, "type": kind}}, status_code=status, headers=headers)


def engine_client(engine_socket: Path) -> httpx.AsyncClient:
    """A client of the engine that listens on a unix socket; requests have limits of their own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    transport = httpx.AsyncHTTPTransport(uds=str(engine_socket), limits=limits)
    # One client serves all users: a cookie that it kept would be sent with everybody's requests.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    waits = httpx.Timeout(10.0, read=None)
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=waits, cookies=no_cookies)


async def forwarded(client: httpx.AsyncClient, path: str, request: Request, limits: Limits) -> Response:
    """Send a request on to `path` and stream the answer back; when the client leaves, the engine is told."""
    deadline = asyncio.get_running_loop().time() + limits.seconds
    try:
        async with asyncio.timeout_at(deadline):
            headers = {name: request.headers[name] for name in _TO_ENGINE if name in request.headers}
            headers["accept-encoding"] = "identity"
            body = None
            if request.method == "POST":
                body = written_anew(await checked_body(request, limits))
                headers["content-type"] = "application/json"
            outgoing = client.build_request(request.method, path, headers=headers, content=body)
            answer = await _sent(client, outgoing, request)
    except RefusedError as error:
        return problem(error.status, str(error))
    except TimeoutError:
        return problem(504, _late(limits), "timeout")
    except ClientDisconnect:
        return Response(status_code=_CLIENT_GONE)
    except httpx.TransportError as error:
        return _no_answer(error)
    return EngineAnswer(answer, deadline, limits)


async def listed_models(client: httpx.AsyncClient) -> Response:
    """The engine's list of models, without what it tells of this machine: the folder of each and who may use it."""
    try:
        found = (await client.get("/v1/models")).raise_for_status().json()["data"]
        models = [{name: model[name] for name in _OF_MODELS if name in model} for model in found]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        return _no_answer(error)
    return JSONResponse({"object": "list", "data": models})


class EngineAnswer(StreamingResponse):
    """The engine's answer, piece by piece, up to a deadline; the engine stops generating when it is left."""

    def __init__(self, answer: httpx.Response, deadline: float, limits: Limits) -> None:
        self._answer, self._deadline, self._limits = answer, deadline, limits
        headers = {name: answer.headers[name] for name in _TO_CLIENT if name in answer.headers}
        super().__init__(self._pieces(), status_code=answer.status_code, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline + _GRACE_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            pass  # the client does not read
        finally:
            await self._answer.aclose()

    async def _pieces(self) -> AsyncIterator[bytes]:
        pieces = self._answer.aiter_raw()
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if self._answer.headers.get("content-type", "").startswith("text/event-stream"):
                    event = {"error": {"message": _late(self._limits), "type": "timeout"}}
                    yield f"data: {json.dumps(event)}\n\n".encode()
                return
            yield piece


def _no_answer(error: Exception) -> Response:
    message = f"the inference engine does not answer ({error or type(error).__name__}); start `mill serve` again"
    return problem(502, message, "engine_unavailable")


async def _sent(client: httpx.AsyncClient, outgoing: httpx.Request, request: Request) -> httpx.Response:
    """The beginning of the answer, unless the client leaves first: a reply that is not streamed begins at its end."""
    sending = asyncio.create_task(client.send(outgoing, stream=True))
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not sending.done():
            sending.cancel()
    if sending.done():
        return sending.result()
    raise ClientDisconnect


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _late(limits: Limits) -> str:
    return f"the request took longer than {limits.seconds:g} s; ask for fewer tokens, or raise `mill serve --timeout`"


async def checked_body(request: Request, limits: Limits) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        RefusedError: it is none, too long, or asks for too many replies.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "the body must be JSON, sent with the header `Content-Type: application/json`")
    text = await _body(request, int(limits.body_mb * 1e6), limits)
    try:
        body = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no JSON that can be read ({error})") from error
    if not isinstance(body, dict):
        raise RefusedError(400, 'the body must be a JSON object, such as {"model": …, "messages": […]}')
    _check_replies(body, limits)
    return body


async def _body(request: Request, most: int, limits: Limits) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    message = f"the body is longer than {limits.body_mb:g} MB"
                    raise RefusedError(413, f"{message}; send less, or raise `mill serve --max-body-mb`")
    except TimeoutError as error:
        raise RefusedError(408, f"the body did not come within {_BODY_SECONDS:g} s") from error
    return bytes(body)


def written_anew(body: dict[str, Any]) -> bytes:
    """The JSON of a body. Raises RefusedError: it holds what no JSON can: half a character, or a number too large."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedError(400, "the body is no JSON of text: it holds half of a surrogate pair") from error
    except ValueError as error:
        raise RefusedError(400, f"the body is no JSON that can be passed on ({error})") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _check_replies(body: dict[str, Any], limits: Limits) -> None:
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    counts = [1]
    for name in ("n", "best_of"):
        value = body.get(name)
        # The engine would read "9999" and 9999.0 as numbers, too.
        if value is not None and type(value) is not int:
            raise RefusedError(400, f"{name} is {str(value)[:40]!r}; expected a whole number")
        counts.append(value or 1)
    if prompts * max(counts) > limits.replies:
        raise RefusedError(
            400,
            f"the request asks for {prompts * max(counts):,} replies (n or best_of, for each prompt); the limit is "
            f"{limits.replies}. Send several requests, or raise `mill serve --max-replies`",
        )
