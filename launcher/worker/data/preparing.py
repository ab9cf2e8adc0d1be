"""Prepare data once: read, tokenise, store; every rank then memory-maps the same files."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from launcher.data.cache import prepared_folder
from launcher.data.fingerprints import fingerprint
from launcher.data.label_vectors import common_places, form_of, format_of, place_names, read_as, with_names
from launcher.data.labels import BY_NAME, Mapped, decide_labels, listed, shortened
from launcher.data.prepared import Prepared, PreparedWriter
from launcher.data.rows import Row
from launcher.data.sources import count_rows, read_rows
from launcher.errors import RequestError
from launcher.files import fault_of_folder, fault_of_sealed, seal, write_whole
from launcher.job.sections.data import LabelFormat, Source
from launcher.job.sections.marks import values_that
from launcher.job.sections.training import Train
from launcher.models.tasks.base import Task
from launcher.models.tasks.classes import ordered

ROWS_AT_ONCE = 1000
READING = 1
"""Version of how labels are read; part of the cache key, so that data prepared by an older version are not used."""


@dataclass(frozen=True)
class Preparer:
    """Prepares sources for one task and processor.

    identity: identity of the task's code and of the processor
    cache: folder of prepared data
    progress: called with the number of rows done and of all rows (0 if unknown)
    say: called with notes on how the data were read, and on damaged prepared data, which are prepared again
    """

    task_type: type[Task]
    processor: Any
    identity: str
    train: Train
    cache: Path
    progress: Callable[[int, int], None]
    say: Callable[[str], object] = lambda text: None
    _sound: set[Path] = field(default_factory=set, init=False)

    def prepare(self, source: Source, labels: Sequence[str], *, labelled: bool = True) -> Prepared:
        """The samples of `source`, from the cache or prepared now. Raises DataError with file and row."""
        folder = self._folder(source, labels, labelled)
        if folder not in self._sound:
            is_there = folder.is_dir()
            fault = fault_of_folder(folder) if is_there else None
            if fault is not None:
                self.say(f"the prepared data in {folder} are damaged, and are prepared again: {fault}")
            if not is_there or fault is not None:
                self._make(folder, source, labels, labelled, replaces=is_there)
            self._sound.add(folder)
        return Prepared(folder)

    def prepare_training(
        self, sources: Mapping[str, Source], known: Sequence[str], said: Mapped = BY_NAME, names: Sequence[str] = ()
    ) -> dict[str, Prepared]:
        """The same for training sets, which define the label set: all labels that occur in any of them.

        known: labels of the pretrained head; kept if they include all that occur
        said: mapping of the data's labels to these
        names: names of the positions of label vectors, if there are as many
        Raises ModelError if the labels cannot be matched unambiguously.
        """
        if not self.task_type.has_classes:
            return {name: self.prepare(source, ()) for name, source in sources.items()}
        if not sources:
            return {}
        places = common_places(sources) if self.task_type.takes_vectors else None
        if self.task_type.takes_vectors:
            sources = {name: read_as(source, format_of(places)) for name, source in sources.items()}
        if places is None:
            occurring = self._occurring(sources)
        else:
            occurring = place_names(places, names if isinstance(said, str) else ())
        labels = decide_labels(known, occurring, said).labels
        return {name: self.prepare(source, labels) for name, source in sources.items()}

    def _occurring(self, sources: Mapping[str, Source]) -> tuple[str, ...]:
        """The labels in the rows of all sources, in the order of a new head."""
        surveyed = [self._surveyed(source) for source in sources.values()]
        return surveyed[0] if len(surveyed) == 1 else ordered({label for labels in surveyed for label in labels})

    def _surveyed(self, source: Source) -> tuple[str, ...]:
        """The labels that occur in a source, from the cache or collected now."""
        file = self._folder(source, ["surveyed"], True).with_suffix(".labels.json")
        fault = fault_of_sealed(file) if file.exists() else None
        if fault is not None:
            self.say(f"the labels in {file} are damaged, and are collected again: {fault}")
        if fault is not None or not file.exists():
            occurring = self._task(()).collect_labels(read_rows(source, self.task_type.columns(source)))
            self._make_cache(file.parent)
            write_whole(file, json.dumps(occurring))
            seal(file)
        return tuple(json.loads(file.read_text(encoding="utf-8")))

    def _folder(self, source: Source, labels: Sequence[str], labelled: bool) -> Path:
        plain = self.train.model_dump(mode="json")
        settings = {
            "task": self.task_type.__name__,
            "processor": self.identity,
            "train": values_that("data", self.train) | {name: plain[name] for name in self.task_type.prepares_with},
            "labels": list(labels),
            "labelled": labelled,
            "reading": READING,
        }
        return prepared_folder(self.cache, source, settings, self.task_type.columns(source, labelled=labelled))

    def _make(self, folder: Path, source: Source, labels: Sequence[str], labelled: bool, *, replaces: bool) -> None:
        task = self._task(labels)
        rows = read_rows(source, self.task_type.columns(source, labelled=labelled))
        label_format: LabelFormat = "auto"
        if labelled and self.task_type.takes_vectors:
            label_format = form_of(source)
        if label_format == "vector":
            self.say(f"{', '.join(source.files)}: the positions of label vectors are {listed(labels)}")
            rows = with_names(rows, labels)
        self._make_cache(folder.parent)
        done, total = 0, count_rows(source) or 0
        counted: Counter[int] = Counter()
        fingerprints = array("Q")
        with PreparedWriter(folder, replaces=replaces) as writer:
            for chunk in _chunks(rows):
                columns = task.prepare(chunk, labelled=labelled)
                writer.write(columns)
                counted.update(index for label in columns.get("label", ()) for index in np.ravel(label).tolist())
                fingerprints.extend(fingerprint(row, self.task_type.targets) for row in chunk)
                done += len(chunk)
                self.progress(done, total)
            counts = [counted[index] for index in range(len(labels))] if labelled else []
            writer.finish(labels, counts, fingerprints, label_format)
        if renamed := getattr(task, "renamed", {}):
            pairs = shortened([f"{label!r} as {name!r}" for label, name in renamed.items()])
            self.say(f"{', '.join(source.files)}: labels matched with those of the model: {pairs}")

    def _make_cache(self, folder: Path) -> None:
        """Raises RequestError if the job's cache folder cannot be created."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"prepared data cannot be written to {self.cache}: {error.strerror}; set data.cache to a "
                "writable folder"
            ) from error

    def _task(self, labels: Sequence[str]) -> Task:
        return self.task_type(self.processor, labels, self.train)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, ROWS_AT_ONCE)):
        yield chunk
