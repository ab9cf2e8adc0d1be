"""What happens to files on a disk that is not sound, or to whoever cleans up too much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

PAGE = 4096


def flip_a_bit(file: Path) -> None:
    """In the middle, where a file of tensors holds numbers."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def zero_a_page(file: Path) -> None:
    """Of the size of a file system's block, or as much as there is."""
    content = bytearray(file.read_bytes())
    begin = len(content) // 2 // PAGE * PAGE
    end = min(len(content), begin + PAGE)
    content[begin:end] = bytes(end - begin)
    file.write_bytes(content)


def truncate(file: Path) -> None:
    """As a write that was cut short."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    """As a write that was never flushed."""
    file.write_bytes(b"")


def delete(file: Path) -> None:
    """As somebody who made room."""
    file.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    function.__name__: function for function in (flip_a_bit, zero_a_page, truncate, empty, delete)
}
