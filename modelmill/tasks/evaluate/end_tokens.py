"""A tokenizer → the ids that end a reply."""

from typing import Any

END_OF_TURN = "<|eot|>"


def end_token_ids(tokenizer: Any, configured: int | list[int] | None = None) -> list[int]:
    """End of text, the chat template's end of turn where it is a token, and what a generation config names, sorted."""
    ids = list(configured) if isinstance(configured, (list, tuple)) else [configured]
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    if end_of_turn != tokenizer.unk_token_id:
        ids.append(end_of_turn)
    return sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})
