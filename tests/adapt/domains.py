"""Small runs over two domains, in worlds that stay alive: jobs, references, and what a run left behind."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from launcher.commands.selfcheck import engine_section
from launcher.job.schema import Job
from launcher.run.folder import RunFolder
from tests.adapt.runs import write_run
from tests.tiny import WORDS, tiny_model_folder

STEPS, SAVED = 8, 3
SAMPLES = {"films": 70, "shops": 41, "target": 75}
"""None a multiple of the batch, so that epochs end in short batches and the target's wrap within a step."""


def make_material(folder: Path) -> Path:
    """A tiny model, three domains with words of their own, and a validation set of the target."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    tiny_model_folder(folder / "model", dropout=0.0)
    tiny_model_folder(folder / "trained", dropout=0.0)
    model = AutoModel.from_pretrained(folder / "model")
    with torch.no_grad():
        for matrix in (parameter for parameter in model.parameters() if parameter.ndim == 2):
            matrix *= 8.0  # as it starts, a BERT has nearly the same features for all texts
    model.save_pretrained(folder / "model")
    names = dict(enumerate("abc"))
    config = AutoConfig.from_pretrained(folder / "trained", id2label=names, label2id={v: k for k, v in names.items()})
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.bert.load_state_dict(model.state_dict())
    classifier.classifier.weight.data *= 20.0  # as if trained: it is sure of something
    classifier.save_pretrained(folder / "trained")
    for number, (domain, samples) in enumerate(SAMPLES.items()):
        write_domain(folder / f"{domain}.csv", number, samples, seed=number)
    write_domain(folder / "validation.csv", 2, 30, seed=9)
    return folder


def write_domain(path: Path, domain: int, samples: int, *, seed: int, longest: int = 14) -> None:
    """Texts whose first word tells the class; the others are of the domain's half of the words."""
    draw = random.Random(seed)
    words = WORDS[40 * domain : 40 * domain + 80]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(samples):
            label = draw.randrange(3)
            text = [WORDS[label + 3 * draw.randrange(10)], *draw.choices(words, k=draw.randint(1, longest))]
            writer.writerow([" ".join(text), "abc"[label]])


def lay_out(
    folder: Path, material: Path, engine: str, world: int, adapt: dict[str, Any], *, micro: int = 3, **changes: Any
) -> RunFolder:
    """The run folder of a job, planned for an engine and world. `changes` go over the job's sections."""
    values: dict[str, Any] = {
        "name": "domains",
        "model": {"pretrained": str(material / "model"), "dropout": 0.0},
        "task": "text-classification",
        "data": {
            "train": str(material / "films.csv"),
            "target": str(material / "target.csv"),
            "cache": str(material / "cache"),
        },
        "adapt": adapt,
        "train": {
            "epochs": 9,
            "max_steps": STEPS,
            "global_batch_size": 16,
            "micro_batch_size": micro,
            "max_length": 32,
            "precision": "fp32",
            "clip_norm": 1.0,
            "optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.9},
            "schedule": {"name": "constant"},
        },
        "checkpoint": {"every_steps": SAVED, "keep": 9},
        "engine": engine_section(engine),
        "launch": {"processes": world, "device": "cpu", "runs": str(folder)},
    }
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change} if isinstance(change, dict) else change
    values["data"] = {key: value for key, value in values["data"].items() if value is not None}
    return write_run(folder, Job.model_validate(values), world)


def data_of(method: str, material: Path) -> dict[str, Any]:
    """The changes of a job that a method needs: sources that it mixes, or a trained model and no source."""
    if method in ("shot", "tent"):
        return {"data": {"train": None}, "model": {"pretrained": str(material / "trained")}}
    if method == "group-dro":
        sets = {name: str(material / f"{name}.csv") for name in ("films", "shops")}
        return {"data": {"train": sets, "target": None}}
    return {}


def weights(run: RunFolder) -> dict[str, Any]:
    """The tensors of a run's model folder."""
    return load_file(run.model / "model.safetensors")
