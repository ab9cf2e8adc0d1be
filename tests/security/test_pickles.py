"""Checkpoints of others are pickles: whatever they name is refused with its name, and none of it runs."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_saver import save

from launcher.checkpoint.consolidating import consolidate
from launcher.checkpoint.from_dcp import dcp_weights
from launcher.checkpoint.from_deepspeed import ALLOWED as OF_DEEPSPEED
from launcher.checkpoint.metadata import ALLOWED as OF_TORCH
from launcher.checkpoint.metadata import read_metadata
from launcher.checkpoint.pickles import Record
from launcher.checkpoint.reading import read_state
from launcher.checkpoint.saving import Checkpoints
from launcher.errors import CheckpointError, RequestError
from launcher.files import hash_folder


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self._call


class Named:
    """Pickles to a call of what a module that need not be there calls `name`."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def pickled(self) -> bytes:
        parts = [b"\x80\x02c", self.module.encode(), b"\n", self.name.encode(), b"\n"]
        return b"".join([*parts, pickle.dumps(self.arguments, 2)[2:-1], b"R."])


def touch(path: str) -> None:
    Path(path).touch()


def state_of(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"model": weights, "learning": {}, "optimizer": {}, "scaler": {}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of ours with one weight."""
    Checkpoints(tmp_path / "checkpoints", keep=1).save(1, state_of({"model.w": torch.ones(2, 3)}), {}, best_step=None)
    return tmp_path / "checkpoints" / "step-00000001"


def assert_refused(checkpoint: Path, message: str) -> None:
    """Neither consolidating nor resuming reads it, though its hashes are right, as an attacker would make them."""
    hash_folder(checkpoint)
    with pytest.raises(RequestError, match=message):
        consolidate(checkpoint, checkpoint.parent / "model", "fp32", None, None)
    with pytest.raises(CheckpointError, match=message):
        read_state(checkpoint, state_of({"model.w": torch.zeros(2, 3)}))


def test_metadata_that_name_a_function_are_refused_by_its_name_and_nothing_runs(checkpoint: Path) -> None:
    ran = checkpoint.parent / "ran"
    content = pickle.loads((checkpoint / ".metadata").read_bytes())
    content.planner_data = Call(touch, str(ran))
    (checkpoint / ".metadata").write_bytes(pickle.dumps(content))
    assert_refused(checkpoint, rf"names {touch.__module__}\.touch, which could run code .* If you trust its author")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch.distributed.checkpoint.filesystem", "FileSystemWriter"),
        ("torch.distributed.checkpoint.metadata", "os.system"),
        ("torch.distributed.checkpoint.format_utils", "torch_save_to_dcp"),
        ("pathlib", "Path"),
        ("deepspeed.utils.tensor_fragment", "fragment_address"),
    ],
)
def test_no_name_is_allowed_for_what_it_begins_with(module: str, name: str, checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(Named(module, name, "x").pickled())
    assert_refused(checkpoint, rf"names {module}\.{name}, which could run code")


def test_nothing_that_is_allowed_does_anything() -> None:
    inert = (Record, tuple, dict, int)
    for found in [*OF_TORCH.values(), *OF_DEEPSPEED.values()]:
        assert isinstance(found, torch.dtype) or found in inert or issubclass(found, Record)


def test_a_value_that_torch_would_unpickle_is_no_tensor(checkpoint: Path) -> None:
    """The metadata say that a weight is a pickle of any kind, with the attributes that a tensor's would have."""
    ran = checkpoint.parent / "ran"
    content = pickle.loads((checkpoint / ".metadata").read_bytes())
    (file,) = checkpoint.glob("*.distcp")
    hostile = io.BytesIO()
    torch.save(Call(touch, str(ran)), hostile)
    file.write_bytes(hostile.getvalue())
    disguised = BytesStorageMetadata()
    disguised.__dict__.update(content.state_dict_metadata["model/model.w"].__dict__)
    content.state_dict_metadata["model/model.w"] = disguised
    (place,) = content.storage_data.values()
    place.offset, place.length = 0, len(hostile.getvalue())
    content.storage_data = {MetadataIndex("model/model.w"): place, MetadataIndex("model/model.w", (0, 0), 0): place}
    (checkpoint / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"model\.w is not a tensor in the checkpoint"):
        read_state(checkpoint, state_of({"model.w": torch.zeros(2, 3)}))
    assert dcp_weights(checkpoint, None) == []
    assert not ran.exists()


def test_a_tensor_file_that_calls_is_refused(checkpoint: Path) -> None:
    ran = checkpoint.parent / "ran"
    (file,) = checkpoint.glob("*.distcp")
    hostile = io.BytesIO()
    torch.save(Call(touch, str(ran)), hostile)
    content = pickle.loads((checkpoint / ".metadata").read_bytes())
    (place,) = content.storage_data.values()
    place.offset, place.length = 0, len(hostile.getvalue())
    (checkpoint / ".metadata").write_bytes(pickle.dumps(content))
    file.write_bytes(hostile.getvalue())
    assert_refused(checkpoint, "cannot be read")
    assert not ran.exists()


def _with_path(content: Metadata, path: str) -> None:
    (place,) = content.storage_data.values()
    place.relative_path = path


DAMAGES: dict[str, Callable[[Metadata], object]] = {
    "an absolute path": lambda content: _with_path(content, "/etc/passwd"),
    "a path out of the folder": lambda content: _with_path(content, "../../secret"),
    "a size of another kind": lambda content: setattr(content.state_dict_metadata["model/model.w"], "size", "large"),
    "a negative size": lambda content: setattr(content.state_dict_metadata["model/model.w"], "size", (-1, 3)),
    "no dtype": lambda content: setattr(content.state_dict_metadata["model/model.w"], "properties", None),
    "a table that is none": lambda content: setattr(content, "storage_data", [1]),
    "no table": lambda content: setattr(content, "state_dict_metadata", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_metadata_that_are_not_as_torch_writes_them_are_refused(damage: str, checkpoint: Path) -> None:
    content = pickle.loads((checkpoint / ".metadata").read_bytes())
    DAMAGES[damage](content)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(content))
    assert_refused(checkpoint, r"\.metadata is damaged")


@pytest.mark.parametrize(
    "content", [b"", b"garbage", pickle.dumps(5), pickle.dumps(None), b"\x80\x04ctorch\nSize\n}b."]
)
def test_what_is_no_metadata_is_refused(content: bytes, checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(content)
    assert_refused(checkpoint, r"\.metadata is damaged")


def test_metadata_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    values = {
        "layer": nn.Linear(3, 2).state_dict(),
        "half": torch.ones(4, dtype=torch.bfloat16),
        "whole": torch.tensor(3),
        "number": 5,
        "list": [torch.zeros(2), "text"],
    }
    save(values, checkpoint_id=tmp_path / "saved", no_dist=True)
    expected = pickle.loads((tmp_path / "saved" / ".metadata").read_bytes())
    found = read_metadata(tmp_path / "saved")
    assert found.storage_data == expected.storage_data
    assert list(found.state_dict_metadata) == list(expected.state_dict_metadata)
    for name, value in expected.state_dict_metadata.items():
        same = found.state_dict_metadata[name]
        assert type(same) is type(value)
        if isinstance(value, TensorStorageMetadata):
            assert isinstance(same, TensorStorageMetadata)
            assert (same.size, same.chunks, same.properties.dtype) == (value.size, value.chunks, value.properties.dtype)
    assert isinstance(expected.state_dict_metadata["whole"].properties, TensorProperties)


@pytest.fixture
def of_deepspeed(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A folder as ZeRO stage 2 writes it, without DeepSpeed: where its optimizer's file lies, and what is in it."""
    folder = tmp_path / "saved" / "global_step1"
    folder.mkdir(parents=True)
    (folder.parent / "latest").write_text("global_step1")
    torch.save(
        {"module": {}, "buffer_names": [], "param_shapes": [{"w": torch.Size([2])}], "shared_params": {}},
        folder / "mp_rank_00_model_states.pt",
    )
    states = {"zero_stage": 2, "partition_count": [1], "single_partition_of_fp32_groups": [torch.tensor([3.0, 4.0])]}
    return folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt", {"optimizer_state_dict": states}


def test_a_deepspeed_folder_may_call_no_other_class_of_deepspeeds(
    of_deepspeed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """As the profiler's log, which opens the file that it is given for writing."""
    file, content = of_deepspeed
    victim = tmp_path / "victim"
    victim.write_text("precious")
    torch.save(content, file)
    read = [weight.name for weight in [*_weights(file)]]
    assert read == ["w"]
    for module, name in [
        ("deepspeed.monitor.csv_monitor", "csvMonitor"),
        ("deepspeed.utils.tensor_fragment", "get_hp_fragment_mapping"),
        ("deepspeed.runtime.zero.config", "DeepSpeedZeroConfig"),
        ("deepspeed.runtime.zero.config.ZeroStageEnum", "mro"),
        ("posix", "system"),
    ]:
        _save_naming(file, content, module, name, str(victim))
        with pytest.raises(RequestError, match=rf"names {module}\.{name}, which could run code"):
            consolidate(file.parent.parent, tmp_path / "model", "fp32", None, None)
    assert victim.read_text() == "precious"


def _weights(file: Path) -> list[Any]:
    from launcher.checkpoint.from_deepspeed import deepspeed_weights

    return deepspeed_weights(file.parent.parent)


def _save_naming(file: Path, content: dict[str, Any], module: str, name: str, argument: str) -> None:
    """Save a file whose pickle calls `module.name(argument)`, which need not be there to be named."""
    import zipfile

    torch.save(content, file)
    with zipfile.ZipFile(file) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, Named(module, name, argument).pickled() if part.endswith("data.pkl") else data)


@pytest.mark.parametrize("latest", ["../elsewhere", "/etc", "", ".."])
def test_the_latest_step_of_a_deepspeed_folder_lies_in_it(
    latest: str, of_deepspeed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    file, content = of_deepspeed
    torch.save(content, file)
    (file.parent.parent / "latest").write_text(latest)
    with pytest.raises(RequestError, match="has no such folder"):
        consolidate(file.parent.parent, tmp_path / "model", "fp32", None, None)
