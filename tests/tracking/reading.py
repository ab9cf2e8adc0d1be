"""What each tracker has of a run, read back from its own files: for each name, (step, value) in the order kept."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.run.events import Evaluated, EventTail, Step

Curves = dict[str, list[tuple[int, float]]]


def of_events(run: Path) -> Curves:
    """What `metrics.jsonl` says, each step once: of those made again the first."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for event in EventTail(run / "metrics.jsonl").read():
        if isinstance(event, Step):
            for name in ("loss", "lr", "gradient_norm"):
                curves[f"train/{name}"].setdefault(event.step, getattr(event, name))
        elif isinstance(event, Evaluated):
            for name, metrics in event.metrics.items():
                for metric, value in metrics.items():
                    curves[f"validation/{name}/{metric}"].setdefault(event.step, value)
    return {name: list(values.items()) for name, values in curves.items()}


def of_tensorboard(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {name: [(s.step, s.value) for s in board.Scalars(name)] for name in board.Tags()["scalars"]}


def texts_of_tensorboard(folder: Path) -> dict[str, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return {
        tag: board.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in board.Tags()["tensors"]
        if tag.endswith("text_summary")
    }


def of_mlflow(database: Path) -> tuple[Any, Curves]:
    """The only run of a store, and its curves."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return run, {name: [(m.step, m.value) for m in sorted(ms, key=lambda m: m.step)] for name, ms in history.items()}


def of_wandb(folder: Path) -> tuple[set[str], Curves, list[dict[str, Any]], list[int]]:
    """Of all offline folders: the ids of runs, the curves, each start's config, each start's exit code."""
    ids: set[str] = set()
    curves: Curves = defaultdict(list)
    configs, codes = [], []
    for file in sorted(folder.glob("offline-run-*/*.wandb")):
        for record in _records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add(record.run.run_id)
                configs.append(_values(record.run.config.update))
            elif kind == "history":
                row = _values(record.history.item)
                for name, value in row.items():
                    if "/" in name:
                        curves[name].append((row["step"], value))
            elif kind == "exit":
                codes.append(record.exit.exit_code)
    return ids, dict(curves), configs, codes


def _values(items: Any) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def _records(file: Path) -> Iterator[Any]:
    """A .wandb file: 7 bytes of head, then LevelDB's log format, which cuts records to fit blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, whole = file.read_bytes(), 7, b""
    while position < len(data):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""
