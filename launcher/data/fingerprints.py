"""What a sample shows a model as one number, so that the same sample is known wherever it turns up again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from launcher.data.class_folders import FILES
from launcher.data.media import content_of
from launcher.data.rows import Row

Fingerprints = NDArray[np.uint64]
"""[samples]. Of ten million samples against a million, two that differ agree by chance once in two million times."""

SPACE = re.compile(r"\s+")


def normalised(text: str) -> str:
    """The text without what readers do not see as a difference: forms of characters (NFKC), case, white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return SPACE.sub(" ", text.casefold()).strip()


def fingerprint(row: Row, targets: Collection[str]) -> int:
    """Of all that a row holds but its label.

    targets: roles that are not shown to the model; the text of a response is part of the sample all the same, since a
    prompt may well have several
    Raises DataError for a file that cannot be read.
    """
    digest = xxhash.xxh3_64()
    for role in sorted(row.values):
        if role not in targets or role == "response":
            digest.update(role.encode() + b"\0" + _content(row, role, row.values[role]) + b"\0")
    return digest.intdigest()


def repeated(known: Fingerprints, asked: Fingerprints) -> NDArray[np.int64]:
    """[found, 2] which of `asked` are among `known`: the place of each there, and that of its first like here."""
    values, first = np.unique(known, return_index=True)
    if not len(values) or not len(asked):
        return np.empty((0, 2), dtype=np.int64)
    places = np.minimum(np.searchsorted(values, asked), len(values) - 1)
    found = np.flatnonzero(values[places] == asked)
    return np.stack([found, first[places[found]]], axis=1)


def _content(row: Row, role: str, value: object) -> bytes:
    if isinstance(value, str):
        return normalised(value).encode(errors="surrogatepass") if role not in FILES else content_of(row, role)[0]
    if isinstance(value, bytes):
        return value
    if hasattr(value, "tobytes"):  # an image or an array in memory, as `datasets` gives them
        return bytes(value.tobytes())
    if isinstance(value, Mapping):
        if role in FILES:  # how parquet files hold an image or a sound
            if value.get("array") is not None:
                return _content(row, "", value["array"])
            return content_of(row, role)[0] if value.get("bytes") or value.get("path") else b""
        return b"\1".join(_content(row, "", value[key]) for key in sorted(value))
    if isinstance(value, Sequence):
        return b"\1".join(_content(row, "", part) for part in value)
    return repr(value).encode()
