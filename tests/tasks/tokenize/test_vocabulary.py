"""The trained tokenizer: ids and template of the line, single digits, and the same bytes whatever the threads."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

from modelmill.tasks.files import file_digest
from modelmill.tasks.tokenize.vocabulary import MIN_VOCABULARY, SPECIAL_TOKENS

ROOT = Path(__file__).resolve().parents[3]
CHAT = [
    {"role": "user", "content": "Sort 3 1 2"},
    {"role": "assistant", "content": "1 2 3"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Welcome"},
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folder)


def test_special_tokens_have_their_ids(tokenizer: Any) -> None:
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(16))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert sorted(tokenizer.all_special_ids) == list(range(16))
    assert MIN_VOCABULARY < len(tokenizer) <= 512


def test_text_round_trips_with_single_digits(tokenizer: Any) -> None:
    text = " It's 12345 — naïve\u00a0\t数据 \r\n\n \U0001f33e\x00 end  "
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert not [token for token in tokens if len(token) > 1 and any(char.isdigit() for char in token)]


def test_chat_template(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(CHAT[:2], tokenize=False)
    assert text == (
        "<|begin_of_text|><|start_header|>user<|end_header|>\nSort 3 1 2<|eot|>"
        "<|start_header|>assistant<|end_header|>\n1 2 3<|eot|>"
    )
    prompt = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert text == prompt + "1 2 3<|eot|>"


def test_chat_template_marks_what_the_assistant_says(tokenizer: Any) -> None:
    rows = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    said = [token for token, mask in zip(rows["input_ids"], rows["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == "1 2 3<|eot|>Welcome<|eot|>"


def test_loads_alike_beside_a_model(tokenizer_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    for path in tokenizer_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    LlamaConfig(vocab_size=512).save_pretrained(tmp_path)
    text = "def mill(x):\n    return  7 <|eot|>"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_training_does_not_depend_on_threads(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.tasks.tokenize.small_corpus import corpus_table\n"
        "from modelmill.tasks.tokenize.merges import trained_bpe\n"
        "texts = [text for part in range(3) for text in corpus_table(part)['text'].to_pylist()] * 5\n"
        "Path(sys.argv[1]).write_text(trained_bpe(texts, 600, 2, 32).to_str())\n"
    )
    digests = set()
    for threads in ("1", "4"):
        output = tmp_path / f"{threads}.json"
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run(
            [sys.executable, "-c", script, str(output)], check=True, env=environment, cwd=Path(__file__).parent
        )
        digests.add(file_digest(output))
    assert len(digests) == 1
