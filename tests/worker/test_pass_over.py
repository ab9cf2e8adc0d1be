"""A pass computes each sample once on any number of ranks, in evaluation mode, and there is one such loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from launcher.models.parts.batch import Batch
from launcher.worker.evaluation import pass_over as module_of_the_pass
from launcher.worker.evaluation.pass_over import PerSampleRows, pass_over
from launcher.worker.rank.preemption import StopAgreed
from launcher.worker.rank.world import World
from tests.worlds import Worlds

LAUNCHER = Path(__file__).resolve().parents[2] / "launcher"
SAMPLES = 11


class Numbers:
    """Samples of ragged length, each of which is its own number."""

    lengths = np.arange(1, SAMPLES + 1, dtype=np.int32)[::-1] % 5 + 1

    def __getitem__(self, ids: Any) -> list[int]:
        return list(ids)


class Plain:
    """A task whose batch holds the numbers."""

    one_length = False

    def collate(self, examples: list[int], ids: list[int]) -> Batch:
        numbers = torch.tensor(examples)
        return Batch({"numbers": numbers.double()}, numbers, torch.ones(len(ids)), torch.tensor(ids), len(ids))


def passed(world: World, forward: Any, **options: Any) -> Iterator[Any]:
    return pass_over(Numbers(), Plain(), options.pop("module", nn.Identity()), world, forward, **options)  # type: ignore[arg-type]


def squares(rank: int, size: int, batch_size: int, chosen: list[int] | None) -> tuple[Any, Any, int, int]:
    """Of each chosen sample its square, on rank 0 and on all; how often `before_batch` and `forward` were called."""
    world, calls = World(rank, rank, size), [0, 0]
    rows = PerSampleRows(world, SAMPLES if chosen is None else len(chosen))

    def before_batch() -> None:
        calls[0] += 1

    def forward(batch: Batch) -> Tensor:
        assert not torch.is_grad_enabled()
        calls[1] += 1
        return batch.inputs["numbers"] ** 2

    places = None if chosen is None else np.array(chosen)
    for computed in passed(
        world, forward, batch_size=batch_size, before_batch=before_batch, chosen=places, with_filler=True
    ):
        rows.add(computed.places, torch.stack([computed.result, -computed.result], dim=1))
    first, everywhere = rows.on_first(), rows.on_all(2)
    return None if first is None else first.tolist(), everywhere.tolist(), *calls


@pytest.mark.parametrize("chosen", [None, [1, 2, 5, 8]])
@pytest.mark.parametrize(("size", "batch_size"), [(1, 2), (2, 3), (3, 2), (3, SAMPLES)])
def test_results_of_each_sample_come_once_and_in_order_at_any_world_size(
    size: int, batch_size: int, chosen: list[int] | None, worlds: Worlds
) -> None:
    expected = [[number**2, -(number**2)] for number in (range(SAMPLES) if chosen is None else chosen)]
    found = worlds.run(size, squares, batch_size, chosen)
    assert [first for first, *_ in found] == [expected] + [None] * (size - 1)
    assert all(everywhere == expected for _, everywhere, *_ in found)
    assert len({(polls, forwards) for *_, polls, forwards in found}) == 1, "equally often on all ranks"


def one_twice(rank: int, size: int) -> str:
    """Deal sample 3 twice and sample 4 never."""
    dealt = module_of_the_pass.batches_of_rank

    def wrong(*arguments: Any, **options: Any) -> Iterator[Any]:
        return (np.where(places == 4, 3, places) for places in dealt(*arguments, **options))

    module_of_the_pass.batches_of_rank = wrong
    try:
        list(passed(World(rank, rank, size), lambda batch: None, batch_size=2))
    except RuntimeError as error:
        return str(error)
    finally:
        module_of_the_pass.batches_of_rank = dealt
    return ""


def test_a_sample_that_is_computed_twice_in_place_of_another_is_an_error_on_every_rank(worlds: Worlds) -> None:
    assert worlds.run(2, one_twice) == ["the pass covered 11 of 11 samples, not each of them once"] * 2


def test_what_the_poll_raises_ends_the_pass_and_the_module_trains_on() -> None:
    module, polls = nn.Dropout(), iter([None, None, StopAgreed()])

    def poll() -> None:
        if (raised := next(polls)) is not None:
            raise raised

    seen = []
    with pytest.raises(StopAgreed):
        for computed in passed(World(), lambda _: module.training, batch_size=1, module=module, before_batch=poll):
            seen.append(computed.result)
    assert seen == [False, False]
    assert module.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_forward_computes_in_the_precision_of_the_pass(precision: str, expected: torch.dtype) -> None:
    matrix = torch.ones(2, 2)
    found = [c.result.dtype for c in passed(World(), lambda _: matrix @ matrix, batch_size=4, precision=precision)]
    assert set(found) == {expected}


def test_there_is_no_second_such_loop() -> None:
    """Who deals batches to ranks passes over a data set; only the padding check computes without a pass."""
    assert files_that_name("batches_of_rank") == {"worker/evaluation/pass_over.py"}
    assert files_that_name("evaluating") == {"worker/evaluation/pass_over.py", "worker/evaluation/padding_check.py"}


def files_that_name(name: str) -> set[str]:
    found = set()
    for file in LAUNCHER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if name in (getattr(node, "id", None), getattr(node, "attr", None)) or (
                isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
            ):
                found.add(file.relative_to(LAUNCHER).as_posix())
    return found
