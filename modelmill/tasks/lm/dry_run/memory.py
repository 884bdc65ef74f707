"""What was found out about one process → the bytes that it holds at the fullest moment of a step, by kind.

Not counted: the libraries' own memory, fragmentation, buffers of collective operations, temporaries of operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from modelmill.tasks.lm.dry_run.build import BuiltRank
from modelmill.tasks.lm.dry_run.config import LayoutFile
from modelmill.tasks.lm.dry_run.order import Work, peak
from modelmill.tasks.lm.dry_run.trace import LayerTrace

GATHERED, REDUCED, MASTER, MOMENTS, ACTIVATION = 2, 4, 4, 8, 2
"""Bytes of a parameter: gathered in bf16, its gradient in float32, its float32 copy, AdamW's two moments; of a number
of the hidden states (bf16)."""

CHECKPOINTING = ("none", "selective", "full")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. parameters: float32 shards and gathered bf16. pipeline_buffers: what torch's stages receive
    into. head: gradients that the chunked loss makes in its forward pass. activations: by kind of checkpointing."""

    pipeline_rank: int
    parameters: int
    gradients: int
    optimizer: int
    pipeline_buffers: int
    head: int
    activations: dict[str, int]

    def total(self, checkpointing: str) -> int:
        fixed = self.parameters + self.gradients + self.optimizer + self.pipeline_buffers + self.head
        return fixed + self.activations[checkpointing]


def process_memory(file: LayoutFile, built: BuiltRank, traces: dict[bool, LayerTrace], order: Sequence[Work]) -> Memory:
    """Memory of one process; `order` is what it does in a step.

    Gradients of a pipeline are added up over micro-batches before they are scattered, so they are held whole.
    """
    weights, piped = built.weights, file.layout.pipeline > 1
    last = built.parts[-1]
    head = head_bytes(file) if last.has_head else 0
    received = sum((not part.has_embedding) + (not part.has_head) for part in built.parts)
    return Memory(
        pipeline_rank=built.rank,
        parameters=MASTER * weights.sharded + GATHERED * weights.resident,
        gradients=REDUCED * (weights.gathered if piped else weights.sharded + weights.resident),
        optimizer=MOMENTS * weights.sharded,
        pipeline_buffers=received * file.num_micro_batches * hidden_bytes(file),
        head=int(peak(order, lambda stage: float(head if stage == last.index else 0))),
        activations={kind: _activations(file, built, traces, order, kind) for kind in CHECKPOINTING},
    )


def _activations(
    file: LayoutFile, built: BuiltRank, traces: dict[bool, LayerTrace], order: Sequence[Work], kind: str
) -> int:
    """What layers keep of all micro-batches under way, and the layer that is being repeated.

    The input of a stage's first layer lies in a buffer of the pipeline already.
    """
    kept: dict[int, int] = {}
    for part in built.parts:
        layers = [traces[has] for has in built.kinds[part.index]]
        kept[part.index] = sum(layer.kept_bytes(kind) for layer in layers)
        if layers and not part.has_embedding and kind != "none":
            kept[part.index] -= hidden_bytes(file)
    own = [traces[has].saved_bytes for kinds in built.kinds.values() for has in kinds]
    return int(peak(order, lambda stage: float(kept[stage]))) + (0 if kind == "none" else max(own, default=0))


def hidden_bytes(file: LayoutFile) -> int:
    """Hidden states of one micro-batch on one process, as they lie between two stages."""
    own = file.layout.stages.micro_batch_rows * file.sequence_length // file.layout.sharing_size
    return own * file.shape.hidden_size * ACTIVATION


def head_bytes(file: LayoutFile) -> int:
    """Gradients of head and hidden states of one micro-batch, from the loss's forward pass to its backward pass.

    Each process has whole rows there, its labels and those of its tensor group, and its entries of the vocabulary.
    """
    hidden = file.layout.stages.micro_batch_rows * file.sequence_length
    return (file.shape.vocab_size // file.layout.tensor + hidden) * file.shape.hidden_size * ACTIVATION
