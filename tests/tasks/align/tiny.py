"""A byte tokenizer with the line's chat template, and tiny random Llamas, as a stage would have left them."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import modelmill.tasks.tokenize
from modelmill.tasks.lm.checkpoints import export
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.tokenize.vocabulary import BEGIN_OF_TEXT, END_OF_TEXT, PAD, SPECIAL_TOKENS

TEMPLATE = Path(modelmill.tasks.tokenize.__file__).parent / "data" / "chat_template.jinja"


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of the special tokens and the 256 bytes."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=272, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    tokenizer.train_from_iterator([], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN_OF_TEXT, eos_token=END_OF_TEXT, pad_token=PAD
    )
    wrapped.chat_template = TEMPLATE.read_text(encoding="utf-8")
    wrapped.save_pretrained(folder)
    return folder


def write_model(folder: Path, tokenizer_folder: Path, *, seed: int = 3, **changes: Any) -> Path:
    """An untrained model; `changes` are fields of its shape (vLLM's attention on CPUs wants heads of 32)."""
    sizes: dict[str, Any] = {
        "vocab_size": 272,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "intermediate_size": 96,
        "max_sequence_length": 128,
    }
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = build_model(ModelShape(**(sizes | changes)), seed=seed, special_tokens=special)
    # Larger weights than at the start of a training, so that different models say different things.
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim > 1 else 1)
    export(model, tokenizer_folder, folder)
    return folder
