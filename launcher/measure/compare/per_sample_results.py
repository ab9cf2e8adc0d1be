"""A model's results on each sample of a set, stored so that models can be compared without running them again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from launcher.files import partial_of

Values = NDArray[np.float64]

SCHEMA = 1
"""Version of the files. A file of a later version is treated as damaged."""


@dataclass(frozen=True)
class PerSampleResults:
    """One model on one set.

    data: identity of the prepared samples: their contents, the task, the tokenizer, the labels
    model: path of the model, or its role in a run
    columns: names of the columns of `values`, from which the task computes its metrics
    values: float64 [samples, columns], in the order of the rows of the set
    """

    data: str
    model: str
    columns: tuple[str, ...]
    values: Values

    def write(self, file: Path) -> None:
        """Write as parquet with a column `row`, counted from 1; the file appears complete or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pa.array(np.arange(1, len(self.values) + 1))
        columns = [pa.array(column) for column in self.values.T]
        about = json.dumps({"data": self.data, "model": self.model, "hash": self._hash(), "schema": SCHEMA})
        table = pa.table([rows, *columns], names=["row", *self.columns], metadata={"adaptrun": about})
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = partial_of(file)
        pq.write_table(table, beside, compression="zstd")
        beside.replace(file)

    @classmethod
    def read(cls, file: Path) -> PerSampleResults | None:
        """Read back what `write` wrote; None if the file is missing, damaged, or not written by adaptrun."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(file)
            about = json.loads(table.schema.metadata[b"adaptrun"])
            columns = table.column_names[1:]
            values = np.stack([table.column(name).to_numpy() for name in columns], axis=1)
            found = cls(about["data"], about["model"], tuple(columns), values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
            return None
        is_whole = about.get("hash") in (None, found._hash())  # earlier versions wrote none
        return found if is_whole and about.get("schema", 1) <= SCHEMA else None

    def _hash(self) -> str:
        """Hash of the contents."""
        digest = xxhash.xxh3_128(json.dumps([self.data, self.model, *self.columns]).encode())
        digest.update(np.ascontiguousarray(self.values, dtype=np.float64).data)
        return digest.hexdigest()


def in_order(ids: NDArray[np.int64], rows: Values, samples: int) -> Values:
    """Rows gathered from several ranks, in the order of the samples.

    ids: int64 [rows] positions in the set
    Raises RuntimeError unless each sample occurs exactly once.
    """
    counts = np.bincount(ids, minlength=samples)
    if len(counts) != samples or (counts != 1).any():
        raise RuntimeError(f"{len(ids)} results were gathered for {samples} samples, not one for each")
    ordered = np.empty_like(rows)
    ordered[ids] = rows
    return ordered
