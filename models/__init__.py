"""What is fine-tuned: a file a task family. Nothing here knows of ranks."""

from __future__ import annotations

from launcher.models.base import Task


def task_class(name: str) -> type[Task]:
    """The family that `task:` names. Adding a family is a file and a line here."""
    if name == "text-classification":
        from launcher.models.text_classification import TextClassification

        return TextClassification
    raise ValueError(f"unknown task {name!r}")
