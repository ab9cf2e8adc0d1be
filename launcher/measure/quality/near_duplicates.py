"""Near duplicates: candidates by MinHash and banding (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter
3), which are then compared exactly. So there are no false positives, and a few in a thousand pairs are missed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.data.fingerprints import normalised
from launcher.measure.quality.samples import SampleSet

Numbers = NDArray[np.uint64]

LIKENESS = 0.7
"""Jaccard similarity of the n-grams of two texts from which they are near duplicates."""
PIECE = 5
"""Characters of an n-gram."""
BANDS, ROWS = 20, 4
"""A pair of similarity s is a candidate with probability 1 − (1 − s⁴)²⁰: 0.996 at 0.7, 0.9999 at 0.8, 0.15 at 0.3."""
LOOKED_BACK = 50
"""Earlier texts of a bucket that each text is compared with, which limits the pairs of a thousand copies."""


@dataclass(frozen=True)
class Near:
    """Two texts that are near duplicates, and not exact ones.

    set, number: of the later one, numbers from 1
    likeness: Jaccard similarity of their n-grams
    """

    set: str
    number: int
    other_set: str
    other_number: int
    likeness: float


def near_duplicates(sets: Sequence[SampleSet]) -> list[Near]:
    """Pairs within and across sets, in the order of the samples; exact duplicates are left out."""
    places = [(data, number) for data in sets for number in np.flatnonzero(data.says_something).tolist()]
    texts = [normalised(data.texts[number]) for data, number in places]
    keys = [int(data.fingerprints[number]) for data, number in places]
    found = []
    for later, earlier, likeness in _alike(texts, keys):
        (data, number), (other, other_number) = places[later], places[earlier]
        found.append(Near(data.name, number + 1, other.name, other_number + 1, likeness))
    return found


def pieces(text: str) -> Numbers:
    """The distinct n-grams of a text as sorted hashes; a text shorter than an n-gram is one."""
    characters = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(characters, min(PIECE, len(characters)))
    return np.unique(_mixed(windows @ _POWERS[: windows.shape[1]]))


def jaccard(one: Numbers, other: Numbers) -> float:
    """The Jaccard similarity of two sets of n-grams."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _alike(texts: Sequence[str], keys: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """Later, earlier, likeness."""
    for later, earlier in sorted(_candidates(texts)):
        if keys[later] != keys[earlier]:
            likeness = jaccard(pieces(texts[later]), pieces(texts[earlier]))
            if likeness >= LIKENESS:
                yield later, earlier, likeness


def _candidates(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Pairs whose signatures are equal in at least one band."""
    if not texts:
        return set()
    signatures = np.stack([_signature(pieces(text)) for text in texts])
    found: set[tuple[int, int]] = set()
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for place, row in enumerate(signatures[:, band * ROWS : (band + 1) * ROWS]):
            bucket = buckets[row.tobytes()]
            found.update((place, earlier) for earlier in bucket[-LOOKED_BACK:])
            bucket.append(place)
    return found


def _signature(numbers: Numbers) -> NDArray[np.uint32]:
    """[BANDS · ROWS] the MinHash signature: the smallest n-gram under each hash function (multiply-shift hashing)."""
    return ((numbers[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)).min(axis=0).astype(np.uint32)


def _mixed(numbers: Numbers) -> Numbers:
    """Well-mixed hashes of the numbers (the finaliser of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        numbers = (numbers ^ (numbers >> np.uint64(33))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(33))


_DRAW = np.random.default_rng(0)
_FACTORS = _DRAW.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _DRAW.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)
_POWERS = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, PIECE + 1)], dtype=np.uint64)
