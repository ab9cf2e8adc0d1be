"""What is more frequent in one set of texts than in another, and which texts are longer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist

import numpy as np

from launcher.data.fingerprints import normalised

WORD = re.compile(r"[^\W_]{2,}(?:['’][^\W_]+)*")
PRIOR = 0.1
"""Texts that both sets are given before any is counted, of the smaller one: without them, a word that one set lacks
altogether has odds that nothing is known of.
"""
CHANCE = 0.05
"""Probability that any word at all is named of two halves of one set."""


@dataclass(frozen=True)
class WordMove:
    """A word by the texts that hold it.

    log_odds: log of the odds in the other set over the odds in the first, both drawn a little to the odds in both
    z: of it, in standard errors
    """

    word: str
    texts: int
    other_texts: int
    log_odds: float
    z: float


@dataclass(frozen=True)
class LengthMove:
    """How the lengths differ.

    median, other_median: characters
    longer: probability that a text of the other set is longer than one of the first; 0.5 where they are alike
    z: of that, by Wilcoxon's rank sum
    """

    median: float
    other_median: float
    longer: float
    z: float


def word_moves(texts: Sequence[str], other: Sequence[str]) -> list[WordMove]:
    """The words that moved by more than chance, the surest first, by their log-odds ratio with an informative prior
    (Monroe et al. 2008, "Fightin' words"); counted in texts, since one that says a word ten times is one witness.
    """
    one, two = _holding(texts), _holding(other)
    words = sorted({*one, *two})
    if not words:
        return []
    bound = NormalDist().inv_cdf(1 - CHANCE / (2 * len(words)))
    moves = [_move(word, one[word], len(texts), two[word], len(other)) for word in words]
    return sorted((move for move in moves if abs(move.z) > bound), key=lambda move: -abs(move.z))


def length_move(texts: Sequence[str], other: Sequence[str]) -> LengthMove:
    """In characters; z is 0 where all are of one length."""
    one, two = (np.array([len(text) for text in some], dtype=np.float64) for some in (texts, other))
    both = np.sort(np.concatenate([one, two]))
    ranks = (np.searchsorted(both, two, side="left") + np.searchsorted(both, two, side="right") + 1) / 2
    pairs = len(one) * len(two)
    wins = float(ranks.sum()) - len(two) * (len(two) + 1) / 2
    counts = np.unique(both, return_counts=True)[1].astype(np.float64)
    ties = float((counts**3 - counts).sum()) / (len(both) * (len(both) - 1))
    spread = sqrt(max(0.0, pairs / 12 * (len(both) + 1 - ties)))
    z = (wins - pairs / 2) / spread if spread else 0.0
    return LengthMove(float(np.median(one)), float(np.median(two)), wins / pairs, z)


def _holding(texts: Sequence[str]) -> Counter[str]:
    """In how many texts each word is."""
    return Counter(word for text in texts for word in set(WORD.findall(normalised(text))))


def _move(word: str, count: int, texts: int, other_count: int, other_texts: int) -> WordMove:
    prior = PRIOR * min(texts, other_texts)
    with_word = prior * (count + other_count + 1) / (texts + other_texts + 2)
    without = prior - with_word
    cells = (
        other_count + with_word,
        other_texts - other_count + without,
        count + with_word,
        texts - count + without,
    )
    log_odds = log(cells[0] / cells[1]) - log(cells[2] / cells[3])
    return WordMove(word, count, other_count, log_odds, log_odds / sqrt(sum(1 / cell for cell in cells)))
