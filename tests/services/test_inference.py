"""vLLM in its Ray actor against transformers, weight swaps, errors; and the whole align stage over it.

One file, since starting the engine takes longer than everything done with it.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from modelmill.services.compute import Compute, ComputeConfig, RecordedPool
from modelmill.services.inference import RaySampler, start_sampler
from modelmill.tasks.align.config import (
    Config,
    PreferenceConfig,
    RewardConfig,
    SamplingConfig,
    SupervisedConfig,
)
from modelmill.tasks.align.stage import run
from modelmill.tasks.errors import ContractError, InputError, WorkerLostError
from modelmill.tasks.files import file_digest, read_json, remove_path
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, StageContext
from tests.services.compiler import without_compiler
from tests.tasks.align.tiny import write_model, write_tokenizer
from tests.tasks.lm.tiny_stages import artifact, run_stage, write_fit
from tests.tasks.lm.tiny_tokens import write_tiny_tokens

# Ray leaves the processes of its local cluster to themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PROMPTS = [[0, 40, 50, 60], [0, 70, 80], [0, 90]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one shape, and one with longer context and another rotary base."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = write_tokenizer(folder / "tokens" / "tokenizer")
    return {
        "one": write_model(folder / "one" / "model", tokenizer, seed=1),
        "two": write_model(folder / "two" / "model", tokenizer, seed=2),
        "long": write_model(folder / "long" / "model", tokenizer, seed=1, max_sequence_length=512, rope_theta=80_000.0),
        "tokenizer": tokenizer,
    }


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RaySampler]:
    home = tmp_path_factory.mktemp("home")
    compute = Compute(ComputeConfig(workers=1, device="cpu", lost_workers=0), home)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in without_compiler(home).items():
            patch.setenv(name, value)
        found = start_sampler(compute)
    assert isinstance(found, RaySampler)
    yield found
    found.close()
    compute.stop()


def reference(folder: Path, tokens: list[int]) -> list[float]:
    with torch.no_grad():
        logprobs = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return logprobs[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].tolist()


def test_scores_are_those_of_transformers(sampler: RaySampler, models: dict[str, Path]):
    sampler.load(models["one"], 128)
    sequences = [list(range(20, 60)), [0, 100, 200]]
    for sequence, scores in zip(sequences, sampler.score(sequences), strict=True):
        assert scores == pytest.approx(reference(models["one"], sequence), abs=1e-4)


def test_greedy_samples_are_those_of_transformers(sampler: RaySampler, models: dict[str, Path]):
    sampler.load(models["one"], 128)
    [[sample]] = sampler.sample(PROMPTS[:1], max_tokens=8)
    model: Any = AutoModelForCausalLM.from_pretrained(models["one"])
    prompt = torch.tensor([PROMPTS[0]])
    expected = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=8, eos_token_id=None
    )
    assert sample.token_ids == expected[0, 4:].tolist()
    assert not sample.finished
    scores = sampler.score([PROMPTS[0] + sample.token_ids])[0]
    assert sample.logprob == pytest.approx(sum(scores[3:]), abs=1e-3)


def test_a_stop_token_ends_the_reply_and_is_not_part_of_its_text(sampler: RaySampler, models: dict[str, Path]):
    sampler.load(models["one"], 128)
    [[free]] = sampler.sample(PROMPTS[:1], max_tokens=8)
    stop = free.token_ids[3]
    [[sample]] = sampler.sample(PROMPTS[:1], max_tokens=8, stop_token_ids=[stop])
    end = free.token_ids.index(stop) + 1
    assert sample.finished
    assert sample.token_ids == free.token_ids[:end]
    assert len(sample.text) < len(free.text)


def test_a_prompts_samples_depend_on_its_place_and_the_seed_only(sampler: RaySampler, models: dict[str, Path]):
    sampler.load(models["one"], 128)
    options: dict[str, Any] = {"num_samples": 3, "temperature": 1.0, "max_tokens": 12}
    first = sampler.sample(PROMPTS, seed=5, **options)
    assert first == sampler.sample(PROMPTS, seed=5, **options)
    assert [[s.token_ids for s in each] for each in first[:1]] == [
        [s.token_ids for s in each] for each in sampler.sample(PROMPTS[:1], seed=5, **options)
    ]
    assert first != sampler.sample(PROMPTS, seed=6, **options)
    assert all(len({tuple(sample.token_ids) for sample in each}) == 3 for each in first)


def test_more_prompts_than_one_batch_holds_are_sampled_with_seeds(sampler: RaySampler, models: dict[str, Path]):
    sampler.load(models["one"], 128)
    prompts = [[50 + number % 97] * 70 for number in range(150)]
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": 4, "seed": 1}
    assert sampler.sample(prompts[:2], **options) == sampler.sample(prompts, **options)[:2]


def test_swapped_weights_are_the_new_models_and_swap_back(sampler: RaySampler, models: dict[str, Path]):
    sequence = list(range(30, 60))
    sampler.load(models["one"], 128)
    before = sampler.score([sequence])
    sampler.load(models["two"], 128)
    assert sampler.score([sequence])[0] == pytest.approx(reference(models["two"], sequence), abs=1e-4)
    sampler.load(models["one"], 128)
    assert sampler.score([sequence]) == before


def test_another_shape_gets_another_engine(sampler: RaySampler, models: dict[str, Path]):
    sampler.load(models["long"], 512)
    sequence = [20 + i % 200 for i in range(300)]
    assert sampler.score([sequence])[0] == pytest.approx(reference(models["long"], sequence), abs=1e-3)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What stages leave: a Llama after an extend with Llama 3.1's rescaling, one with MiniCPM's multipliers in its
    weights, and dots.llm1s whose heads are wider than hidden_size / num_heads, with a head of their own and a tied one.
    """
    folder = tmp_path_factory.mktemp("exports")
    tokens = artifact("tokens", write_tiny_tokens(folder / "tokens"))
    fit = write_fit(folder / "fit", hidden_size=64)

    def pretrained(name: str, **changes: Any) -> Artifact:
        config = {"forecast_branch": False, "total_tokens": 2560} | changes
        return run_stage("pretrain", config, [tokens, fit], folder / name)[0]

    rescaled = {"kind": "llama3", "factor": 4, "original_length": 64}
    extend = {
        "steps": [{"sequence_length": 256, "rope_scaling": rescaled, "total_tokens": 1024}],
        "gates": {"on_failure": "waive", "num_samples": 1, "ruler_samples": 0, "depths": [0.5]},
        "needles": {"sentence": "{key} is {value}.", "keys": ["red", "oven", "mill", "stone"], "num_digits": 2},
        "validation_tokens_per_domain": 512,
    }
    minicpm = {"std": 0.1, "scale_emb": 12, "scale_depth": 1.4, "scale_residual": False}
    minicpm |= {"mup_base_width": 32, "scale_head": True}
    experts = {"num_routed": 8, "num_shared": 1, "top_k": 2, "intermediate_size": 32}
    sizes = {"hidden_size": 96, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 96}
    dots = sizes | {"head_dim": 32, "experts": experts}
    found = {
        "rescaled": run_stage("extend", extend, [tokens, pretrained("short")], folder / "long")[0],
        "folded": pretrained("folded", initialisation=minicpm),
        "experts": pretrained("experts", shape=dots, tie_embeddings=False),
        "experts, tied": pretrained("tied", shape=dots, tie_embeddings=True),
    }
    return {name: checkpoint.path / "model" for name, checkpoint in found.items()}


@pytest.mark.parametrize(
    ("name", "length", "facts"),
    [
        ("rescaled", 256, {"rope_parameters", "rope_type", "llama3"}),
        ("folded", 64, {"folded_multipliers"}),
        ("experts", 64, {"head_dim"}),
        ("experts, tied", 64, {"head_dim"}),
    ],
)
def test_an_export_says_the_same_in_vllm_and_in_transformers(
    sampler: RaySampler, exports: dict[str, Path], name: str, length: int, facts: set[str]
):
    assert all(f'"{fact}"' in (exports[name] / "config.json").read_text() for fact in facts)
    sampler.load(exports[name], length)
    prompts = [[0, 40, 50, 60], [20 + n * n % 300 for n in range(length - 20)]]
    model: Any = AutoModelForCausalLM.from_pretrained(exports[name])
    for prompt, [sample] in zip(prompts, sampler.sample(prompts, max_tokens=16), strict=True):
        given = torch.tensor([prompt])
        said = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=16, eos_token_id=None
        )
        assert sample.token_ids == said[0, len(prompt) :].tolist()
    assert sampler.score(prompts[1:])[0] == pytest.approx(reference(exports[name], prompts[1]), abs=1e-4)


def test_errors_of_a_call_are_raised_as_themselves(sampler: RaySampler, models: dict[str, Path], tmp_path: Path):
    with pytest.raises(InputError, match=r"no config\.json in"):
        sampler.load(tmp_path, 64)
    with pytest.raises(ContractError, match="trained for 128 positions, and 256"):
        sampler.load(models["one"], 256)
    sampler.load(models["one"], 128)
    with pytest.raises(InputError, match="longest prompt has 130 tokens"):
        sampler.sample([[5] * 130])


def align_config() -> Config:
    supervised = SupervisedConfig(learning_rate=1e-3, batch_tokens=512, sequence_length=128)
    return Config(
        families=("edits", "sorting"),
        difficulty=1,
        instructions=80,
        rounds=1,
        max_reply_tokens=8,
        sampling=SamplingConfig(prompts=12, replies=3),
        supervised=supervised,
        rejection=supervised,
        reward=RewardConfig(learning_rate=1e-3, batch_pairs=8),
        preference=PreferenceConfig(learning_rate=1e-4, batch_pairs=8),
        validation_problems=20,
        test_problems=30,
    )


def align_context(folder: Path, sampler: RaySampler, models: dict[str, Path], pool: RecordedPool) -> StageContext:
    checkpoint = Artifact("checkpoint", models["one"].parent, "c" * 64, "anneal", {})
    tokens = Artifact("tokens", models["tokenizer"].parent, "t" * 64, "tokenize", {})
    return StageContext(
        config=align_config(),
        inputs={"checkpoint": [checkpoint], "tokens": [tokens]},
        workspace=folder,
        output=folder / "output",
        pool=pool,
        journal=Journal(folder / "journal.jsonl"),
        sampler=lambda: sampler,
    )


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_align_goes_through_its_steps_and_continues_after_a_kill(
    sampler: RaySampler, models: dict[str, Path], pool: RecordedPool, tmp_path: Path
):
    context = align_context(tmp_path / "first", sampler, models, pool)
    result = run(context)
    steps = read_json(context.output / "steps.json")
    assert [step["step"] for step in steps] == ["base", "1-sft", "2-rejection-1", "3-dpo-1"]
    assert all(step["n"] == 30 and step["low"] <= step["accuracy"] <= step["high"] for step in steps)
    assert [step["final"] for step in steps].count(True) == 1
    assert 0.02 < steps[1]["training"]["loss_share"] < 0.6
    assert steps[3]["training"]["pairs"] > 0
    assert result.metrics["accuracy_base"] == steps[0]["accuracy"]
    final = next(step["step"] for step in steps if step["final"])
    models_of = context.output / "steps" / final / "model"
    assert digests(context.output / "model") == digests(models_of)
    AutoModelForCausalLM.from_pretrained(context.output / "model")

    # As after a kill inside the second supervised step: what it had not finished is gone.
    expected = digests(context.output)
    for name in ("2-rejection-1", "3-dpo-1"):
        remove_path(context.output / "steps" / name)
        for record in (name, f"accuracy-{name}"):
            (context.workspace / "records" / f"{record}.json").unlink()
    remove_path(context.output / "model")
    run(context)
    assert digests(context.output) == expected

    again = align_context(tmp_path / "second", sampler, models, pool)
    run(again)
    assert digests(again.output) == expected


def test_a_lost_actor_says_what_its_log_ended_with(sampler: RaySampler, models: dict[str, Path]):
    sampler.load(models["one"], 128)
    os.kill(sampler.process(), signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="inference service died 1 times during `score`"):
        sampler.score([[1, 2, 3]])
