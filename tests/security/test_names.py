"""Names from recipes, data and command lines never leave the home; links inside of it are not followed out."""

import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from modelmill.flows.recipe import CONFIGS, load_line, load_recipe
from modelmill.services.lines import read_line, save_line
from modelmill.services.store import Store
from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.files import inside, value_digest
from modelmill.tasks.ingest.sources import Source
from modelmill.tasks.names import domain_name, file_name, stage_name
from modelmill.tasks.release.config import Config as Release
from modelmill.tasks.tokenize.parts import encode_part
from modelmill.tasks.tokenize.shards import TokenShards, write_index
from modelmill.tasks.tokenize.train import train_tokenizer

HOSTILE = [
    "../../../x", "/tmp/x", "..", ".", "", "a/b", "a\\b", ".hidden", "-rf", "a\nb", "a\0b", "a b", "a" * 65, "аb",
    "ａ", "a\u202eb", "con", "NUL.txt", "com1", "a.", "~", "$HOME", "x;y", "é",
]  # fmt: skip


@pytest.mark.parametrize("check", [file_name, stage_name, domain_name])
def test_hostile_names_are_refused_everywhere(check: Any) -> None:
    for name in HOSTILE:
        with pytest.raises(ValueError, match="found the name"):
            check(name)
    assert [file_name(name) for name in ("dots.llm1", "Qwen3_0.6B", "a-1")] == ["dots.llm1", "Qwen3_0.6B", "a-1"]


def test_every_shipped_recipe_has_names_that_pass() -> None:
    for path in CONFIGS.glob("*.yaml"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "a\nb", ["a"]])
def test_recipe_names_and_stage_ids_are_no_paths(name: Any) -> None:
    with pytest.raises(RecipeError, match="name"):
        load_line({"name": name, "line": ["ingest"]})
    with pytest.raises(RecipeError, match="id of stage ingest: found the name"):
        load_line({"name": "a", "line": [{"stage": "ingest", "id": f"{name}/x"}]})


def test_sources_and_releases_are_no_paths() -> None:
    for model, name in itertools.product((Source, Release), ("../x", "/tmp/x", "x\n")):
        with pytest.raises(ValidationError, match="found the name"):
            model(name=name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/tmp/x", "a\0b", "x" * 300])
def test_the_record_of_a_run_is_named_by_a_recipe_only(name: str, tmp_path: Path) -> None:
    """`mill show --recipe ../../x` read any .json of the machine."""
    with pytest.raises(RecipeError, match="the name of a recipe"):
        read_line(tmp_path, name)
    with pytest.raises(RecipeError, match="the name of a recipe"):
        save_line(tmp_path, name, {})
    (tmp_path / "latest").write_text(name)
    with pytest.raises(InputError, match="no run of any recipe"):
        read_line(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "latest"]


def test_a_domain_of_a_corpus_from_elsewhere_makes_no_folder(tmp_path: Path) -> None:
    texts = pl.DataFrame({"text": ["the cat sat on the mat"] * 9})
    texts.write_parquet(tmp_path / "sample.parquet")
    train_tokenizer([str(tmp_path / "sample.parquet")], str(tmp_path / "tokenizer"), 300, 2, 16)
    documents = texts.with_columns(domain=pl.lit("../../../escaped"), split=pl.lit("train"))
    documents.write_parquet(tmp_path / "documents.parquet")
    with pytest.raises(InputError, match="cannot be a folder"):
        encode_part(str(tmp_path / "documents.parquet"), str(tmp_path / "tokenizer"), str(tmp_path / "out"), "a", 0)
    assert not list(tmp_path.rglob("escaped"))


def test_an_index_of_tokens_names_no_folder_elsewhere(tmp_path: Path) -> None:
    entry = {"tokens": 1, "documents": 1, "bytes": 1, "shards": ["a"]}
    write_index(tmp_path, {"train": {"../x": entry}}, vocab_size=300, eos_token_id=1, mixture={"../x": 1.0})
    with pytest.raises(InputError, match="cannot be a folder"):
        TokenShards(tmp_path, "train").document("../x", 0)


def test_links_do_not_lead_out_of_the_home(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "artifacts").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").touch()
    digest = value_digest("x")
    (home / "artifacts" / digest).symlink_to(outside)
    for path in (home / "artifacts" / digest, home / "artifacts" / "../../outside"):
        with pytest.raises(InputError, match="leads out of"):
            inside(home, path)
    with pytest.raises(InputError, match="leads out of"):
        Store(home).artifact_path(digest)
    for name in ("keys", "work", "lines"):
        (home / name).symlink_to(outside)
    store, calls = Store(home), []
    for call in (lambda: store.find("clean", digest), lambda: store.workspace("clean", digest)):
        with pytest.raises(InputError, match="leads out of"):
            calls.append(call())
    with pytest.raises(InputError, match="leads out of"):
        save_line(home, "demo", {})
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_home_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    record = {"name": "demo", "recipe": {}, "stages": [], "links": {}, "time": 0.0, "overrides": []}
    save_line(tmp_path / "home", "demo", record)
    assert read_line(tmp_path / "home") == record
    assert Store(tmp_path / "home").find("clean", value_digest("x")) is None


def test_an_artifact_with_a_link_out_of_it_is_neither_published_nor_used(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    (tmp_path / "secret").write_text("secret")
    with store.locked_workspace("clean", "0" * 64) as workspace:
        (workspace / "output" / "rows.txt").symlink_to(tmp_path / "secret")
        with pytest.raises(InputError, match="leads out of"):
            store.publish(workspace, {"id": "clean", "stage": "clean", "key": "0" * 64})
    digest = value_digest("x")
    store.artifact_path(digest).mkdir(parents=True)
    (store.artifact_path(digest) / "rows.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="leads out of"):
        store.artifact({"type": "documents", "digest": digest}, "clean")
