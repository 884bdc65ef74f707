"""A model folder in this process, or an OpenAI-compatible server → pieces of the assistant's next message."""

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from modelmill.services.model_folder import example_questions, find_model_folder, model_name
from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.evaluate.end_tokens import end_token_ids
from modelmill.tasks.placeholders import redacted
from modelmill.tasks.text.visible import visible_line

Message = dict[str, str]

# The longest wait for the next piece of a reply; the first one includes reading the prompt.
REPLY_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class ChatSettings:
    """How replies are sampled. Temperature 0 takes the most likely token each time; no limit: to the context's end."""

    system: str | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    seed: int = 0


class ChatModel(Protocol):
    """Something that continues a conversation piece by piece."""

    name: str
    examples: list[str]
    """Questions that it was taught to answer, as far as they are known."""

    def reply(self, messages: list[Message], settings: ChatSettings) -> Iterator[str]:
        """Pieces of the assistant's next message as they are made; closing the iterator stops the model."""
        ...


class LocalModel:
    """A Hugging Face folder in this process, without any server."""

    def __init__(self, folder: Path) -> None:
        # Imported here so that a conversation with a server does not wait for torch.
        from transformers import GenerationConfig

        from modelmill.tasks.models.load import load_causal_model, load_tokenizer

        self.name = model_name(folder)
        self.examples = example_questions(folder)
        self._tokenizer = load_tokenizer(folder)
        if not self._tokenizer.chat_template:
            raise InputError(f"the tokenizer in {folder} has no chat template; expected a chat model")
        self._model: Any = load_causal_model(folder, dtype="auto").eval()
        self._ends = end_token_ids(self._tokenizer, self._model.generation_config.eos_token_id)
        # A folder's own settings could ask for a thousand beams, or for sampling that nobody asked for here.
        self._model.generation_config = GenerationConfig()
        self._max_length: int = self._model.config.max_position_embeddings

    def reply(self, messages: list[Message], settings: ChatSettings) -> Iterator[str]:
        import torch
        from transformers import TextIteratorStreamer

        prompt = self._prompt(messages, settings)
        torch.manual_seed(settings.seed)
        streamer = TextIteratorStreamer(
            self._tokenizer, skip_prompt=True, timeout=REPLY_TIMEOUT_SECONDS, skip_special_tokens=True
        )
        stop = threading.Event()
        with ThreadPoolExecutor(1) as executor:
            generation = executor.submit(self._generate, prompt, settings, streamer, stop)
            try:
                yield from streamer
            finally:
                stop.set()
            generation.result()

    def _generate(self, prompt: Any, settings: ChatSettings, streamer: Any, stop: threading.Event) -> None:
        import torch

        sampling: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": settings.temperature}
        room = self._max_length - prompt["input_ids"].shape[1]
        try:
            with torch.inference_mode():
                self._model.generate(
                    **prompt,
                    **sampling,
                    max_new_tokens=min(settings.max_tokens or room, room),
                    eos_token_id=self._ends,
                    pad_token_id=self._tokenizer.pad_token_id or self._ends[0],
                    streamer=streamer,
                    stopping_criteria=[lambda ids, *_: torch.full((ids.shape[0],), stop.is_set())],
                )
        finally:
            streamer.end()

    def _prompt(self, messages: list[Message], settings: ChatSettings) -> Any:
        """Token ids of the newest part of the conversation that leaves room for an answer in the model's context."""
        room = self._max_length - min(settings.max_tokens or self._max_length, self._max_length // 4)
        prompt: Any = None
        for kept in shortened(messages):
            prompt = self._tokenizer.apply_chat_template(
                kept, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            if prompt["input_ids"].shape[1] <= room:
                return prompt
        raise InputError(
            f"the message has {prompt['input_ids'].shape[1]:,} tokens and this model reads at most {room:,} of its "
            f"{self._max_length:,} before the reply; send a shorter one"
        )


class TooLongError(InputError):
    """The conversation does not fit into the served model's context."""


class ServedModel:
    """A model behind an OpenAI-compatible server such as the one that `mill serve` starts; MILL_API_KEY is its key."""

    def __init__(self, url: str) -> None:
        self._shown = redacted(visible_line(url))
        if not _is_address(url):
            raise InputError(
                f"{self._shown or 'nothing'} is no address; expected that of an OpenAI-compatible server, such as "
                "http://127.0.0.1:8000"
            )
        self._url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get("MILL_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.name = self._first_model()
        self.examples: list[str] = []

    def reply(self, messages: list[Message], settings: ChatSettings) -> Iterator[str]:
        *rest, last = shortened(messages)
        for kept in rest:
            try:
                yield from self._stream(kept, settings)
                return
            except TooLongError:
                continue
        yield from self._stream(last, settings)

    def _stream(self, messages: list[Message], settings: ChatSettings) -> Iterator[str]:
        body = {
            "model": self.name,
            "messages": messages,
            "stream": True,
            "temperature": settings.temperature,
            "seed": settings.seed,
        }
        if settings.max_tokens is not None:
            body["max_tokens"] = settings.max_tokens
        address = f"{self._url}/v1/chat/completions"
        try:
            # Not `json=`: what a model or a terminal gave may hold half a character, which only ASCII can carry.
            text, headers = json.dumps(body), self._headers | {"Content-Type": "application/json"}
            with httpx.stream(
                "POST", address, content=text, headers=headers, timeout=REPLY_TIMEOUT_SECONDS
            ) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    kind = TooLongError if "context length" in response.text else InputError
                    raise kind(f"{self._shown} answered {response.status_code}: {error_text(response.text)}")
                yield from streamed_pieces(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _first_model(self) -> str:
        try:
            response = httpx.get(f"{self._url}/v1/models", headers=self._headers, timeout=10)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                given = "the key in MILL_API_KEY is not its key" if self._headers else "set MILL_API_KEY to its key"
                raise InputError(f"{self._shown} asks for an API key; {given}")
            name = response.raise_for_status().json()["data"][0]["id"]
            if not isinstance(name, str):
                raise ValueError(f"a model's id is {name!r}")
            return name
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except (httpx.HTTPStatusError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{self._shown} did not list a model ({error}); expected the address of an OpenAI-compatible "
                "server, such as http://127.0.0.1:8000"
            ) from error

    def _unreachable(self, error: Exception) -> ResourceError:
        return ResourceError(
            f"no answer from {self._shown} ({error or type(error).__name__}). Start a server with `mill serve`, or "
            "leave the address out: `mill chat` needs no server."
        )


def _is_address(url: str) -> bool:
    """Whether it is an http(s) address with a host and nothing that cannot be sent."""
    try:
        parts = httpx.URL(url)
        sendable = url.isprintable() and " " not in url and bool(parts.host.encode("idna"))
        return sendable and parts.scheme in ("http", "https") and (parts.port or 0) < 2**16
    except (httpx.InvalidURL, UnicodeError):
        return False


def streamed_pieces(lines: Iterator[str]) -> Iterator[str]:
    """The text pieces of an OpenAI event stream (`data: {...}` lines up to `data: [DONE]`).

    Raises:
        ResourceError: the server stopped the reply, or sent something else.
    """
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            event = json.loads(data)
            error = event.get("error")
            pieces = [] if error else [choice["delta"].get("content") or "" for choice in event["choices"]]
            "".join(pieces)  # only strings
        except (ValueError, LookupError, TypeError, AttributeError) as trouble:
            raise ResourceError(
                f"the server sent {data[:200]!r} in its reply; expected an event of OpenAI's chat completions"
            ) from trouble
        if error:
            raise ResourceError(f"the server stopped the reply: {error_text(data)}")
        yield from pieces


def error_text(body: str) -> str:
    """The message of an OpenAI error body, or the beginning of any other body."""
    try:
        return str(json.loads(body)["error"]["message"])[:1000]
    except (ValueError, LookupError, TypeError):
        return body[:300]


def shortened(messages: list[Message]) -> Iterator[list[Message]]:
    """The conversation, then the same without its oldest exchange, and so on; the system message and the last stay."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system) :]
    yield [*system, *turns]
    while len(turns) > 2:
        turns = turns[2:]
        yield [*system, *turns]


def open_chat_model(model: Path | None, url: str | None) -> ChatModel:
    """The server at `url` if one is given, otherwise the model folder in this process."""
    if url is not None:
        return ServedModel(url)
    if model is None:
        raise InputError("nothing to talk with; give a model folder, or the address of a server")
    return LocalModel(find_model_folder(model))
