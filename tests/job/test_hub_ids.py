"""What is not here is taken for a hub id, said so, and not taken for one where it is a misspelt path."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import JobError
from launcher.job.paths import taken_for_hub_ids
from launcher.job.reading import load_job
from tests.commands import adaptrun


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
    assert "some/model: nothing of that name is here, so it is taken for an id of the Hugging Face hub" in said
    assert said.endswith("no problem found\n")


@pytest.mark.parametrize("change", ["model.pretrained=runs/nothing", "data.train=data/text", "data.train=a/b/c"])
def test_a_name_in_a_folder_that_is_here_is_a_path(change: str, job: Path) -> None:
    with pytest.raises(JobError, match=rf"there is no {job.parent}/{change.partition('=')[2]}"):
        load_job(job, [change])
