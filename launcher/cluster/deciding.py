"""What comes after the ranks of a batch job have ended: `python -m launcher.cluster.deciding RUN`.

Its exit code tells the batch script: 0 done, 1 failed, 2 the request is wrong, 10 start the ranks again in this
allocation, 75 queue the job again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from launcher.cluster.fitness import take_unfit
from launcher.cluster.lookout import lost_file
from launcher.errors import AdaptrunError, ExitCode, Stopped
from launcher.job.reading import load_job
from launcher.run.checkpoints import last_checkpoint, step_of
from launcher.run.display import print_result
from launcher.run.events import Began, EventTail
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.run.starts import Start
from launcher.start.failure import RankFailed, report_failure
from launcher.start.restarting import adapt

AGAIN = 10
CANCEL = "cancel"
"""In the stop file: the run is not to be taken up again."""


def main() -> None:
    """Decide, say why, and exit with the code."""
    parser = argparse.ArgumentParser(prog="launcher.cluster.deciding")
    parser.add_argument("run", type=Path)
    parser.add_argument("--max-requeues", type=int, required=True)
    arguments = parser.parse_args()
    try:
        code = decide(RunFolder(arguments.run), arguments.max_requeues)
    except AdaptrunError as error:
        print(f"adaptrun: {error}", file=sys.stderr)
        code = int(error.exit_code)
    sys.exit(code)


def decide(folder: RunFolder, max_requeues: int) -> int:
    """The code for the batch script. Raises the failure of the run where nothing more can be done."""
    result = folder.result()
    if result is not None and result["status"] == "done":
        print_result(Result.read(folder.result_file))
        return int(ExitCode.DONE)
    unfit = take_unfit(folder)
    if unfit:
        return _queue_again(folder, max_requeues, f"without {', '.join(unfit)}")
    lost = lost_file(folder, _start(folder).count)
    if lost.exists():
        return _queue_again(folder, max_requeues, lost.read_text(encoding="utf-8").strip())
    try:
        report_failure(folder, was_asked=folder.stop_file.exists())
    except Stopped as stopped:
        if folder.stop_file.exists() and folder.stop_file.read_text(encoding="utf-8").strip() == CANCEL:
            print(f"cancelled: {stopped}")
            return int(ExitCode.FAILED)
        return _queue_again(folder, max_requeues, str(stopped))
    except RankFailed as failed:
        job = load_job(folder.job_file)
        adapt(folder, job, folder.job_file, failed)
        print(f"the ranks are started again after this:\n{failed}", file=sys.stderr)
        return AGAIN


def _queue_again(folder: RunFolder, max_requeues: int, why: str) -> int:
    """Whether the run may go back into the queue: not for ever, and not where starts bring nothing."""
    start, job = _start(folder), load_job(folder.job_file)
    done = sum(1 for e in EventTail(folder.events_file).read() if isinstance(e, Began) and e.cause == "requeued")
    last = last_checkpoint(folder.checkpoints)
    gained = last is not None and step_of(last) > start.from_step
    if done >= max_requeues:
        print(f"not queued again, since that was done {done} times (max_requeues of the profile): {why}")
        return int(ExitCode.FAILED)
    if not gained and start.fruitless >= job.launch.max_restarts:
        print(
            f"not queued again: {start.fruitless + 1} starts in a row have saved no step (launch.max_restarts): {why}"
        )
        return int(ExitCode.FAILED)
    print(f"queued again: {why}")
    return int(ExitCode.STOPPED)


def _start(folder: RunFolder) -> Start:
    return Start.read(folder) or Start()


if __name__ == "__main__":
    main()
