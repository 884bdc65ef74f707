"""lm-eval's requests (text) → log-likelihoods and continuations from the line's sampler."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from modelmill.tasks.evaluate.end_tokens import end_token_ids
from modelmill.tasks.stage import Sampler

# lm-eval hands over (texts, context ids, continuation ids).
TokenRequest = tuple[tuple[str, str], list[int], list[int]]
DEFAULT_NEW_TOKENS = 256


class SamplerLM(TemplateLM):
    """The model that a sampler serves, as lm-eval sees one.

    lm-eval's own vLLM backend needs a distribution of that name and an engine of its own; this one shares the line's.
    Contexts longer than `max_length` lose their beginning, as in lm-eval's other backends.
    """

    def __init__(self, sampler: Sampler, tokenizer: PreTrainedTokenizerBase, max_length: int, name: str) -> None:
        super().__init__()
        self.tokenizer: Any = tokenizer
        self.max_length = max_length
        self._sampler = sampler
        self._name = name

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return self._name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; like each training document, a text begins with the begin-of-text token, once."""
        ids = self.tokenizer.encode(string, add_special_tokens=False)
        begin = self.tokenizer.bos_token_id
        return ids if add_special_tokens is False or begin is None or ids[:1] == [begin] else [begin, *ids]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[TokenRequest], **kwargs: Any) -> list[tuple[float, bool]]:
        """(sum of log-probabilities of the continuation in nats, is it what greedy decoding gives) per request."""
        # One position stays free: vLLM scores a sequence while it continues it by one token.
        room = self.max_length - 1
        sequences = [(context + continuation)[-room:] for _, context, continuation in requests]
        scores = self._scores(sequences)
        tails = [
            score[len(score) - min(len(continuation), len(score)) :]
            for score, (_, _, continuation) in zip(scores, requests, strict=True)
        ]
        greedy = self._greedy(sequences, tails)
        return [(math.fsum(tail), is_greedy) for tail, is_greedy in zip(tails, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        windows: list[TokenRequest] = []
        counts: list[int] = []
        for request in requests:
            pairs = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length - 2,
                    context_len=1,
                )
            ]
            windows.extend((("", ""), list(context), list(continuation)) for context, continuation in pairs)
            counts.append(len(pairs))
        sequences = [context + continuation for _, context, continuation in windows]
        scores = iter(
            math.fsum(score[len(score) - len(continuation) :])
            for score, (_, _, continuation) in zip(self._scores(sequences), windows, strict=True)
        )
        return [math.fsum(next(scores) for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continuations up to a stop string; requests with the same settings go to the sampler together."""
        texts = [""] * len(requests)
        for settings, numbers in grouped_by_settings(requests):
            new_tokens = min(settings["new_tokens"], self.max_length // 2)
            prompts = [self.tok_encode(requests[i].args[0])[-(self.max_length - new_tokens) :] for i in numbers]
            outputs = self._sampler.sample(
                prompts,
                temperature=settings["temperature"],
                max_tokens=new_tokens,
                stop_token_ids=end_token_ids(self.tokenizer),
            )
            for number, (sample, *_) in zip(numbers, outputs, strict=True):
                texts[number] = cut_at(sample.text, settings["until"])
        return texts

    def _scores(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """`Sampler.score`, each distinct sequence once."""
        distinct = sorted({tuple(sequence) for sequence in sequences})
        scores = dict(zip(distinct, self._sampler.score(distinct), strict=True))
        return [scores[tuple(sequence)] for sequence in sequences]

    def _greedy(self, sequences: list[list[int]], tails: list[list[float]]) -> list[bool]:
        """Is each continuation what greedy decoding gives? More than half of the probability at every token proves it,
        less than 1/vocabulary at any disproves it; what is left is decoded, in groups of one length."""
        unlikely = -math.log(len(self.tokenizer))
        verdicts = [all(score > math.log(0.5) for score in tail) for tail in tails]
        open_cases: dict[int, list[int]] = {}
        for number, tail in enumerate(tails):
            if self.needs_greedy and not verdicts[number] and min(tail) >= unlikely:
                open_cases.setdefault(len(tail), []).append(number)
        for length, numbers in sorted(open_cases.items()):
            prompts = [sequences[number][:-length] for number in numbers]
            for number, (sample, *_) in zip(numbers, self._sampler.sample(prompts, max_tokens=length), strict=True):
                verdicts[number] = sample.token_ids == sequences[number][-length:]
        return verdicts

    # Multiple choice compares log-likelihoods only; decoding for it would be wasted.
    needs_greedy = False


def grouped_by_settings(requests: list[Instance]) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Sampling settings of generate_until requests, with the numbers of the requests that have them."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, request in enumerate(requests):
        options: dict[str, Any] = cast(Any, request.args)[1]
        until = options.get("until") or []
        new_tokens = int(options.get("max_gen_toks") or options.get("max_new_tokens") or DEFAULT_NEW_TOKENS)
        temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
        key = (tuple([until] if isinstance(until, str) else until), new_tokens, temperature)
        groups.setdefault(key, []).append(number)
    for (until, new_tokens, temperature), numbers in groups.items():
        yield {"until": until, "new_tokens": new_tokens, "temperature": temperature}, numbers


def cut_at(text: str, until: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    ends = [text.find(stop) for stop in until if stop and stop in text]
    return text[: min(ends)] if ends else text
