"""A case as JSON → what litgpt's model did with it in the loop of its pretraining, as JSON on the last line of output.

A program of its own, run by the Python of an environment with litgpt: nothing of this package is there.
"""

import json
import resource
import sys
import time
from typing import Any

import torch
from litgpt import GPT, Config  # pyright: ignore[reportMissingImports]
from litgpt.utils import chunked_cross_entropy  # pyright: ignore[reportMissingImports]


def main(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the measured steps (CPU time of all threads, or wall time of a GPU), loss of the first, bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device, on_cpu = case["device"], case["device"] == "cpu"
    model = GPT(_config(case)).to(device)
    model.max_seq_length = case["length"]
    model.cos, model.sin = model.rope_cache(device=device)
    forward = torch.compile(model) if case["compile"] else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=case["learning_rate"], betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    losses, started = [], 0.0
    for step in range(case["warm_up"] + case["steps"]):
        if step == case["warm_up"]:
            started = _now(on_cpu)
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, case["vocab_size"], (case["rows"], case["length"]), generator=generator).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=not on_cpu):
            logits = forward(tokens)
            loss = chunked_cross_entropy(logits[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    seconds = _now(on_cpu) - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if on_cpu else torch.cuda.max_memory_allocated()
    return {"seconds": seconds, "loss": float(losses[0]), "memory": memory}


def _config(case: dict[str, Any]) -> Any:
    """The same shape: what Llama's layers are called in litgpt."""
    return Config(
        block_size=case["length"],
        n_layer=case["num_layers"],
        n_embd=case["hidden_size"],
        n_head=case["num_heads"],
        n_query_groups=case["num_kv_heads"],
        intermediate_size=case["intermediate_size"],
        padded_vocab_size=case["vocab_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )


def _now(on_cpu: bool) -> float:
    if on_cpu:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
