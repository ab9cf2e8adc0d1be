"""DeepSpeed gets what the job says, and a file that says something else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import JobError
from launcher.job.reading.job_file import load_job
from launcher.job.schema import DEEPSPEED_TEMPLATES
from launcher.plan.deepspeed_config import TEMPLATES, check_deepspeed, render_deepspeed
from launcher.plan.engines import ENGINES
from launcher.plan.plan import Plan
from launcher.plan.planner import make_plan
from launcher.plan.split import split_batch
from tests.cli import adaptrun
from tests.plan.test_plan import LAPTOP, job

SPLIT = split_batch(global_batch=30, ranks=4, micro_batch=3)


def rendered(folder: Path, engine: dict[str, Any], train: dict[str, Any] | None = None) -> dict[str, Any]:
    made, file = job(folder, engine={"name": "deepspeed"} | engine, train={"global_batch_size": 30} | (train or {}))
    return render_deepspeed(made, file, SPLIT, made.train.precision)


def own(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    (folder / "own.json").write_text(json.dumps(content, indent=2))
    return {"deepspeed": "own.json"}


def test_the_schema_knows_the_templates() -> None:
    assert sorted(DEEPSPEED_TEMPLATES) == sorted(file.stem for file in TEMPLATES.glob("*.json"))


@pytest.mark.parametrize("name", DEEPSPEED_TEMPLATES)
def test_every_auto_of_a_template_is_decided(name: str, tmp_path: Path) -> None:
    nvme = {"nvme_path": "/local"} if name == "zero3_nvme" else {}
    config = rendered(tmp_path, {"deepspeed": name} | nvme, {"clip_norm": 0.5})
    assert "auto" not in json.dumps(config)
    assert config["train_micro_batch_size_per_gpu"] == SPLIT.micro_batch
    assert config["gradient_accumulation_steps"] == SPLIT.accumulation
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["stage"] == int(name[4])
    if nvme:
        assert config["zero_optimization"]["offload_optimizer"]["nvme_path"] == "/local"


def test_a_file_as_people_have_them_is_taken(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    config = rendered(
        tmp_path,
        own(
            tmp_path,
            {
                "bf16": {"enabled": "auto"},
                "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": 1e-8}},
                "zero_optimization": {"stage": 3, "overlap_comm": True, "sub_group_size": 1e9},
                "gradient_clipping": 1.0,
                "train_batch_size": "auto",
                "train_micro_batch_size_per_gpu": "auto",
            },
        ),
    )
    assert config == {
        "bf16": {"enabled": False},
        "zero_optimization": {"stage": 3, "overlap_comm": True, "sub_group_size": 1e9},
        "gradient_clipping": 1.0,
        "train_micro_batch_size_per_gpu": SPLIT.micro_batch,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def test_a_disagreement_names_both_places(tmp_path: Path) -> None:
    content = {
        "gradient_clipping": 0.5,
        "optimizer": {"type": "Adam", "params": {"lr": 3e-4}},
        "zero_optimization": {"stage": 2},
        "train_batch_size": 64,
    }
    with pytest.raises(JobError) as refused:
        rendered(tmp_path, own(tmp_path, content), {"clip_norm": 1.0, "optimizer": {"lr": 1e-4}})
    said = str(refused.value)
    assert f"{tmp_path}/own.json:2:3: gradient_clipping: 0.5 contradicts 1.0" in said
    assert f"which follows from train.clip_norm ({tmp_path}/job.yaml:1:" in said
    for part in (
        "optimizer.type: 'Adam' contradicts 'AdamW'",
        "0.0003 contradicts 0.0001",
        "64 contradicts 30",
    ):
        assert part in said
    assert 'fix: write "auto", or change the job file' in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zero_optimization": {"stage": 0}}, "found 0; allowed is 1, 2 or 3"),
        ({}, "found None; allowed is 1, 2 or 3"),
        (
            {"zero_optimization": {"stage": 1}, "scheduler": {"type": "WarmupLR"}},
            "'WarmupLR' contradicts 'WarmupCosineLR', which follows from train.schedule.name",
        ),
        (
            {"zero_optimization": {"stage": 1}, "scheduler": {"params": {"warmup_num_steps": 10}}},
            "scheduler.params.warmup_num_steps: the schedule is the job's: train.schedule",
        ),
        (
            {"zero_optimization": {"stage": 1}, "steps_per_print": "auto"},
            "steps_per_print: auto is not supported for this key",
        ),
        ({"zero_optimization": {"stage": 2}, "communication_data_type": "fp16"}, "'fp16' contradicts 'fp32'"),
        (
            {"zero_optimization": {"stage": 2}, "data_types": {"grad_accum_dtype": "bf16"}},
            "'bf16' contradicts 'fp32'",
        ),
        (
            {"zero_optimization": {"stage": 3, "zero_quantized_gradients": True}},
            "quantized_gradients: True contradicts",
        ),
    ],
)
def test_what_cannot_work_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=message):
        rendered(tmp_path, own(tmp_path, content))


HUGGING_FACE = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16, "min_loss_scale": 1},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps"), "auto"),
    },
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
"""The ZeRO-3 file of the documentation of `transformers`, of which people have copies."""


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"hidden_size": 64}, (4096, 3686, 640)),
        ({"d_model": 64}, (4096, 3686, 640)),
        ({"text_config": {"hidden_size": 64}}, (4096, 3686, 640)),
        ({"hidden_sizes": [32, 64]}, (4096, 3686, 640)),
        ({"layers": 2}, (None, None, None)),
    ],
)
def test_a_file_as_hugging_face_prints_it_is_taken(
    config: dict[str, Any], sizes: tuple[int | None, ...], tmp_path: Path
) -> None:
    engine = {"name": "deepspeed"} | own(tmp_path, HUGGING_FACE)
    made, file = job(tmp_path, engine=engine, train={"global_batch_size": 30, "schedule": {"name": "linear"}})
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    zero = render_deepspeed(made, file, SPLIT, "fp32")["zero_optimization"]
    names = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
    assert tuple(zero.get(name) for name in names) == sizes
    assert "auto" not in zero.values()


@pytest.mark.parametrize("section", ["bf16", "fp16", "torch_autocast"])
def test_the_precision_of_a_file_agrees_with_that_of_the_job(section: str, tmp_path: Path) -> None:
    content = {"zero_optimization": {"stage": 2}, section: {"enabled": True}}
    precision = "fp16" if section == "fp16" else "bf16"
    config = rendered(tmp_path, own(tmp_path, content), {"precision": precision})
    assert config[section] == {"enabled": False}  # weights stay fp32, and the engine's own autocast does the rest
    with pytest.raises(JobError, match=f"True contradicts False.*\n    fix: train.precision: {precision}"):
        rendered(tmp_path, own(tmp_path, content), {"precision": "fp32"})


def test_check_reads_the_file(tmp_path: Path) -> None:
    engine = {"name": "deepspeed"} | own(tmp_path, HUGGING_FACE | {"gradient_accumulation_steps": 7})
    made, file = job(tmp_path, engine=engine, train={"schedule": {"name": "linear"}})
    check_deepspeed(made, file)  # how often gradients are accumulated depends on the machine
    for text, message in (("{", "not valid JSON"), (json.dumps({"zero_optimization": {"stage": 0}}), "found 0")):
        (tmp_path / "own.json").write_text(text)
        assert message in adaptrun("check", file, cwd=tmp_path, code=2).stderr


def test_copies_of_weights_do_not_go_to_a_disk(tmp_path: Path) -> None:
    offload = {"device": "nvme", "nvme_path": "/local"}
    own(tmp_path, {"zero_optimization": {"stage": 3, "offload_optimizer": offload}})
    engine = {"name": "deepspeed", "deepspeed": "own.json"}
    made, file = job(tmp_path, engine=engine, adapt={"method": "finetune", "average": {"name": "ema"}})
    with pytest.raises(JobError, match=r"offload_optimizer.device: adapt.average keeps copies of the weights"):
        render_deepspeed(made, file, SPLIT, "fp32")


def test_nvme_needs_a_path(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"nvme_path: auto is not supported for this key\n    fix: engine.nvme_path: a folder"
    ):
        rendered(tmp_path, {"deepspeed": "zero3_nvme"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "own.json:1:2: not valid JSON"),
        ("", "own.json:1:1: not valid JSON"),
        ("stage: 2", "own.json:1:1: not valid JSON"),
        ("[1, 2]", "own.json:1:1: a DeepSpeed file must be a JSON object"),
        ('{"zero_optimization": 3}', "own.json:1:1: a DeepSpeed file must be a JSON object"),
        ('{"steps_per_print": 1,\n "steps_per_print": 2}', "own.json:2:2: steps_per_print: the key is given twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(text)
    for use in (rendered, planned):
        with pytest.raises(JobError) as refused:
            use(tmp_path, {"deepspeed": "own.json"})
        assert message in str(refused.value)


def planned(folder: Path, engine: dict[str, Any]) -> Plan:
    return make_plan(*job(folder, engine={"name": "deepspeed"} | engine), LAPTOP)


def test_tabs_are_as_good_as_spaces(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{\n\t"zero_optimization": {\n\t\t"stage": 0\n\t}\n}\n')
    with pytest.raises(JobError, match=r"own\.json:3:3: zero_optimization\.stage: found 0"):
        rendered(tmp_path, {"deepspeed": "own.json"})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"stage": 1}, "zero1"),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, "zero2_offload"),
        ({"stage": 3, "offload_optimizer": {"device": "none"}, "offload_param": {"device": "none"}}, "zero3"),
        ({"stage": 3, "offload_optimizer": {"pin_memory": True}}, "zero3"),
        ({"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/local"}}, "zero3_offload"),
    ],
)
def test_memory_is_planned_for_what_an_own_file_does(content: dict[str, Any], expected: str, tmp_path: Path) -> None:
    made, _ = job(tmp_path, engine={"name": "deepspeed"} | own(tmp_path, {"zero_optimization": content}))
    assert ENGINES["deepspeed"].sharding_of(made).name == expected


def test_the_plan_keeps_it(tmp_path: Path) -> None:
    made, file = job(tmp_path, engine={"name": "deepspeed", "deepspeed": "zero3"})
    plan = make_plan(load_job(file), file, LAPTOP)
    assert (plan.engine, plan.spread) == ("deepspeed", "deepspeed (ZeRO-3)")
    assert made.engine.deepspeed == "zero3"
    plan.save(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
