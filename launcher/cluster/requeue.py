"""What comes after the ranks of a batch job have ended: `python -m launcher.cluster.requeue RUN`.

Its exit code tells the batch script: 0 done, 1 failed, 2 the request is wrong, 10 start the ranks again in this
allocation, 11 the run was cancelled, 75 queue the job again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from launcher.cluster.batch_jobs import excluded_file
from launcher.cluster.srun_watchdog import lost_file
from launcher.display.live import print_outcome
from launcher.errors import AdaptrunError, ExitCode
from launcher.run.attempts import Attempt, attempts_without_progress
from launcher.run.checkpoints import last_checkpoint
from launcher.run.events import Began, EventTail
from launcher.run.failures import first_failure
from launcher.run.folder import RunFolder
from launcher.run.results import insist_on_adoption, mark_stopped
from launcher.run.unhealthy import take_unhealthy
from launcher.supervise.failure import RankFailed, report_failure
from launcher.supervise.restarts import restart
from launcher.terminal import write_plainly

AGAIN = 10
CANCELLED = 11
CANCEL = "cancel"
"""In the stop file: the run is not to be taken up again."""


def main() -> None:
    """Decide, say why, and exit with the code."""
    write_plainly()
    parser = argparse.ArgumentParser(prog="launcher.cluster.requeue")
    parser.add_argument("run", type=Path)
    parser.add_argument("--requeues", type=int, default=0)
    parser.add_argument("--max-requeues", type=int, required=True)
    arguments = parser.parse_args()
    try:
        code = decide(RunFolder(arguments.run), arguments.requeues, arguments.max_requeues)
    except AdaptrunError as error:
        print(f"adaptrun: {error}", file=sys.stderr)
        code = int(error.exit_code)
    sys.exit(code)


def decide(folder: RunFolder, requeues: int, max_requeues: int) -> int:
    """The code for the batch script. Raises the failure of the run where nothing more can be done.

    requeues: how often the scheduler has queued the job again
    """
    if folder.is_done():
        print_outcome(folder)
        insist_on_adoption(folder)
        return int(ExitCode.DONE)
    why = _why_queued_again(folder)
    if why is not None and _is_cancelled(folder):
        print(f"cancelled, or requeued by the scheduler itself: {why}")
        mark_stopped(folder)
        return CANCELLED
    if why is not None:
        folder.stop_file.unlink(missing_ok=True)
        return _queue_again(folder, requeues, max_requeues, why)
    try:
        report_failure(folder)
    except RankFailed as failed:
        restart(folder, folder.job(), folder.job_file, failed)
        print(f"the ranks are restarted after this failure:\n{failed}", file=sys.stderr)
        return AGAIN


def _why_queued_again(folder: RunFolder) -> str | None:
    """What speaks for another allocation: nodes that are not fit or were lost, or a request to stop.

    A request may have come to a node or a rank alone, and made no file.
    """
    unhealthy = take_unhealthy(folder)
    if unhealthy:
        with excluded_file(folder).open("a", encoding="utf-8") as listed:
            listed.writelines(f"{node}\n" for node in unhealthy)
        return f"without {', '.join(f'{node} ({why})' for node, why in unhealthy.items())}"
    lost = lost_file(folder, _start(folder).count)
    if lost.exists():
        return _text(lost)
    first = first_failure(folder)
    if folder.stop_file.exists() or (first is not None and first.exit_code == ExitCode.STOPPED):
        last = last_checkpoint(folder.checkpoints)
        return f"stopped on request; {'nothing' if last is None else last.name} is saved"
    return "the nodes ended without reporting a failure, as lost nodes do" if first is None else None


def _is_cancelled(folder: RunFolder) -> bool:
    return folder.stop_file.exists() and _text(folder.stop_file) == CANCEL


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace").strip()


def _queue_again(folder: RunFolder, requeues: int, max_requeues: int, why: str) -> int:
    """Whether the run may go back into the queue: not for ever, and not where starts bring nothing."""
    job, without_progress = folder.job(), attempts_without_progress(folder, _start(folder))
    done = max(requeues, _requeues_since_a_person_began(folder))
    if done >= max_requeues:
        print(f"not requeued: requeued {done} times already (max_requeues of the profile): {why}")
        return int(ExitCode.FAILED)
    if without_progress > job.launch.max_restarts:
        print(f"not requeued: {without_progress} attempts in a row without a checkpoint (launch.max_restarts): {why}")
        return int(ExitCode.FAILED)
    print(f"requeued: {why}")
    return int(ExitCode.STOPPED)


def _requeues_since_a_person_began(folder: RunFolder) -> int:
    """By the run's own events: a job that leaves out unfit nodes is a new one, whose count begins anew."""
    causes = [event.cause for event in EventTail(folder.events_file).read() if isinstance(event, Began)]
    by_a_person = max((number for number, cause in enumerate(causes) if cause in ("first", "resumed")), default=0)
    return causes[by_a_person:].count("requeued")


def _start(folder: RunFolder) -> Attempt:
    return Attempt.read(folder) or Attempt()


if __name__ == "__main__":
    main()
