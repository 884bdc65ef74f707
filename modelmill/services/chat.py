"""A model folder or an OpenAI-compatible server → a conversation in the terminal, or one reply to what is piped in."""

import sys
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from modelmill.services.chat_models import ChatModel, ChatSettings, Message, open_chat_model
from modelmill.services.terminal import PlainConsole
from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.text.visible import visible, visible_line

_EXAMPLES = 4
HELP = "/reset forgets the conversation, /exit (or Ctrl-D) ends it, Ctrl-C stops a reply"


def chat(
    model: Path | None = None,
    *,
    url: str | None = None,
    system: str | None = None,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    source: TextIO | None = None,
    console: Console | None = None,
) -> None:
    """Talk with a model folder (or an artifact that holds one), or with the server at `url`.

    In a terminal it is a conversation; where the input is a pipe or a file, all of it is one message, and only the
    reply is printed. Temperature 0 takes the most likely token each time.

    Raises:
        InputError: no such model, no chat template, nothing to read, a message that is too long.
        ResourceError: the server does not answer.
    """
    settings = ChatSettings(system, temperature, max_tokens)
    source = source or sys.stdin
    assert source is not None
    console = console or PlainConsole()
    if source.isatty():
        with console.status("loading the model"):
            chat_model = open_chat_model(model, url)
        console.print(Text(f"{visible_line(chat_model.name)}  ·  {HELP}", style="dim"))
        for number, question in enumerate(chat_model.examples[:_EXAMPLES]):
            console.print(Text(f"{'for example' if number == 0 else '':13}{visible_line(question)}", style="dim"))
        converse(chat_model, settings, console)
    else:
        message = source.read().strip()
        if not message:
            raise InputError('nothing to answer: the input is empty. Try: echo "Compute 2+3" | mill chat')
        answer(open_chat_model(model, url), [*opening(settings), user(message)], settings, console)


def converse(model: ChatModel, settings: ChatSettings, console: Console) -> None:
    """Read, answer, repeat, until /exit or the end of the input."""
    import readline  # noqa: F401  imported for its effect: line editing and the arrow keys' history in input()

    # The marks 1 and 2 tell readline which characters take no room; without them it redraws over the prompt.
    prompt = "you › " if console.no_color or console.is_dumb_terminal else "\1\033[1;36m\2you › \1\033[0m\2"
    messages = opening(settings)
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line in ("/exit", "/quit"):
            return
        if line == "/reset":
            messages = opening(settings)
            console.print(Text("the conversation begins anew", style="dim"))
        elif line.startswith("/"):
            console.print(Text(f"unknown command {line.split()[0]}: {HELP}", style="yellow"))
        elif line:
            messages = take_turn(model, [*messages, user(line)], settings, console)


def take_turn(model: ChatModel, messages: list[Message], settings: ChatSettings, console: Console) -> list[Message]:
    """Answer the last message; returns the conversation with the reply, or without the message if that failed."""
    console.print(Text("model › ", style="bold magenta"), end="")
    try:
        return [*messages, {"role": "assistant", "content": answer(model, messages, settings, console)}]
    except (InputError, ResourceError) as error:
        console.print(Text(visible(str(error)), style="red"))
        return messages[:-1]


def answer(model: ChatModel, messages: list[Message], settings: ChatSettings, console: Console) -> str:
    """Print the reply as it is made and return it; Ctrl-C keeps what there is so far."""
    pieces: list[str] = []
    reply = model.reply(messages, settings)
    try:
        for piece in reply:
            pieces.append(piece)
            console.out(visible(piece), end="", highlight=False)
    except KeyboardInterrupt:
        console.print(Text(" (stopped)", style="dim"), end="")
    finally:
        if hasattr(reply, "close"):
            reply.close()  # type: ignore[attr-defined]
    console.print()
    return "".join(pieces)


def opening(settings: ChatSettings) -> list[Message]:
    """A conversation before its first message: the system message, if there is one."""
    return [{"role": "system", "content": settings.system}] if settings.system else []


def user(text: str) -> Message:
    return {"role": "user", "content": text}
