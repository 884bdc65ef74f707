"""A crawl against the keys that earlier crawls left: what it drops, for whom, and what it refuses to compare."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from modelmill.tasks.dedup.config import Config, LineRule, MinHash, external_digests
from modelmill.tasks.dedup.rows import dedup_rows
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import remove_path, value_digest, write_json

from .conftest import SCHEMA, StageRun, document, prose

CONFIG = Config(lines=LineRule(rule="none"), rows_per_shard=4, rows_per_call=1)


def published(run: StageRun) -> str:
    """The run's output as an artifact, whose documents are gone, so that nobody can read them again."""
    digest = value_digest({name: content.hex() for name, content in run.bytes("keys").items()})
    write_json(run.output / "manifest.json", {"digest": digest})
    remove_path(run.output / "documents")
    return str(run.output)


def dropped(run: StageRun) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["reason"], row["survivor"]) for row in run.table("dropped").to_pylist()}


def with_words(text: str, start: int, num_words: int, word: str) -> str:
    words = text.split(" ")
    words[start : start + num_words] = [f"{word}{i}" for i in range(num_words)]
    return " ".join(words)


def crawls() -> list[list[dict[str, str | None]]]:
    base = prose(1, 400)
    drifted = with_words(base, 0, 12, "second")
    first = [document("a-near", base, "https://a.org/near"), document("a-exact", prose(2), "https://a.org/exact")]
    first += [document("a-url", prose(3), "https://a.org/url", "2024-01-01"), document("a-own", prose(4))]
    second = [
        document("b-near", drifted, "https://b.org/near"),
        document("b-url", prose(5), "https://a.org/url", "2025-01-01"),
        document("b-exact", prose(2).upper()),
        document("b-own", prose(6), "https://b.org/own"),
    ]
    third = [
        document("c-drifted", with_words(drifted, 300, 40, "third")),
        document("c-drifted-again", with_words(drifted, 302, 38, "third")),
        document("c-url", prose(7), "https://b.org/own"),
        document("c-exact", "(" + prose(6) + ")"),
        document("c-own", prose(8)),
    ]
    return [first, second, third]


def test_a_chain_of_three_crawls(stage: Callable) -> None:
    first, second, third = crawls()
    artifacts = [published(stage([first], CONFIG))]
    run = stage([second], CONFIG.model_copy(update={"earlier": (artifacts[0],)}))
    # The newer version of an address goes as well: the earlier artifact is final.
    expected = {"b-near": ("earlier_minhash", "a-near"), "b-url": ("earlier_url", "a-url")}
    assert dropped(run) == expected | {"b-exact": ("earlier_exact", "a-exact")}
    assert run.table("documents")["id"].to_pylist() == ["b-own"]
    artifacts.append(published(run))
    config = CONFIG.model_copy(update={"earlier": tuple(artifacts)})
    run = stage([third], config)
    # c-drifted resembles the page that the second crawl dropped more than the one that the first crawl kept.
    assert dropped(run) == {
        "c-drifted": ("earlier_minhash", "a-near"),
        "c-drifted-again": ("earlier_minhash", "a-near"),
        "c-url": ("earlier_url", "b-own"),
        "c-exact": ("earlier_exact", "b-own"),
    }
    assert run.table("documents")["id"].to_pylist() == ["c-own"]
    # Order, partitions and shards do not show.
    other = config.model_copy(update={"earlier": (*artifacts[::-1], artifacts[0]), "rows_per_partition": 2})
    again = stage([third[3:], third[:3]], other)
    assert again.bytes() == run.bytes()
    assert again.bytes("keys") == run.bytes("keys")
    assert dropped(again) == dropped(run)


def test_a_table_is_compared_as_well(stage: Callable) -> None:
    config = CONFIG.model_copy(update={"earlier": (published(stage([crawls()[0]], CONFIG)),)})
    kept, gone = dedup_rows(pa.Table.from_pylist(crawls()[1], schema=SCHEMA), config)
    assert kept["id"].to_pylist() == ["b-own"]
    assert gone["reason"].to_pylist() == ["earlier_minhash", "earlier_url", "earlier_exact"]


def test_many_earlier_documents_in_many_files(stage: Callable) -> None:
    rows = [document(f"e{i:03}", prose(i, 60), f"https://e.org/{i}") for i in range(60)]
    earlier = published(stage([rows], CONFIG))
    assert len(list((Path(earlier) / "keys").glob("bands-*.arrow"))) == 15
    new = [document(f"n{i:03}", f"{prose(i, 60)} end" if i % 2 else prose(i, 60).title()) for i in range(0, 60, 3)]
    new += [document(f"o{i:03}", prose(1000 + i, 60), f"https://e.org/{100 + i}") for i in range(10)]
    for partition in (3, 1_000_000):
        update = {"earlier": (earlier,), "rows_per_partition": partition}
        run = stage([new], CONFIG.model_copy(update=update))
        assert run.result.dropped == {"earlier_exact": 10, "earlier_minhash": 10}
        assert all(survivor == f"e{name[1:]}" for name, (_, survivor) in dropped(run).items())
        assert sorted(run.table("documents")["id"].to_pylist()) == [f"o{i:03}" for i in range(10)]


def test_digests_not_places_enter_the_key(stage: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (published(stage([rows], CONFIG)) for rows in crawls()[:2])
    digests = external_digests(Config(earlier=(first, second)))
    assert len(digests) == 2
    assert external_digests(Config(earlier=(second, first, second))) == digests
    digest = external_digests(Config(earlier=(first,))).popitem()[1]
    (tmp_path / "artifacts").mkdir()
    Path(first).rename(tmp_path / "artifacts" / digest)
    monkeypatch.setenv("MILL_HOME", str(tmp_path))
    assert external_digests(Config(earlier=(digest, second))) == digests
    assert external_digests(Config()) == {}


@pytest.mark.parametrize(
    "update", [{"minhash": MinHash(seed=2)}, {"minhash": MinHash(bands=20)}, {"minhash": MinHash(shingle_words=3)}]
)
def test_keys_made_in_another_way_are_refused(update: dict, stage: Callable) -> None:
    earlier = published(stage([crawls()[0]], CONFIG))
    with pytest.raises(InputError, match="cannot be compared at level minhash"):
        stage([crawls()[1]], CONFIG.model_copy(update={"earlier": (earlier,), **update}))


def test_a_level_that_the_earlier_run_had_not_is_refused(stage: Callable) -> None:
    only_url: dict[str, object] = {"exact": False, "minhash": MinHash(enabled=False)}
    earlier = published(stage([crawls()[0]], CONFIG.model_copy(update=only_url)))
    with pytest.raises(InputError, match="cannot be compared at level exact"):
        stage([crawls()[1]], CONFIG.model_copy(update={"earlier": (earlier,)}))
    only_url["earlier"] = (earlier,)
    assert stage([crawls()[1]], CONFIG.model_copy(update=only_url)).result.dropped == {"earlier_url": 1}
    with pytest.raises(InputError, match=r"names /nowhere.*no artifact of dedup"):
        external_digests(Config(earlier=("/nowhere",)))
