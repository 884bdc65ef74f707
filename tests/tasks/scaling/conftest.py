"""A tokens artifact of made-up sentences, small enough for proxies of a few thousand tokens."""

import random
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from modelmill.tasks.tokenize.shards import write_index, write_shards

VOCAB_SIZE = 512
NAMES = (
    "begin_of_text",
    "end_of_text",
    "pad",
    "start_header",
    "end_header",
    "eot",
    *(f"reserved_{n}" for n in range(10)),
)
SUBJECTS = ("the river", "a farmer", "our teacher", "the old bridge", "my neighbour", "a small boat", "the winter wind")
VERBS = ("carries", "remembers", "follows", "repairs", "watches", "forgets")
OBJECTS = ("seven stones", "the narrow road", "every letter", "a field of wheat", "two lanterns", "the morning train")


def _document(generator: random.Random) -> str:
    subject = generator.choice(SUBJECTS)
    sentences = (
        f"{subject} {generator.choice(VERBS)} {generator.choice(OBJECTS)} on day {generator.randrange(31)}."
        for _ in range(generator.randrange(4, 20))
    )
    return " ".join(sentences)


@pytest.fixture(scope="session")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("tokens"), random.Random(0)
    texts = [_document(generator) for _ in range(1200)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[f"<|{name}|>" for name in NAMES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    ids = [[*tokenizer.encode(text).ids, 1] for text in texts]
    _write(folder, {"prose": ids})
    return folder


@pytest.fixture(scope="session")
def two_domains(tokens_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer over two domains: the made-up sentences, and lists of days, which are much easier."""
    folder, generator = tmp_path_factory.mktemp("two-domains"), random.Random(1)
    shutil.copytree(tokens_folder / "tokenizer", folder / "tokenizer")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    texts = {
        "prose": [_document(generator) for _ in range(600)],
        "days": [" ".join(f"on day {(first + n) % 31}." for n in range(30)) for first in range(300)],
    }
    _write(folder, {domain: [[*tokenizer.encode(text).ids, 1] for text in found] for domain, found in texts.items()})
    return folder


def _write(folder: Path, ids: dict[str, list[list[int]]]) -> None:
    splits = {
        split: {
            domain: write_shards(folder, split, domain, rows[part], vocab_size=VOCAB_SIZE)
            for domain, rows in ids.items()
        }
        for split, part in (("train", slice(100, None)), ("validation", slice(100)))
    }
    mixture = {domain: len(rows) / sum(map(len, ids.values())) for domain, rows in ids.items()}
    write_index(folder, splits, vocab_size=VOCAB_SIZE, eos_token_id=1, mixture=mixture)
