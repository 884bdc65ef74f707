import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from modelmill.flows.dry_run import dry_run
from modelmill.flows.recipe import CONFIGS, load_layout
from modelmill.tasks.errors import RecipeError


@pytest.mark.parametrize("path", sorted((CONFIGS / "layouts").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_layout_file_loads(path: Path) -> None:
    file = load_layout(path.stem)
    assert file.layout.num_processes in (1024, 16_384)
    assert 2**24 <= file.batch_tokens <= 2**27


def test_the_405b_on_16384_processes(tmp_path: Path) -> None:
    text = StringIO()
    dry_run(Console(file=text, width=120), "llama-3.1-405b-16k", tmp_path / "figures.json")
    assert "It fits 80 GB with checkpointing selective" in text.getvalue()
    figures = json.loads((tmp_path / "figures.json").read_text())["estimate"]
    assert figures["bubble"] == pytest.approx(15 / 128)
    assert figures["num_processes"] == 16_384
    assert [memory["pipeline_rank"] for memory in figures["memory"]] == [0, 8, 15]
    # published: 400 TFLOP/s each, without recomputation: no bound may be below it
    assert 400 < figures["in_line"]["tflops"] < figures["overlapped"]["tflops"] < 989


def test_unknown_names_and_keys_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"layout file 'nothing'.*llama-3.1-405b-16k"):
        load_layout("nothing")
    path = tmp_path / "mine.yaml"
    path.write_text("model: llama-3.1-8b\nlayout: {tensr: 2}\nsequence_length: 8\nbatch_tokens: 8\n")
    with pytest.raises(RecipeError, match="did you mean 'tensor'"):
        load_layout(str(path))
