"""A layout file → tables of what each process of it would hold and send, and how fast a step could be."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelmill.flows.recipe import load_layout
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import write_output

if TYPE_CHECKING:
    from modelmill.tasks.lm.dry_run.config import LayoutFile
    from modelmill.tasks.lm.dry_run.estimate import Estimate, Speed

_KINDS = {
    "parameters": "parameters: float32 shards, gathered bf16",
    "gradients": "gradients: float32",
    "optimizer": "AdamW moments: float32 shards",
    "pipeline_buffers": "what torch's pipeline receives into",
    "head": "gradients of the head in the loss",
}
_CHECKPOINTING = {
    "none": "activations, all kept",
    "selective": "activations, products and attention kept",
    "full": "activations, layers' inputs kept",
}


def dry_run(console: Console, name: str, output: Path | None) -> None:
    """Build a layout without memory, print what came out, and write it as JSON to `output` if given.

    Raises:
        RecipeError: no such layout, a value that does not fit, or a layout that does not fit its model or batch.
        InputError: no place for the output.
    """
    file = load_layout(name)
    if output and not output.parent.is_dir():
        raise InputError(f"no folder {output.parent} to write {output.name} in; make it, or name another file")
    from modelmill.tasks.lm.dry_run.estimate import estimate  # torch and transformers, after the file was checked

    found = estimate(file)
    _print(console, file, found)
    if output:
        text = json.dumps({"layout": file.model_dump(mode="json"), "estimate": found.as_dict()}, indent=1)
        write_output(output, text + "\n")


def _print(console: Console, file: "LayoutFile", found: "Estimate") -> None:
    sizes = " · ".join(f"{name} {size}" for name, size in file.layout.sizes.items() if size > 1)
    console.print(Text.assemble((file.model, "bold"), f", {found.num_parameters / 1e9:,.1f} billion parameters"))
    console.print(file.description, highlight=False)
    console.print(
        f"{found.num_processes:,} processes: {sizes}. A step of {file.batch_tokens:,} tokens in rows of "
        f"{file.sequence_length:,}, {found.num_micro_batches} micro-batches for each pipeline.",
        highlight=False,
    )
    for table in (memory_table(file, found), traffic_table(file, found)):
        console.print()
        console.print(table)
    console.print()
    console.print(_speed_sentences(file, found), highlight=False)
    console.print(_verdict(file, found), highlight=False)


def memory_table(file: "LayoutFile", found: "Estimate") -> Table:
    """One line a kind of memory, one column a pipeline rank; totals for each kind of checkpointing."""
    ranks = [memory.pipeline_rank for memory in found.memory]
    table = _table("memory of one process, by pipeline rank, GB (10^9 bytes)", [f"rank {rank}" for rank in ranks])
    for kind, label in _KINDS.items():
        table.add_row(label, *(_gigabytes(getattr(memory, kind)) for memory in found.memory))
    for kind, label in _CHECKPOINTING.items():
        table.add_row(label, *(_gigabytes(memory.activations[kind]) for memory in found.memory))
    table.add_section()
    for kind in _CHECKPOINTING:
        chosen = "bold" if kind == file.checkpointing else "dim"
        values = [_fitting(memory.total(kind), file.hardware.memory_gb) for memory in found.memory]
        table.add_row(f"total, checkpointing {kind}", *values, style=chosen)
    return table


def traffic_table(file: "LayoutFile", found: "Estimate") -> Table:
    """One line a dimension in which something is sent."""
    ranks = [memory.pipeline_rank for memory in found.memory]
    columns = [*(f"rank {rank}" for rank in ranks), "GB/s", "seconds"]
    table = _table("sent by one process in a step, by pipeline rank, GB", columns)
    labels = {
        "tensor": "tensor: reductions and gathers",
        "context": "context: all-to-all of heads",
        "expert": "expert: all-to-all of tokens",
        "shard": "shard: weights and gradients",
        "replicate": "replicate: gradients summed",
        "pipeline": "pipeline: hidden states and gradients",
    }
    for name, label in labels.items():
        sizes = [each[name] for each in found.sent]
        if any(sizes):
            speed = file.gb_per_s(name)
            table.add_row(label, *map(_gigabytes, sizes), f"{speed:g}", f"{max(sizes) / 1e9 / speed:.2f}")
    return table


def _speed_sentences(file: "LayoutFile", found: "Estimate") -> str:
    hardware = file.hardware
    reached = f"{hardware.efficiency:.0%} of " if hardware.efficiency < 1 else ""
    return (
        f"Pipeline bubble {found.bubble:.1%} of the busy time; (P - 1) / (V · M) is {found.bubble_formula:.1%}.\n"
        f"{found.flops:.3g} FLOPs a step (6 N + 12 · layers · width · length a token).\n"
        f"Products at {reached}{hardware.peak_tflops:g} TFLOP/s, a step takes at least:\n"
        f"  {_speed(found.overlapped)} if every exchange hides behind computation\n"
        f"  {_speed(found.in_line)} if none does"
    )


def _speed(speed: "Speed") -> str:
    return f"{speed.seconds:.2f} s, {speed.tflops:.0f} TFLOP/s each, MFU {speed.mfu:.1%}"


def _verdict(file: "LayoutFile", found: "Estimate") -> Text:
    fitting = [
        kind
        for kind in _CHECKPOINTING
        if all(memory.total(kind) <= file.hardware.memory_gb * 1e9 for memory in found.memory)
    ]
    limit = f"{file.hardware.memory_gb:g} GB with checkpointing {file.checkpointing}"
    if file.checkpointing in fitting:
        return Text.assemble(("It fits", "green"), f" {limit}.")
    instead = f"with {', '.join(fitting)} it would" if fitting else "with no kind of checkpointing it does"
    return Text.assemble(("It does not fit", "bold red"), f" {limit}; {instead}.")


def _table(title: str, columns: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _gigabytes(size: Any) -> str:
    return f"{size / 1e9:,.1f}"


def _fitting(size: int, limit: float) -> Text:
    return Text(_gigabytes(size), "" if size <= limit * 1e9 else "red")
