"""Rows as dedup writes them: prose pages and bare listings of three hosts, and a suite of two questions."""

import json
from pathlib import Path

import pyarrow as pa

WORDS = "grain flour water miller wheel stone wind river harvest bread oven barley dough sack ledger granary"
NUM_WORDS = len(WORDS.split())
LEAKED = "Which part of the old river mill turns the heavy upper stone when the water is high?"
ITEMS = [
    {"id": "leaked", "question": LEAKED, "choices": ["the wheel", "the sack"], "answer": 0},
    {
        "id": "clean",
        "question": "How many sacks of barley does the granary on the road hold in spring?",
        "answer": "40",
    },
    {"id": "short", "question": "Who bakes?", "answer": "miller"},
]


def write_suite(folder: Path) -> Path:
    path = folder / "mill-questions.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    return path


def prose(number: int) -> str:
    picked = [WORDS.split()[(number * 7 + place * (3 + number % 4)) % NUM_WORDS] for place in range(6)]
    return (
        f"The {picked[0]} and the {picked[1]} belong to the same old building, as everyone in the valley knows.\n"
        f"Every {picked[2]} is carried to the {picked[3]} before the evening comes and the work is done.\n"
        f"Nobody remembers why the {picked[4]} was kept behind the {picked[5]} in that particular year."
    )


def listing(number: int) -> str:
    return "\n".join(f"{WORDS.split()[(number + place) % NUM_WORDS]}_{place}(self, x{number})" for place in range(12))


def documents(part: int) -> pa.Table:
    rows = []
    for number in range(60):
        text = prose(number + 60 * part) if number % 3 else listing(number + 60 * part)
        if number == 7:
            text += f"\n{LEAKED}"
        rows.append(
            {
                "id": f"{part}-{number}",
                "url": f"https://{('mill', 'farm', 'town')[number % 3]}.example/{part}/{number}",
                "date": "2026-01-01T00:00:00Z",
                "source": "crawl" if number % 2 else "books",
                "title": f"Page {number}",
                "text": text,
                "language": "en",
                "language_score": 0.99,
            }
        )
    table = pa.Table.from_pylist(rows)
    return table.set_column(7, "language_score", table["language_score"].cast(pa.float32()))
