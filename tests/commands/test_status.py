"""`status`, `logs` and `cancel` of a run on this machine."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from launcher.cluster.batch_jobs import jobs_file
from launcher.commands import status
from launcher.job.reading.job_file import load_job
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.cli import adaptrun, assert_gone, ranks_of, start, wait_until
from tests.small_run import write_job
from tests.supervise.test_failures import has_trained, mischievous


def test_a_run_is_watched_and_stopped_from_another_terminal(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "time.sleep(0.05)")
    launcher = start("train", "job.yaml", cwd=tmp_path, own_server=False)
    wait_until(lambda: has_trained(tmp_path), launcher)
    (run,) = [path for path in (tmp_path / "runs").iterdir() if path.name.startswith("small-")]
    status = json.loads(adaptrun("status", run, "--json", cwd=tmp_path).stdout)
    assert (status["state"], status["starts"], status["total_steps"]) == ("running", 1, 2400)
    assert status["step"] >= 1
    assert status["seconds_left"] > 0
    assert status["job"] is None
    assert "saves a checkpoint and stops" in adaptrun("cancel", run, cwd=tmp_path).stdout
    assert launcher.wait(60) == 75
    said = adaptrun("status", "runs/small", cwd=tmp_path).stdout
    assert "state    stopped" in said, "the name alone is the latest start, though none is finished"
    assert "the share of the time that went into kept steps: " in said
    assert "stopped " in adaptrun("status", cwd=tmp_path).stdout
    assert "Loading weights" in adaptrun("logs", run, "--rank", 1, cwd=tmp_path).stdout
    assert "the logs of ranks are: rank-0.log" in adaptrun("logs", run, "--rank", 9, cwd=tmp_path, code=2).stderr
    assert "is neither running nor waiting in a queue" in adaptrun("cancel", run, cwd=tmp_path, code=2).stderr


def test_a_signal_to_one_rank_alone_stops_all(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "time.sleep(0.05)")
    launcher = start("train", "job.yaml", cwd=tmp_path, own_server=False)
    wait_until(lambda: has_trained(tmp_path), launcher)
    ranks = ranks_of(launcher)
    ranks[1].send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 75
    assert_gone(ranks)
    assert "a checkpoint is saved, and the same command resumes from there" in (tmp_path / "stderr").read_text()


def test_what_a_job_prints_after_its_run_is_done_is_followed_too(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create(load_job(write_job(tmp_path, tiny_model)))
    Result(status="done", name="small", steps=1, seconds=1.0).write(run.result_file)
    run.log(0).write_text("trained\n")
    job: list[str | None] = ["7", "7", None]
    monkeypatch.setattr(status, "current_job", lambda run: job.pop(0))

    def printed(seconds: float) -> None:
        with run.log(0).open("a") as log:
            log.write(f"{len(job)} left\n")

    status.show_logs(run.path, 0, follow=True, sleep=printed)
    assert capsys.readouterr().out == "trained\n2 left\n1 left\n"


def test_what_files_tell_is_shown_though_the_scheduler_does_not_answer(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    run = RunFolder.create(load_job(write_job(tmp_path, tiny_model)))
    jobs_file(run).write_text("7\n")
    status.show_status(run.path, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "unknown"
    assert "Unable to contact slurm controller" in said["job"]
    Result(status="done", name="small", steps=1, seconds=1.0).write(run.result_file)
    assert status.status_of(run).state == "done"


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    for command in ("status", "logs", "cancel"):
        assert "is no run's folder" in adaptrun(command, tmp_path, cwd=tmp_path, code=2).stderr
    assert "there are no runs in runs/" in adaptrun("status", cwd=tmp_path, code=2).stderr
