"""A Hugging Face folder → checked without importing anything or allocating what it describes.

What is looked at is what could harm before a library notices: pickled weights, Python of the folder's own, figures that
would allocate the machine's memory, files that are none.
"""

import contextlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import InputError, MillError
from modelmill.tasks.names import file_name

_MEGABYTE = 1 << 20
# The longest of some 60 published models: config.json 30 kB, tokenizer.json 34 MB, the index of a 1T model 12 MB.
_LARGEST = {
    "config.json": 4 * _MEGABYTE,
    "generation_config.json": _MEGABYTE,
    "tokenizer_config.json": 16 * _MEGABYTE,
    "special_tokens_map.json": _MEGABYTE,
    "added_tokens.json": 16 * _MEGABYTE,
    "model.safetensors.index.json": 64 * _MEGABYTE,
    "tokenizer.json": 256 * _MEGABYTE,
    "tokenizer.model": 256 * _MEGABYTE,
    "vocab.json": 64 * _MEGABYTE,
    "merges.txt": 64 * _MEGABYTE,
    "chat_template.jinja": _MEGABYTE,
    "chat_template.json": _MEGABYTE,
}
_HEADER_BYTES = 100 * _MEGABYTE  # safetensors' own limit
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
# Fields of config.json by the largest value that any published model comes near.
_LIMITS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 18,
    "n_embd": 1 << 18,
    "d_model": 1 << 18,
    "intermediate_size": 1 << 22,
    "moe_intermediate_size": 1 << 22,
    "num_hidden_layers": 1 << 12,
    "n_layer": 1 << 12,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "max_position_embeddings": 1 << 31,
    "n_routed_experts": 1 << 14,
    "num_experts": 1 << 14,
    "num_local_experts": 1 << 14,
    "num_experts_per_tok": 1 << 14,
}
_NEEDED = ("vocab_size", "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "num_attention_heads")
_PARAMETERS_PER_BYTE = 8  # of weights packed as tightly as one bit each


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Check the configuration, weights and tokenizer of a folder; returns config.json.

    Raises:
        InputError: the folder holds no model that can be opened safely; the message says what to do.
    """
    config = check_config(folder)
    num_bytes = _check_weights(folder)
    for part in _parts(config):
        least = _least_parameters(part)
        if least > _PARAMETERS_PER_BYTE * num_bytes:
            raise InputError(
                f"{folder / 'config.json'} describes at least {least:,} parameters, and the folder has {num_bytes:,} "
                "bytes of weights; restore the configuration that belongs to the weights"
            )
    return config


def check_config(folder: Path) -> dict[str, Any]:
    """Check config.json and the tokenizer's files; returns config.json. Raises InputError."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"no config.json in {folder}; expected a Hugging Face model folder")
    check_tokenizer_folder(folder)
    config = read_object(path)
    for part in _parts(config):
        for name, limit in _LIMITS.items():
            least = 1 if name in _NEEDED else 0
            given = part.get(name)
            for value in given if isinstance(given, list) else [given]:  # some models have a size for each layer
                if value is not None and not (isinstance(value, int) and least <= value <= limit):
                    raise InputError(
                        f"{path}: {name} is {_short(value)}; expected a whole number from {least} to {limit:,}"
                    )
        for name, value in part.items():
            # transformers takes a name with a slash for a kernel to download from the hub, and runs it.
            if name.endswith("attn_implementation") and not (value is None or str(value).isidentifier()):
                raise InputError(f"{path}: {name} is {_short(value)}, which is code from elsewhere; remove the field")
    return config


def check_tokenizer_folder(folder: Path) -> None:
    """Check that the files of a tokenizer are files, of a size that tokenizers have. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected a Hugging Face model folder on this machine")
    for name, limit in _LARGEST.items():
        path = folder / name
        if not path.exists():
            continue
        if not path.is_file():
            raise InputError(f"{path} is no file; restore it from where the model came from")
        if path.stat().st_size > limit:
            raise InputError(
                f"{path} has {path.stat().st_size / 1e6:,.0f} MB; expected at most {limit / 1e6:,.0f} MB. Restore it "
                "from where the model came from."
            )


@contextlib.contextmanager
def opening(folder: Path) -> Iterator[None]:
    """What the libraries say of a folder that they cannot open, in one sentence.

    Raises:
        InputError: instead of anything that a library raises.
    """
    try:
        yield
    except (MillError, MemoryError):
        raise
    except BaseException as error:
        # A panic of the tokenizers' Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise InputError(
                f"{folder} needs Python code that comes with it, which is never run; take a model of an architecture "
                "that transformers itself has"
            ) from error
        raise InputError(f"{folder} cannot be opened: {reason}") from error


def read_object(path: Path) -> dict[str, Any]:
    """One JSON object. Raises InputError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable as JSON: {error}; restore it from where the model came from"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}; expected a JSON object")
    return value


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configuration and those in it of a model's parts (`text_config`, `vision_config`)."""
    return [config, *(value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict))]


def _least_parameters(part: dict[str, Any]) -> int:
    """Of the embedding, and of the queries of each layer."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    vocabulary, width, layers, heads, head = (
        value if isinstance(value := part.get(name), int) else 0 for name in names
    )
    return vocabulary * width + layers * width * (heads * head or width)


def _check_weights(folder: Path) -> int:
    """Bytes of the safetensors files, whose headers fit them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_index(index)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise InputError(
                f"{folder} has its weights in {pickles[0]}, a format that can hold programs. If you trust it, convert "
                "it: `python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('IN')"
                ".save_pretrained('OUT')\"`, or take a release of the model with *.safetensors."
            )
        raise InputError(f"{folder} has no *.safetensors; expected a Hugging Face model folder with its weights")
    for path in weights:
        _check_header(path)
    return sum(path.stat().st_size for path in weights)


def _check_index(index: Path) -> None:
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict):
        raise InputError(f"{index} has no weight_map; restore it from where the model came from")
    for name in sorted({str(name) for name in names.values()}):
        try:
            file_name(name)
        except ValueError as error:
            raise InputError(f"{index} names a file outside of its folder: {error}") from error
        if not name.endswith(".safetensors") or not (index.parent / name).is_file():
            raise InputError(f"{index} names {name}, which is not there or no *.safetensors; download the model again")


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        header = file.read(length) if length <= min(size - 8, _HEADER_BYTES) else b""
    try:
        tensors = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no safetensors file; restore it from where the model came from") from error
    if max(ends, default=0) != size - 8 - length:
        raise InputError(f"{path} is not whole: its header describes other tensors; download it again")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
