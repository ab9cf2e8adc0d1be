"""README.md of a result, as the hub reads it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from launcher.job.reading.job_file import check_job
from launcher.measure.compare.verdict import Verdict
from launcher.run.results import Result, SetResult
from launcher.worker.training.model_card import write_model_card
from tests.tiny import write_texts


def test_a_card_tells_where_the_model_comes_from_and_how_good_it_is(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.symlink_to(tiny_model)
    job = check_job(
        {
            "name": "reviews",
            "model": {"pretrained": str(base)},
            "task": "text-classification",
            "data": {
                "train": str(write_texts(tmp_path / "train.csv", 4)),
                "validation": str(write_texts(tmp_path / "held-out.csv", 4)),
            },
            "train": {"max_length": 32},
        },
        tmp_path,
    )
    found = SetResult(9, {"accuracy": 0.5}, {"accuracy": 0.75, "loss": float("nan")}, {}, {"accuracy": (0.7, 0.8)})
    verdict = Verdict("adopt", "Accuracy rose.", "accuracy", False, 0.01, "validation", "pretrained", ())
    result = Result("done", "reviews", 40, 1.0, sets={"validation": found}, verdict=verdict)
    write_model_card(tmp_path, job, result, ("bad", "good"))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == "reviews"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.license is None
    assert card.data.base_model is None, "a folder of this machine is nothing for the hub"
    assert [(one.dataset_name, one.metric_type, one.metric_value) for one in card.data.eval_results] == [
        ("validation", "accuracy", 0.75)
    ]
    for told in (
        "fine-tuned for text-classification",
        "Labels: `bad`, `good`.",
        "`train.csv`",
        "`held-out.csv`",
        "| validation | 9 | accuracy | 0.5000 | 0.7500 | 0.7000 to 0.8000 |",
        "Verdict: **adopt**. Accuracy rose.",
        'pipeline("text-classification", model="THIS-FOLDER")',
    ):
        assert told in card.text
    assert str(tmp_path) not in card.content


def test_the_license_is_that_of_the_base_where_its_card_says_one(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    values = {"pretrained": str(tmp_path / "base")}
    data = {"train": str(write_texts(tmp_path / "train.csv", 4))}
    job = check_job(
        {"name": "a", "model": values, "task": "text-classification", "data": data, "train": {"max_length": 32}},
        tmp_path,
    )
    write_model_card(tmp_path, job, Result("done", "a", 1, 1.0), ())
    assert ModelCard.load(tmp_path / "README.md").data.license == "apache-2.0"
    (tmp_path / "base" / "README.md").write_text("---\n{: [\n---\n")
    write_model_card(tmp_path, job, Result("done", "a", 1, 1.0), ())
    assert ModelCard.load(tmp_path / "README.md").data.license is None
