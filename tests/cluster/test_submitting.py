"""What is checked before a job is queued: the nodes against the job, the time limit against what a save takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster.profile import Profile, seconds_of
from launcher.cluster.submitting import check_time, combinations, plan_for, submit_job
from launcher.errors import RequestError
from launcher.job.reading import load_job
from launcher.run.checkpoints import MARKER, PROGRESS, checkpoint_name
from launcher.run.events import EventLog, Saved
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.start.conftest import write_job

GPUS = {"nodes": 2, "gpus_per_node": 2, "gpu_memory": "80GiB", "cpus_per_node": 8}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 5400), ("90:30", 5430), ("12:00:00", 43200), ("2-3", 183600), ("2-3:04", 183840), ("2-3:04:05", 183845)],
)
def test_time_limits_are_read_as_the_scheduler_reads_them(written: str, seconds: int) -> None:
    assert seconds_of(written) == seconds


def test_each_value_of_each_list_makes_a_job() -> None:
    assert list(combinations([])) == [[]]
    found = list(combinations(["train.seed=[0, 1]", "train.optimizer.lr=[1e-3]", "name=[a-b]"]))
    assert found == [[f"train.seed={seed}", 'train.optimizer.lr="1e-3"', 'name="a-b"'] for seed in (0, 1)]


@pytest.mark.parametrize(
    "text", ["train.seed", "train.seed=3", "train.seed=[]", "a=[1, 2", "a=[2024-02-30]", "a={b: 1}"]
)
def test_what_is_no_list_is_told_with_an_example(text: str) -> None:
    with pytest.raises(RequestError, match="write a list, such as"):
        combinations([text])


@pytest.mark.parametrize(
    ("sets", "profile", "refusal"),
    [
        (["train.global_batch_size=3"], GPUS, r"train.global_batch_size: 3 samples a step leave some of 4 ranks"),
        (["engine.name=single"], GPUS, "engine.name"),
        ([], GPUS | {"processes_per_node": 4}, "4 ranks need a GPU each, and the profile's nodes have 2"),
        (["launch.device=cuda"], {"nodes": 2}, "launch.device"),
    ],
)
def test_nodes_that_do_not_fit_the_job_are_refused(
    sets: list[str], profile: dict[str, object], refusal: str, tmp_path: Path, tiny_model: Path
) -> None:
    sets = ["launch.device=auto", "launch.processes=auto", *sets]
    job = write_job(tmp_path, tiny_model)
    with pytest.raises(RequestError, match=refusal):
        plan_for(load_job(job, sets), job, Profile.model_validate(profile))


def test_a_rank_a_gpu_on_all_nodes(tmp_path: Path, tiny_model: Path) -> None:
    job = write_job(tmp_path, tiny_model)
    sets = ["launch.device=auto", "launch.processes=auto"]
    plan = plan_for(load_job(job, sets), job, Profile.model_validate(GPUS))
    assert (plan.nodes, plan.processes, plan.world, plan.device) == (2, 2, 4, "cuda")


@pytest.mark.parametrize(
    ("time", "signal", "allowed"), [("60", 300, True), ("6", 300, False), ("60", 150, False), ("60", 200, True)]
)
def test_a_time_limit_holds_several_saves_as_long_as_the_slowest(
    time: str, signal: int, allowed: bool, tmp_path: Path
) -> None:
    run, profile = RunFolder(tmp_path), Profile(time=time, signal_seconds=signal)
    check_time(run, profile)
    log = EventLog(run.events_file)
    for seconds in (3.0, 100.0, 5.0):
        log.write(Saved(step=1, path="x", seconds=seconds))
    log.close()
    if allowed:
        check_time(run, profile)
    else:
        with pytest.raises(RequestError, match=r"took 100 s: .* leave no room for it; raise them"):
            check_time(run, profile)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch that takes everything."""
    folder = tmp_path / "commands"
    folder.mkdir()
    (folder / "sbatch").write_text("#!/bin/sh\necho 7\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_no_two_jobs_of_an_array_go_on_with_the_same_run(tmp_path: Path, tiny_model: Path, commands: Path) -> None:
    job_file, profile = write_job(tmp_path, tiny_model), tmp_path / "profile.yaml"
    profile.write_text("{nodes: 2, processes_per_node: 1}")
    submit_job(job_file, [], profile, [], "never", None)
    (unfinished,) = (tmp_path / "runs").glob("small-*")
    (unfinished / "jobs").unlink()
    checkpoint = unfinished / "checkpoints" / checkpoint_name(5)
    checkpoint.mkdir()
    (checkpoint / PROGRESS).write_text("{}")
    (checkpoint / MARKER).touch()
    submit_job(job_file, [], profile, ["engine.name=[ddp, fsdp]"], "auto", None)
    numbers = {(run / "jobs").read_text() for run in (tmp_path / "runs").glob("small-*") if run.is_dir()}
    assert numbers == {"7_0\n", "7_1\n"}


def test_a_job_after_a_run_that_is_done_waits_for_nothing_and_one_after_no_run_is_refused(
    tmp_path: Path, tiny_model: Path, commands: Path
) -> None:
    job_file, profile = write_job(tmp_path, tiny_model), tmp_path / "profile.yaml"
    profile.write_text("{nodes: 2, processes_per_node: 1}")
    before = RunFolder.create(load_job(job_file, ["name=before"]))
    for path, refusal in ((commands, "is no run's folder"), (before.path, "has no job in the queue to wait for")):
        with pytest.raises(RequestError, match=refusal):
            submit_job(job_file, [], profile, [], "never", str(path))
    Result(status="done", name="before", steps=1, seconds=1.0).write(before.result_file)
    submit_job(job_file, [], profile, [], "never", str(before.path))
    (script,) = (tmp_path / "runs").glob("small-*/job.sbatch")
    assert "dependency" not in script.read_text()
