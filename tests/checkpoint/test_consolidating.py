"""`adaptrun consolidate`: checkpoints of every engine, of DeepSpeed itself and of torch become model folders."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from launcher.checkpoint import from_dcp
from launcher.checkpoint.consolidating import consolidate
from launcher.checkpoint.from_dcp import dcp_weights
from launcher.checkpoint.saving import Checkpoints
from launcher.engines.base import StateDict
from launcher.errors import RequestError
from launcher.files import HASHES
from launcher.run.checkpoints import MARKER
from tests.cli import adaptrun
from tests.engines.test_engines import ADAMW, ENGINES, started, take_steps, whole
from tests.models.test_stored import peak
from tests.worlds import Worlds

M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""


def save_steps(rank: int, size: int, name: str, folder: str) -> dict[str, Any]:
    _, engine = started(name, ADAMW)
    list(take_steps(engine, rank, size, range(2), ADAMW["lr"]))
    Checkpoints(Path(folder) / "checkpoints", keep=1).save(2, engine.state(), {}, best_step=None)
    return {name.removeprefix("model."): values for name, values in whole(engine).items() if name.startswith("model.")}


@pytest.mark.parametrize(("name", "size"), [("single", 1), *((name, 2) for name in ENGINES[1:]), ("zero3", 3)])
def test_a_checkpoint_of_any_engine_becomes_its_weights(name: str, size: int, worlds: Worlds, tmp_path: Path) -> None:
    expected = worlds.run(size, save_steps, name, str(tmp_path))[0]
    count = consolidate(tmp_path, tmp_path / "model", "fp32", skeleton=None, prefix=None)
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert count == len(found)
    assert {name: tensor.tolist() for name, tensor in found.items()} == expected


class TiedNet(nn.Module):
    """With what makes a checkpoint of DeepSpeed difficult: odd sizes, a tied and a frozen weight, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 3)
        self.twice = nn.Linear(3, 5, bias=False)
        self.twice.weight = self.first.weight
        self.scale = nn.Parameter(torch.randn(7))
        self.frozen = nn.Parameter(torch.randn(5, 1), requires_grad=False)
        self.register_buffer("seen", torch.tensor([3, 1, 4]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.second(self.first(x) + self.twice(x) + self.frozen[:, 0]) * self.scale.sum()).sum()


def save_by_deepspeed(rank: int, size: int, stage: int, folder: str, bf16: bool = False) -> None:
    """As a script by hand would: DeepSpeed's own engine, one step, `save_checkpoint`."""
    from launcher.engines.deepspeed import _import_deepspeed

    deepspeed = _import_deepspeed(torch.device("cpu"))
    model = TiedNet()
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in learning if p.ndim > 1]}, {"params": [p for p in learning if p.ndim == 1]}]
    engine = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=1e-2),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": stage},
            "bf16": {"enabled": bf16},
            "zero_allow_untested_optimizer": True,
        },
        dist_init_required=False,
    )[0]
    engine.backward(engine(torch.full((1, 3), 1.0 + rank, dtype=torch.bfloat16 if bf16 else torch.float32)))
    engine.step()
    engine.save_checkpoint(folder)


@pytest.mark.parametrize(("size", "bf16"), [(1, False), (2, False), (3, False), (2, True)])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeeds_own_checkpoint_gives_what_zero_to_fp32_gives(
    stage: int, size: int, bf16: bool, worlds: Worlds, tmp_path: Path
) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    worlds.run(size, save_by_deepspeed, stage, str(tmp_path / "saved"), bf16)
    expected = get_fp32_state_dict_from_zero_checkpoint(str(tmp_path / "saved"))
    consolidate(tmp_path / "saved", tmp_path / "model", "fp32", skeleton=None, prefix=None)
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert set(expected) - set(found) == {"twice.weight"}, "the tied weight is written once"
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
        assert tensor.shape == expected[name].shape
    assert not torch.equal(found["scale"], TiedNet().scale), "it has learnt"
    step = next((tmp_path / "saved").glob("global_step*"))
    consolidate(step, tmp_path / "again", "bf16", skeleton=None, prefix=None)
    half = load_file(tmp_path / "again" / "model.safetensors")
    assert torch.equal(half["first.weight"], expected["first.weight"].bfloat16())
    assert half["seen"].tolist() == [3, 1, 4]


def test_a_missing_rank_and_foreign_code_are_refused(worlds: Worlds, tmp_path: Path) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    worlds.run(2, save_by_deepspeed, 2, str(tmp_path / "saved"))
    step = next((tmp_path / "saved").glob("global_step*"))
    optimizer_file = sorted(step.glob("*_optim_states.pt"))[1]
    content = torch.load(optimizer_file, weights_only=False)
    optimizer_file.unlink()
    with pytest.raises(RequestError, match="found 1 files of optimizer states and ZeRO stage 2 wrote 2"):
        consolidate(tmp_path / "saved", tmp_path / "model", "fp32", None, None)
    for surprise, name in (
        (shutil.rmtree, r"shutil\.rmtree"),
        (get_fp32_state_dict_from_zero_checkpoint, r"deepspeed\.utils\.zero_to_fp32\."),
    ):
        torch.save(content | {"surprise": surprise}, optimizer_file)
        with pytest.raises(RequestError, match=rf"names {name}[\w.]*, which could run code"):
            consolidate(tmp_path / "saved", tmp_path / "model", "fp32", None, None)
    optimizer_file.write_bytes(b"PK no zip")
    with pytest.raises(RequestError, match="cannot be read"):
        consolidate(tmp_path / "saved", tmp_path / "model", "fp32", None, None)
    assert not (tmp_path / "model").exists()


def test_folders_of_torch_are_taken_with_the_usual_or_a_given_prefix(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    model = nn.Linear(3, 2)
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    moments = {"weight": torch.ones(2, 3)}
    save({"model": compiled, "optimizer": moments}, checkpoint_id=tmp_path / "both", no_dist=True)
    save({"model.layer": torch.ones(2), "head": torch.zeros(2)}, checkpoint_id=tmp_path / "plain", no_dist=True)
    save({"ema": model.state_dict(), "model": compiled}, checkpoint_id=tmp_path / "other", no_dist=True)
    for source, prefix in (("both", None), ("other", "ema.")):
        consolidate(tmp_path / source, tmp_path / f"{source}-model", "fp32", None, prefix)
        found = load_file(tmp_path / f"{source}-model" / "model.safetensors")
        assert set(found) == {"weight", "bias"}
        assert torch.equal(found["weight"], model.weight)
    consolidate(tmp_path / "plain", tmp_path / "plain-model", "fp32", None, None)
    assert set(load_file(tmp_path / "plain-model" / "model.safetensors")) == {"model.layer", "head"}
    with pytest.raises(RequestError, match="holds no weights whose names begin with 'none'"):
        consolidate(tmp_path / "plain", tmp_path / "no-model", "fp32", None, "none")


def test_a_tensor_is_in_memory_once(worlds: Worlds, tmp_path: Path) -> None:
    size, taken = worlds.run(1, memory_of_consolidating, str(tmp_path))[0]
    assert size < taken < 1.5 * size, "the largest tensor and a buffer, which is a quarter of it"


def memory_of_consolidating(rank: int, size: int, folder: str) -> tuple[int, int]:
    """Bytes of the largest tensor, and what consolidating took at most; in a process that does nothing else.

    The allocator gives each block back at once, so that what it would keep for later is not counted as held.
    """
    allocator = ctypes.CDLL(None)
    allocator.mallopt(M_MMAP_THRESHOLD, 2**16)
    allocator.malloc_trim(0)
    large, source = {f"model.{name}": torch.ones(64, 2**18) for name in "abc"}, Path(folder)
    Checkpoints(source / "checkpoints", keep=1).save(1, state_of(large), {}, best_step=None)
    consolidate(source, source / "first", "fp32", None, None)  # imports what is imported late
    with peak() as reached:
        before = reached[0]
        consolidate(source, source / "model", "bf16", None, None)
    return large["model.a"].nbytes, max(reached) - before


def state_of(weights: dict[str, torch.Tensor]) -> StateDict:
    return {"model": {**weights}, "learning": {}, "optimizer": {}, "scaler": {}}


def test_parts_that_are_no_runs_of_elements_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    Checkpoints(tmp_path / "checkpoints", keep=1).save(1, state_of({"model.w": whole}), {}, best_step=None)
    source = tmp_path / "checkpoints" / "step-00000001"
    read = dcp_weights(source, None)[0]
    assert torch.equal(torch.cat([part.flatten() for part in read.pieces()]), whole.flatten())
    monkeypatch.setattr(from_dcp, "boxes", lambda *_: iter(()))
    (again,) = dcp_weights(source, None)[0].pieces()
    assert torch.equal(again, whole)


def test_a_damaged_file_is_named_with_what_is_in_it(tmp_path: Path) -> None:
    weights = {"model.w": torch.ones(4, 6), "model.v": torch.ones(2**16)}
    Checkpoints(tmp_path / "checkpoints", keep=1).save(1, state_of(weights), {}, best_step=None)
    (file,) = (tmp_path / "checkpoints" / "step-00000001").glob("*.distcp")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    said = adaptrun("consolidate", tmp_path, "-o", "out", cwd=tmp_path, code=2).stderr
    assert re.search(r"are damaged: step-00000001: __0_0\.distcp has [\d,]+ bytes, and [\d,]+ were written", said)
    assert "Traceback" not in said
    (file.parent / MARKER).write_text('{"format": 1}')
    (file.parent / HASHES).unlink()
    with pytest.raises(RequestError, match=r"step-00000001: model/model\.v cannot be read: "):
        consolidate(tmp_path, tmp_path / "out", "fp32", None, None)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote_and_refuses_what_is_no_checkpoint(tmp_path: Path, tiny_model: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    save({"weight": torch.ones(2, 3)}, checkpoint_id=tmp_path / "saved", no_dist=True)
    said = adaptrun("consolidate", "saved", "-o", "model", "--dtype", "bf16", cwd=tmp_path).stdout
    assert "model: 1 tensors in bf16, 0 MiB, read back and compared" in said
    assert "without config.json" in said
    adaptrun("consolidate", "saved", "-o", "like", "--like", str(tiny_model), cwd=tmp_path)
    assert json.loads((tmp_path / "like" / "config.json").read_text())["dtype"] == "float32"
    (tmp_path / "nothing").mkdir()
    for arguments, message in [
        (("nothing", "-o", "x"), "nothing is neither a run, nor a checkpoint of one, nor a folder that DeepSpeed or"),
        (("absent", "-o", "x"), "there is no folder absent"),
        (("saved", "-o", "model"), "model exists already"),
        (("saved", "-o", "x", "--like", "nothing"), "nothing holds no config.json"),
    ]:
        assert message in adaptrun("consolidate", *arguments, cwd=tmp_path, code=2).stderr
    assert not (tmp_path / "x").exists()
