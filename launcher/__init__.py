"""adaptrun: take a pretrained model to a new domain, on one process or many.

From Python: `from launcher import Job, train, evaluate, predict`. Each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.api.calls import evaluate, predict, train
    from launcher.api.job import Job
    from launcher.run.results import Evaluation, Result, SetResult

__version__ = "0.1.0"

__all__ = ["Evaluation", "Job", "Result", "SetResult", "__version__", "evaluate", "predict", "train"]

_HOMES = {
    "Evaluation": "launcher.run.results",
    "Job": "launcher.api.job",
    "Result": "launcher.run.results",
    "SetResult": "launcher.run.results",
    "evaluate": "launcher.api.calls",
    "predict": "launcher.api.calls",
    "train": "launcher.api.calls",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and only that: the command line needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What can be had from here."""
    return sorted({*globals(), *__all__})
