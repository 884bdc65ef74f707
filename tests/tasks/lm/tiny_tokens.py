"""A few made-up documents → a tokens artifact of a small vocabulary, in the format of the tokenize stage."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from modelmill.tasks.tokenize.shards import write_index, write_shards

SPECIAL = ["begin_of_text", "end_of_text", "pad", "start_header", "end_header", "eot"]
SPECIAL_TOKENS = [f"<|{name}|>" for name in SPECIAL] + [f"<|reserved_{number}|>" for number in range(10)]
WORDS = [
    "the",
    "a",
    "mill",
    "grain",
    "stone",
    "water",
    "wheel",
    "turns",
    "flour",
    "river",
    "runs",
    "bread",
    "oven",
    "red",
]
VOCAB_SIZE = 384


def write_tiny_tokens(folder: Path) -> Path:
    """Two domains, `prose` and `counts`, with documents of 5 to 300 words."""
    generator = np.random.default_rng(0)
    domains = {"prose": _prose(generator, 60), "counts": _counts(generator, 40)}
    tokenizer = _train_tokenizer([text for texts in domains.values() for text in texts])
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL_TOKENS[0]}
    config |= {"eos_token": SPECIAL_TOKENS[1], "pad_token": SPECIAL_TOKENS[2]}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    splits: dict[str, dict] = {"train": {}, "validation": {}}
    for domain, texts in domains.items():
        for split, chosen in (("train", texts[5:]), ("validation", texts[:5])):
            documents = [[*encoding.ids, 1] for encoding in tokenizer.encode_batch(chosen)]
            num_bytes = sum(len(text.encode()) for text in chosen)
            splits[split][domain] = write_shards(
                folder, split, domain, documents, vocab_size=VOCAB_SIZE, num_bytes=num_bytes, documents_per_shard=20
            )
    write_index(folder, splits, vocab_size=VOCAB_SIZE, eos_token_id=1, mixture={"prose": 0.75, "counts": 0.25})
    return folder


def _prose(generator: np.random.Generator, number: int) -> list[str]:
    return [" ".join(generator.choice(WORDS, generator.integers(5, 300))) + "." for _ in range(number)]


def _counts(generator: np.random.Generator, number: int) -> list[str]:
    starts, lengths = generator.integers(0, 100, number), generator.integers(3, 80, number)
    return [
        " ".join(str(start + step) for step in range(length)) for start, length in zip(starts, lengths, strict=True)
    ]


def _train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
