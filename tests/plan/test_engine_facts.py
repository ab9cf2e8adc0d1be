"""What the plan knows of engines is declared once each."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from launcher.job.reading.job_file import load_job
from launcher.job.schema import DEEPSPEED_TEMPLATES, Engine
from launcher.plan.engines import ENGINES, FOR_SEVERAL, SHARDINGS, engine_with
from launcher.plan.planner import make_plan
from launcher.plan.table import Table
from tests.plan.test_memory import large_job
from tests.plan.test_plan import LAPTOP, job
from tests.test_imports import PACKAGE


def test_the_job_file_the_plan_and_the_ranks_know_the_same_engines() -> None:
    assert {"auto", *ENGINES} == {*get_args(Engine.model_fields["name"].annotation)}
    made = ast.parse((PACKAGE / "engines" / "__init__.py").read_text(encoding="utf-8"))
    compared = [node.comparators[0] for node in ast.walk(made) if isinstance(node, ast.Compare)]
    assert [ast.literal_eval(name) for name in compared] == [*ENGINES]


def test_shardings_are_tried_from_the_least_communication_to_the_most() -> None:
    names = [sharding.name for sharding in FOR_SEVERAL]
    assert names == ["ddp", "zero1", "zero2", "fsdp", "zero3", "zero2_offload", "zero3_offload"]


@pytest.mark.parametrize("name", SHARDINGS)
def test_a_job_with_the_spelling_of_a_sharding_has_it_on_as_many_ranks_as_are_planned(
    name: str, tmp_path: Path
) -> None:
    made, file = job(tmp_path, engine=dict(SHARDINGS[name].section))
    engine = engine_with(SHARDINGS[name])
    assert engine.sharding_of(made) is SHARDINGS[name]
    plan = make_plan(made, file, LAPTOP)
    assert plan.engine == engine.name
    assert plan.mesh.size == plan.world
    assert plan.mesh.data_size == plan.split.ranks


def test_every_template_but_that_of_a_disk_is_a_sharding() -> None:
    assert {*DEEPSPEED_TEMPLATES} - {*SHARDINGS} == {"zero3_nvme"}


def test_a_table_for_one_gpu_judges_the_engine_that_the_job_names(tmp_path: Path) -> None:
    file = large_job(tmp_path, micro_batch_size=1, max_length=128, activation_checkpointing=True)
    offloading = load_job(file, ["engine.name=deepspeed", "engine.deepspeed=zero3_offload"])
    assert "\nfits: zero3_offload (zero3_offload), " in str(Table.of(offloading, 1, 80 * 2**30))
    assert "\ndoes not fit: ddp takes " in str(Table.of(load_job(file, ["engine.name=ddp"]), 1, 80 * 2**30))
