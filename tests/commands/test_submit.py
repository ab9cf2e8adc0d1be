"""What is checked before a job is queued: the nodes against the job, the time limit against what a save takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.cluster.profile import Profile, load_profile, seconds_of
from launcher.cluster.variants import Variant, variants
from launcher.commands.submit import check_time, plan_for, show_script, submit_job
from launcher.errors import RequestError
from launcher.job.reading.job_file import load_job
from launcher.run.checkpoints import MARKER, PROGRESS, checkpoint_name
from launcher.run.events import EventLog, Saved
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.cli import adaptrun
from tests.small_run import write_job

GPUS = {"nodes": 2, "gpus_per_node": 2, "gpu_memory": "80GiB", "cpus_per_node": 8}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 5400), ("90:30", 5430), ("12:00:00", 43200), ("2-3", 183600), ("2-3:04", 183840), ("2-3:04:05", 183845)],
)
def test_time_limits_are_read_as_the_scheduler_reads_them(written: str, seconds: int) -> None:
    assert seconds_of(written) == seconds


def test_each_value_of_each_list_makes_a_job() -> None:
    assert variants([]) == [Variant((), "")]
    found = variants(["train.seed=[0, 1]", "train.optimizer.lr=[1e-3]", 'model.pretrained=["😀"]'])
    assert [variant.sets for variant in found] == [
        (f"train.seed={seed}", "train.optimizer.lr=0.001", 'model.pretrained="😀"') for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("each", "labels"),
    [
        (["train.seed=[1, 2]"], ["seed-1", "seed-2"]),
        (["train.optimizer.lr=[1e-3, 3.0e-5]"], ["lr-1e-3", "lr-3.0e-5"]),  # as they were written
        (["train.seed=[1, 2]", "engine.name=[ddp]"], ["seed-1", "seed-2"]),
        (["a.name=[x, y]", "b.name=[z, w]"], [f"a-name-{one}-b-name-{other}" for one in "xy" for other in "zw"]),
        (["model.pretrained=[runs/films, org/Model.v1]"], ["pretrained-films", "pretrained-Model.v1"]),
        (["adapt=[{adapters: {kind: lora, rank: 4}}, {method: finetune}]"], ["adapt-lora-4", "adapt-finetune"]),
        (["x=[true, null, '../../etc', '', '$(rm)']"], ["x-true", "x-none", "x-etc", "x-3", "x-rm"]),
        (["x=[a/b, c/b, B]"], ["x-b-0", "x-b-1", "x-B-2"]),  # file systems that take b and B for one name
        (["name=[a, b]"], ["", ""]),
    ],
)
def test_a_job_of_an_array_is_named_by_what_differs(each: list[str], labels: list[str]) -> None:
    assert [variant.label for variant in variants(each)] == labels


def test_long_names_of_an_array_stay_short_and_apart() -> None:
    each = [f"{field}=[{'a' * 90}, {'b' * 90}]" for field in ("first", "second", "third")]
    names = [variant.name("n" * 80) for variant in variants(each)]
    assert len(set(names)) == 8
    assert all(len(name) <= 80 and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) for name in names)


@pytest.mark.parametrize("text", ["train.seed", "train.seed=3", "train.seed=[]", "a=[1, 2", "a={b: 1}", "a=[!!int x]"])
def test_what_is_no_list_is_told_with_an_example(text: str) -> None:
    with pytest.raises(RequestError, match="write a list, such as"):
        variants([text])


def test_a_list_named_twice_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--each train.seed is given twice"):
        variants(["train.seed=[1]", "train.seed=[2]"])


@pytest.mark.parametrize(
    ("sets", "profile", "refusal"),
    [
        (["train.global_batch_size=3"], GPUS, r"train.global_batch_size: 3 samples per step are too few for 4 ranks"),
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
        with pytest.raises(RequestError, match=r"took 100 s: .* are too short for it; raise them"):
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


def test_jobs_of_an_array_go_on_with_their_own_runs(tmp_path: Path, tiny_model: Path, commands: Path) -> None:
    job_file, profile = write_job(tmp_path, tiny_model), tmp_path / "profile.yaml"
    profile.write_text("{nodes: 2, processes_per_node: 1}")
    each = ["engine.name=[ddp, fsdp]"]
    submit_job(job_file, [], profile, each, "never", None)
    (unfinished,) = (tmp_path / "runs").glob("small-name-ddp-*")
    for jobs in (tmp_path / "runs").glob("*/jobs"):
        jobs.unlink()
    checkpoint = unfinished / "checkpoints" / checkpoint_name(5)
    checkpoint.mkdir()
    (checkpoint / PROGRESS).write_text("{}")
    (checkpoint / MARKER).touch()
    submit_job(job_file, [], profile, each, "auto", None)
    (same,) = (tmp_path / "runs").glob("small-name-ddp-*")
    assert (same / "jobs").read_text() == "7_0\n"
    first, second = sorted(run for run in (tmp_path / "runs").glob("small-name-fsdp-*") if run.is_dir())
    assert not (first / "jobs").exists()
    assert (second / "jobs").read_text() == "7_1\n"
    assert load_job(second / "job.yaml").name == "small-name-fsdp"
    assert "--job-name=small\n" in (second / "job.sbatch").read_text()


def test_options_of_sbatch_override_the_profile(tmp_path: Path, tiny_model: Path) -> None:
    job_file, profile = write_job(tmp_path, tiny_model), tmp_path / "profile.yaml"
    profile.write_text("{nodes: 2, processes_per_node: 1, time: 20:00, partition: slow, extra: [--exclusive]}")
    options = ["-t", "1-0", "--account", "010", "--nodes", "1", "--sbatch=--begin=now+1hour", "--mem=2GiB", "-c", "3"]
    script = adaptrun("submit", job_file, "--profile", profile, "--dry-run", *options, cwd=tmp_path).stdout
    for line in ("time=1-0", "account=010", "nodes=1", "partition=slow", "exclusive", "begin=now+1hour", "mem=2048M"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --cpus-per-task=3\n" in script
    assert "--qos" not in script


def test_a_wrong_option_of_sbatch_is_told_by_its_name(tmp_path: Path, tiny_model: Path) -> None:
    job_file, profile = write_job(tmp_path, tiny_model), tmp_path / "profile.yaml"
    profile.write_text("{nodes: 2}")
    with pytest.raises(RequestError, match=r"--time soon: time: found 'soon'.*a time limit as SLURM writes it"):
        show_script(job_file, [], profile, [], False, {"time": "soon"})
    with pytest.raises(RequestError, match=r"--nodes 0: nodes: found 0"):
        show_script(job_file, [], profile, [], False, {"nodes": 0})


@pytest.mark.parametrize("written", ["20:00", "1-2", "12:00:00", "90", "'20:00'"])
def test_a_time_of_a_profile_is_the_text_it_was(written: str, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"{{time: {written}, account: 010, qos: on, constraint: 1e, partition: 2026-01-01}}")
    found = load_profile(file)
    assert found.time == written.strip("'")
    assert (found.account, found.qos, found.constraint, found.partition) == ("010", "on", "1e", "2026-01-01")


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
