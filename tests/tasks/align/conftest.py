"""A byte tokenizer with the line's chat template, and a tiny random Llama in a checkpoint's folder."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import modelmill.tasks.tokenize
from modelmill.tasks.align.chat import ChatFormat, open_chat_format
from modelmill.tasks.lm.checkpoints import export
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.tokenize.vocabulary import BEGIN_OF_TEXT, END_OF_TEXT, PAD, SPECIAL_TOKENS

TEMPLATE = Path(modelmill.tasks.tokenize.__file__).parent / "data" / "chat_template.jinja"


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of bytes and the special tokens."""
    folder = tmp_path_factory.mktemp("tokens") / "tokenizer"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=272, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    tokenizer.train_from_iterator([], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN_OF_TEXT, eos_token=END_OF_TEXT, pad_token=PAD
    )
    wrapped.chat_template = TEMPLATE.read_text(encoding="utf-8")
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat(tokenizer_folder: Path) -> ChatFormat:
    return open_chat_format(tokenizer_folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """An untrained model's folder."""
    shape = ModelShape(
        vocab_size=272,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=64,
        max_sequence_length=128,
    )
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    export(build_model(shape, seed=3, special_tokens=special), tokenizer_folder, folder)
    return folder
