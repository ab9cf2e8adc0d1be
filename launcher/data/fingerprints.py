"""Fingerprints: a hash of a sample's inputs, by which duplicates are found within and across sets."""

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
"""[samples]. Comparing ten million samples with a million, the chance of any collision is one in two million."""

SPACE = re.compile(r"\s+")


def normalised(text: str) -> str:
    """The text with normalised characters (NFKC), case and white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return SPACE.sub(" ", text.casefold()).strip()


def fingerprint(row: Row, targets: Collection[str]) -> int:
    """Fingerprint of all values of a row except its label.

    targets: roles that are not inputs of the model; the text of a response is still part of the fingerprint, since a
    prompt may have several responses
    Raises DataError for a file that cannot be read.
    """
    digest = xxhash.xxh3_64()
    for role in sorted(row.values):
        if role not in targets or role == "response":
            digest.update(role.encode() + b"\0" + _content(row, role, row.values[role]) + b"\0")
    return digest.intdigest()


def repeated(known: Fingerprints, asked: Fingerprints) -> NDArray[np.int64]:
    """[found, 2] those of `asked` that are in `known`: the index in `asked`, and the first index in `known`."""
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
    if hasattr(value, "tobytes"):  # an image or an array in memory, as from `datasets`
        return bytes(value.tobytes())
    if isinstance(value, Mapping):
        if role in FILES:  # as parquet files store an image or a sound
            if value.get("array") is not None:
                return _content(row, "", value["array"])
            return content_of(row, role)[0] if value.get("bytes") or value.get("path") else b""
        return b"\1".join(_content(row, "", value[key]) for key in sorted(value))
    if isinstance(value, Sequence):
        return b"\1".join(_content(row, "", part) for part in value)
    return repr(value).encode()
