"""A survey, or traces of a document → the same in the terminal, readable without colours."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelmill.flows.html_page import percent
from modelmill.flows.look.documents import Borderline, Document, Edits
from modelmill.flows.look.duplicates import Clusters
from modelmill.flows.look.page import size_span
from modelmill.flows.look.rows import Groups
from modelmill.flows.look.survey import Survey
from modelmill.flows.look.text import Comparison, Line
from modelmill.flows.look.trace import Trace
from modelmill.tasks.text.visible import visible

_CHARACTERS = 400  # of a text
_LINES = 24  # of a comparison
_STYLES = {"removed": "red", "added": "green", "edited": "", "same": "", "fold": "dim"}
_SIGNS = {"removed": "-", "added": "+", "edited": "~", "same": " ", "fold": " "}


def print_survey(console: Console, look: Survey) -> None:
    """The sections of the page, with shorter texts."""
    _line(console, f"{look.stage} of {look.recipe}, artifact {look.artifact[:12]}, seed {look.seed}", "bold")
    if look.filters:
        _line(console, "only rows with " + " and ".join(f"{name} {value!r}" for name, value in look.filters.items()))
    for note in look.notes:
        _line(console, f"note: {note}", "yellow")
    _line(
        console, f"in {look.rows_in:,}  out {look.rows_out:,} {look.unit}  kept {percent(look.rows_out / look.rows_in)}"
    )
    for reason, rows in look.reasons.items():
        _line(console, f"  dropped {reason}: {rows:,} ({percent(rows / look.rows_in)})")
    for groups in look.groups:
        _heading(console, f"By {groups.title}")
        console.print(_group_table(groups))
    if look.kept:
        _heading(console, f"Kept: {len(look.kept)} random of {look.rows_out:,}")
        _documents(console, look.kept)
    if look.edits:
        _print_edits(console, look.edits)
    for reason, documents in look.dropped.items():
        _heading(console, f"Dropped, {reason}: {len(documents)} random of {look.reasons[reason]:,}")
        _documents(console, documents)
    if look.clusters:
        _print_clusters(console, look.clusters)
    if look.borderline:
        _print_borderline(console, look.borderline)


def print_traces(console: Console, traces: list[Trace]) -> None:
    """Each document through the stages."""
    for trace in traces:
        _heading(console, f"{trace.url or trace.id}")
        _line(console, trace.verdict, "bold")
        for step in trace.steps:
            reason = f" ({step.document.reason})" if step.document and step.document.reason else ""
            _heading(console, f"{step.stage}: {step.fate}{reason}")
            if step.document:
                _documents(console, [step.document])
            if step.changes:
                _line(console, "what the stage changed:")
                _comparison(console, step.changes)
            if step.survivor and step.against_survivor:
                _line(console, f"against its survivor {step.survivor.url} (id {step.survivor.id}):")
                _comparison(console, step.against_survivor)
            if step.note:
                _line(console, step.note)


def _print_edits(console: Console, edits: Edits) -> None:
    _heading(console, "Before and after")
    share = f", {percent(edits.removed / edits.characters)} of their characters removed" if edits.characters else ""
    _line(console, f"{edits.num_edited} of {edits.num_compared} random kept documents were edited{share}")
    for line, rows in edits.lines:
        _line(console, f"  removed from {rows}: {line[:100]}")
    for document, comparison in edits.examples:
        _title(console, document)
        _comparison(console, comparison)


def _print_clusters(console: Console, clusters: Clusters) -> None:
    _heading(console, "Duplicates and their survivors")
    _line(console, f"{clusters.num_rows:,} rows name one of {clusters.num_clusters:,} survivors")
    for least, most, rows in clusters.sizes:
        _line(console, f"  {rows:,} named by {size_span(least, most)}")
    for title, found in (("largest", clusters.largest), ("random", clusters.random)):
        for cluster in found:
            number = f"{'' if cluster.is_counted_whole else 'at least '}{cluster.num_members:,}"
            _heading(console, f"{title}: a survivor that stands for {number}")
            _documents(console, [cluster.survivor])
            for member, comparison in cluster.members:
                _line(console, f"duplicate, {member.reason}:")
                _title(console, member)
                _comparison(console, comparison)


def _print_borderline(console: Console, borderline: Borderline) -> None:
    threshold = borderline.threshold
    _heading(console, "Borderline")
    setting = ".".join(threshold.setting)
    _line(
        console,
        f"{threshold.column} ({threshold.meaning}) nearest to {setting} = {borderline.limit}; "
        f"the others were dropped as {threshold.reason}. Other rules leave no number to order by.",
    )
    for title, documents in (("just kept", borderline.above), ("just dropped", borderline.below)):
        _line(console, f"{title}:" if documents else f"{title}: none")
        _documents(console, documents)


def _group_table(groups: Groups) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in (groups.title, "in", "out", "kept", "commonest reason"):
        table.add_column(name, justify="right" if name in ("in", "out", "kept") else "left", overflow="fold")
    rest = [(f"{groups.num_rest:,} others", groups.rest)] if groups.num_rest else []
    for name, group in [*((group.name or "none", group) for group in groups.shown), *rest]:
        reason = f"{group.reason} {group.reason_rows:,}" if group.reason else ""
        share = percent(group.rows_out / group.rows_in)
        table.add_row(Text(visible(name)), f"{group.rows_in:,}", f"{group.rows_out:,}", share, Text(visible(reason)))
    return table


def _documents(console: Console, documents: list[Document]) -> None:
    for document in documents:
        _title(console, document)
        beginning = document.text[:_CHARACTERS]
        if document.skipped:
            _line(console, f"    after {document.skipped:,} characters …", "dim")
        for line in visible(beginning).splitlines():
            if line.strip():
                _line(console, f"    | {line}")
        more = len(document.text) - len(beginning) + document.left_out
        if more:
            _line(console, f"    … {more:,} more characters", "dim")


def _title(console: Console, document: Document) -> None:
    _line(console, f"* {document.name}", "bold")
    facts = [f"id {document.id}", document.url, *(f"{name} {value}" for name, value in document.facts.items())]
    _line(console, "    " + " · ".join(fact for fact in [*facts, document.detail] if fact), "dim")


def _comparison(console: Console, comparison: Comparison) -> None:
    if not comparison.differs:
        _line(console, "    the same lines")
        return
    for line in comparison.lines[:_LINES]:
        text = Text(f"    {_SIGNS[line.change]} ")
        for piece, style in _pieces(line):
            text.append(visible(piece), style)
        console.print(text, soft_wrap=True)
    if len(comparison.lines) > _LINES:
        _line(console, f"    … {len(comparison.lines) - _LINES:,} more lines", "dim")


def _pieces(line: Line) -> Iterator[tuple[str, str]]:
    """Text and style of each piece; inside an edited line, brackets say what a colour says."""
    if line.change == "fold":
        yield f"… {line.folded:,} equal lines", "dim"
    for change, piece in line.pieces:
        marks = {"removed": ("[-", "-]"), "added": ("{+", "+}")}.get(change) if line.change == "edited" else None
        yield (f"{marks[0]}{piece}{marks[1]}" if marks else piece), _STYLES[change]


def _heading(console: Console, title: str) -> None:
    console.print()
    _line(console, title, "bold")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(visible(text), style), soft_wrap=True)
