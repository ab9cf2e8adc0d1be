"""TensorBoard: an event file a start, written without TensorFlow or torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from launcher.run.flatten import Value
from launcher.tracking.base import Point, Status, TrackedRun


class TensorBoard:
    """Scalars under their names; the job as a text and as hyper-parameters."""

    def open(self, run: TrackedRun, known: str | None) -> str:
        """Begin a file; what TensorBoard has beyond the last step that counts as delivered is taken back."""
        settings = run.settings
        folder = run.path / "tensorboard" if settings.folder is None else Path(settings.folder) / run.name
        self._writer = EventFileWriter(str(folder))
        if known is None:
            self._write(0, time.time(), hparams_pb(dict(run.parameters), trial_id=run.name))
            self._text("job", f"```yaml\n{run.job}```")
        elif run.last_step is not None:
            # this marks a restart in TensorBoard: it drops all that it has from this step on
            began = Event(wall_time=time.time(), step=run.last_step + 1)
            began.session_log.status = SessionLog.START
            self._writer.add_event(began)
        return run.name

    def log(self, points: Sequence[Point]) -> None:
        """Append scalars (which TensorBoard keeps as 32-bit numbers) and push them to the disk."""
        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
            self._write(point.step, point.time, Summary(value=values))
        self._writer.flush()

    def conclude(self, status: Status, summary: Mapping[str, Value]) -> None:
        """Add what the run came to as a text and close the file."""
        lines = ["| | |", "|---|---|", f"| status | {status} |", *(f"| {name} | {v} |" for name, v in summary.items())]
        self._text("result", "\n".join(lines))
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        value = Summary.Value(
            tag=f"{tag}/text_summary",
            metadata=create_summary_metadata(tag, ""),
            tensor=make_tensor_proto([text.encode()]),
        )
        self._write(0, time.time(), Summary(value=[value]))

    def _write(self, step: int, at: float, summary: Summary) -> None:
        self._writer.add_event(Event(wall_time=at, step=step, summary=summary))
