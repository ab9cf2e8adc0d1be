"""Adapters learn the same under every engine, in every world, and are left as a folder that others read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from launcher.adapt.adapters.adapters import AdapterContext
from launcher.adapt.adapters.lora import add_lora
from launcher.checkpoint.merging import merge_adapters
from launcher.errors import ModelError
from launcher.job.pretrained import find_pretrained
from launcher.job.reading.job_file import check_job, load_kept_job
from launcher.job.schema import Model
from launcher.job.sections.adapters import LowRank
from launcher.models.weights import loading
from launcher.run.attempts import Attempt
from launcher.run.events import Event, EventLog, EventTail, Note, Step
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.run_context import RunContext
from launcher.worker.rank.world import World
from launcher.worker.requests.selfcheck import make_material
from launcher.worker.training.recipe import fine_tune
from tests.adapt.runs import STEPS, adapters, engines_of, lay_out, losses, of_peft, train
from tests.families import job_values
from tests.ways import train as train_under
from tests.worlds import Worlds

pytestmark = pytest.mark.timeout(900)
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "rslora", "alpha": 6.0},
    "dora": {"kind": "dora", "targets": ["query", "*.value", "encoder.layer.1.output.dense"]},
}
WHOLE = {size: engines_of(size) for size in (1, 2, 3)}
GRIDS = [
    pytest.param(("lora", {1: ("single",), 2: ("ddp", "fsdp", "zero2", "zero3")}), id="lora"),
    pytest.param(("dora", {1: ("single",), 2: ("ddp", "fsdp", "zero3")}), id="dora"),
    *(pytest.param((kind, WHOLE), id=f"{kind}-whole", marks=pytest.mark.slow) for kind in KINDS),
]
"""Engines in worlds of each size, of which the first is the reference."""
MOVES = [("zero3", 2, "single", 1), ("single", 1, "fsdp", 3), ("fsdp", 2, "zero2", 3), ("ddp", 2, "zero3", 3)]
CLASSIFIER = "AutoModelForSequenceClassification"
Runs = dict[tuple[int, str], RunFolder]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapting") / "material"
    make_material(folder)
    return folder


@pytest.fixture(scope="module", params=GRIDS)
def runs(request: pytest.FixtureRequest, material: Path, worlds: Worlds, tmp_path_factory: Any) -> Runs:
    """Runs of several engines in worlds of several sizes."""
    kind, worlds_and_engines = request.param
    folder = tmp_path_factory.mktemp(kind)
    found: Runs = {}
    for world, engines in worlds_and_engines.items():
        ours = {
            (world, engine): lay_out(folder / f"{engine}-{world}", material, engine, world, KINDS[kind])
            for engine in engines
        }
        worlds.run(world, train, [(str(run.path), None) for run in ours.values()], timeout=400)
        found |= ours
    return found


def test_losses_and_adapters_are_those_of_one_process(runs: Runs) -> None:
    reference = runs[1, "single"]
    expected, truth = losses(reference), adapters(reference.model)
    assert len(expected) == STEPS
    assert expected[-1] < expected[0]
    for (world, engine), run in runs.items():
        assert losses(run) == pytest.approx(expected, rel=1e-5), (engine, world)
        found = adapters(run.model)
        assert found.keys() == truth.keys()
        for name, tensor in truth.items():
            assert np.linalg.norm(tensor - found[name]) <= 1e-5 * np.linalg.norm(tensor), (engine, world, name)


def test_every_engine_leaves_adapters_that_have_learnt(runs: Runs) -> None:
    for way, run in runs.items():
        found = adapters(run.model)
        ups = [tensor for name, tensor in found.items() if "lora_B" in name]
        assert ups, way
        assert all(tensor.any() for tensor in ups), way
        assert max(np.abs(tensor).max() for tensor in ups) > 1e-2, way
        assert sum("classifier" in name for name in found) == 2


def kind_of(runs: Runs) -> dict[str, Any]:
    """How the adapters of some runs are made."""
    return KINDS[next(iter(runs.values())).path.parent.name[:4]]


def logits_of(model: Any) -> torch.Tensor:
    ids = torch.arange(2, 62).reshape(4, 15)
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


def ours(folder: Path, *, has_classes: bool = True) -> Any:
    """The folder as `adaptrun` reads it."""
    spec = Model(pretrained=str(folder))
    place = find_pretrained(spec)
    config = loading.load_config(place, spec)
    labels = loading.known_labels(config) if has_classes else ()
    loaded = loading.load_model(place, spec, CLASSIFIER, labels, config)
    assert not loaded.new
    return loaded.model.eval()


def test_peft_transformers_and_adaptrun_read_the_same_model(runs: Runs, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    folder = runs[2, "fsdp"].model
    expected = logits_of(of_peft(folder))
    config = AutoConfig.from_pretrained(folder / "config")
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    loaded, found = AutoModelForSequenceClassification.from_pretrained(folder, config=config, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    torch.testing.assert_close(logits_of(loaded.eval()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(ours(folder)), expected, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).vocab_size > 100


def test_merged_weights_give_the_adapters_logits(runs: Runs, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = runs[1, "single"].model
    expected = logits_of(of_peft(folder))
    merge_adapters(folder, tmp_path / "merged", "fp32")
    merged, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits_of(merged.eval()), expected, rtol=1e-5, atol=1e-5)
    by_peft = of_peft(folder).merge_and_unload().state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, by_peft[name], rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert "base" not in json.loads((tmp_path / "merged" / "adaptrun.json").read_text())


def test_a_checkpoint_holds_what_learns_alone(runs: Runs) -> None:
    from launcher.checkpoint.from_dcp import dcp_weights

    for run in runs.values():
        kept = {weight.name for weight in dcp_weights(run.checkpoints / f"step-{STEPS:08d}", None)}
        assert {name.replace(".default", "") for name in kept} == {
            name.removeprefix("base_model.model.") for name in adapters(run.model)
        }


@pytest.mark.parametrize(("first", "before", "then", "after"), MOVES)
def test_a_run_goes_on_under_another_engine_and_world(
    first: str, before: int, then: str, after: int, runs: Runs, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    went_on = runs[before, first]
    shutil.copytree(went_on.checkpoints, tmp_path / "moved" / "checkpoints")
    moved = lay_out(tmp_path / "moved", material, then, after, kind_of(runs))
    worlds.run(after, train, [(str(moved.path), STEPS // 2)])
    assert losses(moved) == pytest.approx(losses(went_on)[STEPS // 2 :], rel=1e-5)


def test_a_base_that_has_changed_is_refused(material: Path, worlds: Worlds, tmp_path: Path) -> None:
    shutil.copytree(material, tmp_path / "material")
    run = lay_out(tmp_path / "run", tmp_path / "material", "single", 1, {}, max_steps=2)
    worlds.run(1, train, [(str(run.path), None)])
    file = tmp_path / "material" / "model" / "model.safetensors"
    weights = load_file(file)
    weights["bert.encoder.layer.1.output.dense.weight"] *= 1.5
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no longer the model that the adapters in .* were trained on"):
        ours(run.model)
    with pytest.raises(AssertionError, match=r"no longer the model that the adapters in .*step-00000002 were"):
        worlds.run(1, train, [(str(run.path), 2)])
    shutil.rmtree(tmp_path / "material" / "model")
    with pytest.raises(ModelError, match=r"holds adapters of .*model: there is no .*; if it has moved, write"):
        ours(run.model)


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_in_bf16_and_with_activations_computed_again_losses_stay_near(
    world: int, runs: Runs, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    some = {"max_steps": STEPS // 2}
    reference = losses(runs[1, "single"])[: some["max_steps"]]
    settings: dict[str, dict[str, Any]] = {
        "again": {"activation_checkpointing": True},
        "bf16": {"activation_checkpointing": True, "precision": "bf16"},
    }
    zero = {"again": "zero2", "bf16": "zero3"}
    made = {
        (name, engine): lay_out(tmp_path / f"{engine}-{name}", material, engine, world, kind_of(runs), **train, **some)
        for name, train in settings.items()
        for engine in (("single", "zero2") if world == 1 else ("ddp", "fsdp", zero[name]))
    }
    worlds.run(world, train, [(str(run.path), None) for run in made.values()], timeout=400)
    for (name, engine), run in made.items():
        assert losses(run) == pytest.approx(reference, rel=1e-5 if name == "again" else 0.02), (name, engine)


def test_where_adapters_start_depends_on_the_seed_alone(material: Path) -> None:
    def start(seed: int, *, in_parts: bool, draws: int) -> dict[str, torch.Tensor]:
        spec = Model(pretrained=str(material / "model"))
        place = find_pretrained(spec)
        torch.manual_seed(draws)
        torch.rand(draws)
        loaded = loading.load_model(place, spec, CLASSIFIER, "abc", loading.load_config(place, spec), in_parts=in_parts)
        assert bool(loaded.stored) == in_parts
        lora = LowRank(kind="dora")
        add_lora(lora, loaded, AdapterContext(place, None, CLASSIFIER, seed))
        learning = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
        assert not any(parameter.is_meta for name, parameter in learning.items() if "lora_" in name)
        return {name: parameter.detach() for name, parameter in learning.items() if "lora_" in name}

    expected = start(3, in_parts=False, draws=1)
    for name, tensor in start(3, in_parts=True, draws=9).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=0)
    other = start(4, in_parts=False, draws=1)
    assert not any(torch.equal(other[name], tensor) for name, tensor in expected.items() if "lora_A" in name)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ("nothing",),
            r"adapt.adapters.targets: no linear layer is named 'nothing'; their last names are dense, key, query",
        ),
        (("classifier",), r"no linear layer is named 'classifier'"),
    ],
)
def test_targets_that_are_not_there_are_named(targets: tuple[str, ...], message: str, material: Path) -> None:
    spec = Model(pretrained=str(material / "model"))
    place = find_pretrained(spec)
    loaded = loading.load_model(place, spec, CLASSIFIER, "abc", loading.load_config(place, spec))
    with pytest.raises(ModelError, match=message):
        add_lora(LowRank(kind="lora", targets=targets), loaded, AdapterContext(place, None, CLASSIFIER, 0))


@pytest.mark.parametrize("labels", ["new", {"a": "b", "b": "a"}])
def test_adapters_on_a_trained_head_are_read_with_the_rows_that_they_were_trained_with(
    labels: Any, material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    run = lay_out(tmp_path / "run", material, "single", 1, {}, max_steps=2)
    job = load_kept_job(run.job_file)
    run.write_job(job.model_copy(update={"model": job.model.model_copy(update={"labels": labels})}))
    worlds.run(1, train, [(str(run.path), None)])
    torch.testing.assert_close(logits_of(ours(run.model)), logits_of(of_peft(run.model)), rtol=1e-5, atol=1e-5)
    merge_adapters(run.model, tmp_path / "merged", "fp32")
    torch.testing.assert_close(logits_of(ours(tmp_path / "merged")), logits_of(ours(run.model)), rtol=1e-5, atol=1e-5)


class LosingTheBase(EventLog):
    """Deletes a folder after the first step, as somebody else may."""

    def __init__(self, path: Path, base: Path) -> None:
        super().__init__(path)
        self._base = base

    def write(self, event: Event) -> None:
        super().write(event)
        if isinstance(event, Step):
            shutil.rmtree(self._base, ignore_errors=True)


def train_and_lose_the_base(rank: int, size: int, path: str, base: str) -> None:
    folder = RunFolder(Path(path))
    log = LosingTheBase(folder.events_file, Path(base))
    context = RunContext(load_kept_job(folder.job_file), folder.plan(), folder, World(rank, rank, size), log, Attempt())
    fine_tune(context, StopRequest())
    log.close()


def test_a_run_whose_base_is_deleted_ends_with_its_adapters_which_stand_for_it(
    material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    base = tmp_path / "material" / "model"
    shutil.copytree(material, tmp_path / "material")
    run = lay_out(tmp_path / "runs" / "one", tmp_path / "material", "single", 1, {"merge": True}, max_steps=2)
    worlds.run(1, train_and_lose_the_base, str(run.path), str(base))
    assert run.is_done()
    assert Result.read(run.result_file).model == str(run.adapter)
    assert not run.model.exists()
    assert (run.path.parent / "adapters").resolve() == run.path, "the latest of its name"
    notes = [event.text for event in EventTail(run.events_file).read() if isinstance(event, Note)]
    assert any(note.startswith("the adapters could not be merged: ") and str(base) in note for note in notes)
    assert "library_name: peft" in (run.adapter / "README.md").read_text()
    shutil.copytree(material / "model", base)
    assert find_pretrained(Model(pretrained=str(run.path))).location == str(run.adapter)
    for status in ('{"status": "stopped"}', None):
        run.result_file.unlink() if status is None else run.result_file.write_text(status)
        with pytest.raises(ModelError, match="is a run without a finished model; finish it with"):
            find_pretrained(Model(pretrained=str(run.path)))


def test_adapters_of_a_task_without_classes_merge_into_a_base_with_another_head(worlds: Worlds, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification

    values = job_values("regression", tmp_path, max_steps=2) | {"adapt": {"adapters": {"kind": "lora", "rank": 4}}}
    BertForSequenceClassification(AutoConfig.from_pretrained(tmp_path / "model", num_labels=2)).save_pretrained(
        tmp_path / "model"
    )
    run = train_under(worlds, tmp_path, check_job(values, tmp_path), "single", 1)
    merge_adapters(run.model, tmp_path / "merged", "fp32")
    merged, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    scores = logits_of(merged.eval())
    assert scores.shape == (4, 1)
    torch.testing.assert_close(scores, logits_of(ours(run.model, has_classes=False)), rtol=1e-5, atol=1e-5)
