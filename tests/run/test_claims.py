"""Two starts never hold one run's folder, on file systems with locks and on those without."""

from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import PIPE

import pytest

from launcher.errors import RequestError
from launcher.files import Owner
from launcher.run import claims
from launcher.run.claims import CLAIM, TAKING, claim, holder, is_claimed, release_claims
from launcher.run.resuming import decide_run
from tests.run.test_resuming import folder as folder
from tests.run.test_resuming import job, unfinished

WITHOUT_LOCKS = """
import errno, fcntl, os, sys
from pathlib import Path
def no_lock(*_): raise OSError({number}, os.strerror({number}))
if {number}: fcntl.flock = no_lock
from launcher.run.claims import claim
place = Path({place!r})
"""
HOLD = "print(claim(place), flush=True); sys.stdin.read()"
RACE = "sys.stdin.readline(); print(claim(place), flush=True); sys.stdin.read()"


def code(place: Path, number: int, then: str) -> list[str]:
    return [sys.executable, "-c", WITHOUT_LOCKS.format(number=number, place=str(place)) + then]


@contextmanager
def held(place: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder; it is killed in the end."""
    with subprocess.Popen(code(place, number, HOLD), stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        yield other
        other.kill()


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The error of a file system without locks, for this process too."""

    def no_lock(*_: object) -> None:
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    yield request.param
    release_claims()
    claims._LOCKED.clear()


def test_without_locks_a_second_process_is_refused_until_the_first_has_ended(number: int, tmp_path: Path) -> None:
    with held(tmp_path, number) as other:
        assert is_claimed(tmp_path)
        assert not claim(tmp_path)
        said = holder(tmp_path)
        assert said is not None
        assert f"process {other.pid} on " in said
        assert said.endswith(f"if it has ended, remove {tmp_path / CLAIM}")
    assert (tmp_path / CLAIM).exists(), "it was killed"
    assert not is_claimed(tmp_path)
    assert claim(tmp_path)
    assert claim(tmp_path), "again"
    assert not is_claimed(tmp_path), "it is this process's own"


def test_a_process_that_ends_leaves_no_claim(number: int, tmp_path: Path) -> None:
    said = subprocess.run(code(tmp_path, number, "print(claim(place))"), capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"
    assert not (tmp_path / CLAIM).exists()


def test_of_many_that_find_a_dead_process_exactly_one_takes_its_place(tmp_path: Path) -> None:
    with held(tmp_path, errno.ENOLCK):
        pass
    racers = [
        subprocess.Popen(code(tmp_path, errno.ENOLCK, RACE), stdin=PIPE, stdout=PIPE, text=True, bufsize=1)
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
    said = [racer.stdout.readline() for racer in racers if racer.stdout is not None]
    assert sorted(said) == ["False\n"] * 5 + ["True\n"]
    assert not (tmp_path / TAKING).exists()
    for racer in racers:
        racer.communicate()


@pytest.mark.parametrize("who", ["host", "boot", "namespace", "unknown", "taking"])
def test_what_nobody_can_tell_of_is_refused_with_what_to_do(who: str, tmp_path: Path, number: int) -> None:
    with held(tmp_path, number):
        pass
    dead = Owner(**json.loads((tmp_path / CLAIM).read_text()))
    others = {
        "host": replace(dead, host="another"),
        "boot": replace(dead, boot="00000000"),
        "namespace": replace(dead, namespace=7),
    }
    if who in others:
        (tmp_path / CLAIM).write_text(json.dumps(asdict(others[who])))
    elif who == "unknown":
        (tmp_path / CLAIM).write_text("")
    else:
        (tmp_path / TAKING).write_text("")
    assert not claim(tmp_path)
    assert f"if it has ended, remove {tmp_path / (TAKING if who == 'taking' else CLAIM)}" in str(holder(tmp_path))


def test_who_sees_locks_keeps_away_from_who_sees_none(tmp_path: Path) -> None:
    with held(tmp_path, errno.ENOLCK):
        assert is_claimed(tmp_path)
        assert not claim(tmp_path)
    assert claim(tmp_path)
    claims._LOCKED.pop(tmp_path).close()


def test_a_start_says_who_holds_the_run_and_makes_a_new_one(folder: Path, number: int) -> None:
    run = unfinished(folder)
    with held(run.path, number) as other:
        beside = decide_run(job(folder), "auto")
        assert beside.folder != run
        assert f"{run.path.name} (it is held by process {other.pid} on " in beside.reason
        with pytest.raises(RequestError, match=rf"is still running, .*process {other.pid} on .* remove .*\.claim"):
            decide_run(job(folder), str(run.path))
    assert decide_run(job(folder), "auto").folder == run
