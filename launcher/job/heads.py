"""Which pretrained models have a trained head for a task, as the names of their classes say."""

from __future__ import annotations

HEADS = {
    "AutoModelForSequenceClassification": ("ForSequenceClassification",),
    "AutoModelForTokenClassification": ("ForTokenClassification",),
    "AutoModelForImageClassification": ("ForImageClassification",),
    "AutoModelForAudioClassification": ("ForAudioClassification", "ForSequenceClassification"),
}
"""How the classes are called that have the head of an auto class; others are known by `Classification` alone."""


def has_trained_head(architectures: object, auto_class: str | None) -> bool:
    """Whether a model has the head of a task.

    architectures: as config.json names them
    auto_class: the task's
    """
    kinds = HEADS.get(auto_class or "", ("Classification",))
    named = architectures if isinstance(architectures, list | tuple) else ()
    return any(kind in str(name) for name in named for kind in kinds)
