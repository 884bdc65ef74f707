"""What a model, a server, a page or an error says is shown, and does nothing to the terminal or the report."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from modelmill.flows import cli
from modelmill.flows.console import ConsoleObserver, plan_table, stage_table
from modelmill.flows.observers import StageStarted
from modelmill.flows.plan import PlanEntry
from modelmill.flows.report import write_report
from modelmill.services.chat import chat, converse
from modelmill.services.chat_models import ChatSettings, ServedModel
from modelmill.services.terminal import PlainConsole
from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.text.visible import visible, visible_line
from tests.chromium import needs_chromium, open_browser
from tests.flows.test_report import RECORD, clean, evaluate
from tests.servers import listening, serving

ATTACKS = [
    "\x1b]52;c;cm0gLXJmIH4=\x07",  # the clipboard
    "\x1b]0;root@bank\x07",  # the title
    "\x1b[2J\x1b[3J\x1b[H",  # clear
    "\x1b]8;;http://evil.example\x1b\\bank.example\x1b]8;;\x1b\\",  # a link
    "\x9b31m",  # the same in one character
    "\x90q\x9c",
    "safe\rrm -rf\x08\x08",
    "\u202egnp.exe\u202c",
    "\u2066\u200f\u061c",
    "a\u2028b",
    "\x00\x7f\ufeff\ud800",
    "\U000e0041\U000e007f",
]
MARKUP = "[bold]x[/bold] [link=http://evil.example]y[/link] [/red] :bomb: [on red]"
HOSTILE = "".join(ATTACKS) + MARKUP
# What this console may write: colours, and the cursor movements of a progress bar, which are rich's own.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[A-K]|\r")


def terminal(**options: Any) -> tuple[PlainConsole, io.StringIO]:
    output = io.StringIO()
    return PlainConsole(file=output, force_terminal=True, color_system="standard", width=2_000, **options), output


def is_tame(written: str) -> bool:
    rest = OWN.sub("", written)
    return visible(rest) == rest


@given(st.text(), st.integers(min_value=0))
def test_no_cut_lets_a_sequence_through(text: str, cut: int) -> None:
    text = text + HOSTILE
    cut %= len(text)
    shown = visible(text[:cut]) + visible(text[cut:])
    assert visible(shown) == shown and "\x1b" not in shown and "\u202e" not in shown
    assert visible("wide — 中文 é 👩‍👩‍👧 \t\n") == "wide — 中文 é 👩‍👩‍👧 \t\n"


def test_a_name_stays_one_short_line() -> None:
    assert visible_line("tiny\nyou › rm\x1b[2J" + "x" * 500).startswith("tiny you › rm⟨U+001B⟩[2Jxxx")
    assert len(visible_line("x" * 500)) == 200


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server whose model's name, replies and errors are all hostile; a reply comes in pieces of one character."""

    async def models(request: Request) -> Response:
        return Response(json.dumps({"data": [{"id": "model\n" + HOSTILE}]}))

    async def complete(request: Request) -> Response:
        body = await request.json()
        wish = body["messages"][-1]["content"]
        if wish == "refuse":
            return Response(json.dumps({"error": {"message": HOSTILE}}), status_code=400)
        if wish == "crash":
            return PlainTextResponse(HOSTILE.replace("\ud800", ""), status_code=500)
        events = {
            "break": ["{" + HOSTILE],
            "choices": ['{"choices": 3}'],
            "list": ["[]"],
            "number": ['{"choices": [{"delta": {"content": 5}}]}'],
            "stop": [json.dumps({"error": {"message": HOSTILE}}), json.dumps({"error": HOSTILE})],
        }.get(wish) or [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in HOSTILE]
        lines = [f"data: {event}\n\n".encode("utf-8", "replace") for event in events]
        return StreamingResponse(iter(lines), media_type="text/event-stream")

    routes = [Route("/v1/models", models), Route("/v1/chat/completions", complete, methods=["POST"])]
    with listening() as listener, serving(Starlette(routes=routes), listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_model_cannot_drive_the_terminal(server: str) -> None:
    console, output = terminal()
    chat(url=server, source=io.StringIO("talk"), console=console)
    assert is_tame(output.getvalue())
    assert "⟨U+001B⟩]52;c;" in output.getvalue() and "[link=http://evil.example]y[/link]" in output.getvalue()


@pytest.mark.parametrize("wish", ["refuse", "crash", "break", "choices", "list", "number", "stop"])
def test_a_server_cannot_drive_the_terminal_by_its_errors(
    server: str, wish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a conversation, which goes on after an error that is one message and no traceback."""
    lines = iter([wish, "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    for console, output in (terminal(), (Console(file=(plain := io.StringIO()), width=2_000), plain)):
        lines = iter([wish, "/exit"])
        converse(ServedModel(server), ChatSettings(), console)
        assert is_tame(output.getvalue()) and "model › " in output.getvalue()
    with pytest.raises((InputError, ResourceError)):
        list(ServedModel(server).reply([{"role": "user", "content": wish}], ChatSettings()))


def test_a_model_name_cannot_drive_the_terminal(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("builtins.input", lambda _: "/exit")
    console, output = terminal()
    chat(url=server, source=Keyboard(), console=console)
    assert is_tame(output.getvalue())
    (line,) = [line for line in output.getvalue().splitlines() if "/reset forgets" in line]
    assert "model ⟨U+001B⟩]52;c;" in line, "a name is no line of its own"


def test_progress_notes_waivers_and_errors_cannot_drive_the_terminal(tmp_path: Path) -> None:
    console, output = terminal()
    counts = {"in": 1, "out": 1, "unit": HOSTILE}
    manifest = {"counts": counts, "seconds": 1.0, "digest": "d" * 64, "waivers": [HOSTILE]}
    with ConsoleObserver(console) as observer:
        observer.stage_started(StageStarted("clean", "clean", "k" * 64, "build", (HOSTILE,), {}, [], tmp_path))
        observer.stage_event("clean", {"kind": "note", "text": HOSTILE})
        observer.stage_event("clean", {"kind": "progress", "label": HOSTILE, "done": 1, "total": 2, "unit": HOSTILE})
        console.file.flush()
        observer._progress.refresh()
        observer.stage_finished("clean", manifest, tmp_path, reused=False)
        observer.stage_failed("clean", ValueError(HOSTILE))
    assert is_tame(output.getvalue())
    assert output.getvalue().count("[link=http://evil.example]y[/link]") >= 4


def test_tables_cannot_drive_the_terminal() -> None:
    console, output = terminal()
    entry = PlanEntry("clean", "clean", "build", (HOSTILE,), "k" * 64)
    console.print(plan_table([entry]))
    console.print(stage_table([{"id": "clean", "status": "failed", "error": HOSTILE}]))
    assert is_tame(output.getvalue()) and output.getvalue().count("⟨U+009B⟩31m") == 2


def test_the_error_of_a_command_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console, output = terminal()
    monkeypatch.setattr(cli, "errors", console)

    def fail(**_: object) -> None:
        raise InputError(f"page {HOSTILE} has no text")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert is_tame(output.getvalue()) and "mill:" in output.getvalue()
    assert isinstance(cli.console, PlainConsole)


def test_links_of_a_style_are_not_written() -> None:
    console, output = terminal()
    console.print(Text("bank", style="link http://evil.example"))
    assert "evil" not in output.getvalue()


def test_the_report_shows_hostile_text_and_loads_nothing(tmp_path: Path) -> None:
    html = write_report([clean(tmp_path)], tmp_path / "report.html", RECORD | {"name": "tiny\u202e"}).read_text()
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert "\u202e" not in html and "tiny⟨U+202E⟩" in html


@needs_chromium
def test_the_report_looks_the_same_under_its_policy(tmp_path: Path) -> None:
    path = write_report([clean(tmp_path), evaluate(tmp_path)], tmp_path / "report.html", RECORD)
    with open_browser() as browser:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(path.as_uri())
        drawn = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
        assert drawn and all(drawn)
        assert page.evaluate("getComputedStyle(document.querySelector('figure')).borderRadius") == "8px"
        assert said == []
        page.evaluate("""() => {
          const script = document.createElement('script');
          script.textContent = 'window.owned = true';
          document.body.append(script);
          document.body.insertAdjacentHTML('beforeend', '<img src="x" onerror="window.owned = true">');
        }""")
        page.wait_for_timeout(300)
        assert page.evaluate("window.owned") is None
