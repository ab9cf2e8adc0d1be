"""Prepared samples in one Arrow file, memory-mapped by every rank that reads them.

The folder contains the hash of each of its files. The process that prepares the data verifies them at each attempt.
Damaged data are prepared again, and the files are replaced one by one: old and new ones have the same samples, and
other runs may be reading them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.data.fingerprints import Fingerprints
from launcher.files import HASHES, hash_folder, partial_of, remove_leftovers
from launcher.job.sections.data import LabelFormat

ROWS_A_BATCH = 4096
"""Rows of each record batch except the last, so row i is in batch i // 4096."""

SAMPLES, FACTS, FINGERPRINTS = "samples.arrow", "facts.json", "fingerprints.npy"


@dataclass(frozen=True)
class Facts:
    """Facts on prepared samples.

    labels: names of the classes, in the order of the model's outputs
    counts: samples of each class; empty for unlabelled samples
    samples: number of samples
    label_format: how the labels were read; `auto` if a sample has a single label
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    samples: int
    label_format: LabelFormat = "auto"


class Prepared:
    """Random access to the samples of a prepared folder."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        self.folder = folder
        values = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.facts = Facts(**values | {name: tuple(values[name]) for name in ("labels", "counts")})
        self._file = pa.ipc.open_file(pa.memory_map(str(folder / SAMPLES)))

    def __len__(self) -> int:
        return self.facts.samples

    def __getitem__(self, indices: Sequence[int] | NDArray[np.int64]) -> list[dict[str, Any]]:
        """The samples at `indices`, each with a number or an array of numbers per column."""
        return [self._sample(int(index)) for index in indices]

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sample, int32 [samples]."""
        batches = [self._file.get_batch(n).column("length") for n in range(self._file.num_record_batches)]
        return np.concatenate([_numbers(batch) for batch in batches]).astype(np.int32)

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """The fingerprint of each sample's inputs; empty if none were recorded."""
        found: Fingerprints = np.load(self.folder / FINGERPRINTS)
        return found

    def _sample(self, index: int) -> dict[str, Any]:
        batch, row = divmod(index, ROWS_A_BATCH)
        return {name: column[row] for name, column in self._batch(batch).items()}

    def _batch(self, number: int) -> Mapping[str, Any]:
        """Columns of one record batch that can be indexed by row, without copying the data."""
        if number not in self._batches:
            batch = self._file.get_batch(number)
            self._batches[number] = {name: _indexed(batch.column(name)) for name in batch.schema.names}
        return self._batches[number]

    @cached_property
    def _batches(self) -> dict[int, Mapping[str, Any]]:
        return {}


class _Lists:
    """A column of lists of numbers, each a view into one array."""

    def __init__(self, column: Any) -> None:
        self._offsets = _numbers(column.offsets)
        self._values = _numbers(column.values)

    def __getitem__(self, row: int) -> NDArray[Any]:
        view: NDArray[Any] = self._values[self._offsets[row] : self._offsets[row + 1]]
        return view


def _indexed(column: Any) -> Any:
    import pyarrow as pa

    return _Lists(column) if pa.types.is_large_list(column.type) else _numbers(column)


def _numbers(array: Any) -> NDArray[Any]:
    """A view of the numbers in the file; `to_numpy` would import pandas, which takes each rank a second."""
    kind, values = np.dtype(array.type.to_pandas_dtype()), array.buffers()[1]
    if values is None:
        return np.empty(0, kind)
    return np.frombuffer(values, kind)[array.offset : array.offset + len(array)]


def _arrow_type(values: Sequence[Any]) -> Any:
    """The type of a column; lists have offsets of 64 bits, since images of one batch may have 2³¹ values."""
    import pyarrow as pa

    if isinstance(values[0], np.ndarray):
        return pa.large_list(pa.from_numpy_dtype(values[0].dtype))
    if isinstance(values[0], list):
        floats = any(isinstance(number, float) for value in values for number in value)
        return pa.large_list(pa.float64() if floats else pa.int32())
    return pa.float64() if any(isinstance(value, float) for value in values) else pa.int32()


class PreparedWriter:
    """Writes samples into a folder that appears complete or not at all.

    with PreparedWriter(folder) as writer:
        writer.write({"input_ids": [[1, 2], [3]], "length": [2, 1]})
        writer.finish(labels, counts)
    """

    def __init__(self, folder: Path, *, replaces: bool = False) -> None:
        """replaces: whether the folder exists and is damaged."""
        self._folder, self._replaces = folder, replaces
        self._partial = partial_of(folder)
        self._writer: Any = None
        self._waiting: dict[str, list[Any]] = {}
        self._samples = 0

    def __enter__(self) -> PreparedWriter:
        self._partial.mkdir(parents=True)
        remove_leftovers(self._folder.parent)
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def write(self, columns: Mapping[str, list[Any]]) -> None:
        """Append rows, given as columns of integers, of floats, or of lists or arrays of them.

        Integers are stored in 32 bits, floats in 64, arrays in their own dtype.
        """
        for name, values in columns.items():
            self._waiting.setdefault(name, []).extend(values)
        while len(self._waiting["length"]) >= ROWS_A_BATCH:
            self._flush(ROWS_A_BATCH)

    def finish(
        self,
        labels: Sequence[str],
        counts: Sequence[int],
        fingerprints: Sequence[int] = (),
        label_format: LabelFormat = "auto",
    ) -> None:
        """Write the buffered rows and rename the folder; if another process was first, its folder is kept."""
        if self._waiting.get("length"):
            self._flush(ROWS_A_BATCH)
        self._writer.close()
        self._writer = None
        facts = Facts(tuple(labels), tuple(counts), self._samples, label_format)
        (self._partial / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
        np.save(self._partial / FINGERPRINTS, np.array(fingerprints, dtype=np.uint64))
        hash_folder(self._partial)
        if self._replaces:
            self._replace()
            return
        try:
            self._partial.rename(self._folder)
        except OSError:
            if not self._folder.is_dir():
                raise

    def _replace(self) -> None:
        self._folder.mkdir(exist_ok=True)
        for name in (SAMPLES, FACTS, FINGERPRINTS, HASHES):
            (self._partial / name).replace(self._folder / name)

    def _flush(self, rows: int) -> None:
        import pyarrow as pa

        batch = {name: values[:rows] for name, values in self._waiting.items()}
        self._waiting = {name: values[rows:] for name, values in self._waiting.items()}
        arrays = {name: pa.array(values, _arrow_type(values)) for name, values in batch.items()}
        table = pa.record_batch(arrays)
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._partial / SAMPLES), table.schema)
        self._writer.write_batch(table)
        self._samples += table.num_rows
