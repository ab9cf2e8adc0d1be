"""Save checkpoints from which a run can resume, while training continues.

A checkpoint is a folder `step-00000400` of `torch.distributed.checkpoint` files, in which every tensor has the model's
own name, and `progress.json`, the progress of the training loop. All ranks write it under the temporary name
`step-00000400.partial-3`, whose number is the attempt's. `hashes.json`, the hashes of its files, is written last. Then
the folder is renamed, and a marker file makes it complete.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from launcher.checkpoint.hashing import HashingWriter
from launcher.checkpoint.planners import SavePlanner
from launcher.checkpoint.reading import flat, reason
from launcher.engines.base import LocalTensor, StateDict
from launcher.engines.flat_slice import FlatSlice
from launcher.engines.mesh import process_count, process_rank
from launcher.errors import CheckpointError
from launcher.files import FileHash, remove, write_hashes
from launcher.run.checkpoints import (
    FORMAT,
    MARKER,
    PROGRESS,
    checkpoint_name,
    complete_checkpoints,
    incomplete_checkpoints,
    step_of,
)

Done = TypeVar("Done")


@dataclass
class Checkpoints:
    """The checkpoints of one run. All ranks make one, and call the same methods in the same order.

    keep: how many of the latest are kept, in addition to the best
    in_background: `save` returns when the state is copied to host memory; at most one save is in flight
    on_saved: called with step, path and seconds, in the thread of the caller, once a checkpoint is complete
    start: number of the run's attempt, used in the temporary folder's name, so that no two attempts share one
    before_completing: called on rank 0; raises if a later attempt has begun
    """

    folder: Path
    keep: int
    in_background: bool = False
    on_saved: Callable[[int, Path, float], None] = lambda step, path, seconds: None
    start: int = 1
    before_completing: Callable[[], None] = lambda: None
    _flight: Future[tuple[int, Path, float]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """The thread that saves has its own process group, since the training thread communicates meanwhile."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._group = dist.new_group(backend="gloo") if self.in_background and dist.is_initialized() else None

    def at(self, step: int) -> Path:
        """The folder of the checkpoint of `step`."""
        return self.folder / checkpoint_name(step)

    def save(self, step: int, state: StateDict, progress: dict[str, Any], best_step: int | None) -> None:
        """Write a checkpoint with all ranks, then remove the checkpoints that are no longer kept.

        Raises CheckpointError, on all ranks, if this save or one that was in flight fails.
        """
        self.wait()
        if self.in_background:
            held = {name: _in_host_memory(tensor) for name, tensor in flat(state).items()}
            self._flight = self._thread.submit(self._write, step, held, progress, best_step)
        else:
            self.on_saved(*self._write(step, flat(state), progress, best_step))

    def has_failed(self) -> bool:
        """Whether the save in flight has failed, without waiting for it; a complete one is reported."""
        if self._flight is None or not self._flight.done():
            return False
        if self._flight.exception() is None:
            self.wait()
        return self._flight is not None

    def wait(self) -> None:
        """Return when no save is in flight. Raises CheckpointError if one has failed."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self.on_saved(*flight.result())

    def _write(
        self, step: int, held: dict[str, LocalTensor], progress: dict[str, Any], best_step: int | None
    ) -> tuple[int, Path, float]:
        begun = time.perf_counter()
        final = self.at(step)
        partial = final.with_name(f"{final.name}.partial-{self.start}")
        try:
            self._together(lambda: self._make_room(partial, final, _bytes_of(held)))
            written = self._together(lambda: self._write_tensors(partial, held))
            self._together(lambda: self._complete(partial, final, step, progress, best_step, written))
        except CheckpointError as error:
            free = shutil.disk_usage(self.folder).free / 2**20  # torch does not always say that a disk is full
            if self._is_first():
                shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"{partial} could not be written: {error} ({free:.0f} MiB are free); earlier checkpoints are intact",
                error.of_rank,
            ) from error
        return step, final, time.perf_counter() - begun

    def _together(self, work: Callable[[], Done]) -> list[Done]:
        """Do one step of a save on all ranks; returns the result of each rank.

        A failure of one rank is raised on all, so that no rank waits forever.
        """
        own = process_rank()
        problem: tuple[str, int] | None = None
        done: Done | None = None
        try:
            done = work()
        except OSError as error:
            problem = reason(error), own
        except CheckpointException as error:  # torch raises it on all ranks
            problem = reason(error), min(error.failures, default=own)
        gathered: list[Any] = [(done, problem)]
        if dist.is_initialized():
            gathered = [None] * process_count()
            dist.all_gather_object(gathered, (done, problem), group=self._group)
        found = next((problem for _, problem in gathered if problem is not None), None)
        if found is not None:
            raise CheckpointError(*found)
        return [each for each, _ in gathered]

    def _make_room(self, partial: Path, final: Path, needed: int) -> None:
        """Check the free space first: a full disk fails late, and other programs with it."""
        if not self._is_first():
            return
        self.before_completing()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        free, ranks = shutil.disk_usage(self.folder).free, process_count()
        if free < needed * ranks:
            raise OSError(
                f"it needs {needed * ranks / 2**20:.0f} MiB, and {self.folder} has {free / 2**20:.0f} MiB free; "
                "free some space and run the same command again"
            )

    def _write_tensors(self, partial: Path, held: dict[str, LocalTensor]) -> dict[str, FileHash]:
        """The hashes of the files that this rank has written."""
        writer = HashingWriter(partial)
        save(
            held,
            checkpoint_id=partial,
            storage_writer=writer,
            planner=SavePlanner(),
            process_group=self._group,
            no_dist=not dist.is_initialized(),
        )
        return writer.hashes

    def _complete(
        self,
        partial: Path,
        final: Path,
        step: int,
        progress: dict[str, Any],
        best_step: int | None,
        written: list[dict[str, FileHash]],
    ) -> None:
        if not self._is_first():
            return
        _write_synced(partial / PROGRESS, progress)
        hashes = {name: known for files in written for name, known in files.items()}
        write_hashes(partial, hashes | {PROGRESS: FileHash.of(partial / PROGRESS)})
        self.before_completing()
        (final / MARKER).unlink(missing_ok=True)  # of an earlier attempt that got past the step this one resumed from
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _write_synced(final / MARKER, {"format": FORMAT, "step": step})
        self._remove_old(step, best_step)

    def _remove_old(self, step: int, best_step: int | None) -> None:
        """Remove complete checkpoints that are no longer kept, and partial ones of killed saves.

        If a run resumes from an earlier checkpoint than its last, later checkpoints are ignored until their step.
        """
        reached = [path for path in complete_checkpoints(self.folder) if step_of(path) <= step]
        for checkpoint in reached[: -self.keep]:
            if step_of(checkpoint) != best_step:
                (checkpoint / MARKER).unlink(missing_ok=True)
                remove(checkpoint)
        for left in incomplete_checkpoints(self.folder):
            remove(left)

    def _is_first(self) -> bool:
        return process_rank() == 0


def _in_host_memory(held: LocalTensor) -> LocalTensor:
    """A copy of this rank's shard. A `DTensor`'s shard is whole rows, so it is a contiguous range of elements too."""
    if isinstance(held, FlatSlice):
        return held.copy()
    if not isinstance(held, DTensor):
        return held.detach().to("cpu", copy=True)
    local = held.to_local().detach()
    (chunk,) = held.__create_chunk_list__() if local.numel() else (None,)
    row = held.numel() // held.size(0) if held.ndim else 1
    start = chunk.offsets[0] * row if chunk is not None and held.ndim else 0
    return FlatSlice(local.to("cpu", copy=True).flatten(), held.size(), start)


def _bytes_of(held: dict[str, LocalTensor]) -> int:
    """Bytes that this rank writes on average: a tensor that is whole on every rank is written by one of them."""
    ranks = process_count()
    sliced = sum(h.nbytes for h in held.values() if isinstance(h, FlatSlice))
    shards = sum(h.to_local().nbytes for h in held.values() if isinstance(h, DTensor))
    whole = sum(h.nbytes for h in held.values() if not isinstance(h, FlatSlice | DTensor))
    return sliced + shards + whole // ranks


def _write_synced(path: Path, values: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
