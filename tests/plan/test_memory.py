"""The memory that is planned is the memory that is held."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from launcher.adapt.options.weight_options import WeightOptions
from launcher.errors import JobError, ModelError
from launcher.job.pretrained import Pretrained, find_pretrained
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Model
from launcher.job.sections.adapters import LowRank
from launcher.job.sections.adapting import Ema
from launcher.job.sections.methods import Finetune
from launcher.job.sections.training import Optimizer
from launcher.plan.adapter_size import from_shapes
from launcher.plan.engines import memory_of
from launcher.plan.hardware import Gpu, Hardware
from launcher.plan.memory import Memory, Workload
from launcher.plan.model_size import ModelSize, find_model_size
from launcher.plan.planner import make_plan, with_smaller_micro_batches
from launcher.plan.table import Table
from tests.cli import adaptrun
from tests.engines.test_engines import ENGINES, Net, engine_of, micro_batch, whole_in_fsdp
from tests.plan.test_plan import job
from tests.thinning import every, thinned
from tests.tiny import tiny_model_folder
from tests.worlds import Worlds

WORLDS = every(2, [("single", 1), *((name, size) for size in (2, 3) for name in ENGINES[1:])])
OPTIMIZERS: list[dict[str, Any]] = [{"name": "adamw"}, {"name": "sgd", "momentum": 0.9}, {"name": "sgd"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("memory") / "model", hidden=96)


LORA = {"kind": "lora"}
FROZEN = "bert.embeddings.*"


def measured(
    rank: int,
    size: int,
    folder: str,
    engine_name: str,
    optimizer: dict[str, Any],
    frozen: tuple[str, ...],
    lora: dict[str, Any] | None = None,
    averages: bool = False,
) -> tuple[int, int, int]:
    """Bytes that this rank holds of weights, gradients and optimizer."""
    from torch.distributed.tensor import DTensor
    from transformers import AutoModelForSequenceClassification

    from launcher.adapt.adapters.adapters import AdapterContext
    from launcher.adapt.adapters.lora import add_lora
    from launcher.models.weights.loading import Loaded, freeze
    from tests.worker.test_evaluating import tiny_task

    task, _ = tiny_task(folder)
    module = task.build(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3 if lora is None else 2))
    freeze(module.model, frozen)
    if lora is not None:
        place = find_pretrained(Model(pretrained=folder))
        setting = AdapterContext(place, None, task.auto_class, seed=0)
        add_lora(LowRank.model_validate(lora), Loaded(module.model, (), ()), setting)
    engine: Any = engine_of(engine_name, None)
    engine.prepare(module, Optimizer.model_validate(optimizer), {})
    average = Ema(name="ema") if averages else None
    options = WeightOptions(Finetune(average=average), engine, 1, 1, interpolates=False)
    batch = task.collate([{"input_ids": [5, 6], "length": 2, "label": 0}], [0])
    engine.accumulate(batch, 1.0, last=False)
    local = held_by_zero(engine)[1] if engine_name == "zero1" else 0  # whole until they are reduced
    engine.accumulate(batch, 1.0, last=True)

    def held(tensors: Any) -> int:
        return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)

    if not engine_name.startswith("zero"):
        gradients = held(p.grad for p in engine.module.parameters() if p.grad is not None)
        weights = held(engine.module.parameters())
    else:
        weights, gradients = held_by_zero(engine)
        gradients = max(gradients, local)
    engine.step(1e-3)
    moments = held(t for slots in options.state()["optimizer"].values() for t in slots.values() if t is not None)
    return weights, gradients, moments


def held_by_zero(engine: Any) -> tuple[int, int]:
    """Weights with the flat copy that is stepped; gradients before the step, wherever DeepSpeed keeps them."""
    zero, parameters = engine._zero, list(engine.module.parameters())
    if engine._sharded:
        flats, weights = zero.fp32_partitioned_groups_flat, sum(p.ds_tensor.nbytes for p in parameters)
        gradients = sum(part.nbytes for group in zero.averaged_gradients.values() for part in group)
    else:
        flats, weights = zero.single_partition_of_fp32_groups, sum(p.nbytes for p in parameters)
        gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
        gradients = gradients or sum(g.nbytes for group in zero.averaged_gradients.values() for g in group or ())
    return weights + sum(flat.nbytes for flat in flats), gradients


@pytest.mark.parametrize(
    ("optimizer", "frozen"),
    [*((optimizer, ()) for optimizer in OPTIMIZERS), (OPTIMIZERS[0], (FROZEN,))],
    ids=["adamw", "momentum", "sgd", "frozen"],
)
@pytest.mark.parametrize(("engine", "size"), WORLDS)
def test_the_plan_is_within_a_hundredth_of_what_is_held(
    engine: Any, size: int, optimizer: dict[str, Any], frozen: tuple[str, ...], model: Path, worlds: Worlds
) -> None:
    model_size = find_model_size(find_pretrained(Model(pretrained=str(model))), frozen)
    assert model_size is not None
    assert not model_size.is_estimated
    load = Workload(tokens=0, precision="fp32", recomputes=False)
    planned = memory_of(model_size, Optimizer.model_validate(optimizer), engine, size, load)
    for weights, gradients, moments in worlds.run(size, measured, str(model), engine, optimizer, frozen):
        assert planned.weights == pytest.approx(weights, rel=0.01)
        assert planned.gradients == pytest.approx(gradients, rel=0.01)
        assert planned.optimizer == pytest.approx(moments, rel=0.01)


@pytest.mark.parametrize(("engine", "size"), [("single", 1), ("fsdp", 2), ("zero2", 3), ("zero3", 2)])
def test_so_it_is_with_an_average_beside(engine: Any, size: int, model: Path, worlds: Worlds) -> None:
    model_size = find_model_size(find_pretrained(Model(pretrained=str(model))))
    assert model_size is not None
    load, optimizer = Workload(tokens=0, precision="fp32", recomputes=False), OPTIMIZERS[0]
    copies = Finetune(average=Ema(name="ema")).copies
    planned = memory_of(model_size, Optimizer.model_validate(optimizer), engine, size, load, copies)
    for weights, _, moments in worlds.run(size, measured, str(model), engine, optimizer, (), None, True):
        assert planned.weights == pytest.approx(weights, rel=0.01)
        assert planned.optimizer == pytest.approx(moments, rel=0.01)


def gathered(rank: int, size: int, folder: str) -> tuple[int, int]:
    """Bytes of weights that are whole after a forward pass; of gradients between micro-batches."""
    from transformers import AutoModelForSequenceClassification

    from tests.worker.test_evaluating import tiny_task

    task, _ = tiny_task(folder)
    engine = engine_of("fsdp", None)
    engine.prepare(task.build(AutoModelForSequenceClassification.from_pretrained(folder)), Optimizer(), {})
    batch = task.collate([{"input_ids": [5, 6], "length": 2, "label": 0}], [0])
    losses = engine.module(batch)
    weights, _ = whole_in_fsdp(engine)
    losses.weighted.sum().backward()
    engine.accumulate(batch, 1.0, last=False)
    return weights, whole_in_fsdp(engine)[1]


def test_what_fsdp_has_whole_is_planned(model: Path, worlds: Worlds, tmp_path: Path) -> None:
    train = {"max_length": 32, "global_batch_size": 64, "micro_batch_size": 4}
    made, file = job(tmp_path, model={"pretrained": str(model)}, train=train, engine={"name": "fsdp"})
    size = find_model_size(find_pretrained(made.model))
    assert size is not None
    plan = make_plan(made, file, Hardware((), cores=2, memory=2**33))
    for weights, gradients in worlds.run(2, gathered, str(model)):
        assert 4 * size.outside == pytest.approx(weights, rel=0.01)
        assert plan.memory is not None
        assert plan.memory.gradients == pytest.approx(gradients, rel=0.01)
        assert plan.memory.communication > weights
    assert plan.whole_gradients
    assert not with_smaller_micro_batches(plan, made, file, 2).whole_gradients


def reserved(rank: int, size: int, name: str) -> int:
    """Bytes of what DeepSpeed reserves to reduce gradients in, during a backward pass."""
    engine: Any = engine_of(name, None)
    engine.prepare(Net(), Optimizer(), {})
    found: list[int] = []

    def note(_: object) -> None:
        buckets = [bucket.buffer for bucket in engine._zero.ipg_buckets.values()]
        found.append(sum(t.nbytes for held in buckets for t in (held if isinstance(held, list) else [held])))

    dict(engine.module.named_parameters())["model.0.weight"].register_hook(note)
    engine.accumulate(micro_batch(0, [0]), 1.0, last=True)
    return max(found)


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_on_gpus_deepspeeds_buckets_are_as_large_for_a_small_model(name: Any, worlds: Worlds) -> None:
    small, load = ModelSize(1000, 100, 100), Workload(tokens=0, precision="fp32", recomputes=False)
    on_gpu, on_cpu = (
        memory_of(small, Optimizer(), name, 2, load, takes_what_it_reserves=takes).communication
        for takes in (True, False)
    )
    assert on_gpu == pytest.approx(worlds.run(2, reserved, name)[0], rel=0.01)
    assert on_cpu < 6000, "its pages are taken as they are written to"


def test_gradients_are_sliced_where_whole_ones_do_not_fit(model: Path, tmp_path: Path) -> None:
    train = {"max_length": 32, "global_batch_size": 64, "micro_batch_size": 1}
    made, file = job(tmp_path, model={"pretrained": str(model)}, train=train, engine={"name": "fsdp"})
    roomy = make_plan(made, file, Hardware((Gpu("large", 2**35, 9.0),) * 2, 8, 2**33)).memory
    assert roomy is not None
    small = Gpu("small", int(roomy.total), 9.0)
    plan = make_plan(made, file, Hardware((small, small), 8, 2**33))
    assert plan.memory is not None
    assert not plan.whole_gradients
    assert plan.memory.gradients == pytest.approx(roomy.gradients / 2, rel=0.01)
    assert "gradients are reduced after each micro-batch, since whole gradients do not fit into memory" in plan.reasons
    alone, file = job(tmp_path, model={"pretrained": str(model)}, train={"max_length": 32}, engine={"name": "fsdp"})
    plan = make_plan(alone, file, Hardware((Gpu("large", 2**35, 9.0),) * 2, 8, 2**33))
    assert (plan.split.accumulation, plan.whole_gradients) == (1, False), "nothing waits between micro-batches"
    assert not any("gradients are reduced" in reason for reason in plan.reasons)


LORAS: list[dict[str, Any]] = [
    {"kind": "lora"},
    {"kind": "dora", "rank": 16, "targets": ["query", "output.dense"]},
]


@pytest.mark.parametrize("lora", LORAS, ids=["lora", "dora"])
@pytest.mark.parametrize(("engine", "size"), WORLDS)
def test_so_it_is_with_adapters(engine: Any, size: int, lora: dict[str, Any], model: Path, worlds: Worlds) -> None:
    model_size = find_model_size(find_pretrained(Model(pretrained=str(model))), adapters=LowRank.model_validate(lora))
    assert model_size is not None
    load = Workload(tokens=0, precision="fp32", recomputes=False)
    planned = memory_of(model_size, Optimizer(), engine, size, load)
    held = worlds.run(size, measured, str(model), engine, {"name": "adamw"}, (), lora)
    for part, found in zip(("weights", "gradients", "optimizer"), zip(*held, strict=True), strict=True):
        assert getattr(planned, part) == pytest.approx(max(found), rel=0.01), part
    assert planned.gradients < 0.2 * planned.weights


def test_minilm_is_counted_from_its_header() -> None:
    from transformers import AutoModel

    place = find_pretrained(Model(pretrained="minilm"))
    loaded = AutoModel.from_pretrained(place.location)
    size = find_model_size(place)
    assert size is not None
    assert size.parameters == sum(parameter.numel() for parameter in loaded.parameters())
    assert size.largest == loaded.embeddings.word_embeddings.weight.numel()
    assert size.block == sum(parameter.numel() for parameter in loaded.encoder.layer[0].parameters())
    assert (size.layers, size.hidden, size.intermediate, size.heads) == (6, 384, 1536, 12)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 20])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    made, file = job(tmp_path)
    (tmp_path / "tiny" / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"tiny/model\.safetensors is no valid safetensors file"):
        make_plan(made, file, Hardware((), cores=2, memory=2**33))


def test_several_files_are_counted_together(model: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(model)
    whole.save_pretrained(tmp_path / "parts", max_shard_size="200KB")
    model_folder = tiny_model_folder(tmp_path / "tokenizer")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    spec = Model(pretrained=str(tmp_path / "parts"), tokenizer=str(model_folder))
    size = find_model_size(find_pretrained(spec))
    assert size is not None
    assert size.parameters == sum(p.numel() for p in whole.parameters())


def test_auto_shards_what_does_not_fit(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, file = job(tmp_path, model={"pretrained": str(model)}, train={"max_length": 32})
    needed = make_plan(made, file, Hardware((), cores=2, memory=2**33)).memory
    assert needed is not None
    small = Gpu("small", int(needed.state * 1.1), 9.0)
    large = Gpu("large", int(needed.state * 1.5), 9.0)
    sharded = make_plan(made, file, Hardware((small, small), 8, 2**33))
    assert sharded.engine == "fsdp"
    assert any(reason.startswith("fsdp: ddp would take") for reason in sharded.reasons)
    assert sharded.memory is not None
    assert sharded.memory.state == pytest.approx(needed.state / 2, rel=1e-3)
    assert make_plan(made, file, Hardware((large, large), 8, 2**33)).engine == "ddp"


def test_sizes_are_told_in_words() -> None:
    text = str(Memory(87 * 2**20, 87 * 2**20, 174 * 2**20, activations=2**30, communication=0))
    assert text == (
        "1372 MiB a process: weights 87 MiB, gradients 87 MiB, optimizer 174 MiB, about 1024 MiB of activations, "
        "0 MiB of buffers"
    )


def kept_for_backward(model: Any, samples: int, length: int, bf16: bool) -> int:
    """Bytes of tensors that autograd keeps, each memory once, weights not counted."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(5, 400, (samples, length))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        out = model(input_ids=ids).logits
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("adapt", [None, {}, {"dropout": 0.1}, {"kind": "dora"}], ids=str)
def test_activations_are_estimated_within_a_fifth(adapt: dict[str, Any] | None, family: str, precision: str) -> None:
    """Without the model's dropout, whose masks and unfused attention only a CPU keeps."""
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    from launcher.adapt.adapters.adapters import AdapterContext
    from launcher.adapt.adapters.lora import add_lora
    from launcher.models.weights.loading import Loaded

    common: dict[str, Any] = {"num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 500, "pad_token_id": 0}
    if family == "bert":
        none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = BertConfig(hidden_size=256, intermediate_size=1024, **common, **none)
        model: Any = BertForSequenceClassification(config)
    else:
        config = LlamaConfig(hidden_size=256, intermediate_size=704, num_key_value_heads=4, **common)
        model = LlamaForSequenceClassification(config)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    size = ModelSize(
        sum(counts.values()), max(counts.values()), 0, 6, 256, config.intermediate_size, 8, family == "llama"
    )
    if adapt is not None:
        lora = LowRank.model_validate(LORA | adapt)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        size = replace(size, adapters=from_shapes(lora, shapes, {}, 256, learns_head=True))
        setting = AdapterContext(Pretrained("folder", "x", "x", "x"), None, "", seed=0)
        add_lora(lora, Loaded(model, (), ()), setting)
    planned = memory_of(size, Optimizer(), "ddp", 2, Workload(8 * 128, precision, recomputes=False)).activations
    assert planned == pytest.approx(kept_for_backward(model.train(), 8, 128, precision == "bf16"), rel=0.2)


def peak_of_allocations(work: Any) -> int:
    """The most bytes that are allocated at a time, beyond what was there before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize(
    ("precision", "vocabulary", "with_lm_head"),
    thinned([(p, *head) for p in ("fp32", "bf16") for head in ((500, False), (8000, True))], [("fp32", 8000, True)]),
)
def test_the_peak_of_a_step_of_one_micro_batch_is_planned(precision: str, vocabulary: int, with_lm_head: bool) -> None:
    """Gradients take the place of freed activations; of later micro-batches they are there beforehand."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

    config = BertConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        vocab_size=vocabulary,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model: Any = (BertForMaskedLM if with_lm_head else BertForSequenceClassification)(config)
    ids = torch.randint(5, 400, (8, 128))
    labels = ids if with_lm_head else torch.zeros(8, dtype=torch.long)

    def micro_batch() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()

    micro_batch()
    model.zero_grad(set_to_none=True)
    first, later = peak_of_allocations(micro_batch), peak_of_allocations(micro_batch)

    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total, block = sum(counts.values()), sum(count for name, count in counts.items() if "layer.0." in name)
    size = ModelSize(total, max(counts.values()), block, 6, 256, 1024, 8, outside=total - 6 * block)
    size = replace(size, vocabulary=vocabulary if with_lm_head else 0)
    one, several = (
        memory_of(size, Optimizer(), "single", 1, Workload(8 * 128, precision, recomputes=False, accumulates=waits))
        for waits in (False, True)
    )
    assert one.gradients == several.gradients
    assert one.activations + one.gradients == pytest.approx(first, rel=0.1)
    assert several.activations == pytest.approx(later, rel=0.1)


LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
}


def large_job(folder: Path, **train: Any) -> Path:
    """A job over a model of which only the config is here."""
    _, file = job(folder, train=train)
    (folder / "tiny" / "config.json").write_text(json.dumps(LLAMA_70B))
    return file


def test_a_large_model_is_judged_from_its_config_without_torch(tmp_path: Path) -> None:
    file = large_job(tmp_path, global_batch_size=64, max_length=4096)
    code = (
        "import sys, time; from pathlib import Path; from launcher.job.reading.job_file import load_job; "
        "from launcher.plan.table import Table; begun = time.perf_counter(); "
        f"print(Table.of(load_job(Path({str(file)!r})), 16, 80 * 2**30)); "
        "print('torch' in sys.modules, time.perf_counter() - begun < 1)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("about 69.50 billion parameters on 16 GPUs of 80.0 GiB")
    assert said.endswith("False True\n")
    assert "does not fit: ddp takes" in said
    assert "fix: engine: {name: deepspeed, deepspeed: zero3_offload}, train.micro_batch_size: 1" in said


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_of_a_language_model_is_counted_unless_it_is_tied(is_tied: bool, tmp_path: Path) -> None:
    large_job(tmp_path)
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(LLAMA_70B | {"tie_word_embeddings": is_tied}))
    place = find_pretrained(Model(pretrained=str(tmp_path / "tiny")))
    base, whole = find_model_size(place), find_model_size(place, with_lm_head=True)
    assert base is not None
    assert whole is not None
    assert whole.parameters - base.parameters == (0 if is_tied else 128256 * 8192)


def test_the_command_prints_the_table_and_the_cheapest_fix(tmp_path: Path) -> None:
    file = large_job(tmp_path, global_batch_size=256, max_length=2048, activation_checkpointing=True)
    answer = json.loads(
        adaptrun("plan", file, "--gpus", 8, "--nodes", 16, "--gpu-memory", "80GiB", "--json", cwd=tmp_path).stdout
    )
    rows = {row["sharing"]: row for row in answer["rows"]}
    assert rows["fsdp"]["fits"]
    assert not rows["ddp"]["fits"]
    assert rows["fsdp"]["memory"]["weights"] == pytest.approx(rows["ddp"]["memory"]["weights"] / 128, rel=1e-3)
    assert answer["verdict"].startswith("fits: fsdp (the first that fits)")
    assert answer["consolidation"] == 4 * 128256 * 8192 + 16 * 2**20
    text = adaptrun("plan", file, "--gpus", 8, "--set", "engine.name=ddp", cwd=tmp_path).stdout
    assert "does not fit: ddp takes" in text
    assert (
        "not a size; write 80GiB"
        in adaptrun("plan", file, "--gpus", 8, "--gpu-memory", "much", cwd=tmp_path, code=2).stderr
    )


def test_what_cannot_fit_is_refused_with_the_cheapest_change(model: Path, tmp_path: Path) -> None:
    made, file = job(tmp_path, model={"pretrained": str(model)}, train={"max_length": 32}, engine={"name": "ddp"})
    size = find_model_size(find_pretrained(made.model))
    assert size is not None
    gpu = Gpu("small", int(3.5 * 4 * size.parameters), 9.0)
    with pytest.raises(JobError, match=r"weights, gradients and optimizer take .* with ddp, and a GPU has") as refused:
        make_plan(made, file, Hardware((gpu, gpu), 8, 2**33))
    assert "fix: 4 such GPUs with engine: {name: fsdp}" in str(refused.value)


def test_the_micro_batch_is_the_largest_that_fits(model: Path, tmp_path: Path) -> None:
    made, file = job(tmp_path, model={"pretrained": str(model)}, train={"max_length": 32, "global_batch_size": 64})
    size = find_model_size(find_pretrained(made.model))
    assert size is not None
    load = Workload(16 * 32, "bf16", recomputes=False)
    room = memory_of(size, Optimizer(), "single", 1, load).total
    plan = make_plan(made, file, Hardware((Gpu("small", int(room / 0.9) + 1, 9.0),), 8, 2**33))
    assert plan.split.micro_batch == 16
    assert "micro-batches of 16: 64 would not fit" in str(plan)


def test_adapters_of_a_large_model_are_counted_from_its_config(tmp_path: Path) -> None:
    file = large_job(tmp_path, global_batch_size=64, max_length=2048, activation_checkpointing=True)

    def rows(**adapt: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        table = Table.of(load_job(file, [f"adapt.adapters={json.dumps(LORA | adapt)}"]), 8, 80 * 2**30)
        answer = json.loads(table.as_json())
        return answer["size"], {row["sharing"]: row["memory"] for row in answer["rows"]}

    size, memory = rows(targets=["*.q_proj", "v_proj"], rank=16)
    adapters = 80 * 16 * ((8192 + 8192) + (8192 + 1024))
    assert size["parameters"] - size["frozen"] == adapters + 2 * 8193
    assert memory["ddp"]["gradients"] == 4 * (adapters + 2 * 8193)
    assert memory["ddp"]["optimizer"] == 2 * memory["ddp"]["gradients"]
    every = 80 * 8 * (4 * 8192 + 2 * (8192 + 1024) + 3 * (8192 + 28672))
    assert rows()[0]["adapters"]["inputs"] + rows()[0]["adapters"]["outputs"] == every // 8
    assert rows(kind="dora")[0]["adapters"]["magnitudes"] == 80 * (2 * 8192 + 2 * 1024 + 2 * 28672 + 8192)
    quantised = rows(quantised="4bit")[1]
    assert set(quantised) == {"ddp"}
    assert quantised["ddp"]["weights"] < 0.15 * memory["ddp"]["weights"]
    text = str(Table.of(load_job(file, [f"adapt.adapters={json.dumps(LORA)}"]), 8, 80 * 2**30))
    assert text.startswith("about 69.61 billion parameters (103.6 million trained) on 8 GPUs")
    assert "fits: fsdp (the first that fits)" in text


def test_adapters_are_offered_where_all_weights_need_host_memory_or_more_devices(tmp_path: Path) -> None:
    file = large_job(tmp_path, global_batch_size=64, max_length=2048, activation_checkpointing=True)
    offer = "adapt.adapters: {kind: lora}, engine: {name: fsdp}, train.micro_batch_size: 1"
    assert f"without host memory: {offer}" in str(Table.of(load_job(file), 8, 80 * 2**30))
    refused = str(Table.of(load_job(file, ["engine.name=fsdp"]), 8, 80 * 2**30))
    assert f"zero3_offload}}, train.micro_batch_size: 1; or {offer}" in refused
    assert "lora" not in str(Table.of(load_job(file, ["engine.name=fsdp"]), 64, 80 * 2**30))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ("adapt.adapters={kind: lora, quantised: 4bit}", {"deepspeed", "fsdp"}),
        ("train.optimizer.name=schedule_free_adamw", {"deepspeed"}),
        ("adapt.l2_sp=0.01", {"lora"}),
    ],
)
@pytest.mark.parametrize("gpus", [1, 8])
def test_nothing_is_offered_that_the_rules_refuse(change: str, refused: set[str], gpus: int, tmp_path: Path) -> None:
    file = large_job(tmp_path, global_batch_size=64, schedule={"name": "constant"})
    table = str(Table.of(load_job(file, [change]), gpus, 20 * 2**30))
    assert "does not fit" in table
    _, _, fix = table.partition("fix: ")
    assert not [name for name in refused if name in fix]
    assert not [row for row in table.splitlines()[2:] if row.startswith("zero")] or "deepspeed" not in refused


@pytest.mark.parametrize(
    ("adapt", "hardware", "message"),
    [
        (
            {"quantised": "4bit"},
            Hardware((), 2, 2**33),
            "need a GPU, and this runs on the CPU\n    fix: quantised: false",
        ),
        ({"targets": ["query", "q_prog"]}, Hardware((), 2, 2**33), "no linear layer of .* is named 'q_prog'"),
    ],
)
def test_adapters_that_cannot_be_had_are_refused(
    adapt: dict[str, Any], hardware: Hardware, message: str, model: Path, tmp_path: Path
) -> None:
    made, file = job(
        tmp_path, model={"pretrained": str(model)}, train={"max_length": 32}, adapt={"adapters": LORA | adapt}
    )
    with pytest.raises(JobError, match=message):
        make_plan(made, file, hardware)


def test_weights_in_4_bits_are_whole_on_each_gpu(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    adapt = {"adapters": LORA | {"quantised": "4bit"}}
    made, file = job(tmp_path, model={"pretrained": str(model)}, train={"max_length": 32}, adapt=adapt)
    size = find_model_size(find_pretrained(made.model), adapters=made.adapt.adapters)
    assert size is not None
    small = Gpu("small", int(1.3 * 4 * size.parameters), 9.0)
    plan = make_plan(made, file, Hardware((small, small), 8, 2**33))
    assert plan.engine == "ddp"
    assert plan.memory is not None
    assert plan.memory.weights < 0.8 * 4 * size.parameters


def test_the_plan_says_how_much_learns(model: Path, tmp_path: Path) -> None:
    made, file = job(tmp_path, model={"pretrained": str(model)}, train={"max_length": 32}, adapt={"adapters": LORA})
    plan = make_plan(made, file, Hardware((), 2, 2**33))
    size = find_model_size(find_pretrained(made.model), adapters=made.adapt.adapters)
    assert size is not None
    assert f"adapters: {size.learning:,} of {size.parameters:,} parameters are trained" in plan.reasons


def test_a_language_model_counts_its_head_and_the_scores_of_its_words(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=500, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "llama")
    tiny_model_folder(tmp_path / "tokenizer")
    made = Model(pretrained=str(tmp_path / "llama"), tokenizer=str(tmp_path / "tokenizer"))
    place = find_pretrained(made)
    whole, without = find_model_size(place, with_lm_head=True), find_model_size(place)
    assert whole is not None
    assert without is not None
    assert whole.parameters == sum(p.numel() for p in model.parameters()) == without.parameters + 500 * 32
    load = Workload(tokens=64, precision="fp32", recomputes=False)
    one, other = (memory_of(size, Optimizer(), "single", 1, load).activations for size in (whole, without))
    assert one - other == 12 * 500 * 64
