"""Replies and pairs ↔ Parquet files under `preference/`, with their texts for people to read."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.align.pairs import Pair, Reply
from modelmill.tasks.files import atomic_path
from modelmill.tasks.verify.problem import Problem

_TOKENS = pa.list_(pa.int32())


def write_replies(path: Path, problems: Sequence[Problem], replies: Sequence[Reply]) -> None:
    """Columns problem (number), family, question, answer, text, correct, reward, prompt and token_ids (token ids)."""
    asked = [problems[reply.problem] for reply in replies]
    columns = {
        "problem": pa.array([reply.problem for reply in replies], pa.int32()),
        "family": pa.array([problem.family for problem in asked], pa.string()),
        "question": pa.array([problem.prompt for problem in asked], pa.string()),
        "answer": pa.array([problem.answer for problem in asked], pa.string()),
        "text": pa.array([reply.text for reply in replies], pa.string()),
        "correct": pa.array([reply.correct for reply in replies], pa.bool_()),
        "reward": pa.array([reply.reward for reply in replies], pa.float32()),
        "prompt": pa.array([reply.prompt for reply in replies], _TOKENS),
        "token_ids": pa.array([reply.token_ids for reply in replies], _TOKENS),
    }
    _write(path, columns)


def read_replies(path: Path) -> list[Reply]:
    """What `write_replies` wrote, without the problems."""
    names = ["problem", "prompt", "token_ids", "text", "correct", "reward"]
    return [Reply(**row) for row in pq.read_table(path, columns=names).to_pylist()]


def write_pairs(path: Path, problems: Sequence[Problem], pairs: Sequence[Pair]) -> None:
    """Columns problem (number), question, prompt, chosen, rejected (token ids), edited."""
    columns = {
        "problem": pa.array([pair.problem for pair in pairs], pa.int32()),
        "question": pa.array([problems[pair.problem].prompt for pair in pairs], pa.string()),
        "prompt": pa.array([pair.prompt for pair in pairs], _TOKENS),
        "chosen": pa.array([pair.chosen for pair in pairs], _TOKENS),
        "rejected": pa.array([pair.rejected for pair in pairs], _TOKENS),
        "edited": pa.array([pair.edited for pair in pairs], pa.bool_()),
    }
    _write(path, columns)


def read_pairs(path: Path) -> list[Pair]:
    """What `write_pairs` wrote."""
    names = ["problem", "prompt", "chosen", "rejected", "edited"]
    return [Pair(**row) for row in pq.read_table(path, columns=names).to_pylist()]


def _write(path: Path, columns: dict[str, pa.Array]) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
