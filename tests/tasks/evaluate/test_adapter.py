"""The adapter must give lm-eval the numbers that transformers computes for the same texts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelmill.tasks.evaluate.adapter import SamplerLM, cut_at
from tests.tasks.evaluate.line import TransformersSampler

PAIRS = [
    ("the quick brown", " fox returns"),
    ("", "a sorted list"),
    ("numbers ", "and strings"),
    ("the quick brown fox returns a sorted list of numbers " * 20, "path"),
]


@pytest.fixture(scope="module")
def adapter(model_folder: Path) -> SamplerLM:
    sampler = TransformersSampler()
    sampler.load(model_folder, 128)
    return SamplerLM(sampler, AutoTokenizer.from_pretrained(model_folder), 128, "tiny")


def reference(folder: Path, context: str, continuation: str, room: int = 127) -> tuple[float, bool]:
    """(log-likelihood, is greedy) straight from the definition."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    start = [tokenizer.bos_token_id, *tokenizer.encode(context.rstrip())] if context else [tokenizer.bos_token_id]
    whole = [tokenizer.bos_token_id, *tokenizer.encode(context + continuation)]
    count = len(whole) - len(start)
    whole = whole[-room:]
    with torch.inference_mode():
        logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)[-count - 1 : -1]
    target = torch.tensor(whole[-count:])
    return float(logprobs.gather(1, target[:, None]).sum()), bool((logprobs.argmax(-1) == target).all())


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=number, metadata=("t", number, 1))
        for number, each in enumerate(arguments)
    ]


def test_loglikelihood_equals_transformers(adapter: SamplerLM, model_folder: Path) -> None:
    adapter.needs_greedy = True
    ours = adapter.loglikelihood(requests("loglikelihood", *PAIRS))
    theirs = [reference(model_folder, *pair) for pair in PAIRS]
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_greedy_continuation_is_recognised(adapter: SamplerLM, model_folder: Path) -> None:
    adapter.needs_greedy = True
    prompt = adapter.tok_encode("the quick brown fox")
    (sample,) = adapter._sampler.sample([prompt], max_tokens=3)[0]
    ids = sample.token_ids
    other = [ids[0], (ids[1] + 1) % 300, ids[2]]
    scored = adapter._loglikelihood_tokens([(("", ""), prompt, ids), (("", ""), prompt, other)])
    assert [greedy for _, greedy in scored] == [True, False]


def test_rolling_loglikelihood_counts_every_token_once(adapter: SamplerLM) -> None:
    text = "the quick brown fox"
    ours = adapter.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    tokens = adapter.tok_encode(text, add_special_tokens=False)
    assert ours == pytest.approx([sum(adapter._sampler.score([[adapter.prefix_token_id, *tokens]])[0])], abs=1e-4)
    # A text that needs several windows: each token once, with the context that lm-eval defines.
    long = adapter.tok_encode(text * 80, add_special_tokens=False)
    step = adapter.max_length - 2
    starts = range(0, len(long), step)
    assert len(starts) > 2
    total = 0.0
    for start in starts:
        window = long[start : start + step]
        context = long[max(start + len(window) - step - 1, 0) : start] if start else [adapter.prefix_token_id]
        total += sum(adapter._sampler.score([context + window])[0][len(context) - 1 :])
    assert adapter.loglikelihood_rolling(requests("loglikelihood_rolling", (text * 80,))) == pytest.approx([total])


def test_generation_stops_at_the_first_stop_string(adapter: SamplerLM, model_folder: Path) -> None:
    asked = [("the quick", {"max_gen_toks": 8}), ("numbers and", {"max_gen_toks": 8}), ("the", {"max_gen_toks": 2})]
    whole = adapter.generate_until(requests("generate_until", *asked))
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder)
    for (prompt, options), text in zip(asked, whole, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(prompt)]])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=options["max_gen_toks"], do_sample=False
        )
        assert tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True) == text
    stop = whole[0][3:5]
    assert stop
    cut = adapter.generate_until(requests("generate_until", ("the quick", {"max_gen_toks": 8, "until": [stop]})))
    assert cut == [whole[0][: whole[0].find(stop)]]


def test_text_ends_before_the_first_stop_string() -> None:
    assert cut_at("one\ntwo; three", [";", "\n"]) == "one"
    assert cut_at("one", ["\n", ""]) == "one"
