"""A site as a function of host and path → the same site over HTTP on a port of this machine, for the crawler."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Page:
    """One answer of a site; `modified` is an HTTP date."""

    body: bytes = field(repr=False)
    content_type: str
    modified: str
    location: str = ""
    """Where the page is instead: an absolute path of the same host."""


@contextlib.contextmanager
def listening(page: Callable[[str, str], Page | None]) -> Iterator[str]:
    """`address:port` of a server that answers with `page(host, path)` while the context lasts; None is a 404."""
    server = _Server(("127.0.0.1", 0), _handler(page))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error of the site's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(page: Callable[[str, str], Page | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "modelmill-site"
        sys_version = ""
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            found = page(self.headers.get("Host", "").partition(":")[0], self.path)
            shown = found or Page(b"no such page\n", "text/plain; charset=utf-8", "")
            self.send_response(404 if found is None else 301 if shown.location else 200)
            self.send_header("Content-Type", shown.content_type)
            self.send_header("Content-Length", str(len(shown.body)))
            if shown.modified:
                self.send_header("Last-Modified", shown.modified)
            if shown.location:
                self.send_header("Location", shown.location)
            self.end_headers()
            self.wfile.write(shown.body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Requests are recorded by the crawler."""

    return Handler
