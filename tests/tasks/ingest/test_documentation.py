"""The built-in site: which modules it shows, what its pages say, and that they are the same each time."""

import socket
import struct
import time

import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.ingest.documentation.catalog import is_public, page_urls, public_modules
from modelmill.tasks.ingest.documentation.site import serving
from tests.tasks.ingest.rows import digests_of, reasons_of, rows_of

PACKAGES = ["json", "logging", "collections", "concurrent"]


def documentation(**fields: object) -> dict[str, object]:
    return {"kind": "documentation", "name": "docs", "pages": 30, "packages": PACKAGES} | fields


def test_the_catalog_leaves_out_what_must_not_be_imported():
    modules = public_modules("stdlib")
    assert {"json.decoder", "email.mime.text", "os", "sys"} <= set(modules)
    forbidden = ("antigravity", "this", "idlelib", "turtle", "test.", "tkinter", "_")
    assert not [name for name in modules if name.startswith(forbidden)]
    assert not is_public("numpy._core") and not is_public("pandas.tests.io") and is_public("numpy.linalg")
    with pytest.raises(RecipeError, match="'nowhere', which is not installed"):
        public_modules("nowhere")


def test_each_package_has_a_host():
    urls = page_urls(("json", "logging"))
    assert urls["json.decoder"] == "http://json.docs.modelmill.test/json.decoder.html"


def test_pages_read_well_and_are_the_same_bytes_each_time(run_ingest):
    result, first = run_ingest(documentation(), name="first")
    _, second = run_ingest(documentation(), name="second", workers=2)
    assert digests_of(first / "pages") == digests_of(second / "pages")
    assert set(reasons_of(first).values()) == {"robots"}  # each host's /search
    pages = {row["url"]: row for row in rows_of(first / "pages")}
    decoder = pages["http://json.docs.modelmill.test/json.decoder.html"]
    assert decoder["title"] == "Python: json.decoder"
    assert decoder["date"] == "2024-01-01T00:00:00Z"
    assert "raw_decode(self, s, idx=0)\nDecode a JSON document from ``s``" in decoder["text"]
    assert "&gt;" not in decoder["text"]
    everything = "".join(row["text"] for row in pages.values())
    assert "site-packages" not in everything and " at 0x" not in everything
    assert result.metrics["characters"] == len(everything) > 50_000


def test_a_client_that_leaves_is_no_error(capfd: pytest.CaptureFixture[str]):
    with serving(("json",), num_renderers=1) as (_, address):
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port))) as client:
            # Closing with unsent data dropped resets the connection.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"GET / HT")
            time.sleep(0.2)
        time.sleep(0.2)
    assert capfd.readouterr().err == ""
