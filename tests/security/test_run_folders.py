"""A run's folder from elsewhere: what its job and its model say of code does not run by itself."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.commands.soup import soup_runs
from launcher.errors import RequestError, UntrustedCode
from launcher.job.reading.job_file import load_job
from launcher.run.folder import RunFolder
from launcher.run.resuming import decide_run
from tests.security.test_code_in_folders import Case
from tests.tiny import write_texts


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Path:
    """The folder of a run of somebody else's own task, which lies beside it."""
    case = Case(tmp_path, tiny_model)
    case.card(task=f"{case.evil}:Own")
    write_texts(tmp_path / "data.csv", 8)
    (tmp_path / "job.yaml").write_text(
        f"name: x\nmodel: {{pretrained: {tiny_model}}}\ntask: evil.py:Own\ntrain: {{max_length: 16}}\n"
        "data: {train: data.csv, validation: data.csv, allow_leakage: true}\n"
    )
    run = RunFolder.create(load_job(tmp_path / "job.yaml"), tmp_path / "runs" / "of-others")
    shutil.copytree(case.folder, run.model)
    return run.path


def test_a_soup_of_runs_takes_no_code_from_them(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UntrustedCode, match=r"adaptrun\.json asks to run .*evil\.py"):
        soup_runs([run, run], tmp_path / "soup", "fp32", 1, as_json=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["adaptrun", "soup", str(run), str(run), "-o", "soup"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert not (tmp_path / "it-ran").exists()


def test_looking_at_runs_runs_none_of_their_code(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["status", str(run)], ["compare", str(run), str(run)], ["check", str(run / "job.yaml")]):
        monkeypatch.setattr(sys, "argv", ["adaptrun", *command])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert leaving.value.code == 0, capsys.readouterr()
    assert not (tmp_path / "it-ran").exists()


def test_resuming_takes_the_job_of_the_user_and_refuses_where_the_runs_names_other_code(
    run: Path, tmp_path: Path
) -> None:
    from launcher.run.checkpoints import MARKER

    checkpoint = run / "checkpoints" / "step-00000001"
    checkpoint.mkdir()
    (checkpoint / MARKER).touch()
    other = tmp_path / "mine.py"
    other.write_text((tmp_path / "evil.py").read_text())
    job = load_job(tmp_path / "job.yaml", ["task=mine.py:Own"])
    with pytest.raises(RequestError, match=r"the job differs from that of .* in task"):
        decide_run(job, str(run))
    assert not (tmp_path / "it-ran").exists()
