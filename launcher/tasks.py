"""What an own task is made of (docs/extending/task.md): `from launcher.tasks import Task, TaskModule, Batch, …`."""

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import EvalTotals, Example, Task, TaskModule
from launcher.models.tasks.summed import SummedTask
from launcher.models.tasks.text import TextTask
from launcher.models.tasks.token_loss import IGNORE_INDEX

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "DataError",
    "EvalTotals",
    "Example",
    "Losses",
    "Row",
    "SummedTask",
    "Task",
    "TaskModule",
    "TextTask",
]
