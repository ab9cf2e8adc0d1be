"""Hashes that lie: a folder's hashes lead to no file outside of it, and to nothing that is read without end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.files import HASHES, FileHash, fault_of_folder


def hashed(folder: Path, name: str, size: int = 0) -> Path:
    """A folder whose hashes name a file."""
    folder.mkdir()
    (folder / HASHES).write_text(json.dumps({name: {"size": size, "hash": FileHash.of(Path(os.devnull)).hash}}))
    return folder


@pytest.mark.parametrize("name", ["/dev/zero", "../outside", "a/../../outside", "a\0b"])
def test_hashes_name_no_file_outside_of_their_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").touch()
    fault = fault_of_folder(hashed(tmp_path / "folder", name))
    assert fault == f"{HASHES} cannot be read: it names {name!r}, which is not in the folder"


def test_a_pipe_or_a_device_is_no_file_to_hash(tmp_path: Path) -> None:
    folder = hashed(tmp_path / "folder", "model.safetensors")
    os.mkfifo(folder / "model.safetensors")
    assert fault_of_folder(folder) == "model.safetensors is not a regular file"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")
    assert fault_of_folder(folder) == "model.safetensors is not a regular file"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").touch()
    assert fault_of_folder(folder) is None
