"""Merge an adapter folder into its base model, a few rows of a tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from launcher.checkpoint.model_folder import Layout, publish
from launcher.checkpoint.safetensors_writer import BUFFER
from launcher.checkpoint.weights import DTYPES, StoredWeight
from launcher.errors import ModelError
from launcher.job.pretrained import find_pretrained, task_of
from launcher.job.schema import Model
from launcher.models import task_class
from launcher.models.weights import loading
from launcher.models.weights.heads import all_outputs
from launcher.models.weights.stored import LazyTensor, MemoryTensor, readable


def merge_adapters(adapters: Path, folder: Path, dtype: str, trusted: Sequence[str] = ()) -> int:
    """Merge `adapters` into their base model and write it into `folder`; returns the number of tensors.

    If there are several ranks, all call this, and each writes some of the files.
    trusted: the user's code files that the adapters, or their base, may load
    Raises ModelError if the base model has changed, or if the folder does not record its task.
    """
    spec = Model(pretrained=str(adapters), trust_code=tuple(trusted))
    pretrained = find_pretrained(spec)
    task = task_of(pretrained, spec)
    config = loading.load_config(pretrained, spec)
    if task is None:
        raise ModelError(f"{adapters} does not record the task of its model; merge it with peft (merge_and_unload)")
    assert config is not None
    task_type = task_class(task)
    labels, auto_class = all_outputs(config) if task_type.has_classes else (), task_type.auto_class
    loaded = loading.load_model(pretrained, spec, auto_class, labels, config, in_parts=True)
    sources: dict[str, LazyTensor] = {
        name: readable(parameter, loaded.stored) for name, parameter in loaded.model.named_parameters()
    }
    saved = loaded.model.state_dict()
    sources |= {name: MemoryTensor(buffer) for name, buffer in loaded.model.named_buffers() if name in saved}
    weights = [
        StoredWeight(name, tuple(source.shape), saved[name].dtype, pieces_of(source))
        for name, source in sources.items()
    ]
    written = [weight.written_in(DTYPES[dtype]) for weight in weights]
    publish(folder, adapters, written, ((w.name, w.pieces()) for w in weights), dtype, Layout())
    return len(weights)


def pieces_of(source: LazyTensor) -> Callable[[], Iterator[Tensor]]:
    """Reads a tensor in blocks of whole rows, each about as large as the buffer."""

    def pieces() -> Iterator[Tensor]:
        if not source.shape:
            yield source.whole()
            return
        rows = source.shape[0]
        step = max(1, BUFFER // (4 * max(1, source.shape[1:].numel())))
        for start in range(0, rows, step):
            yield source.rows(start, min(start + step, rows))

    return pieces
