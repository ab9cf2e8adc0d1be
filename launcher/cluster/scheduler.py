"""SLURM's own commands, called and read in one place; accounting is not needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import RequestError

SECONDS = 60.0
NOT_NOW = "not available now"
"""How the scheduler's answer ends where nodes are down that may come back."""
WAITING, RUNNING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"), ("RUNNING", "COMPLETING", "SUSPENDED")


@dataclass(frozen=True)
class JobState:
    """What the scheduler says of a batch job.

    ends: when the time limit is reached, as the scheduler writes it
    """

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    ends: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in WAITING + RUNNING or self.state == "CONFIGURING"

    def __str__(self) -> str:
        words = [f"job {self.job}: {self.state.lower()}"]
        if self.state in WAITING and self.reason not in ("", "None"):
            words.append(f"waiting for {self.reason}")
        if self.state == "RUNNING":
            words.append(f"on {self.nodes} until {self.ends}")
        return ", ".join(words)


def submit(script: Path) -> str:
    """Queue a batch script and return its job's number. Raises RequestError with what the scheduler says."""
    return _call("sbatch", "--parsable", str(script)).split(";")[0].strip()


def try_script(script: str) -> str:
    """Ask the scheduler whether and when a script could run. Raises RequestError where it never could."""
    try:
        return _call("sbatch", "--test-only", given=script, says_on_stderr=True)
    except RequestError as error:
        if str(error).endswith(NOT_NOW):
            return str(error)
        raise


def job_state(job: str) -> JobState | None:
    """What is known of a job; None once the scheduler has forgotten it."""
    try:
        said = _call("scontrol", "--oneliner", "show", "job", job)
    except RequestError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    line = next(iter(said.splitlines()), "")
    if not line:
        return None
    return JobState(
        job,
        _field(line, "JobState"),
        _field(line, "Reason"),
        _field(line, "NodeList"),
        _field(line, "EndTime"),
    )


def cancel(job: str) -> None:
    """End a job at once."""
    _call("scancel", job)


def is_installed() -> bool:
    """Whether SLURM's commands are here."""
    return shutil.which("sbatch") is not None


def _field(line: str, name: str) -> str:
    found = re.search(rf"(?:^|\s){name}=(\S*)", line)
    return "" if found is None else found.group(1)


def require() -> None:
    """Raise RequestError where SLURM is not installed."""
    if not is_installed():
        raise RequestError(
            "sbatch is not found: SLURM is not installed, or not on the PATH; run this on a login node "
            "of the cluster, or use adaptrun train on this machine"
        )


def _call(*command: str, given: str | None = None, says_on_stderr: bool = False) -> str:
    require()
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS)
    except OSError as error:
        raise RequestError(
            f"{command[0]} cannot be started: {error.strerror}; sbatch is found, and {command[0]} has to "
            "be on the PATH of this machine too"
        ) from None
    except subprocess.TimeoutExpired:
        raise RequestError(f"{command[0]} does not answer within {SECONDS:.0f} s; try `sinfo`") from None
    if done.returncode != 0:
        raise RequestError(f"{command[0]} says: {done.stderr.strip() or done.stdout.strip()}")
    return done.stderr if says_on_stderr else done.stdout
