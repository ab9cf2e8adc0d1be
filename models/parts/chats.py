"""Chats as tokens: written by the tokenizer's own template, with the assistant's turns marked."""

from __future__ import annotations

from typing import Any

from launcher.data.rows import Row
from launcher.data.values import list_of
from launcher.errors import DataError, ModelError
from launcher.models.tasks.token_loss import IGNORE_INDEX

Chat = list[dict[str, Any]]


def chat_of(row: Row, labelled: bool) -> Chat:
    """The turns of a row.

    labelled: whether there must be a turn of the assistant to learn; without, one that is to be answered
    Raises DataError where a turn has no role or content, or the wanted turn is not there.
    """
    chat = list_of(row, "messages")
    for number, turn in enumerate(chat, start=1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            fault = f"message {number} is {str(turn)[:60]}, not {{role: …, content: …}} with texts"
            raise DataError(row.file, f"{fault}; correct it", row.number)
    turns: Chat = chat  # type: ignore[assignment]
    if labelled and not any(turn["role"] == "assistant" for turn in turns):
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in turns))
        fault = f"the chat has no turn of the role assistant (it has {roles}), so there is nothing to learn"
        raise DataError(row.file, f"{fault}; remove the row, or rename the role", row.number)
    if not labelled and turns[-1]["role"] == "assistant":
        raise DataError(row.file, "the chat ends with the assistant's turn, and nothing is left to answer", row.number)
    return turns


def chat_tokens(tokenizer: Any, chat: Chat, row: Row, labelled: bool) -> tuple[list[int], list[int]]:
    """Token ids, and for each token itself where the assistant says it, else `IGNORE_INDEX`.

    labelled: false ends the chat where the assistant is to go on
    The whole chat is tokenised at once, as it is when the model is used. Raises ModelError without a template, or
    without the places of tokens to learn from, and DataError where the template writes a turn differently once others
    follow: no part of the text is that turn's.
    """
    if tokenizer.chat_template is None:
        raise ModelError("the tokenizer has no chat template; name columns prompt and response, or another tokenizer")
    if not labelled:
        text = _written(tokenizer, chat, row, to_be_continued=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"], []
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer does not tell which token is of which turn; use a fast one")
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
        fault = f"the chat template refuses the chat: {error}"
        raise DataError(row.file, f"{fault}; correct the order or the roles of its messages", row.number) from None
    return text
