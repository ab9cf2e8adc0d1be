"""Convert a checkpoint on disk to a model folder, on any machine, with one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

from launcher.checkpoint.from_dcp import dcp_weights
from launcher.checkpoint.from_deepspeed import deepspeed_weights, is_deepspeed
from launcher.checkpoint.hashing import fault_of
from launcher.checkpoint.merging import merge_adapters
from launcher.checkpoint.model_folder import COMPILED, Layout, publish
from launcher.checkpoint.weights import DTYPES, StoredWeight
from launcher.errors import CheckpointError, DamagedCheckpoint, RequestError
from launcher.job.pretrained import ADAPTER_CONFIG, read_card
from launcher.models.weights.adapters import is_added
from launcher.run.checkpoints import MARKER, complete_checkpoints, note_without_hashes
from launcher.run.folder import RunFolder


def consolidate(
    checkpoint: Path,
    folder: Path,
    dtype: str,
    skeleton: Path | None,
    prefix: str | None,
    say: Callable[[str], object] = lambda text: None,
    trusted: Sequence[str] = (),
) -> int:
    """Write the weights of `checkpoint` and the files of `skeleton` into `folder`; returns the number of tensors.

    checkpoint: a run (its latest checkpoint is taken), one of its checkpoints, a folder of DeepSpeed's
        `save_checkpoint`, one of torch.distributed.checkpoint, or adapters, which are merged with their base
    skeleton: a model folder whose config and tokenizer are taken; None takes those of the run
    prefix: prefix of the model's own names, for torch.distributed.checkpoint folders of other programs
    say: called with a message for each damaged checkpoint that is skipped, and for one without hashes
    trusted: the user's code files that the adapters' base model may load
    Raises RequestError and CheckpointError.
    """
    if (checkpoint / ADAPTER_CONFIG).is_file():
        return merge_adapters(checkpoint, folder, dtype, trusted)
    source = _sound(checkpoint, say)
    if (source / MARKER).is_file() and skeleton is None:
        run = RunFolder(source.resolve().parent.parent)
        skeleton = run.skeleton if run.skeleton.is_dir() else None
    found = _weights(source, prefix)
    if not found:
        raise RequestError(
            f"{source} holds no weights whose names begin with {prefix!r}; leave out --prefix to see the names"
        )
    if skeleton is not None and read_card(skeleton).get("merge"):
        return _merged(found, folder, dtype, skeleton, trusted)
    return _write(found, folder, dtype, skeleton)


def _write(found: list[StoredWeight], folder: Path, dtype: str, skeleton: Path | None) -> int:
    layout = Layout.of(skeleton)
    if layout.whole is None and any(is_added(weight.name) for weight in found):
        raise RequestError("the checkpoint holds adapters; give an adapter folder: --like FOLDER")
    found = [replace(weight, name=name) for weight in found if (name := layout.name_of(weight.name)) is not None]
    weights = [weight.written_in(DTYPES[dtype]) for weight in found]
    publish(folder, skeleton, weights, ((weight.name, weight.pieces()) for weight in found), dtype, layout)
    return len(weights)


def _merged(found: list[StoredWeight], folder: Path, dtype: str, skeleton: Path, trusted: Sequence[str]) -> int:
    """Merge the adapters of a run whose result is the whole model."""
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        _write(found, Path(temporary) / "adapter", "fp32", skeleton)
        return merge_adapters(Path(temporary) / "adapter", folder, dtype, trusted)


def _sound(path: Path, say: Callable[[str], object]) -> Path:
    """The latest undamaged checkpoint of a run, or the path itself. Raises DamagedCheckpoint."""
    run = RunFolder(path)
    if not run.checkpoints.is_dir():
        if (path / MARKER).is_file() and (fault := fault_of(path)) is not None:
            others = [other.name for other in complete_checkpoints(path.parent) if other != path]
            there = (
                f"the other checkpoints of the run are {', '.join(others)}"
                if others
                else "the run has no other checkpoint"
            )
            raise DamagedCheckpoint(f"{path} is damaged: {fault}; {there}")
        _say_if_unhashed(path, say)
        return path
    complete = complete_checkpoints(run.checkpoints)
    if not complete:
        raise RequestError(f"{path} holds no complete checkpoint")
    faults: dict[str, str] = {}
    for checkpoint in reversed(complete):
        fault = fault_of(checkpoint)
        if fault is None:
            for name, found in faults.items():
                say(f"skipped {name}, which is damaged: {found}; using {checkpoint.name}")
            _say_if_unhashed(checkpoint, say)
            return checkpoint
        faults[checkpoint.name] = fault
    listed = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
    raise DamagedCheckpoint(f"all complete checkpoints of {path} are damaged: {listed}")


def _say_if_unhashed(checkpoint: Path, say: Callable[[str], object]) -> None:
    if note := note_without_hashes(checkpoint):
        say(note)


def _weights(source: Path, prefix: str | None) -> list[StoredWeight]:
    try:
        if (source / ".metadata").is_file():
            found = dcp_weights(source, prefix)
        elif is_deepspeed(source):
            found = deepspeed_weights(source)
        else:
            raise RequestError(
                f"{source} is neither a run, nor a checkpoint of one, nor a folder that DeepSpeed or "
                "torch.distributed.checkpoint wrote"
            )
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    except (
        OSError,
        UnpicklingError,
        LookupError,
        ValueError,
        RuntimeError,
        EOFError,
        ImportError,
        AttributeError,
        TypeError,
    ) as error:
        raise RequestError(f"{source} cannot be read: {type(error).__name__}: {error}") from error
    return [replace(weight, name=weight.name.replace(COMPILED, "")) for weight in found]
