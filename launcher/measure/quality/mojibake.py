"""Texts without content, and mojibake: texts that were decoded with the wrong encoding."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from launcher.measure.quality.samples import SampleSet

Fault = Literal["empty", "mojibake", "replacement character", "control character", "hardly any letters"]

LETTERS = 0.4
"""Minimum share of letters and marks among the characters that are not white space."""
ALLOWED_CONTROLS = "\t\n\r\f\v\x85"
BYTES_AS_SHOWN = {byte: bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(0x80, 0x100)}
"""Bytes of UTF-8 as characters of Windows' code page; the five bytes that it does not define are unchanged."""
BYTE_BEHIND = {shown: byte for byte, shown in BYTES_AS_SHOWN.items()} | {chr(byte): byte for byte in range(0x80, 0x100)}
_LEADS = "".join(BYTES_AS_SHOWN[byte] for byte in range(0xC2, 0xF5))
_REST = "".join({*(BYTES_AS_SHOWN[byte] for byte in range(0x80, 0xC0)), *map(chr, range(0x80, 0xC0))})
TAKEN_FOR_OTHERS = re.compile(f"[{re.escape(_LEADS)}][{re.escape(_REST)}]{{1,3}}")


@dataclass(frozen=True)
class Mojibake:
    """A sample whose text has a fault.

    number: from 1
    shown: the beginning of the text
    """

    set: str
    number: int
    fault: Fault
    shown: str


def faulty_texts(data: SampleSet) -> list[Mojibake]:
    """The faulty texts of a set, each with its gravest fault."""
    if not data.has_texts:
        return []
    found = ((number, text, fault_of(text)) for number, text in enumerate(data.texts, start=1))
    return [Mojibake(data.name, number, fault, text[:60]) for number, text, fault in found if fault is not None]


def fault_of(text: str) -> Fault | None:
    """What is wrong with a text, if anything."""
    written = [character for character in text if not character.isspace()]
    if not written:
        return "empty"
    if text.isascii() and text.isprintable():
        controls = False
    else:
        if "�" in text:
            return "replacement character"
        if any(_is_utf8(found.group()) for found in TAKEN_FOR_OTHERS.finditer(text)):
            return "mojibake"
        controls = any(unicodedata.category(c) == "Cc" and c not in ALLOWED_CONTROLS for c in text)
    if controls:
        return "control character"
    letters = sum(unicodedata.category(character)[0] in "LM" for character in written)
    return "hardly any letters" if letters < LETTERS * len(written) else None


def _is_utf8(shown: str) -> bool:
    """Whether the bytes of these characters begin with one UTF-8 character."""
    behind = bytes(BYTE_BEHIND[character] for character in shown)
    return any(_decodes(behind[:length]) for length in range(2, len(behind) + 1))


def _decodes(piece: bytes) -> bool:
    try:
        return len(piece.decode("utf-8")) == 1
    except UnicodeDecodeError:
        return False
