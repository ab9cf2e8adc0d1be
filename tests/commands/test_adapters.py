"""Runs with adapters from the command line: what they leave, and what takes it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from launcher.run.checkpoints import checkpoint_name
from tests.cli import adaptrun
from tests.small_run import write_job


@dataclass(frozen=True)
class Adapted:
    """A folder with two finished runs: `plain` left adapters, `merged` the whole model with the same adapters."""

    folder: Path

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Adapted:
    folder = tmp_path_factory.mktemp("adapted")
    write_job(folder, tiny_model)
    common = "--set", "train.optimizer={name: sgd, lr: 1.0}", "--set", "train.max_steps=12"
    adaptrun("train", "job.yaml", *common, "--set", "name=plain", "--set", "adapt={adapters: {kind: lora}}", cwd=folder)
    merged = (
        "--set",
        "adapt={adapters: {kind: lora, merge: true}}",
        "--set",
        "engine={name: deepspeed, deepspeed: zero3}",
    )
    adaptrun("train", "job.yaml", *common, "--set", "name=merged", *merged, cwd=folder)
    return Adapted(folder)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


STANDARD = {"README.md", "adaptrun.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
ADAPTER = STANDARD - {"config.json", "model.safetensors"} | {
    "config",
    "adapter_config.json",
    "adapter_model.safetensors",
}


def test_a_run_leaves_adapters_or_the_whole_model_and_adapters(adapted: Adapted) -> None:
    assert names(adapted.run("plain") / "model") == ADAPTER
    assert not (adapted.run("plain") / "adapter").exists()
    assert names(adapted.run("merged") / "model") == STANDARD
    assert names(adapted.run("merged") / "adapter") == ADAPTER
    _, found = AutoModelForSequenceClassification.from_pretrained(
        adapted.run("merged") / "model", output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    small = (adapted.run("plain") / "model" / "adapter_model.safetensors").stat().st_size
    assert small < (adapted.run("merged") / "model" / "model.safetensors").stat().st_size / 2
    events = (adapted.run("plain") / "metrics.jsonl").read_text()
    assert "parameters are trained" in events


@pytest.mark.parametrize("model", ["plain", "plain/model", "merged", "merged/adapter"])
def test_evaluate_gives_the_figures_of_the_run(model: str, adapted: Adapted) -> None:
    said = adaptrun(
        "evaluate", f"runs/{model}", "--data", "near.csv", "--json", "--processes", 1, cwd=adapted.folder
    ).stdout
    result = json.loads((adapted.run(model.partition("/")[0]) / "result.json").read_text())["sets"]["near"]
    assert json.loads(said)["metrics"] == pytest.approx(result["after"], rel=1e-5)
    assert result["after"]["loss"] != pytest.approx(result["before"]["loss"], rel=1e-3)


def test_predict_and_a_further_fine_tune_take_adapters(adapted: Adapted) -> None:
    adaptrun("predict", "runs/plain", "--data", "near.csv", "-o", "out.jsonl", "--processes", 1, cwd=adapted.folder)
    assert len((adapted.folder / "out.jsonl").read_text().splitlines()) == 25
    further = "--set", "model.pretrained=runs/plain", "--set", "name=further", "--set", "train.max_steps=1"
    adaptrun("train", "job.yaml", *further, "--set", "engine.name=fsdp", cwd=adapted.folder)
    result = json.loads((adapted.run("further") / "result.json").read_text())["sets"]["near"]
    first = json.loads((adapted.run("plain") / "result.json").read_text())["sets"]["near"]
    assert result["before"] == pytest.approx(first["after"], rel=1e-5)
    assert names(adapted.run("further") / "model") == STANDARD
    twice = adaptrun(
        "check", "job.yaml", *further, "--set", "adapt={adapters: {kind: lora}}", cwd=adapted.folder, code=2
    ).stderr
    assert "adapters of adapters are not supported" in twice
    assert "fix: merge them first: adaptrun consolidate runs/plain -o FOLDER" in twice


def test_consolidate_gives_the_same_kind_of_folder_and_merges(adapted: Adapted) -> None:
    steps = {name: json.loads((adapted.run(name) / "result.json").read_text()) for name in ("plain", "merged")}
    for name, kind, file in (("plain", ADAPTER, "adapter_model"), ("merged", STANDARD, "model")):
        step = steps[name]["best_step"]
        checkpoint = adapted.run(name).resolve() / "checkpoints" / checkpoint_name(step)
        said = adaptrun("consolidate", checkpoint, "-o", f"again-{name}", cwd=adapted.folder).stdout
        assert "read back and compared" in said
        assert "no config.json" not in said
        assert names(adapted.folder / f"again-{name}") == kind - {"README.md"}  # which tells of a finished run
        again = load_file(adapted.folder / f"again-{name}" / f"{file}.safetensors")
        expected = load_file(adapted.run(name) / "model" / f"{file}.safetensors")
        assert again.keys() == expected.keys()
        assert all(again[key].equal(expected[key]) for key in expected)
    adaptrun("consolidate", "runs/plain/model", "-o", "whole", "--dtype", "bf16", cwd=adapted.folder)
    assert names(adapted.folder / "whole") == STANDARD - {"README.md"}
    assert json.loads((adapted.folder / "whole" / "config.json").read_text())["dtype"] == "bfloat16"
    like = "--like", "runs/merged/model"
    refused = adaptrun("consolidate", "runs/plain", "-o", "no", *like, cwd=adapted.folder, code=2).stderr
    assert "the checkpoint holds adapters" in refused


def test_an_adapter_folder_without_our_card_is_taken(adapted: Adapted, tmp_path: Path) -> None:
    folder = tmp_path / "others"
    shutil.copytree(adapted.run("plain") / "model", folder)
    (folder / "adaptrun.json").unlink()
    said = adaptrun("evaluate", folder, "--data", "near.csv", "--json", "--processes", 1, cwd=adapted.folder).stdout
    result = json.loads((adapted.run("plain") / "result.json").read_text())["sets"]["near"]
    assert json.loads(said)["metrics"] == pytest.approx(result["after"], rel=1e-5)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"query": 3}}))
    refused = adaptrun("evaluate", folder, "--data", "near.csv", cwd=adapted.folder, code=2).stderr
    assert "adapters of an unsupported kind (alpha_pattern); merge them with peft" in refused
