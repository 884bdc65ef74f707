from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from modelmill.tasks.curate.model_files import END_BYTES, model_digest
from modelmill.tasks.errors import InputError


def write(folder: Path, tensors: dict[str, np.ndarray]) -> str:
    """The digest of a model of these tensors."""
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")
    return model_digest(folder, "quality.teacher.model")


def test_what_training_changes_changes_the_digest(tmp_path: Path) -> None:
    tensors = {name: np.zeros(4 * END_BYTES, np.float32) for name in ("first", "middle", "last")}
    tensors["short"] = np.zeros(3, np.float32)
    before = write(tmp_path, tensors)
    assert write(tmp_path, tensors) == before
    for name, position in (("middle", 0), ("middle", -1), ("short", 1)):
        changed = {key: value.copy() for key, value in tensors.items()}
        changed[name][position] = 1
        assert write(tmp_path, changed) != before, (name, position)
    assert write(tmp_path, tensors | {"short": np.zeros((1, 3), np.float32)}) != before
    write(tmp_path, tensors)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert model_digest(tmp_path, "quality.teacher.model") != before


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"semantic\.model: .* holds no config\.json with \*\.safetensors"):
        model_digest(tmp_path, "semantic.model")
    (tmp_path / "config.json").write_text("{}")
    for content in (b"weights", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="is no safetensors file"):
            model_digest(tmp_path, "semantic.model")
