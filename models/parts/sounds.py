"""Sounds: read from a row. Plain wav files with Python's own reader, all others with soundfile if it is installed."""

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
"""Samples read at once, since the length in a header may be wrong."""
UNKNOWN = 0x7FFF0000
"""Sizes from this on, and 0, are placeholders of programs that did not know the size, as when writing to a pipe."""

TOO_SMALL = re.compile(r": (\d+) \(should be (\d+)\)")


class Unreadable(Exception):
    """What is wrong with a sound, for a message."""


def sound_of(row: Row, rate: int) -> Sound:
    """The sound of a row, from a file's path or bytes; several channels are averaged.

    Raises DataError if it is missing, broken, of another sampling rate, or of an unsupported kind.
    """
    content, path = content_of(row, "audio")
    name = f" {path}" if path else ""
    try:
        frames, found_rate = _decoded(content)
    except Unreadable as error:
        raise DataError(row.file, f"the audio{name} {error}", row.number) from None
    if found_rate != rate:
        fault = f"the audio{name} has a sampling rate of {found_rate} Hz, and the model needs {rate} Hz"
        raise DataError(row.file, f"{fault}; convert it: ffmpeg -i FILE -ar {rate} FILE.wav", row.number)
    sound: Sound = frames.mean(1)
    if not np.isfinite(sound).all():
        raise DataError(row.file, f"the audio{name} has NaN or infinite samples; replace or remove it", row.number)
    return sound


def _decoded(content: bytes) -> tuple[Frames, int]:
    """The frames and the sampling rate. Raises Unreadable."""
    if content[:4] == b"RIFF":
        content = _with_its_size(content)
    frames, rate = _read_plain(content) or _read_other(content)
    if not len(frames):
        raise Unreadable("is truncated: it has no samples; replace or remove it")
    return frames, rate


def _with_its_size(content: bytes) -> bytes:
    """The wav file with the real size in its header, if its writer did not know it.

    Raises Unreadable if there are fewer bytes than the header says.
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
    """A wav file of 16 or 32 bits; None for other files."""
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
    """A file that soundfile can read. Raises Unreadable."""
    if importlib.util.find_spec("soundfile") is None:
        fix = 'pip install "adaptrun[sounds]", or convert it: ffmpeg -i FILE FILE.wav'
        raise Unreadable(
            f"is not a wav file of 16 or 32 bits, and reading other files needs the package soundfile: {fix}"
        )
    import soundfile

    try:
        with soundfile.SoundFile(_Bytes(content)) as opened:
            promised, rate, log = opened.frames, opened.samplerate, opened.extra_info
            pieces = []
            while len(piece := opened.read(AT_ONCE, dtype="float32", always_2d=True)):
                pieces.append(piece)
    except Exception as error:  # damaged files make the reader raise errors of any type
        said = str(getattr(error, "error_string", error)).strip().rstrip(".") or type(error).__name__
        raise Unreadable(f"cannot be read: {said}; replace it, or convert it: ffmpeg -i FILE FILE.wav") from None
    frames = np.concatenate(pieces) if pieces else np.zeros((0, 1), dtype=np.float32)
    if len(frames) < promised or (content[:4] != b"RIFF" and _is_cut(log)):
        raise Unreadable("is truncated; replace or remove it")
    return frames, rate


class _Bytes(io.BytesIO):
    """A BytesIO that clips negative offsets, to which a damaged header may send a decoder."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek, but never before the beginning."""
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


def _is_cut(log: str) -> bool:
    """Whether the library's log says that the file is shorter than its header says, which is not an error for it."""
    sizes = ((int(said), int(found)) for said, found in TOO_SMALL.findall(log))
    return "lacks an end-of-stream bit" in log or any(found < said < UNKNOWN for said, found in sizes)
