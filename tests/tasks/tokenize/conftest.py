"""A small corpus as curate writes it, and a context over the real pool to tokenize it in."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modelmill.tasks.files import write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, Pool, StageContext
from modelmill.tasks.tokenize.config import Config
from modelmill.tasks.tokenize.merges import trained_bpe
from modelmill.tasks.tokenize.train import save_tokenizer
from tests.tasks.tokenize.small_corpus import MIXTURE, corpus_table


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    folder = tmp_path / "corpus"
    (folder / "documents").mkdir(parents=True)
    for part in range(3):
        pq.write_table(corpus_table(part), folder / "documents" / f"part-{part:05d}.parquet")
    write_json(folder / "mixture.json", MIXTURE)
    return Artifact("corpus", folder, "0" * 64, "curate", {})


@pytest.fixture
def make_context(corpus: Artifact, pool: Pool, tmp_path: Path) -> Callable[..., StageContext]:
    def make(**config: object) -> StageContext:
        return StageContext(
            config=Config.model_validate({"vocab_size": 400} | config),
            inputs={"corpus": [corpus]},
            workspace=tmp_path / "workspace",
            output=tmp_path / "workspace" / "output",
            pool=pool,
            journal=Journal(tmp_path / "workspace" / "journal.jsonl"),
            sampler=lambda: pytest.fail("tokenize samples from no model"),
        )

    return make


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    texts = [text for part in range(2) for text in corpus_table(part)["text"].to_pylist()]
    save_tokenizer(trained_bpe(texts, vocab_size=512, min_frequency=2, max_token_bytes=32), folder)
    return folder
