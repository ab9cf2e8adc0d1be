"""What commands ask of ranks: each request has a function that serves it, and one call asks for all of them."""

from __future__ import annotations

import inspect
import stat
import tempfile
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

from launcher.errors import RunFailed
from launcher.job import requests
from launcher.job.requests import (
    EvaluationAnswer,
    EvaluationRequest,
    PreparationRequest,
    Request,
    ShapesAnswer,
    ShapesRequest,
    TrainingRequest,
    answer_file,
)
from launcher.job.schema import Model
from launcher.job.sections.data import Source
from launcher.supervise import processes
from launcher.supervise.requests import _places_for, ask_ranks
from launcher.worker.__main__ import SERVED_BY, folder_of, request_of
from tests.families import bert

KINDS = [
    kind
    for _, kind in inspect.getmembers(requests, inspect.isclass)
    if issubclass(kind, Request) and not any(kind.__pydantic_generic_metadata__.values())
]


def test_each_request_is_served_by_a_function_that_takes_it() -> None:
    assert set(SERVED_BY) == set(KINDS)
    for kind, where in SERVED_BY.items():
        module, _, name = where.partition(":")
        serve = getattr(import_module(f"launcher.worker.requests.{module}"), name)
        assert get_type_hints(serve)["request"] is kind


def asked_for(target: Path) -> Request[requests.Done]:
    return request_of(Namespace(target=target, sets=[], resume="auto"))


def test_an_answer_may_hold_figures_that_are_not_finite(tmp_path: Path) -> None:
    request = EvaluationRequest(model=Model(pretrained="x"), data=Source(source="y"), cache="z")
    file = request.write(tmp_path)
    assert asked_for(file) == request
    found = EvaluationAnswer(samples=1, metrics={"f1": float("inf")}, intervals={"f1": (-float("inf"), 0.1)}, seconds=1)
    answer_file(file).write_text(found.model_dump_json())
    assert request.read_answer(file) == found


def test_the_ranks_of_a_request_keep_their_logs_in_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    about_a_run = PreparationRequest(folder=str(run)).write(tmp_path)
    alone = ShapesRequest(config="x", auto_class="AutoModel").write(tmp_path)
    for file, expected in ((about_a_run, run), (alone, tmp_path)):
        found = folder_of(asked_for(file), file)
        assert found is not None
        assert found.path == expected


def test_a_folder_or_a_job_file_is_trained_whatever_lies_in_it_and_whatever_it_is_called(tmp_path: Path) -> None:
    """A run's folder from elsewhere is data, and asks for nothing."""
    planted = ShapesRequest(config="x", auto_class="AutoModel").write(tmp_path)
    assert asked_for(tmp_path) == TrainingRequest(target=tmp_path)
    (tmp_path / f"of-films{requests.SUFFIX}").write_text("name: x")
    assert isinstance(asked_for(tmp_path / f"of-films{requests.SUFFIX}"), TrainingRequest)
    planted.unlink()
    assert isinstance(asked_for(planted), TrainingRequest)


def test_an_answer_is_typed_and_nothing_of_the_request_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    modes = list[int]()
    command = processes.rank_command

    def noted(target: Path) -> list[str]:
        modes.append(stat.S_IMODE(target.parent.stat().st_mode))
        return command(target)

    monkeypatch.setattr(processes, "rank_command", noted)
    config = str(bert(tmp_path / "model"))
    found = ask_ranks(ShapesRequest(config=config, auto_class="AutoModel"), processes=2)
    assert isinstance(found, ShapesAnswer)
    assert found.shapes["embeddings.word_embeddings.weight"][1] == found.shapes["pooler.dense.weight"][0]
    assert modes == [0o700]
    assert list((tmp_path / "temporary").glob("adaptrun-*")) == []


def test_what_the_ranks_said_of_a_failure_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"(?s)kept in (\S+)failure\.txt") as failed:
        ask_ranks(ShapesRequest(config=str(tmp_path), auto_class="AutoModel"))
    assert "config.json" in str(failed.value)


def test_a_request_about_a_run_needs_no_other_disk_and_one_without_room_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    with _places_for(PreparationRequest(folder=str(tmp_path))) as (private, folder):
        assert (private.parent, stat.S_IMODE(private.stat().st_mode), folder.path) == (tmp_path, 0o700, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunFailed, match=rf"cannot write {tmp_path}/full/\S+ .*name a folder with room in TMPDIR"):
        ask_ranks(ShapesRequest(config="x", auto_class="AutoModel"))
