"""A checked Hugging Face folder → its tokenizer, configuration or model, without its code and without pickles."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging

from modelmill.tasks.errors import InputError
from modelmill.tasks.models.folder import check_config, check_model_folder, check_tokenizer_folder, opening
from modelmill.tasks.models.templates import bound_templates

# Said wherever something is opened: the libraries' defaults have changed before.
_SAFE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer of a folder; its chat template, if foreign, is rendered within limits.

    Raises:
        InputError: the folder has no tokenizer, or one that needs code of its own.
    """
    folder = Path(folder)
    # transformers reads the model's configuration, where there is one, to find the tokenizer's class.
    (check_config if (folder / "config.json").exists() else check_tokenizer_folder)(folder)
    bound_templates()
    with opening(folder):
        return AutoTokenizer.from_pretrained(folder, **_SAFE)


def load_config(folder: Path, **changes: Any) -> Any:
    """The configuration of a folder, with changes. Raises InputError."""
    check_config(folder)
    with opening(folder):
        return AutoConfig.from_pretrained(folder, **_SAFE, **changes)


def load_causal_model(folder: Path, **options: Any) -> PreTrainedModel:
    """The language model of a folder. `options`: of `from_pretrained`.

    Raises:
        InputError: the folder holds no such model, not all of its weights, pickles, or code that it needs.
    """
    check_model_folder(folder)
    logging.disable_progress_bar()
    with opening(folder):
        opened: Any = AutoModelForCausalLM.from_pretrained(
            folder, **_SAFE, use_safetensors=True, output_loading_info=True, **options
        )
    model, report = opened
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{folder} lacks {len(missing)} of the model's tensors, for example {missing[0]}; download the model again"
        )
    return model


def load_encoder(folder: Path) -> PreTrainedModel:
    """The model of a folder without a head, for embeddings. Raises InputError as `load_causal_model`."""
    check_model_folder(folder)
    logging.disable_progress_bar()
    with opening(folder):
        return AutoModel.from_pretrained(folder, **_SAFE, use_safetensors=True)
