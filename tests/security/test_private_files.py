"""Among the temporary files, which all users share, nothing of a run has a name that another user can take first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launcher.run.failures import Failure, forget_failures, recorded_failures, report_failure
from launcher.run.folder import RunFolder
from launcher.run.heartbeats import Heartbeat, Heartbeats
from launcher.run.scratch import make_scratch, scratch
from tests.cli import assert_gone

FAILURE = Failure(0, "n1", 1.0, "ValueError", "no", "Traceback …", 1)
OTHER_USER = 65534


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, for this test and the processes that it starts."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def full(tmp_path: Path) -> RunFolder:
    """A run in whose folder no word can be kept."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.logs.write_text("no folder")
    return folder


def test_words_that_the_runs_folder_has_no_room_for_are_kept_for_this_user_alone(
    temporary: Path, full: RunFolder
) -> None:
    report_failure(full, FAILURE, 0)
    assert recorded_failures(full) == [FAILURE]
    (private,) = temporary.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    forget_failures(full)
    assert (recorded_failures(full), list(private.iterdir())) == ([], [])


def taken_by_a_link(temporary: Path, victim: Path) -> None:
    (temporary / f"adaptrun-{os.getuid()}").symlink_to(victim)


def taken_by_another_user(temporary: Path, victim: Path) -> None:
    made = temporary / f"adaptrun-{os.getuid()}"
    made.mkdir(mode=0o700)
    os.chown(made, OTHER_USER, OTHER_USER)


def open_to_all(temporary: Path, victim: Path) -> None:
    made = temporary / f"adaptrun-{os.getuid()}"
    made.mkdir()
    made.chmod(0o777)


@pytest.mark.parametrize("taken", [taken_by_a_link, taken_by_another_user, open_to_all])
def test_a_folder_that_another_user_has_made_first_is_neither_written_nor_read(
    taken: object, temporary: Path, full: RunFolder, tmp_path: Path
) -> None:
    if taken is taken_by_another_user and os.getuid() != 0:
        pytest.skip("only root can give a folder to another user")
    victim = tmp_path / "victim"
    victim.mkdir()
    assert callable(taken)
    taken(temporary, victim)
    report_failure(full, FAILURE, 0)
    assert recorded_failures(full) == []
    assert list(victim.iterdir()) == []
    for use in (scratch, make_scratch):
        with pytest.raises(PermissionError, match="is not a folder of this user alone; remove it, or set TMPDIR"):
            use(full, "words")


def test_what_was_put_in_the_place_of_heartbeats_is_not_looked_at(temporary: Path) -> None:
    heartbeats = Heartbeats(2, 2)
    assert list(temporary.iterdir()) == []
    assert heartbeats.read() == {}
    heartbeats.close()


def test_a_beat_is_read_by_the_one_who_handed_the_memory_on(monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeats = Heartbeats(2, 2)
    code = (
        "from launcher.run.heartbeats import Heartbeat\n"
        "pulse = Heartbeat.here(); pulse.enter('training'); pulse.beat(7)\n"
        "import os; assert 'ADAPTRUN_HEARTBEAT' not in os.environ"
    )
    environment = os.environ | {"ADAPTRUN_HEARTBEAT": heartbeats.address_of(3)}
    subprocess.run([sys.executable, "-c", code], env=environment, pass_fds=[heartbeats.descriptor], check=True)
    (found,) = heartbeats.read().items()
    assert (found[0], found[1].phase, found[1].step, found[1].beats) == (3, "training", 7, 1)
    heartbeats.close()
    assert Heartbeat.here().now().phase == "", "a rank that was started by hand has none"


LAUNCH = r"""
import sys
from pathlib import Path
from launcher.run.folder import RunFolder
from launcher.supervise.processes import run_agent

rank = "import os, time; from launcher.worker.rank.process import RankEnv, RankProcess; "
rank += "process = RankProcess(RankEnv()); os.write(1, b'beating\\n'); process.run(lambda: time.sleep(600))"
run_agent([sys.executable, "-P", "-c", rank], 2, 1, RunFolder(Path(sys.argv[1])), [])
"""


def test_a_killed_launcher_leaves_nothing_among_the_temporary_files(temporary: Path, tmp_path: Path) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    assert [launcher.stdout.readline() for _ in range(2)] == ["beating\n"] * 2
    ranks = psutil.Process(launcher.pid).children()
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert_gone(ranks)
    assert list(temporary.iterdir()) == []
