"""Users without a home, without a name, or whose home cannot be written."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from launcher.job import home


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a container whose user has no entry in /etc/passwd; its folder of temporary files."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_home_and_name_gets_both_for_the_libraries(
    nameless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USER", "")
    home.settle_home()
    assert os.environ["USER"] == f"user-{os.getuid()}"
    assert Path.home().parent == nameless
    assert Path.home().stat().st_mode & 0o077 == 0
    assert "there is no home directory; caches go to" in capsys.readouterr().err
    assert home.usable_cache(home.DEFAULT_CACHE, nameless / "runs") == str(nameless / "runs" / ".cache")


def test_a_folder_that_another_could_have_made_is_not_taken(nameless: Path) -> None:
    """Of its name is a folder that others can write, or a link."""
    planted = nameless / f"{home.PREFIX}{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert home._private_home() != planted
    planted.rmdir()
    (nameless / "elsewhere").mkdir(mode=0o700)
    planted.symlink_to(nameless / "elsewhere")
    assert home._private_home() not in (planted, nameless / "elsewhere")


def test_a_cache_that_cannot_be_written_lies_beside_the_runs_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # nobody can write below a file, root neither
    assert home.usable_cache(home.DEFAULT_CACHE, tmp_path / "runs") == str(tmp_path / "runs" / ".cache")
    assert "~/.cache/adaptrun cannot be written; prepared data go to" in capsys.readouterr().err
    assert home.usable_cache("named", tmp_path / "runs") == "named"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.usable_cache(home.DEFAULT_CACHE, tmp_path / "runs") == home.DEFAULT_CACHE
