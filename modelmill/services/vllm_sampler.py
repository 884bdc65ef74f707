"""A Hugging Face folder and prompts of token ids → sampled continuations and log-probabilities, with vLLM.

One engine is kept for a whole line: a folder of the same shape only gets its weights swapped (0.05 s instead of 5 s),
and after every swap a log-probability is checked, because a swap that goes wrong raises nothing.
"""

import contextlib
import gc
import hashlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import ContractError, InputError, ResourceError
from modelmill.tasks.lm.vllm_names import vllm_overrides
from modelmill.tasks.loopback import stay_on_loopback
from modelmill.tasks.models.folder import check_model_folder
from modelmill.tasks.stage import Sample

# Larger checkpoints are not loaded a second time for the check: then only finite numbers are asked for.
_REFERENCE_BYTES = 1 << 30
# Largest difference to transformers' log-probability (nats); float32 gives 1e-5, bfloat16 on a GPU 0.1.
_TOLERANCE = {"cpu": 1e-3, "cuda": 0.3}
_ENVIRONMENT = {
    # The engine lives in this process: its default three processes take 70 s to start on a CPU.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    # vLLM would configure `logging` anew, which first waits for every handler of this process, Prefect's among them.
    "VLLM_CONFIGURE_LOGGING": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class VllmSampler:
    """vLLM in this process, behind the protocol `modelmill.tasks.stage.Sampler`."""

    def __init__(
        self,
        device: str = "cpu",
        num_threads: int | None = None,
        kv_cache_bytes: int = 1 << 30,
        num_sequences: int = 256,
    ) -> None:
        self._device = device
        self._kv_cache_bytes = kv_cache_bytes
        self._num_sequences = num_sequences
        self._engine: Any = None
        self._shape: dict[str, Any] = {}
        self._max_length = 0
        self._tokenizer: Any = None
        os.environ.update(_ENVIRONMENT)
        stay_on_loopback()
        logging.getLogger("vllm").setLevel(logging.ERROR)
        if "torch" not in sys.modules:
            os.environ["OMP_NUM_THREADS"] = str(num_threads or len(os.sched_getaffinity(0)))

    def load(self, folder: Path, max_length: int) -> None:
        """See `Sampler.load`.

        Raises:
            InputError: there is no model in the folder.
            ContractError: the model is shorter than `max_length`, or vLLM computes something else than transformers.
            ResourceError: vLLM is not installed, or cannot start here.
        """
        shape = _model_shape(folder)
        if self._engine is not None and shape == self._shape and max_length <= self._max_length:
            self._swap_weights(folder)
            if self._weights_agree(folder):
                self._tokenizer = _load_tokenizer(folder)
                return
        if max_length > int(shape.get("max_position_embeddings", max_length)):
            raise ContractError(
                f"{folder} was trained for {shape['max_position_embeddings']} positions, and {max_length} are asked for"
            )
        self._shape = shape
        self._start_engine(folder, max_length)
        self._tokenizer = _load_tokenizer(folder)
        try:
            agree = self._weights_agree(folder)
        except RuntimeError as error:
            # For example head sizes that are no multiple of 32, for which vLLM has no attention kernel on CPUs.
            raise ContractError(f"vLLM started with {folder} but cannot compute with it: {error}") from error
        if not agree:
            raise ContractError(
                f"vLLM gives other log-probabilities than transformers for {folder}. "
                "The architecture is probably not supported by this release of vLLM."
            )

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 64,
        stop_token_ids: Sequence[int] = (),
        seed: int = 0,
    ) -> list[list[Sample]]:
        """See `Sampler.sample`. The stop token ends `token_ids` and is not part of `text`.

        Raises:
            InputError: a prompt and its continuation do not fit into the model's length.
        """
        from vllm import SamplingParams

        self._check_lengths(prompts, max_tokens)
        drawn = num_samples if temperature > 0 else 1
        parameters = [
            SamplingParams(
                n=drawn,
                temperature=temperature,
                top_p=top_p,
                max_tokens=max_tokens,
                stop_token_ids=list(stop_token_ids),
                ignore_eos=True,
                seed=_prompt_seed(seed, index),
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
            )
            for index in range(len(prompts))
        ]
        outputs = self._generate(prompts, parameters)
        samples = [[self._sample(each, stop_token_ids) for each in output.outputs] for output in outputs]
        # At temperature 0 every sample is the same one.
        return [each * num_samples if drawn < num_samples else each for each in samples]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Sampler.score`."""
        from vllm import SamplingParams

        self._check_lengths(sequences, 1)
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        outputs = self._generate(sequences, [parameters] * len(sequences))
        return [
            [entry[token].logprob for token, entry in zip(sequence[1:], output.prompt_logprobs[1:], strict=True)]
            for sequence, output in zip(sequences, outputs, strict=True)
        ]

    def close(self) -> None:
        """Free the engine's memory."""
        if self._engine is not None:
            self._engine.llm_engine.engine_core.shutdown()
            self._engine = None
            gc.collect()

    def _generate(self, prompts: Sequence[Sequence[int]], parameters: list[Any]) -> list[Any]:
        from vllm import TokensPrompt

        # Cached prefixes of earlier calls would change the shapes that are multiplied, and with them the last bits.
        self._engine.reset_prefix_cache()
        texts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        try:
            return self._engine.generate(texts, parameters, use_tqdm=False)
        except BaseException:
            # What was under way stays in the engine's queue and would block the next call: that one starts afresh.
            self.close()
            raise

    def _sample(self, output: Any, stop_token_ids: Sequence[int]) -> Sample:
        tokens = list(output.token_ids)
        finished = output.finish_reason == "stop"
        spoken = tokens[:-1] if finished and tokens[-1] in stop_token_ids else tokens
        text = self._tokenizer.decode(spoken, skip_special_tokens=True)
        return Sample(token_ids=tokens, text=text, logprob=float(output.cumulative_logprob), finished=finished)

    def _check_lengths(self, sequences: Sequence[Sequence[int]], max_tokens: int) -> None:
        if self._engine is None:
            raise InputError("the sampler holds no model yet: call load(folder, max_length) first")
        longest = max((len(sequence) for sequence in sequences), default=0)
        if longest + max_tokens > self._max_length or any(len(sequence) == 0 for sequence in sequences):
            raise InputError(
                f"the longest prompt has {longest} tokens and {max_tokens} are to follow; the sampler was loaded for "
                f"{self._max_length} tokens, and a prompt needs at least one. Load it with a larger max_length."
            )

    def _start_engine(self, folder: Path, max_length: int) -> None:
        self.close()
        cpu = self._device == "cpu"
        # On CPUs a prompt must not be split over two batches: vLLM 0.32 then rewinds the request's random generator,
        # and PyTorch's CPU generator cannot be rewound.
        options: dict[str, Any] = (
            {
                "kv_cache_memory_bytes": self._kv_cache_bytes,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(max_length, 4096),
            }
            if cpu
            else {"gpu_memory_utilization": 0.4}
        )
        overrides = vllm_overrides(self._shape)
        plain = _without_compiling() if cpu else contextlib.nullcontext()
        try:
            with warnings.catch_warnings(), _hidden_module("llvmlite.binding.ffi"), plain:
                warnings.simplefilter("ignore")  # deprecations inside vLLM, not ours to mend
                from vllm import LLM

                _import_architecture(overrides["architectures"][0])
                self._engine = LLM(
                    str(folder),
                    skip_tokenizer_init=True,
                    trust_remote_code=False,
                    load_format="safetensors",
                    enforce_eager=True,
                    dtype="float32" if cpu else "bfloat16",
                    max_model_len=max_length,
                    max_num_seqs=self._num_sequences,
                    generation_config="vllm",
                    seed=0,
                    use_tqdm_on_load=False,
                    hf_overrides=overrides,
                    **options,
                )
        except ImportError as error:
            raise ResourceError(
                f"vLLM cannot be imported ({error}). Install `modelmill[cpu]`, or `modelmill[gpu]` on a GPU machine."
            ) from error
        except (ValueError, RuntimeError) as error:
            raise ResourceError(f"vLLM could not serve {folder} with {max_length} tokens: {error}") from error
        self._max_length = max_length

    def _swap_weights(self, folder: Path) -> None:
        self._engine.apply_model(_forget_packed_experts)
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._engine.apply_model(_repack_tied_head)

    def _weights_agree(self, folder: Path) -> bool:
        """Does the engine compute what is in the folder? A fixed sequence, scored by vLLM and by transformers."""
        vocabulary = int(self._shape["vocab_size"])
        probe = [(7 + 31 * i) % vocabulary for i in range(min(32, self._max_length - 1))]
        scores = self.score([probe])[0]
        if not all(math.isfinite(score) for score in scores):
            return False
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        if size > _REFERENCE_BYTES or any(self._engine.apply_model(_uses_transformers)):
            return True
        reference = _reference_scores(folder, probe)
        return max(abs(a - b) for a, b in zip(scores, reference, strict=True)) <= _TOLERANCE[self._device]


@contextlib.contextmanager
def _hidden_module(name: str) -> Iterator[None]:
    """Take a module out of `sys.modules` for a while.

    vLLM 0.32 looks at `__dict__` of every value in every module, and llvmlite's library (under numba, which the data
    stages use) answers to any attribute's name with a function.
    """
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


@contextlib.contextmanager
def _without_compiling() -> Iterator[None]:
    """Leave the functions plain that vLLM's modules hand to `torch.compile` as they are imported.

    On a CPU it would take a C++ compiler, which not every machine has, and three seconds that never come back.
    """
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]
        if before is not None:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def _import_architecture(name: str) -> None:
    """Register the model class itself. vLLM otherwise asks another process about it, which takes half a minute."""
    from vllm import ModelRegistry

    entry = ModelRegistry.models.get(name)
    if entry is not None:
        ModelRegistry.register_model(name, entry.load_model_cls())


def _model_shape(folder: Path) -> dict[str, Any]:
    """The model's configuration, less what may differ between folders that one engine can serve in turn."""
    config = check_model_folder(folder)
    return {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}


def _load_tokenizer(folder: Path) -> Any:
    from modelmill.tasks.models.load import load_tokenizer

    return load_tokenizer(folder)


def _prompt_seed(seed: int, index: int) -> int:
    """A seed of 32 bits (torch's CPU generator reads no more), so that prompt `index` draws the same in any batch."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4], "little")


def _reference_scores(folder: Path, tokens: list[int]) -> list[float]:
    """transformers' log-probability of each token after the first."""
    import torch

    from modelmill.tasks.models.load import load_causal_model

    model: Any = load_causal_model(folder, dtype=torch.float32)
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return logprobs[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].tolist()


# The next functions run on the model inside vLLM (`LLM.apply_model`).


def _uses_transformers(model: Any) -> bool:
    """After vLLM's transformers backend has run, the same transformers class cannot be built in this process."""
    return type(model).__name__.startswith("Transformers")


def _forget_packed_experts(model: Any) -> None:
    """On a CPU the experts' kernel keeps its packed copy of the old weights and then gives NaN."""
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if method is not None and hasattr(method, "moe_kernel"):
            method.moe_kernel = None


def _repack_tied_head(model: Any) -> None:
    """On a CPU the output layer keeps a packed copy of the embedding that it shares; reloading does not renew it."""
    head = getattr(model, "lm_head", None)
    if head is not None and model.config.tie_word_embeddings and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)
