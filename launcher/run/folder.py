"""The run folder: the one place where the launcher and the ranks meet."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from launcher.errors import JobError, RequestError, RunFailed
from launcher.files import partial_of
from launcher.files import write_whole as write_whole
from launcher.job.reading.job_file import load_kept_job
from launcher.job.reading.positions import read_document
from launcher.job.reading.yaml_reader import dump_yaml
from launcher.job.schema import Job
from launcher.plan.plan import Plan
from launcher.run import claims
from launcher.run.events import EventTail, Phase


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, `runs/<name>-<time>/`, and what is kept at each."""

    path: Path

    @classmethod
    def create(cls, job: Job, path: Path | None = None) -> RunFolder:
        """Make a new folder holding the job as resolved: named by job and time, or at `path`."""
        folder = cls(_new_folder(job) if path is None else path)
        folder.logs.mkdir(parents=True)
        folder.checkpoints.mkdir()
        folder.write_job(job)
        return folder

    def write_job(self, job: Job) -> None:
        """Keep the job as resolved."""
        write_whole(self.job_file, dump_yaml(job.as_dict()))

    @property
    def job_file(self) -> Path:
        """The job as resolved; running it again repeats the run."""
        return self.path / "job.yaml"

    def job(self) -> Job:
        """The job as it was resolved and checked when the run began; rules and files are not looked at again.

        Raises JobError for a damaged file.
        """
        return load_kept_job(self.job_file)

    def job_values(self) -> dict[str, Any]:
        """The job as it was kept; nothing asks whether its data are still there. Raises RequestError."""
        try:
            return read_document(self.job_file, "name another run").values
        except JobError as error:
            found = error.problems[0]
            message = f"{found.where}: {found.message}; restore the one that the run began with"
            raise RequestError(f"{self.job_file} is damaged: {message}") from None

    @property
    def plan_file(self) -> Path:
        """What was decided before the start."""
        return self.path / "plan.json"

    @property
    def deepspeed_file(self) -> Path:
        """The rendered DeepSpeed JSON: what DeepSpeed gets."""
        return self.path / "deepspeed.json"

    def write_plan(self, plan: Plan) -> None:
        """Keep the plan, and what DeepSpeed gets in a file of its own."""
        plan.save(self.plan_file)
        if plan.deepspeed is not None:
            write_whole(self.deepspeed_file, json.dumps(plan.deepspeed, indent=2) + "\n")

    @property
    def prepared_file(self) -> Path:
        """Which prepared data the ranks of this start read; written by the one process that prepared them."""
        return self.path / "prepared.json"

    @property
    def environment_file(self) -> Path:
        """Versions, hardware and commit."""
        return self.path / "environment.json"

    @property
    def events_file(self) -> Path:
        """One JSON object a line, the source of every display and report."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """Output of each rank."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Resumable checkpoints, one a folder."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The consolidated result, a standard Hugging Face folder."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """The adapters alone, where `model` is the whole model with them."""
        return self.path / "adapter"

    def outcomes(self, name: str, candidate: str) -> Path:
        """What one model made of each sample of one validation set."""
        return self.path / "outcomes" / name / f"{candidate}.parquet"

    @property
    def selection_file(self) -> Path:
        """How much each sample of the deciding set counts, where the checkpoint is chosen for another domain."""
        return self.path / "selection.npy"

    @property
    def skeleton(self) -> Path:
        """The model folder without its weights, there from the start; `adaptrun consolidate` adds weights to it."""
        return self.path / "skeleton"

    @property
    def result_file(self) -> Path:
        """Status, steps, seconds, and the metrics before and after."""
        return self.path / "result.json"

    @property
    def start_file(self) -> Path:
        """The latest attempt: its count, and what it resumes from."""
        return self.path / "start.json"

    @property
    def token_file(self) -> Path:
        """What the ranks of the latest start on several machines know each other by; only its user can read it."""
        return self.path / ".token"

    @property
    def stop_file(self) -> Path:
        """Made by anyone who wants the run to save and stop; with `cancel` in it, the run is not taken up again."""
        return self.path / "stop"

    @property
    def discarded_file(self) -> Path:
        """Only where steps were discarded until the limit: the samples of each, and what it gave."""
        return self.path / "discarded-steps.json"

    @property
    def failure_file(self) -> Path:
        """Only after a failure: the first rank that failed, and why; or what is wrong with what was asked for."""
        return self.path / "failure.txt"

    def claim(self) -> bool:
        """Hold the folder until this process ends. False where another process holds it: the run is still going."""
        return claims.claim(self.path)

    def is_claimed(self) -> bool:
        """Whether another process holds the folder: the run is going."""
        return claims.is_claimed(self.path)

    def tracker_state(self, name: str) -> Path:
        """Under which id a tracker knows this run, and how far it has read the events."""
        return self.path / f"{name}.json"

    def tracker_log(self, name: str) -> Path:
        """What a tracker's library says."""
        return self.logs / f"{name}.log"

    def log(self, rank: int) -> Path:
        """Output of one rank."""
        return self.logs / f"rank-{rank}.log"

    def become_latest(self, job: Job) -> None:
        """Let `runs/<name>` lead here: the latest finished run of that name."""
        link = self.path.with_name(job.name)
        if link.exists() and not link.is_symlink():
            return
        beside = partial_of(link)
        beside.symlink_to(self.path.name)
        beside.replace(link)

    def plan(self) -> Plan:
        """The saved plan."""
        return Plan.read(self.plan_file)

    def result(self) -> dict[str, object] | None:
        """The saved result; None while there is none, and where its file is damaged."""
        return read_json(self.result_file)

    def is_done(self) -> bool:
        """Whether the run has come to its end; where its result's file is damaged, its events tell."""
        result = self.result()
        if result is not None or not self.result_file.exists():
            return result is not None and result.get("status") == "done"
        phases = [event for event in EventTail(self.events_file).read() if isinstance(event, Phase)]
        return bool(phases) and phases[-1].name == "done"

    def damage(self, events: EventTail) -> tuple[str, ...]:
        """Which of the run's own small files cannot be read, in words.

        events: of this run, which have been read to their end
        """
        files = (self.result_file, self.start_file, self.plan_file, self.prepared_file, self.environment_file)
        found = [f"{file.name} cannot be read" for file in files if file.exists() and read_json(file) is None]
        if events.damaged:
            lines = "1 line" if events.damaged == 1 else f"{events.damaged} lines"
            found.append(f"{lines} of {self.events_file.name} cannot be read")
        return tuple(found)


def read_json(file: Path) -> dict[str, Any] | None:
    """The values of a file that holds a JSON object; None where it is not there or is damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def find_run(path: Path) -> RunFolder:
    """The run of a folder that a user named. Raises RequestError."""
    run = RunFolder(path.resolve())
    if not run.job_file.is_file():
        raise RequestError(f"{path} is no run's folder; name one in runs/, such as runs/<name>-<time>")
    return run


def find_latest_run(path: Path) -> RunFolder:
    """The same, where `runs/<name>` is the latest start of that name, finished or not. Raises RequestError."""
    if path.is_symlink() or not path.exists():
        for started in runs_named(path.parent, path.name):
            if RunFolder(started).job_file.is_file():
                return RunFolder(started.resolve())
    return find_run(path)


def runs_named(folder: Path, name: str) -> list[Path]:
    """The folders of runs that a job's name gave, the newest first."""
    named = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
    return sorted((path for path in folder.glob("*") if named.fullmatch(path.name)), reverse=True)


def _new_folder(job: Job) -> Path:
    """`runs/<name>-<time>`, made now; a number is added where two runs start in one second. Raises RequestError."""
    start = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in count():
        path = job.runs_folder / (f"{job.name}-{start}-{number}" if number else f"{job.name}-{start}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RequestError(
                f"{path} cannot be created: {error.strerror}; set launch.runs to a writable folder"
            ) from error
        return path.resolve()
    raise AssertionError("count() never ends")


@contextmanager
def temporary_folder() -> Iterator[RunFolder]:
    """A folder for processes that answer one request. It stays only where they failed: what they said is in it.

    Raises RunFailed where nothing can be written.
    """
    try:
        folder, failed = RunFolder(Path(tempfile.mkdtemp(prefix="adaptrun-"))), False
        folder.logs.mkdir()
    except OSError as error:
        place = error.filename or "the folder of temporary files"
        raise RunFailed(f"cannot write {place} ({error.strerror}); name a folder with room in TMPDIR") from None
    try:
        yield folder
    except RunFailed:
        failed = True
        raise
    finally:
        if not failed:
            shutil.rmtree(folder.path, ignore_errors=True)
