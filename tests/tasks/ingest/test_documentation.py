"""The built-in site: which modules it shows, what its pages say, and that they are the same each time."""

import importlib
import os
import socket
import struct
import time
from pathlib import Path
from types import ModuleType

import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.ingest.documentation.catalog import is_public, page_urls, public_modules
from modelmill.tasks.ingest.documentation.site import serving
from modelmill.tasks.ingest.documentation.written import is_written, is_written_in_class, written_signature
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


def test_a_page_shows_what_its_source_says_and_nothing_of_the_process(run_ingest, monkeypatch):
    monkeypatch.setenv("PATH", f"/only/on/this/machine:{os.environ['PATH']}")
    _, output = run_ingest(documentation(packages=["cgi", "smtplib", "logging"], pages=30), extractor="resiliparse")
    pages = {row["url"].rpartition("/")[2]: row["text"] for row in rows_of(output / "pages")}
    assert "environ=os.environ" in pages["cgi.html"] and "environ({" not in pages["cgi.html"]
    assert "timeout=socket._GLOBAL_DEFAULT_TIMEOUT" in pages["smtplib.html"]
    assert "DEFAULT_TCP_LOGGING_PORT = 9020" in pages["logging.handlers.html"]
    assert "/only/on/this/machine" not in "".join(pages.values())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os\ndef f(a, b=1, *, c='x', d=os.environ): ...", "(a, b=1, *, c='x', d=os.environ)"),
        ("import os\nasync def f(a=os.cpu_count(), /, b=os.getcwd()): ...", "(a=os.cpu_count(), /, b=os.getcwd())"),
        ("f = lambda n=len('ab'), m=(1, 2): n", "(n=len('ab'), m=(1, 2))"),
        ("import functools\ndef g(x={1: {2}}): ...\n@functools.wraps(g)\ndef f(*a): ...", "(x={1: {2}})"),
        ("class f:\n    def __init__(self, n={'b', 'a'}): ...", "(n={'b', 'a'})"),
        ("from collections import namedtuple\nf = namedtuple('f', 'a b', defaults=[{1}])", "(a, b=<set>)"),
        ("f = max", None),
    ],
)  # fmt: skip
def test_defaults_are_those_of_the_source(tmp_path, monkeypatch, source, expected):
    module = imported(tmp_path, monkeypatch, source)
    if expected is None:
        with pytest.raises(ValueError, match="no signature"):
            written_signature(module.f)
    else:
        assert str(written_signature(module.f)) == expected


def test_constants_are_those_that_the_source_spells_out(tmp_path, monkeypatch):
    module = imported(
        tmp_path,
        monkeypatch,
        "import os, time\nA = 1\nB = -(1 << 4)\nC = os.getpid()\nD = 1.5 if C else 2.5\nE = 'x' 'y'\n"
        "F = time.time()\nG = 1\nG += C\nfor H in (1, 2): pass\nfrom errno import EPERM\nfrom math import *\n"
        "def set_it():\n    global I\n    I = 2\nI = 1\nclass K:\n    a = 3\n    b = os.getpid()\n",
    )
    written = [name for name in "ABCDEFGHI" if is_written(module, name, getattr(module, name))]
    assert written == ["A", "B", "E"]
    assert is_written(module, "EPERM", module.EPERM) and is_written(module, "pi", module.pi)
    assert is_written_in_class(module.K, "a", 3) and not is_written_in_class(module.K, "b", module.K.b)


def imported(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> ModuleType:
    """A module of this source."""
    name = f"written_{abs(hash(source))}"
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(name)


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
