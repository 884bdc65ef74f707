# ruff: noqa: F811 (a fixture of another folder)
"""Secrets in addresses: a recipe that spells one out is refused, and of one that is named no record holds the value."""

import base64
import json
import os
import shutil
import sqlite3
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote

import pytest

from modelmill.flows.recipe import load_line
from modelmill.services.home import prepare_home
from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.ingest.config import Limits
from modelmill.tasks.ingest.extract import Extractor
from modelmill.tasks.placeholders import completed, literal_secret, redacted
from tests.flows.forked import start_mill
from tests.tasks.ingest.archive_files import gzipped, warc_record
from tests.tasks.ingest.conftest import site  # noqa: F401 - a fixture of another folder
from tests.tasks.ingest.web import Site, answer

ROOT = Path(__file__).parents[2]
_TOKEN = "hf_" + "aB3" * 12
SECRETS = {
    "https://user:hunter2@host/a": "hunter2",
    "s3://AKIAEXAMPLE:abc%2Fdef@bucket/a": "abc%2Fdef",
    "https://0123456789abcdef@host/a.jsonl": "0123456789abcdef",
    "https://h/a?X-Amz-Algorithm=AWS4&X-Amz-Signature=0a1b2c": "0a1b2c",
    "https://h/a?x-amz-credential=AKID%2F2026": "AKID%2F2026",
    "https://h/a?sig=${PART}hunter2secret": "hunter2secret",
    "https://user:${PART}hunter2secret@h/a": "hunter2secret",
    "//user:hunter2secret@h/a": "hunter2secret",
    "http:/user:hunter2secret@h/a": "hunter2secret",
    "https://h/a?pw=hunter2secret": "hunter2secret",
    "https://h/a?X-Goog-Signature=0a1b2c&x=1": "0a1b2c",
    "https://acc.blob.core.windows.net/c/a?sv=2024&sig=abc%3D": "abc%3D",
    "https://h/a?Expires=1&Signature=abcd~&Key-Pair-Id=K": "abcd~",
    "https://h/a?token=t0ps3cret": "t0ps3cret",
    "https://h/a?access_token=t0ps3cret": "t0ps3cret",
    "https://h/a?accessToken=t0ps3cret": "t0ps3cret",
    "https://h/a?%74oken=t0ps3cret": "t0ps3cret",
    "https://h/a?x=1;api-key=t0ps3cret": "t0ps3cret",
    "https://h/a?key=t0ps3cret": "t0ps3cret",
    "https://h/a?subscription-key=t0ps3cret": "t0ps3cret",
    "https://h/a#access_token=t0ps3cret": "t0ps3cret",
    "https://proxy/?url=https%3A%2F%2Fu%3Ahunter2%40h%2Fa": "hunter2",
    "https://proxy/?url=https%253A%252F%252Fu%253Ahunter2%2540h%252Fa": "hunter2",
    "http://user:p'hunter2@h/a": "p'hunter2",
    'http://user:p"hunter2<>@h/a': 'p"hunter2',
    "https://h/a?apitoken=t0ps3cret": "t0ps3cret",
    "https://h/a?x=1&clientsecret=t0ps3cret": "t0ps3cret",
    "https://h/a?secretkey=t0ps3cret": "t0ps3cret",
    "https://h/a?passphrase=t0ps3cret": "t0ps3cret",
    "https://h/a?token=t0ps3cret[1]": "t0ps3cret",
    "https://h/a?token=^t0ps3cret": "t0ps3cret",
    f"https://h/{_TOKEN}/a": _TOKEN,
    f"datasets of {_TOKEN}": _TOKEN,
}
ORDINARY = [
    "https://data.commoncrawl.org/crawl-data/CC-MAIN-2025-30/warc.paths.gz", "s3://commoncrawl/", "/data/key=1/a.jsonl",
    "https://h/a?page=2&sort_key=date&next_page_token=abcdef", "https://h/tokenizer?tokens=1000&author=me&design=x",
    "https://h/a?key=", "https://h:8080/@user/a@b", "https://h/a?keyword=signature", "https://h/a?monkey=banana",
    "https://${USER}:${PASSWORD}@h/a?sig=${SIG}", "https://me:${PASSWORD}@h/", "https://h/${TOKEN}/a?${SAS}",
    r"https?://h/\?token=[a-z]+", "user:password@host", "mailto:me@example.com", "//stdlib\\.", "a://b",
]  # fmt: skip


@pytest.mark.parametrize("address", SECRETS)
def test_a_recipe_that_spells_out_a_secret_is_refused_without_telling_it(address):
    source = {"kind": "jsonl", "name": "notes", "paths": ["a.jsonl", address]}
    recipe = {"name": "x", "line": ["ingest"], "ingest": {"sources": [source]}}
    with pytest.raises(RecipeError, match=r"x\.yaml\.ingest\.sources\.notes\.paths\.1 holds .*\$\{NAME\}") as error:
        load_line(recipe, (), "x.yaml")
    assert SECRETS[address] not in str(error.value)
    recipe["ingest"] = {"sources": [source | {"paths": ["a.jsonl"]}]}
    with pytest.raises(RecipeError, match=r"--set ingest\.sources.notes.paths holds") as error:
        load_line(recipe, (f"ingest.sources.notes.paths={json.dumps([address])}",), "x.yaml")
    assert SECRETS[address] not in str(error.value)


@pytest.mark.parametrize("address", SECRETS)
def test_messages_keep_the_rest_of_an_address(address):
    shown = redacted(f"found nothing at {address}.")
    assert SECRETS[address] not in shown and shown.startswith("found nothing at ")


@pytest.mark.parametrize("address", ORDINARY)
def test_ordinary_addresses_pass(address):
    assert literal_secret(address) is None
    assert redacted(address) == address


def test_any_stage_is_checked():
    recipe = {"name": "x", "line": ["ingest", "clean", "dedup"], "dedup": {"earlier": [next(iter(SECRETS))]}}
    with pytest.raises(RecipeError, match=r"dedup\.earlier\.0 holds a password"):
        load_line(recipe)


def test_a_crawl_takes_no_secret():
    crawl = {"kind": "crawl", "name": "web", "start": ["https://me:${PASSWORD}@h/"], "pages": 1}
    with pytest.raises(RecipeError, match="a crawl takes what anybody may read"):
        load_line({"name": "x", "line": ["ingest"], "ingest": {"sources": [crawl]}})


def test_secrets_come_from_the_environment_or_the_home_and_only_those_meant_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MILL_HOME", str(tmp_path))
    monkeypatch.setenv("MILL_SECRET_WORD", "a/b@c d")
    monkeypatch.setenv("MILL_SECRET_SAS", "sv=2024&sig=ab%3D")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for recipes")
    (tmp_path / "secrets/sources").mkdir(parents=True)
    (tmp_path / "secrets/sources/SIG").write_text("from a file\n")
    (tmp_path / "secrets/RAY").write_text("not for recipes")
    assert completed("https://me:${WORD}@h/a?${SAS}&x=${SIG}") == (
        "https://me:a%2Fb%40c%20d@h/a?sv=2024&sig=ab%3D&x=from%20a%20file"
    )
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY", "MISSING"):
        with pytest.raises(InputError, match=f"MILL_SECRET_{name}"):
            completed(f"https://h/?x=${{{name}}}")


def test_the_process_that_parses_pages_of_others_knows_no_secret(monkeypatch):
    monkeypatch.setenv("MILL_SECRET_WORD", "kept from parsers")
    with Extractor("resiliparse", Limits()) as extractor:
        extractor.page("<p>Some words.</p>")
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (parser,) = [pid for pid in children if b"ingest.extractor" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        environment = Path(f"/proc/{parser}/environ").read_bytes()
    assert b"PATH=" in environment and b"kept from parsers" not in environment


PASSWORD, SIGNATURE, LISTED = "correct horse/battery", "5ig+nature=Zz", "l1sted-t0ken"
RECIPE = """
name: closed
compute: process
line: [ingest]
ingest:
  sources:
    - kind: jsonl
      name: notes
      paths: ["http://me:${{PASSWORD}}@{address}/rows.jsonl?X-Amz-Signature=${{SIGNATURE}}"]
      download: {{attempts: 1}}
    - {{kind: html, name: pages, paths: ["http://me:${{PASSWORD}}@{address}/empty.html?sig=${{SIGNATURE}}"]}}
    - {{kind: warc, name: listed, prefix: "", paths: ["http://me:${{PASSWORD}}@{address}/a.paths?sig=${{SIGNATURE}}"]}}
"""


class Closed:
    """A server that shows nothing without its secrets, and a home with a recipe that reads from it."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        rows = json.dumps({"id": "1", "text": "A note that only few may read."}) + "\nno JSON\n"
        self._show(site, f"/rows.jsonl?X-Amz-Signature={SIGNATURE}", rows, PASSWORD)
        self._show(site, f"/empty.html?sig={SIGNATURE}", "<html></html>", PASSWORD)
        listed = f"http://me:{LISTED}@{site.address}/a.warc.gz?token={LISTED}\n"
        self._show(site, f"/a.paths?sig={SIGNATURE}", listed, PASSWORD)
        self._show(site, f"/a.warc.gz?token={LISTED}", gzipped([warc_record(0)]) + b"damage", LISTED)
        (folder / "recipe.yaml").write_text(RECIPE.format(address=site.address))

    def _show(self, site: Site, path: str, content: str | bytes, password: str) -> None:
        expected = "Basic " + base64.b64encode(f"me:{password}".encode()).decode()

        def page(handler: BaseHTTPRequestHandler) -> None:
            is_known = handler.headers["Authorization"] in (expected, f"{expected}=")
            answer(handler, content if is_known else "who are you?", 200 if is_known else 401)

        site.pages[path] = page

    def mill(self, *arguments: str, code: int = 0, password: str = PASSWORD) -> str:
        """What the command printed, errors too."""
        log = self.folder / f"log-{len(list(self.folder.iterdir()))}"
        given = {"MILL_HOME": str(self.home), "MILL_SECRET_PASSWORD": password, "PYTHONPATH": str(ROOT)}
        process = start_mill(ROOT, list(arguments), given, log, log)
        process.join(120)
        assert process.exitcode == code, log.read_text()[-3000:]
        return log.read_text()

    def recipe(self) -> str:
        return str(self.folder / "recipe.yaml")

    def records_with(self, *secrets: str) -> list[str]:
        """Files that hold a secret, in any of the forms that a request gives it; the file that it came from aside."""
        forms = [form.encode() for secret in secrets for form in (secret, quote(secret, safe=""), quote(secret))]
        forms += [base64.b64encode(f"me:{secret}".encode()).rstrip(b"=") for secret in secrets]
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.parent.name != "sources"]
        assert len(files) > 20
        return [str(path) for path in files if any(form in path.read_bytes() for form in forms)]


@pytest.fixture
def closed(site: Site, prefect_database: None, tmp_path: Path) -> Closed:
    prepare_home(tmp_path / "home")
    (tmp_path / "home" / "prefect").mkdir()
    shutil.copyfile(Path(os.environ["PREFECT_HOME"]) / "prefect.db", tmp_path / "home" / "prefect" / "prefect.db")
    return Closed(site, tmp_path)


def test_no_file_of_a_home_holds_a_secret_that_its_sources_needed(closed: Closed) -> None:
    """A minute: whole runs from the recipe, from the record and from MLflow, good and bad."""
    (closed.home / "secrets" / "sources").mkdir(parents=True)
    (closed.home / "secrets" / "sources" / "SIGNATURE").write_text(SIGNATURE)
    wrong = closed.mill("run", closed.recipe(), code=3, password="a wrong password")
    assert "HTTP status 401" in wrong and "Traceback" not in wrong
    closed.mill("run", closed.recipe())

    # Another value of a secret is no other source.
    plan = json.loads(closed.mill("plan", closed.recipe(), "--json", password="another one"))
    assert [stage["status"] for stage in plan["stages"]] == ["reuse"]

    closed.mill("rerun", "ingest")
    with sqlite3.connect(next(closed.home.rglob("mlflow.db"))) as database:
        (run,) = database.execute("select run_uuid from runs order by start_time desc limit 1").fetchone()
    closed.mill("run", "--from-mlflow", run)
    literal = json.dumps([f"http://me:{LISTED}@127.0.0.1/rows.jsonl"])
    refused = closed.mill("run", closed.recipe(), "--set", f"ingest.sources.notes.paths={literal}", code=2)
    assert "--set ingest.sources.notes.paths holds a password" in refused
    assert closed.records_with(PASSWORD, SIGNATURE, LISTED, "a wrong password") == []
