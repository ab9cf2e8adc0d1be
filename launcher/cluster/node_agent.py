"""One node's part of a run: `python -m launcher.cluster.node_agent RUN --nodes A,B --ends SECONDS`, under srun.

The leading node prepares the data, counts the start and says where to meet; every node starts its ranks, watches
them, and reports how they ended. What that means is decided once, in the batch
script, by `launcher.cluster.requeue`.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

from launcher.cluster.node_env import NodeEnv
from launcher.cluster.node_health import faults_of_this_node
from launcher.cluster.node_heartbeat import HeartbeatWriter
from launcher.errors import AdaptrunError, ExitCode, RunFailed, Stopped
from launcher.job.requests import rank_command
from launcher.run.attempts import Attempt, Cause, adopt, begin_attempt
from launcher.run.checkpoints import last_checkpoint
from launcher.run.failures import Failure, ends_of_nodes, report_failure
from launcher.run.folder import RunFolder
from launcher.run.rendezvous import new_token, read_token
from launcher.run.results import mark_stopped
from launcher.run.unhealthy import report_unhealthy
from launcher.supervise.failure import RankFailed
from launcher.supervise.processes import Rendezvous, run_agent
from launcher.supervise.run import prepare_data, shown, watchdog_of
from launcher.supervise.stop_requests import StopRequests
from launcher.terminal import write_plainly
from launcher.tracking.starting import tracked

PAUSE = 0.2
SECONDS_FOR_WORD = 10.0
"""That nodes give each other to say how their ranks ended."""


def main() -> None:
    """Run this node's ranks; the exit code says only whether they ended well."""
    write_plainly()
    parser = argparse.ArgumentParser(prog="launcher.cluster.node_agent")
    parser.add_argument("run", type=Path)
    parser.add_argument("--nodes", required=True)
    parser.add_argument("--ends", type=float, default=0.0)
    arguments = parser.parse_args()
    folder, place = RunFolder(arguments.run), NodeEnv.from_environment(arguments.nodes.split(","))
    try:
        code = run_node(folder, place, arguments.ends or None)
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        said = str(error) if isinstance(error, AdaptrunError) else trace
        print(f"adaptrun: {socket.gethostname()}: {said}", file=sys.stderr, flush=True)
        code = int(error.exit_code) if isinstance(error, AdaptrunError) else int(ExitCode.FAILED)
        _leave_word(folder, error, trace, code)
        if isinstance(error, Stopped):
            mark_stopped(folder)
    sys.exit(code)


def _leave_word(folder: RunFolder, error: Exception, trace: str, code: int) -> None:
    """For whoever decides what comes next."""
    if isinstance(error, RankFailed):  # it has left word of itself
        return
    start = Attempt.read(folder) or Attempt()
    report_failure(folder, Failure.now(None, type(error).__name__, str(error), trace, code), start.count)


def run_node(folder: RunFolder, place: NodeEnv, ends: float | None) -> int:
    """Start and watch this node's ranks. Raises AdaptrunError where they could not be started."""
    job, plan = folder.job(), folder.plan()
    heartbeat = HeartbeatWriter(folder, place.nodes[place.index])
    with ExitStack() as stack:
        requests = stack.enter_context(StopRequests().listening(last=True))
        display = stack.enter_context(shown(folder, quietly=not place.leads))
        requests.watch(folder.stop_file)
        faults = faults_of_this_node(plan)
        if faults:
            report_unhealthy(folder, place.nodes[place.index], faults)
            raise RunFailed(f"the node failed its health check: {'; '.join(faults)}")
        if place.leads:

            def watch() -> None:
                display.refresh()
                heartbeat.write()

            folder.claim()
            start = _counted(folder, place, ends)
            heartbeat.start = start.count
            folder.prepared_file.unlink(missing_ok=True)
            prepare_data(folder, plan, watch, requests)
            rendezvous = Rendezvous.at(place.address, new_token(folder), plan.nodes)
            start = adopt(folder, start, token=place.token, endpoint=rendezvous.endpoint, ends=ends)
            stack.enter_context(tracked(folder, job))
        else:
            start = _wait_for_start(folder, place, heartbeat, requests)
            rendezvous = Rendezvous(start.endpoint, read_token(folder), plan.nodes, place.index)
        watchdog = watchdog_of(folder, start, job)
        look = [display.refresh, requests.pass_on, heartbeat.write]
        went_well = run_agent(
            rank_command(folder.path), plan.processes, plan.threads, folder, look, watchdog, rendezvous
        )
        heartbeat.write(ended=True)
    if not went_well:
        _wait_for_word_of_all(folder, start, plan.nodes)
    return int(ExitCode.DONE if went_well else ExitCode.FAILED)


def _counted(folder: RunFolder, place: NodeEnv, ends: float | None) -> Attempt:
    """Count the start, or take up one that was counted before: also one that ends while it prepares is a start."""
    latest = Attempt.read(folder)
    if latest is not None and not latest.token:
        return adopt(folder, latest, token=place.token, endpoint="", ends=ends)
    cause: Cause = "restart" if place.step else "requeued"
    return begin_attempt(folder, cause, last_checkpoint(folder.checkpoints), token=place.token, ends=ends)


def _wait_for_start(folder: RunFolder, place: NodeEnv, heartbeat: HeartbeatWriter, requests: StopRequests) -> Attempt:
    """Wait while the leading node prepares the data; srun ends this task if that node fails."""
    while True:
        start = Attempt.read(folder)
        if start is not None and start.token == place.token:
            heartbeat.start = start.count
            heartbeat.write()
            if start.endpoint:
                return start
        requests.check()
        time.sleep(PAUSE)


def _wait_for_word_of_all(folder: RunFolder, start: Attempt, nodes: int) -> None:
    """srun ends the tasks of the other nodes once this one has ended badly; what they still say may name the cause."""
    until = time.monotonic() + SECONDS_FOR_WORD
    while len(ends_of_nodes(folder, start.count)) < nodes and time.monotonic() < until:
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
