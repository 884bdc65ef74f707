"""Texts → embeddings as rows of small integers, by a Hugging Face model or by hashed words without any download.

The built-in embedding is TF-IDF over hashed words and word pairs, projected to 256 dimensions. It sees which words two
texts share, in any order: it finds copies that were cut, shuffled or edited beyond what shingles of five words bear. It
knows no synonyms, so a paraphrase in other words or a translation needs a model (dots.llm1 takes BGE-M3).

Rows are scaled to whole numbers of at most 127. Their products are then exact in float32 up to 1,040 dimensions (127²
times that is below 2^24), so that neither the threads of a matrix product nor the size of a batch show in a result.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sparse

from modelmill.tasks.curate.features import NUM_FEATURES, hashed_features
from modelmill.tasks.errors import InputError

DIMENSIONS = 256
MAX_DIMENSIONS = 1040
LARGEST = 127
_BATCH_ROWS = 512
_MODEL_BATCH_ROWS = 16
_SIGNS_PER_FEATURE = 8  # sparse projection (Kane and Nelson 2014): as good as a dense one from about this many


def document_frequencies(texts: pa.ChunkedArray) -> np.ndarray:
    """In how many of the texts each hashed feature occurs, int64 [NUM_FEATURES]."""
    return np.bincount(hashed_features(texts).indices, minlength=NUM_FEATURES)


def word_embeddings(texts: pa.ChunkedArray, frequencies: np.ndarray, num_documents: int) -> np.ndarray:
    """int8 [num_texts, DIMENSIONS]; `frequencies` are those of the whole corpus of `num_documents`."""
    weights = (np.log((1 + num_documents) / (1 + frequencies)) + 1).astype(np.float32)
    parts = [np.zeros((0, DIMENSIONS), np.int8)]
    for start in range(0, len(texts), _BATCH_ROWS):
        rows = hashed_features(texts.slice(start, _BATCH_ROWS))
        rows.data *= weights[rows.indices]
        parts.append(small_integers(sparse.csr_matrix(rows @ _projection()).toarray()))
    return np.concatenate(parts)


def model_embeddings(texts: pa.ChunkedArray, folder: str, max_tokens: int, device: str) -> np.ndarray:
    """int8 [num_texts, hidden size]: the first token's last hidden state, as BGE models are meant to be read.

    Raises:
        InputError: the model's hidden size is above MAX_DIMENSIONS.
    """
    import torch

    tokenizer, model = _model(folder, device)
    size = model.config.hidden_size
    if size > MAX_DIMENSIONS:
        raise InputError(f"{folder} embeds in {size} dimensions; choose a model with at most {MAX_DIMENSIONS}")
    parts = [np.zeros((0, size), np.int8)]
    for start in range(0, len(texts), _MODEL_BATCH_ROWS):
        batch = texts.slice(start, _MODEL_BATCH_ROWS).to_pylist()
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.inference_mode():
            states = model(**tokens.to(device)).last_hidden_state[:, 0]
        parts.append(small_integers(states.float().cpu().numpy()))
    return np.concatenate(parts)


def small_integers(rows: np.ndarray) -> np.ndarray:
    """Rows scaled so that their largest number is 127, and rounded: a cosine changes by less than 0.003."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    return np.rint(rows * (LARGEST / np.where(largest > 0, largest, 1))).astype(np.int8)


@functools.cache
def _projection() -> sparse.csr_matrix:
    """float32 [NUM_FEATURES, DIMENSIONS], a few random signs in each row."""
    generator = np.random.default_rng(0)
    columns = generator.integers(0, DIMENSIONS, (NUM_FEATURES, _SIGNS_PER_FEATURE), dtype=np.int32)
    signs = generator.integers(0, 2, columns.size).astype(np.float32) * 2 - 1
    borders = np.arange(0, columns.size + 1, _SIGNS_PER_FEATURE)
    return sparse.csr_matrix((signs, columns.ravel(), borders), (NUM_FEATURES, DIMENSIONS))


@functools.cache
def _model(folder: str, device: str):
    from modelmill.tasks.models.load import load_encoder, load_tokenizer

    model: Any = load_encoder(Path(folder))
    return load_tokenizer(folder), model.to(device).eval()
