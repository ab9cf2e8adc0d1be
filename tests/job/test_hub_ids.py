"""What is not here is taken for a hub id, said so, and not taken for one where it is a misspelt path."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import JobError
from launcher.job.pretrained import find_pretrained
from launcher.job.reading.job_file import load_job
from launcher.job.reading.paths import taken_for_hub_ids
from tests.cli import adaptrun


@pytest.fixture
def job(tmp_path: Path) -> Path:
    for folder in ("runs", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "texts.csv").write_text("text,label\nfine,yes\nbad,no\n")
    file = tmp_path / "job.yaml"
    file.write_text(
        "name: hub\nmodel: {pretrained: some/model}\ntask: text-classification\n"
        "data: {train: data/texts.csv, validation: their/set}\n"
    )
    return file


def test_check_names_what_has_to_come_from_the_hub(job: Path) -> None:
    assert taken_for_hub_ids(load_job(job)) == ["some/model", "their/set"]
    said = adaptrun("check", job, cwd=job.parent).stdout
    assert "some/model: no such file or folder here, so it is read as an id of the Hugging Face hub" in said
    assert said.endswith("no problem found\n")


@pytest.mark.parametrize("change", ["model.pretrained=runs/nothing", "data.train=data/text", "data.train=a/b/c"])
def test_a_name_in_a_folder_that_is_here_is_a_path(change: str, job: Path) -> None:
    with pytest.raises(JobError, match=rf"there is no {job.parent}/{change.partition('=')[2]}"):
        load_job(job, [change])


DOTTED = (
    *("Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B", "mistralai/Mistral-7B-v0.1", "timm/resnet18.a1_in1k"),
    *("openai/whisper-tiny.en", "timm/vit_base_patch16_224.augreg_in21k", "Qwen2.5", "their/set-v1.2"),
)


@pytest.mark.parametrize("name", DOTTED)
def test_a_dot_may_be_part_of_a_hub_id(name: str, job: Path) -> None:
    changes = [f"model.pretrained={name}", f"model.tokenizer={name}", f"data.train={name}", f"data.validation={name}"]
    changes += [f"verdict.baseline={name}", f"verdict.compare.other={name}"]
    assert taken_for_hub_ids(load_job(job, [*changes, "data.allow_leakage=true"])) == [name]


@pytest.mark.parametrize("name", ["model.safetensor", "weights/model.pt", "runs/nothing", "./x", "a--b", "x" * 97])
def test_what_ends_as_a_file_or_begins_as_a_path_is_none(name: str, job: Path) -> None:
    for field in ("model.pretrained", "model.tokenizer", "verdict.baseline", "data.train", "data.validation"):
        with pytest.raises(JobError, match=r"there is no|longer than"):
            load_job(job, [f"{field}={name}"])


def test_a_misspelt_file_is_told_the_one_that_is_there(job: Path) -> None:
    (job.parent / "model.safetensors").touch()
    with pytest.raises(JobError, match=r"did you mean model.safetensors\?"):
        load_job(job, ["model.pretrained=model.safetensor"])
    with pytest.raises(JobError, match=r"did you mean data/texts.csv\?"):
        load_job(job, ["data.train=data/texts.cvs"])


def test_a_resolved_job_is_not_refused_where_a_folder_has_the_name_of_the_owner(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = load_job(job, ["model.pretrained=Qwen/Qwen2.5-0.5B"])
    (job.parent / "Qwen").mkdir()
    monkeypatch.chdir(job.parent)
    assert find_pretrained(resolved.model).kind == "hub"


def test_an_alias_may_give_the_tokenizer_alone(job: Path) -> None:
    build = "from transformers import BertConfig, BertForSequenceClassification as Bert\n\n\ndef build(labels):\n    "
    (job.parent / "build.py").write_text(f"{build}return Bert(BertConfig(num_labels=len(labels)))\n")
    sets = ["model={pretrained: build.py:build, tokenizer: minilm}", "data={train: data/texts.csv}"]
    found = load_job(job, sets)
    assert taken_for_hub_ids(found) == []
    assert (Path(find_pretrained(found.model).tokenizer) / "tokenizer.json").is_file()


def test_columns_may_be_named_by_their_place(job: Path) -> None:
    found = load_job(
        job, ["task=token-classification", "data.train={source: data/texts.csv, words: 2, label: 4}"]
    ).data.train["train"]
    assert (found.words, found.label) == ("2", "4")
