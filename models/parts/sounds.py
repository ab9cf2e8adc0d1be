"""Sounds: read from a row. Plain wav files with Python's own reader, all else with soundfile where it is installed."""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import wave

import numpy as np
from numpy.typing import NDArray

from launcher.data.media import content_of
from launcher.data.rows import Row
from launcher.errors import DataError

Sound = NDArray[np.float32]
"""[samples] from -1 to 1, one channel."""
Frames = NDArray[np.float32]
"""[samples, channels]."""

AT_ONCE = 1 << 20
"""Samples read at once: what a header promises is no reason to take memory."""
UNKNOWN = 0x7FFF0000
"""From this on, and 0, is a size that a program wrote which did not know it yet, as into a pipe."""

TOO_SMALL = re.compile(r": (\d+) \(should be (\d+)\)")


class Unreadable(Exception):
    """What is wrong with a sound, for a message."""


def sound_of(row: Row, rate: int) -> Sound:
    """The sound of a row, from a file's path or bytes; several channels are averaged.

    Raises DataError where it is missing, broken, of another rate, or of a kind that cannot be read here.
    """
    content, path = content_of(row, "audio")
    name = f" {path}" if path else ""
    try:
        frames, found_rate = _decoded(content)
    except Unreadable as error:
        raise DataError(row.file, f"the audio{name} {error}", row.number) from None
    if found_rate != rate:
        fault = f"the audio{name} has {found_rate} samples a second, and the model takes {rate}"
        raise DataError(row.file, f"{fault}; convert it: ffmpeg -i FILE -ar {rate} FILE.wav", row.number)
    sound: Sound = frames.mean(1)
    if not np.isfinite(sound).all():
        raise DataError(row.file, f"the audio{name} has NaN or infinite samples; replace or remove it", row.number)
    return sound


def _decoded(content: bytes) -> tuple[Frames, int]:
    """The frames and how many there are in a second. Raises Unreadable."""
    if content[:4] == b"RIFF":
        content = _with_its_size(content)
    frames, rate = _read_plain(content) or _read_other(content)
    if not len(frames):
        raise Unreadable("is truncated: it has no samples; replace or remove it")
    return frames, rate


def _with_its_size(content: bytes) -> bytes:
    """A wav file whose header says how many bytes of samples there are, where its writer did not know.

    Raises Unreadable where fewer are there than it says.
    """
    start, whole = 12, len(content) - 8
    is_finished = struct.unpack_from("<I", content + bytes(8), 4)[0] == whole
    while start + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, start)
        there = len(content) - start - 8
        if kind == b"data":
            if size >= UNKNOWN or (size == 0 and not is_finished):
                size = there
            if size > there:
                raise Unreadable("is truncated; replace or remove it")
            sizes = struct.pack("<I", whole), struct.pack("<I", size)
            return content[:4] + sizes[0] + content[8 : start + 4] + sizes[1] + content[start + 8 :]
        start += 8 + size + size % 2
    raise Unreadable("is truncated: it has no samples; replace or remove it")


def _read_plain(content: bytes) -> tuple[Frames, int] | None:
    """A wav file of 16 or 32 bits; None for all else."""
    try:
        with wave.open(io.BytesIO(content)) as opened:
            width, channels, rate = opened.getsampwidth(), opened.getnchannels(), opened.getframerate()
            if width not in (2, 4):
                return None
            data = opened.readframes(opened.getnframes())
    except (wave.Error, EOFError, struct.error, ValueError, ArithmeticError):
        return None
    whole = len(data) - len(data) % (width * channels)
    samples = np.frombuffer(data[:whole], dtype=f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    return samples.reshape(-1, channels), rate


def _read_other(content: bytes) -> tuple[Frames, int]:
    """Whatever soundfile reads. Raises Unreadable."""
    if importlib.util.find_spec("soundfile") is None:
        fix = 'pip install "adaptrun[sounds]", or convert it: ffmpeg -i FILE FILE.wav'
        raise Unreadable(f"is no wav file of 16 or 32 bits, and reading others needs the package soundfile: {fix}")
    import soundfile

    try:
        with soundfile.SoundFile(_Bytes(content)) as opened:
            promised, rate, log = opened.frames, opened.samplerate, opened.extra_info
            pieces = []
            while len(piece := opened.read(AT_ONCE, dtype="float32", always_2d=True)):
                pieces.append(piece)
    except Exception as error:  # of whatever kind: the file's bytes decide where its reader stumbles
        said = str(getattr(error, "error_string", error)).strip().rstrip(".") or type(error).__name__
        raise Unreadable(f"cannot be read: {said}; replace it, or convert it: ffmpeg -i FILE FILE.wav") from None
    frames = np.concatenate(pieces) if pieces else np.zeros((0, 1), dtype=np.float32)
    if len(frames) < promised or (content[:4] != b"RIFF" and _is_cut(log)):
        raise Unreadable("is truncated; replace or remove it")
    return frames, rate


class _Bytes(io.BytesIO):
    """Bytes in which a damaged header may send a decoder before their beginning, and it comes to lie there."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As ever, and never before the beginning."""
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


def _is_cut(log: str) -> bool:
    """Whether the library noticed, and did not mind, that a file ends before its header says so."""
    sizes = ((int(said), int(found)) for said, found in TOO_SMALL.findall(log))
    return "lacks an end-of-stream bit" in log or any(found < said < UNKNOWN for said, found in sizes)
