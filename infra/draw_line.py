"""The stages of the catalog → docs/images/line.svg, the picture of the line in the README."""

from pathlib import Path

from modelmill.tasks.catalog import STAGES

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "line.svg"
GROUPS = {
    "data": ("ingest", "clean", "dedup", "curate", "tokenize"),
    "model": ("scaling", "pretrain", "extend", "anneal"),
    "chat": ("align", "evaluate", "release"),
}
COLOURS = {"data": "#0072b2", "model": "#b35900", "chat": "#00785a"}
WIDTH, STEP, BOX_WIDTH, BOX_HEIGHT, ROW = 980, 182, 150, 52, 112


def picture() -> str:
    """One row a group, boxes with the stage above and what it produces below, arrows between."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {ROW * len(GROUPS) + 8}" '
        'font-family="system-ui, sans-serif" font-size="15">',
        f'<rect width="{WIDTH}" height="{ROW * len(GROUPS) + 8}" rx="10" fill="#ffffff"/>',
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
    ]
    for row, (group, stages) in enumerate(GROUPS.items()):
        top = row * ROW + 38
        parts.append(f'<text x="24" y="{top - 12}" fill="{COLOURS[group]}" font-weight="600">{group}</text>')
        parts += [_box(24 + column * STEP, top, stage, COLOURS[group]) for column, stage in enumerate(stages)]
        parts += [_arrow(24 + column * STEP + BOX_WIDTH, top) for column in range(len(stages) - 1)]
        if row + 1 < len(GROUPS):
            parts.append(_turn(24 + (len(stages) - 1) * STEP + BOX_WIDTH / 2, top))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(x: float, y: float, stage: str, colour: str) -> str:
    middle, made = x + BOX_WIDTH / 2, STAGES[stage].produces
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="{colour}"/>'
        f'<text x="{middle}" y="{y + 22}" text-anchor="middle" fill="#fff" font-weight="600">{stage}</text>'
        f'<text x="{middle}" y="{y + 41}" text-anchor="middle" fill="#fff" font-size="12">→ {made}</text>'
    )


def _arrow(x: float, y: float) -> str:
    middle = y + BOX_HEIGHT / 2
    return (
        f'<path d="M{x + 3} {middle}H{x + STEP - BOX_WIDTH - 3}" stroke="#555" stroke-width="2" marker-end="url(#a)"/>'
    )


def _turn(x: float, y: float) -> str:
    start, middle, end = y + BOX_HEIGHT + 2, y + BOX_HEIGHT + 16, y + ROW - 3
    return (
        f'<path d="M{x} {start}V{middle}H{24 + BOX_WIDTH / 2}V{end}" fill="none" stroke="#555" stroke-width="2" '
        'marker-end="url(#a)"/>'
    )


if __name__ == "__main__":
    TARGET.write_text(picture(), encoding="utf-8")
