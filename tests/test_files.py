"""Temporary names that no two processes share, what dead ones left, and hashes that are looked at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import files
from launcher.files import (
    HASHES,
    FileHash,
    Owner,
    fault_of_folder,
    fault_of_sealed,
    hash_folder,
    partial_of,
    remove_leftovers,
    seal,
    write_whole,
)
from tests.damage import DAMAGES

ELSEWHERE = {"host": "another", "boot": "00000000", "namespace": 1}


def named(path: Path, owner: Owner) -> Path:
    """A temporary name as another process would give it."""
    who = f"{owner.host}-{owner.boot}-{owner.namespace}-{owner.pid}-{owner.started}"
    return path.with_name(f".{path.name}.{who}-0123abcd.partial")


def a_dead_process() -> Owner:
    code = "from launcher.files import Owner; print(Owner.this().pid, Owner.this().started)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    pid, started = map(int, said.split())
    return replace(Owner.this(), pid=pid, started=started)


def test_no_two_temporary_names_are_alike_not_even_of_one_process(tmp_path: Path) -> None:
    names = {partial_of(tmp_path / "x").name for _ in range(100)}
    assert len(names) == 100
    owner = Owner.this()
    assert all(f"-{owner.boot}-{owner.namespace}-{os.getpid()}-" in name for name in names)
    assert len(partial_of(tmp_path / ("n" * 250)).name) < 256


@pytest.mark.parametrize("name", ["語" * 85, "a" + "é" * 127, "a\udcff" * 60], ids=["CJK", "accents", "no UTF-8"])
def test_the_temporary_name_of_any_name_can_be_written(name: str, tmp_path: Path) -> None:
    write_whole(tmp_path / name, "x")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_only_what_surely_dead_processes_left_is_removed(tmp_path: Path) -> None:
    dead, this = a_dead_process(), Owner.this()
    left = {
        "of a dead process": (named(tmp_path / "a", dead), True),
        "of one whose number another process has now": (named(tmp_path / "b", replace(this, started=1)), True),
        "of this process": (named(tmp_path / "c", this), False),
        "of a machine that was started anew": (named(tmp_path / "d", replace(dead, boot="00000000")), False),
        "of another container": (named(tmp_path / "e", replace(dead, namespace=7)), False),
        "of another machine": (named(tmp_path / "f", replace(dead, host="another")), False),
        "of an earlier version": (tmp_path / f".{'0' * 32}.1234.partial", False),
        "of somebody else": (tmp_path / ".download.partial", False),
    }
    for path, _ in left.values():
        path.mkdir()
        (path / "samples.arrow").write_text("half")
    remove_leftovers(tmp_path)
    assert {what for what, (path, _) in left.items() if not path.exists()} == {
        w for w, (_, gone) in left.items() if gone
    }


def test_what_nobody_has_touched_for_a_week_is_removed_too_unless_it_is_not_ours(tmp_path: Path) -> None:
    ours = named(tmp_path / "a", replace(a_dead_process(), host="another"))
    earlier, fresh, other = (
        tmp_path / f".{'0' * 32}.1234.partial",
        named(tmp_path / "b", Owner(**ELSEWHERE, pid=1, started=2)),
        tmp_path / ".x.partial",
    )
    for path in (ours, earlier, fresh, other):
        path.mkdir()
        (path / "samples.arrow").write_text("half")
    long_ago = time.time() - 8 * 24 * 3600
    for path in (ours, earlier, other, fresh):
        for each in (path / "samples.arrow", path):
            os.utime(each, (long_ago, long_ago))
    (fresh / "samples.arrow").write_text("it goes on")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([fresh.name, other.name])


def test_where_the_system_does_not_tell_of_processes_none_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_this_machine", lambda: ("here", "abcdef01", 0))
    assert not Owner("here", "abcdef01", 0, 2**22 + 1, 5).is_gone()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["facts.json", "below/samples.arrow"])
def test_any_damage_to_a_hashed_folder_names_the_file(name: str, damage: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "facts.json").write_text('{"labels": ["a", "b"]}')
    (tmp_path / "below" / "samples.arrow").write_bytes(bytes(range(1, 256)) * 99)
    hash_folder(tmp_path)
    assert fault_of_folder(tmp_path) is None
    DAMAGES[damage](tmp_path / name)
    assert Path(name).name in str(fault_of_folder(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": {"size": "x", "hash": ""}}', "\0" * 99])
def test_damaged_hashes_are_damage(content: str, tmp_path: Path) -> None:
    (tmp_path / HASHES).write_text(content)
    assert HASHES in str(fault_of_folder(tmp_path))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["x.npy", "x.npy.hash"])
def test_any_damage_to_a_sealed_file_or_to_its_seal_is_seen(name: str, damage: str, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    file.write_bytes(bytes(range(1, 256)) * 99)
    seal(file)
    assert fault_of_sealed(file) is None
    DAMAGES[damage](tmp_path / name)
    assert "x.npy" in str(fault_of_sealed(file))


def test_a_large_file_is_hashed_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import xxhash

    content = os.urandom(100_001)
    (tmp_path / "x").write_bytes(content)
    monkeypatch.setattr(files, "_BUFFER", 1000)
    beats: list[int] = []
    assert FileHash.of(tmp_path / "x", lambda: beats.append(1)) == FileHash(100_001, xxhash.xxh3_128_hexdigest(content))
    assert len(beats) == 101
