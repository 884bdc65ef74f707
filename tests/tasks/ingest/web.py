"""A local web server whose answers a test writes, and a pool of processes."""

import json
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from modelmill.tasks.stage import Call

Answer = Callable[[BaseHTTPRequestHandler], None]


class LocalPool:
    """Runs calls in this process, or in several; results pass through JSON as the contract demands."""

    layout = None

    def __init__(self, num_workers: int = 1) -> None:
        self.num_workers = num_workers

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        if self.num_workers == 1:
            return [json.loads(json.dumps(function(**call.arguments))) for call in calls]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.num_workers, mp_context=context) as executor:
            futures = [executor.submit(function, **call.arguments) for call in calls]
            return [json.loads(json.dumps(future.result())) for future in futures]

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Any = None) -> Any:
        return function(**arguments)


class Site:
    """Pages by path; a page is HTML text, or a function that answers by itself. `requests` lists what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, str | Answer] = {}
        self.requests: list[str] = []
        self.requested = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.requests.append(self.headers["Host"].partition(":")[0] + self.path)
                site.requested.set()
                page = site.pages.get(self.path)
                if page is None:
                    answer(self, "nothing here", status=404)
                elif isinstance(page, str):
                    answer(self, page)
                else:
                    page(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def link(self, *paths: str) -> str:
        """A page with some text and links."""
        anchors = "".join(f'<a href="{path}">{path}</a> ' for path in paths)
        return f"<html><head><title>links</title></head><body><p>Some words to keep.</p>{anchors}</body></html>"


def answer(
    handler: BaseHTTPRequestHandler,
    body: str | bytes,
    status: int = 200,
    content_type: str = "text/html; charset=utf-8",
    **headers: str,
) -> None:
    """Send one whole response."""
    content = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def responding(body: str | bytes = "", **keywords: Any) -> Answer:
    """An answer that is always the same."""
    return lambda handler: answer(handler, body, **keywords)
