"""Problems that a suite asks are left out: word by word whatever their length, by 8-grams with words around them."""

import json
from pathlib import Path

from modelmill.tasks.align.config import SuiteCheck
from modelmill.tasks.align.contamination import contamination_report, suite_indices, uncontaminated
from modelmill.tasks.verify.problems import problem_set


def test_problems_of_a_suite_are_left_out(tmp_path: Path) -> None:
    problems = problem_set("train", 60, seed=1)
    assert uncontaminated(problems, suite_indices(())) == (problems, [])
    short = min(problems, key=lambda problem: len(problem.prompt.split()))
    long = max(problems, key=lambda problem: len(problem.prompt.split()))
    items = [
        {"id": "short", "question": short.prompt.upper(), "answer": "unlike"},
        {"id": "long", "question": long.prompt, "answer": long.answer},
        {"id": "other", "question": "How many sacks of barley does the granary hold in spring?", "answer": "40"},
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    indices = suite_indices([SuiteCheck(suite=str(path)), SuiteCheck(suite="python-library")])
    kept, removed = uncontaminated(problems, indices)
    assert {row["item"] for row in removed} == {"short", "long"}
    assert {short.prompt, long.prompt} <= {row["question"] for row in removed}
    assert short not in kept and long not in kept and len(kept) + len(removed) == 60 and len(removed) < 6
    report = contamination_report(indices, removed)
    assert len(report["asked"]["removed"]) == len(removed) and report["python-library"]["removed"] == []
