"""Shift of word frequencies and text lengths between two sets of texts."""

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
"""Size of the prior, as a share of the smaller set: without a prior, a word that one set lacks has undefined log-odds.
"""
CHANCE = 0.05
"""Probability that any word is reported for two random halves of one set."""


@dataclass(frozen=True)
class WordMove:
    """A word whose share of texts differs between two sets.

    log_odds: log odds ratio of the other set to the first, both shrunk towards their common odds
    z: log_odds in standard errors
    """

    word: str
    texts: int
    other_texts: int
    log_odds: float
    z: float


@dataclass(frozen=True)
class LengthMove:
    """The shift of lengths.

    median, other_median: characters
    longer: probability that a text of the other set is longer than one of the first; 0.5 without a difference
    z: z-score of that, by Wilcoxon's rank-sum test
    """

    median: float
    other_median: float
    longer: float
    z: float


def word_moves(texts: Sequence[str], other: Sequence[str]) -> list[WordMove]:
    """The words with a significant shift, the most significant first, by their log-odds ratio with an informative prior
    (Monroe et al. 2008, "Fightin' words"). A word counts once per text, since its repetitions are not independent.
    """
    one, two = _holding(texts), _holding(other)
    words = sorted({*one, *two})
    if not words:
        return []
    bound = NormalDist().inv_cdf(1 - CHANCE / (2 * len(words)))
    moves = [_move(word, one[word], len(texts), two[word], len(other)) for word in words]
    return sorted((move for move in moves if abs(move.z) > bound), key=lambda move: -abs(move.z))


def length_move(texts: Sequence[str], other: Sequence[str]) -> LengthMove:
    """The shift of lengths in characters; z is 0 if all lengths are equal."""
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
    """The number of texts that contain each word."""
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
