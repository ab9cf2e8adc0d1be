"""The features of every sample of a job: extracted once, by all ranks, and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.files import fault_of_sealed, partial_of, remove_leftovers, seal
from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Job
from launcher.models import task_class
from launcher.models.parts.features import features_of, unchanged
from launcher.models.tasks.base import Task, TaskModule
from launcher.models.weights import loading
from launcher.run.events import EventLog, Phase
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import prepare_sets, pretrained_model
from launcher.worker.evaluation.padding_check import choose_batches
from launcher.worker.evaluation.pass_over import pass_over
from launcher.worker.rank.world import World

FORMAT = 1


def features_of_sets(job: Job, folder: RunFolder, world: World) -> dict[str, str]:
    """Prepare every set of the job and extract features that are not cached; returns each set's file.

    A file contains [samples, size] float32. folder: for events, and for files that ranks exchange
    """
    torch.manual_seed(job.train.seed)
    log = EventLog(folder.events_file if world.is_first else None)
    prepared = _prepared(job, world, log)
    task, module, identity = _open(job, next(iter(prepared.values())), log)
    module.to(world.device)
    choose_batches(module, task, _sets(prepared), world, log.note)
    files = {}
    for number, (name, data) in enumerate(prepared.items()):
        file = _file(Path(job.data.cache), data, identity)
        if world.from_first("kept" if world.is_first and _is_kept(file, log) else "new") == "new":
            log.write(Phase(name="extracting features", detail=name))
            _extract(module, task, data, world, folder.path / f"{number}", job.validation.batch_size)
            world.wait()
            if world.is_first:
                _merge(folder.path / f"{number}", world.data_size, len(data), file)
        files[name] = str(file)
    log.close()
    return files


def _prepared(job: Job, world: World, log: EventLog) -> dict[str, Pool]:
    """The training sets as one, validation, target, in this order; rank 0 prepares, the others wait for it."""
    said = None
    if world.is_first:
        found = prepare_sets(job, log)
        sets = [found.train.sets, *({name: data} for name, data in found.validation.items())]
        if job.data.target is not None:  # without labels; a language model's samples have none anyway
            labelled = "label" not in found.preparer.task_type.targets
            sets.append({"target": found.preparer.prepare(job.data.target, found.labels, labelled=labelled)})
        said = json.dumps([{name: str(data.folder) for name, data in parts.items()} for parts in sets])
    places = json.loads(world.from_first(said) or "")
    names = ["train", *job.data.validation, *(() if job.data.target is None else ("target",))]
    pools = [Pool({part: Prepared(Path(place)) for part, place in parts.items()}) for parts in places]
    return dict(zip(names, pools, strict=True))


def _sets(pools: Mapping[str, Pool]) -> dict[str, Prepared]:
    return {f"{pool} {name}": data for pool, parts in pools.items() for name, data in parts.sets.items()}


def _open(job: Job, train: Pool, log: EventLog) -> tuple[Task, TaskModule, str]:
    """The task, the pretrained model, and the identity of its weights."""
    pretrained = find_pretrained(job.model)
    config = loading.load_config(pretrained, job.model)
    task_type = task_class(job.task, job.train.loss.name)
    processor = loading.load_processor(pretrained, job.model, task_type.processor_class)
    task = task_type(processor, train.labels, job.train, train.counts)
    loaded = pretrained_model(job, pretrained, config, task, in_parts=False, say=log.note)
    return task, task.build(loaded.model), loaded.identity


def _file(cache: Path, data: Pool, identity: str) -> Path:
    key = json.dumps([FORMAT, data.name, identity])
    return cache.expanduser() / "features" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _is_kept(file: Path, log: EventLog) -> bool:
    """Whether features are cached and undamaged."""
    if not file.exists():
        return False
    fault = fault_of_sealed(file)
    if fault is not None:
        log.note(f"the features in {file} are damaged, and are extracted again: {fault}")
    return fault is None


def _extract(module: TaskModule, task: Task, data: Pool, world: World, place: Path, batch_size: int) -> None:
    """Write this rank's features and the numbers of their samples."""
    found: list[NDArray[np.float32]] = []
    mine: list[NDArray[np.int64]] = []
    passed = pass_over(
        data,
        task,
        module,
        world,
        lambda batch: features_of(module.model, batch.inputs, len(batch.ids)),
        batch_size=batch_size,
        collate=lambda examples, ids: unchanged(task, examples, ids),
    )
    for computed in passed:
        found.append(computed.result.cpu().numpy())
        mine.append(computed.places)
    if found and world.speaks_for_data:
        np.save(_part(place, "features", world.data_rank), np.concatenate(found))
        np.save(_part(place, "ids", world.data_rank), np.concatenate(mine))


def _merge(place: Path, ranks: int, samples: int, file: Path) -> None:
    """Merge the ranks' files in the order of the samples; `file` appears complete or not at all."""
    present = [rank for rank in range(ranks) if _part(place, "ids", rank).exists()]
    ids = [np.load(_part(place, "ids", rank)) for rank in present]
    if not np.array_equal(np.sort(np.concatenate(ids)), np.arange(samples)):
        raise RuntimeError(f"features of {sum(map(len, ids))} samples were extracted, expected {samples}")
    parts = [np.load(_part(place, "features", rank), mmap_mode="r") for rank in present]
    file.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(file.parent)
    partial = partial_of(file)
    whole = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(samples, parts[0].shape[1]))
    for numbers, part in zip(ids, parts, strict=True):
        whole[numbers] = part
    whole.flush()
    partial.replace(file)
    seal(file)


def _part(place: Path, what: str, rank: int) -> Path:
    return place.with_name(f"{place.name}-{what}-{rank}.npy")
