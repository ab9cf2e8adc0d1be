"""When srun is waited for in vain: told from the nodes' signs of life."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from launcher.cluster.node_agent import SECONDS_FOR_WORD, _counted, _wait_for_start, _wait_for_word_of_all
from launcher.cluster.node_env import NodeEnv
from launcher.cluster.node_heartbeat import HeartbeatWriter, node_heartbeats
from launcher.cluster.srun_watchdog import SECONDS_AFTER_THE_END, SECONDS_OF_SILENCE, SrunWatchdog
from launcher.errors import RunFailed
from launcher.run.attempts import Attempt, adopt, begin_attempt
from launcher.run.folder import RunFolder
from launcher.supervise.stop_requests import StopRequests

NODES = ("n1", "n2")
LONG = SECONDS_OF_SILENCE + 1


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path)
    made.logs.mkdir()
    made.checkpoints.mkdir()
    begin_attempt(made, "first", None)
    return made


def place(index: int, step: int = 0) -> NodeEnv:
    environment = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": str(step), "SLURM_NODEID": str(index)}
    return NodeEnv.from_environment(NODES, environment)


def tell(folder: RunFolder, node: str, ended: bool = False) -> None:
    HeartbeatWriter(folder, node, 1).write(ended)


def test_a_node_that_falls_silent_is_named(folder: RunFolder) -> None:
    lookout = SrunWatchdog(folder, 2)
    assert lookout.complaint(0.0) is None, "no node has spoken yet"
    tell(folder, "n1")
    tell(folder, "n2")
    assert lookout.complaint(0.0) is None
    tell(folder, "n1")
    assert lookout.complaint(LONG) == f"no heartbeat from n2 for {SECONDS_OF_SILENCE:.0f} s"


def test_a_node_that_has_ended_may_be_silent_while_others_speak(folder: RunFolder) -> None:
    lookout = SrunWatchdog(folder, 2)
    tell(folder, "n1", ended=True)
    tell(folder, "n2")
    assert lookout.complaint(0.0) is None
    tell(folder, "n2")
    assert lookout.complaint(LONG) is None


def test_an_srun_that_misses_the_end_of_all_nodes_is_given_up(folder: RunFolder) -> None:
    lookout = SrunWatchdog(folder, 2)
    tell(folder, "n1", ended=True)
    tell(folder, "n2", ended=True)
    assert lookout.complaint(0.0) is None
    assert lookout.complaint(SECONDS_AFTER_THE_END + 1) == "the ranks of all nodes have ended, and srun did not notice"


def test_signs_of_an_earlier_start_do_not_count(folder: RunFolder) -> None:
    lookout = SrunWatchdog(folder, 2)
    tell(folder, "n1")
    assert lookout.complaint(0.0) is None
    begin_attempt(folder, "requeued", None)
    assert lookout.complaint(LONG) is None


def test_a_disk_that_is_full_only_leaves_a_node_silent(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("launcher.cluster.node_heartbeat.write_whole", full)
    tell(folder, "n1")
    assert node_heartbeats(folder, 1) == []


def test_a_node_that_waits_for_the_data_is_there_already(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    start = _counted(folder, place(0), None)
    assert (start.count, start.token, start.endpoint) == (1, "7-0-0", "")
    heartbeat, seen = HeartbeatWriter(folder, "n2"), []

    def prepared(seconds: float) -> None:
        seen.extend(node_heartbeats(folder, 1))
        adopt(folder, start, token=start.token, endpoint="n1:9", ends=None)

    monkeypatch.setattr("launcher.cluster.node_agent.time.sleep", prepared)
    found = _wait_for_start(folder, place(1), heartbeat, StopRequests())
    assert found.endpoint == "n1:9"
    assert [sign.node for sign in seen] == ["n2"]


def test_a_node_that_ends_badly_waits_for_what_the_others_say(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, now = begin_attempt(folder, "restart", None), 0.0
    (folder.logs / "start-2.n1.ends.json").write_text("[]")

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 1.0 and not is_silent:
            (folder.logs / "start-2.n2.ends.json").write_text("[]")

    monkeypatch.setattr("launcher.cluster.node_agent.time.sleep", sleep)
    monkeypatch.setattr("launcher.cluster.node_agent.time.monotonic", lambda: now)
    is_silent = True
    _wait_for_word_of_all(folder, start, 2)
    assert now == pytest.approx(SECONDS_FOR_WORD, abs=0.3)
    now, is_silent = 0.0, False
    _wait_for_word_of_all(folder, start, 2)
    assert 1.0 < now < 2.0


def test_a_start_that_was_counted_is_taken_up_in_whichever_step(folder: RunFolder) -> None:
    assert _counted(folder, place(0, step=3), None).count == 1
    assert (_counted(folder, place(0, step=4), None).count, Attempt.read(folder).cause) == (2, "restart")  # type: ignore[union-attr]
    folder.start_file.write_text(json.dumps({"count": 2, "token": "6-0-0"}))
    assert (_counted(folder, place(0), None).count, Attempt.read(folder).cause) == (3, "requeued")  # type: ignore[union-attr]


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RunFailed, match=r"cannot reach n2: .*; each node must resolve the names of the others"):
        assert place(0).address
