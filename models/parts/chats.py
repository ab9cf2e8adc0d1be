"""Chats as tokens: formatted by the tokenizer's chat template, with a mask of the assistant's turns."""

from __future__ import annotations

from typing import Any

from launcher.data.rows import Row
from launcher.data.values import list_of
from launcher.errors import DataError, ModelError
from launcher.models.tasks.token_loss import IGNORE_INDEX

Chat = list[dict[str, Any]]


def chat_of(row: Row, labelled: bool) -> Chat:
    """The turns of a row.

    labelled: True if a turn of the assistant is needed for training; False if the chat must end with a turn to answer
    Raises DataError if a turn has no role or content, or if the needed turn is missing.
    """
    chat = list_of(row, "messages")
    for number, turn in enumerate(chat, start=1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            fault = f"message {number} is {str(turn)[:60]}, not {{role: …, content: …}} with texts"
            raise DataError(row.file, f"{fault}; correct it", row.number)
    turns: Chat = chat  # type: ignore[assignment]
    if labelled and not any(turn["role"] == "assistant" for turn in turns):
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in turns))
        fault = f"the chat has no turn of the role assistant (its roles are {roles}), so there is nothing to learn"
        raise DataError(row.file, f"{fault}; remove the row, or rename the role", row.number)
    if not labelled and turns[-1]["role"] == "assistant":
        raise DataError(row.file, "the chat ends with the assistant's turn, so there is nothing to answer", row.number)
    return turns


def chat_tokens(tokenizer: Any, chat: Chat, row: Row, labelled: bool) -> tuple[list[int], list[int]]:
    """Token ids, and targets: the token itself in the assistant's turns, else `IGNORE_INDEX`.

    labelled: False ends the chat with the prompt for the assistant's next turn
    The whole chat is tokenised at once, as in use. Raises ModelError if there is no template, or if the tokenizer gives
    no token offsets. Raises DataError if the template formats a turn differently when others follow, since the turn's
    tokens cannot be found then.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokenizer has no chat template; use the columns prompt and response, or another tokenizer"
        )
    if not labelled:
        text = _written(tokenizer, chat, row, to_be_continued=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"], []
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer does not give the positions of tokens in the text; use a fast tokenizer")
    text = _written(tokenizer, chat, row)
    spans = []
    for place, turn in enumerate(chat):
        if turn["role"] != "assistant":
            continue
        before = _written(tokenizer, chat[:place], row, to_be_continued=True) if place else ""
        upto = _written(tokenizer, chat[: place + 1], row)
        if not text.startswith(upto) or not upto.startswith(before):
            fault = f"the chat template writes message {place + 1} differently once others follow"
            raise DataError(
                row.file, f"{fault}; end the chat there, or give the tokenizer another template", row.number
            )
        spans.append((len(before), len(upto)))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    targets = [
        token if any(first <= start < last for first, last in spans) else IGNORE_INDEX
        for token, (start, _) in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]
    return found["input_ids"], targets


def _written(tokenizer: Any, chat: Chat, row: Row, to_be_continued: bool = False) -> str:
    try:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=to_be_continued)
    except Exception as error:  # a template is a program of its own, which transformers runs in a sandbox
        fault = f"the chat template rejects the chat: {error}"
        raise DataError(row.file, f"{fault}; correct the order or the roles of its messages", row.number) from None
    return text
