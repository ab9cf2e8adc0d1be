"""On a real cluster of three nodes: a job goes on after everything that befalls it, and ends with the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from launcher.cluster.batch_jobs import jobs_of
from launcher.commands.demo import EXAMPLES
from launcher.commands.demo_data import write_demo_data
from launcher.run.checkpoints import complete_checkpoints, step_of
from launcher.run.events import Began, EventTail, Phase, Saved, Started, Step
from launcher.run.folder import RunFolder, write_whole
from tests.cli import ADAPTRUN, adaptrun
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]  # the `slow` ones show once more what a quicker one shows

REPOSITORY = Path(__file__).resolve().parents[2]


class Submitted:
    """A run in the queue, and what is known of it."""

    def __init__(self, cluster: Cluster, folder: Path, *arguments: object, profile: str = "profile.yaml") -> None:
        cluster.wait_until_idle()
        said = adaptrun("submit", "job.yaml", "--profile", profile, *arguments, cwd=folder).stdout
        self._are(cluster, folder, said.splitlines()[0])

    @classmethod
    def of(cls, cluster: Cluster, folder: Path, line: str) -> Submitted:
        """One of the jobs that `submit` names, a line each."""
        made = cls.__new__(cls)
        made._are(cluster, folder, line)
        return made

    def _are(self, cluster: Cluster, folder: Path, line: str) -> None:
        self.cluster, self.folder = cluster, folder
        self.number, path = line.removeprefix("job ").split(": ")
        self.run = RunFolder(Path(path))

    @property
    def steps(self) -> dict[int, float]:
        """Losses by step; of a step made twice, the later."""
        return {e.step: e.loss for e in EventTail(self.run.events_file).read() if isinstance(e, Step)}

    def pace(self, seconds: float) -> None:
        write_whole(self.folder / "pace", str(seconds))  # the ranks read it at every step

    def wait_for_step(self, step: int) -> None:
        begun = time.monotonic()
        while max(self.steps, default=0) < step:
            assert time.monotonic() - begun < 120, f"no step {step}: {self.printed()}"
            time.sleep(0.1)

    def wait_for_checkpoint(self) -> None:
        self.wait_for_step(6)
        while not complete_checkpoints(self.run.checkpoints):
            time.sleep(0.1)

    def wait(self, state: str = "COMPLETED", patience: float = 240.0) -> None:
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.cluster.wait_for(self.number, lambda job: job["JobState"] in ends, patience)
        found = self.cluster.state(self.number)["JobState"]
        assert found == state, f"{found}: {self.printed()}"

    def printed(self) -> str:
        return "\n".join(file.read_text() for file in self.run.path.glob("slurm-*.out"))

    def starts(self) -> list[Began]:
        return [event for event in EventTail(self.run.events_file).read() if isinstance(event, Began)]

    def ranks(self, node: str) -> list[psutil.Process]:
        """The processes that train on a node, found by their host name."""
        mine = [p for p in psutil.process_iter() if str(self.run.path) in _words(p) and "launcher.worker" in _words(p)]
        return [p for p in mine if p.environ().get("SLURMD_NODENAME") == node]

    def assert_equals(self, reference: Path) -> None:
        """Same losses and weights as the run that nobody disturbed, and no step that a checkpoint held made again."""
        saved, weights = 0, "model/model.safetensors"
        for event in EventTail(self.run.events_file).read():
            if isinstance(event, Saved):
                saved = max(saved, event.step)
            elif isinstance(event, Began):
                assert event.step >= saved, f"start {event.start} goes on from {event.step}, and {saved} was saved"
        assert (self.run.path / weights).read_bytes() == (reference / weights).read_bytes()
        expected = {e.step: e.loss for e in EventTail(reference / "metrics.jsonl").read() if isinstance(e, Step)}
        assert self.steps == expected


def _expanded(nodes: str) -> list[str]:
    names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return names.stdout.split()


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_two_nodes_give_the_numbers_of_one_machine(cluster: Cluster, folder: Path, reference_of_four: Path) -> None:
    job = Submitted(cluster, folder, profile="profile-of-four.yaml")
    plan = job.run.plan()
    assert (plan.nodes, plan.processes) == (2, 2)
    job.wait()
    job.assert_equals(reference_of_four)
    status = json.loads(adaptrun("status", job.run.path, "--json", cwd=folder).stdout)
    assert (status["state"], status["step"], status["total_steps"], status["starts"]) == ("done", 24, 24, 1)
    assert "completed" in status["job"]
    assert "each counted once" in adaptrun("logs", job.run.path, cwd=folder).stdout
    assert adaptrun("logs", job.run.path, "--rank", 3, cwd=folder).stdout != ""


@pytest.mark.slow
def test_the_demos_job_has_the_losses_of_one_machine(cluster: Cluster, folder: Path) -> None:
    write_demo_data(folder / "data")
    job = yaml.safe_load((EXAMPLES / "film-reviews.yaml").read_text())
    sources = {name: {"source": source, "limit": 64} for name, source in job["data"]["validation"].items()}
    job["data"] |= {"validation": sources, "cache": "cache"}
    job["train"]["max_steps"] = 4
    job["launch"] |= {"processes": 4, "device": "cpu"}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    submitted = Submitted(cluster, folder, profile="profile-of-four.yaml")
    submitted.wait()
    adaptrun("train", "job.yaml", "--resume", "never", cwd=folder)
    (here,) = (run for run in (folder / "runs").glob("film-reviews-*") if run != submitted.run.path)
    expected = {e.step: e.loss for e in EventTail(here / "metrics.jsonl").read() if isinstance(e, Step)}
    assert (len(expected), submitted.steps) == (4, expected)


def test_the_scheduler_is_asked_and_a_job_that_cannot_run_is_refused(cluster: Cluster, folder: Path) -> None:
    assert "to start at" in adaptrun("submit", "job.yaml", "--profile", "profile.yaml", "--test", cwd=folder).stdout
    (folder / "big.yaml").write_text("{nodes: 9, processes_per_node: 1, time: '10'}")
    for more in (["--test"], []):
        sets = ["--set", "train.global_batch_size=16"]
        said = adaptrun("submit", "job.yaml", "--profile", "big.yaml", *sets, *more, cwd=folder, code=2)
        assert "sbatch says:" in said.stderr
        assert "node configuration is not available" in said.stderr
    assert not (folder / "runs").exists()


def test_a_stop_before_the_time_limit_saves_and_queues_again(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    subprocess.run(["scancel", "--signal=USR1", "--batch", job.number], check=True)
    cluster.wait_for(job.number, lambda found: found["Restarts"] == "1")
    job.pace(0)
    job.wait()
    job.assert_equals(reference)
    first, second = job.starts()
    assert (first.cause, second.cause) == ("first", "requeued")
    assert second.step > 5, "it saved when it was asked to stop"
    assert "requeued: stopped on request; step-" in job.printed()


def test_a_preempted_job_goes_on(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    other = subprocess.run(
        ["sbatch", "--parsable", "-p", "high", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    cluster.wait_for(other, "COMPLETED")
    job.pace(0)
    job.wait()
    job.assert_equals(reference)
    assert job.starts()[1].step > 5, "it saved in the time of grace"


@pytest.mark.slow
def test_a_requeue_by_hand_goes_on(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    subprocess.run(["scontrol", "requeue", job.number], check=True)
    cluster.wait_for(job.number, lambda found: found["Restarts"] == "1")
    job.pace(0)
    job.wait()
    job.assert_equals(reference)


def test_a_killed_rank_is_started_again_in_the_same_allocation(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    job.ranks("n2")[0].kill()
    job.pace(0)
    job.wait()
    job.assert_equals(reference)
    assert [start.cause for start in job.starts()] == ["first", "restart"]
    assert cluster.state(job.number)["Restarts"] == "0"
    assert "on n2 failed first" in job.printed()
    assert "SIGKILL" in job.printed()


@pytest.mark.slow
def test_a_stopped_rank_is_found_by_its_nodes_watchdog(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    job.ranks("n2")[0].suspend()
    job.wait()
    job.assert_equals(reference)
    assert "on n2 failed first" in job.printed()
    assert "the process is stopped (SIGSTOP)" in job.printed()


def test_a_killed_node_daemon_costs_only_what_no_checkpoint_held(
    cluster: Cluster, folder: Path, reference: Path
) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.5)
    job.wait_for_checkpoint()
    job.pace(5)  # so that it is not done before the scheduler misses the node
    cluster.kill_node_daemon("n2")
    cluster.wait_for(job.number, lambda found: found["Restarts"] == "1")
    job.pace(0)
    job.wait(patience=300)
    cluster.start_node("n2")
    job.assert_equals(reference)
    assert job.starts()[-1].step >= 5
    assert "n2" not in _expanded(cluster.state(job.number)["NodeList"]), "it went on without the lost node"


@pytest.mark.slow
def test_a_killed_step_daemon_is_noticed(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "slurmstepd" and f"[{job.number}.0]" in " ".join(_words(process)):
            os.kill(process.pid, signal.SIGKILL)
            break
    job.pace(0)
    job.wait(patience=400)
    job.assert_equals(reference)


@pytest.mark.slow
def test_a_cut_link_ends_in_a_new_start(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    cluster.cut("n2")
    time.sleep(45)
    cluster.mend("n2")
    job.pace(0)
    job.wait(patience=400)
    job.assert_equals(reference)


@pytest.mark.slow
def test_a_time_limit_comes_with_time_to_save(cluster: Cluster, folder: Path, reference: Path) -> None:
    (folder / "short.yaml").write_text(
        "{nodes: 2, processes_per_node: 1, cpus_per_node: 1, time: '3', signal_seconds: 80}"
    )
    job = Submitted(cluster, folder, profile="short.yaml")
    job.pace(6)
    cluster.wait_for(job.number, lambda found: found["Restarts"] == "1", 260)
    job.pace(0)
    job.wait()
    job.assert_equals(reference)
    assert job.starts()[1].step > 0, "it saved before the end"
    assert cluster.state(job.number)["JobState"] == "COMPLETED"


def test_a_node_that_fails_its_check_is_named_and_left_out(cluster: Cluster, folder: Path, reference: Path) -> None:
    cluster.sicken("n2")
    try:
        job = Submitted(cluster, folder)
        job.wait("FAILED")
        assert "requeued: without n2 (" in job.printed()
        assert "MiB free" in job.printed()
        assert (job.run.path / "exclude").read_text() == "n2\n"
        first, job.number = jobs_of(job.run)
        assert first != job.number
        job.wait()
    finally:
        cluster.heal("n2")
    job.assert_equals(reference)
    assert sorted(_expanded(cluster.state(job.number)["NodeList"])) == ["n1", "n3"]


def test_names_and_values_arrive_as_they_are(cluster: Cluster, folder: Path) -> None:
    hostile = "a b'c\"d$(touch injected)`touch injected`;touch injected\\"
    inside = folder / hostile.rstrip("\\")
    inside.mkdir()
    for name in ("job.yaml", "train.csv", "dev.csv", "own.py"):
        (inside / name).write_bytes((folder / name).read_bytes())
    profile = {"nodes": 1, "processes_per_node": 1, "time": "10", "environment": {"MY_VALUE": hostile}}
    (inside / "it's.yaml").write_text(yaml.safe_dump({**profile, "account": hostile, "mail": {"to": hostile}}))
    job = Submitted(cluster, inside, "--set", "train.max_steps=2", profile="it's.yaml")
    line = cluster.shown(job.number)
    assert f"Account={hostile.lower()} " in line
    assert f"MailUser={hostile} " in line
    job.wait()
    assert (job.run.path / "model" / "model.safetensors").exists()
    assert not list(folder.rglob("injected"))
    assert not Path("injected").exists()


def test_a_script_of_ones_own_saves_and_goes_on(cluster: Cluster, folder: Path, reference: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = (
        (REPOSITORY / "slurm" / "by-hand.sbatch")
        .read_text()
        .replace("per-node=2", "per-node=1")
        .replace("04:00:00", "10")
    )
    (folder / "by-hand.sbatch").write_text(script)
    (folder / "pace").write_text("0.3")
    cluster.wait_until_idle()
    number = subprocess.run(
        ["sbatch", "--parsable", "by-hand.sbatch", "job.yaml"],
        cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    job = Submitted.__new__(Submitted)
    job.cluster, job.folder, job.number = cluster, folder, number
    begun = time.monotonic()
    while not (found := list((folder / "runs").glob("small-*/metrics.jsonl"))):
        assert time.monotonic() - begun < 60
        time.sleep(0.1)
    job.run = RunFolder(found[0].parent)
    job.wait_for_checkpoint()
    subprocess.run(["scancel", "--signal=USR1", number], check=True)
    cluster.wait_for(number, lambda found: found["Restarts"] == "1")
    job.pace(0)
    job.wait()
    job.assert_equals(reference)
    assert job.starts()[1].step > 5, "it saved when it was asked to stop"


def test_doctor_looks_at_all_nodes_of_an_allocation(cluster: Cluster, tmp_path: Path) -> None:
    done = subprocess.run(
        ["salloc", "--nodes=2", "--ntasks-per-node=1", ADAPTRUN, "doctor", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert (found["SLURM"]["state"], found["shared files"]["state"]) == ("good", "good"), done.stderr
    assert "2 of 2 nodes see" in found["shared files"]["found"]


@pytest.mark.slow
def test_what_gains_nothing_is_not_queued_for_ever(cluster: Cluster, folder: Path) -> None:
    job = Submitted(cluster, folder, "--set", "launch.max_restarts=1")
    job.pace(5)
    for _ in range(2):
        cluster.wait_for(job.number, "RUNNING")
        while not list((job.run.path / "logs").glob("rank-*.log")):
            time.sleep(0.2)
        subprocess.run(["scancel", "--signal=USR1", "--batch", job.number], check=True)
        time.sleep(2)
        cluster.wait_for(job.number, lambda found: found["JobState"] != "RUNNING")
        for log in (job.run.path / "logs").glob("rank-*.log"):
            log.unlink()
    job.wait("FAILED")
    assert "2 attempts in a row without a checkpoint (launch.max_restarts)" in job.printed()


def test_cancel_saves_and_a_submit_goes_on(cluster: Cluster, folder: Path, reference: Path) -> None:
    job = Submitted(cluster, folder)
    job.pace(0.3)
    job.wait_for_checkpoint()
    again = adaptrun("submit", "job.yaml", "--profile", "profile.yaml", "--resume", job.run.path, cwd=folder, code=2)
    assert "is still running, or waiting in a queue" in again.stderr
    assert "saves a checkpoint and stops" in adaptrun("cancel", job.run.path, cwd=folder).stdout
    job.wait("CANCELLED")
    saved = step_of(complete_checkpoints(job.run.checkpoints)[-1])
    assert saved == max(job.steps)
    job.pace(0)
    after = Submitted(cluster, folder)
    assert after.run == job.run
    after.wait()
    after.assert_equals(reference)
    (started,) = [e.step for e in EventTail(job.run.events_file).read() if isinstance(e, Started) and e.step]
    assert started == saved


def test_a_run_that_is_cancelled_while_it_prepares_is_stopped_and_a_submit_goes_on(
    cluster: Cluster, folder: Path, reference: Path
) -> None:
    job = Submitted(cluster, folder)
    begun = time.monotonic()
    while not any(isinstance(event, Phase) for event in EventTail(job.run.events_file).read()):
        assert time.monotonic() - begun < 120, job.printed()
        time.sleep(0.05)
    assert "saves a checkpoint and stops" in adaptrun("cancel", job.run.path, cwd=folder).stdout
    job.wait("CANCELLED")
    assert job.steps == {}
    status = json.loads(adaptrun("status", job.run.path, "--json", cwd=folder).stdout)
    assert (status["state"], status["failure"]) == ("stopped", None)
    after = Submitted(cluster, folder)
    assert after.run == job.run
    after.wait()
    after.assert_equals(reference)


def test_a_task_of_an_array_is_queued_again_alone_and_one_that_is_cancelled_is_not(
    cluster: Cluster, folder: Path, reference: Path
) -> None:
    cluster.wait_until_idle()
    (folder / "pace").write_text("0.5")
    each = ["--each", "validation.batch_size=[16, 8]"]  # which changes no number
    said = adaptrun("submit", "job.yaml", "--profile", "profile.yaml", *each, cwd=folder).stdout
    jobs = [Submitted.of(cluster, folder, line) for line in said.splitlines() if line.startswith("job ")]
    for job in jobs:
        job.wait_for_checkpoint()
    states = [cluster.state(job.number) for job in jobs]
    whole = [state["JobId"] == state["ArrayJobId"] for state in states].index(True)
    stopped, other = jobs[whole], jobs[1 - whole]  # the number of the first is also that of the whole array
    subprocess.run(["scancel", "--signal=USR1", "--batch", stopped.number], check=True)
    cluster.wait_for(stopped.number, lambda found: found["Restarts"] == "1")
    assert cluster.state(other.number)["Restarts"] == "0"
    subprocess.run(["scancel", other.number], check=True)
    stopped.pace(0)
    stopped.wait()
    other.wait("CANCELLED")
    assert cluster.state(other.number)["Restarts"] == "0"
    assert [start.cause for start in other.starts()] == ["first"]
    assert step_of(complete_checkpoints(other.run.checkpoints)[-1]) == max(other.steps), "it saved before it ended"
    stopped.assert_equals(reference)


def test_an_array_and_a_job_after_another(cluster: Cluster, folder: Path) -> None:
    said = adaptrun(
        "submit", "job.yaml", "--profile", "profile.yaml", "--each", "train.seed=[1, 2]",
        "--set", "train.max_steps=3", cwd=folder,
    ).stdout  # fmt: skip
    runs = [RunFolder(Path(line.split(": ")[1])) for line in said.splitlines() if line.startswith("job ")]
    assert len(runs) == 2
    last = adaptrun(
        "submit", "job.yaml", "--profile", "profile.yaml", "--after", runs[1].path, "--set", "train.max_steps=2",
        cwd=folder,
    ).stdout  # fmt: skip
    number, path = last.splitlines()[0].removeprefix("job ").split(": ")
    cluster.wait_for(number, "COMPLETED", 240)
    for seed, run in enumerate(runs, 1):
        assert run.result() is not None
        assert f"seed: {seed}" in run.job_file.read_text()
        assert json.loads(adaptrun("status", run.path, "--json", cwd=folder).stdout)["state"] == "done"
    assert RunFolder(Path(path)).result() is not None
