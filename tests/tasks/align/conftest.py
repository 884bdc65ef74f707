"""The tiny tokenizer and model that the tests of align share."""

from pathlib import Path

import pytest

from modelmill.tasks.align.chat import ChatFormat, open_chat_format
from tests.tasks.align.tiny import write_model, write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokens") / "tokenizer")


@pytest.fixture(scope="session")
def chat(tokenizer_folder: Path) -> ChatFormat:
    return open_chat_format(tokenizer_folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("checkpoint") / "model", tokenizer_folder)
