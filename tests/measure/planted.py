"""Real texts with faults planted in known places, and how well a measure finds them."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from launcher.commands.demo_data import balanced, film_reviews, tweets
from launcher.data.fingerprints import normalised

Sample = tuple[str, str]
OTHER = {"positive": "negative", "negative": "positive"}


@dataclass
class Planted:
    """A training set with faults, a validation set that leaks, and where all that is; numbers from 1."""

    train: list[Sample]
    validation: list[Sample]
    duplicates: set[int] = field(default_factory=set)
    near: set[int] = field(default_factory=set)
    contradicting: set[int] = field(default_factory=set)
    mojibake: set[int] = field(default_factory=set)
    leaks: set[int] = field(default_factory=set)
    wrong: set[int] = field(default_factory=set)


def clean(samples: Iterable[Sample], count: int) -> list[Sample]:
    """Texts of some length that read well, each once."""
    kept = (
        (text, label)
        for text, label in balanced(samples)
        if len(text) >= 60 and "�" not in text and text.isprintable() and text.isascii()
    )
    return list(islice(kept, count))


def plant(train: int, validation: int, seed: int = 0) -> Planted:
    """Tweets with exact and near duplicates, contradictions, mojibake, leaks and a tenth of wrong labels."""
    draw = random.Random(seed)
    samples = clean(tweets(), train + validation)
    made = Planted(samples[:train], samples[train:])
    chosen = draw.sample(range(train), 80)
    victims = iter(chosen)

    def add(text: str, label: str, kind: set[int]) -> None:
        made.train.append((text, label))
        kind.add(len(made.train))

    for number in islice(victims, 20):
        text, label = made.train[number]
        add(f" {text.upper()} ".replace(" ", "  "), label, made.duplicates)
    for number in islice(victims, 20):
        text, label = made.train[number]
        add(f"RT {text[:-3]}", label, made.near)
    for number in islice(victims, 10):
        text, label = made.train[number]
        add(text, OTHER[label], made.contradicting)
    for spoilt in ("it’s déjà vu, the café’s closed again", "so …naïve “again” and again"):
        add(spoilt.encode().decode("cp1252", errors="replace"), "negative", made.mojibake)
    add("flight 12 is late\x07 again and nobody says why", "negative", made.mojibake)
    add("1234 5678 -- 99/99 :: 00 ** 17", "negative", made.mojibake)
    for number in islice(victims, 15):
        text, label = made.train[number]
        made.validation.append((text.title(), label))
        made.leaks.add(len(made.validation))
    for number in draw.sample(sorted(set(range(train)) - set(chosen)), train // 10):
        text, label = made.train[number]
        made.train[number] = (text, OTHER[label])
        made.wrong.add(number + 1)
    return made


def other_domain(count: int) -> list[Sample]:
    """Sentences of film reviews: far from tweets."""
    return clean(film_reviews(), count)


def write(file: Path, samples: Iterable[Sample]) -> Path:
    """As a csv with text and label."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerows(samples)
    return file


def alike(texts: list[str]) -> set[tuple[int, int]]:
    """Pairs, later and earlier, that share 70 % of their runs of five characters, by comparing all with all."""
    sets = [{text[i : i + 5] for i in range(len(text) - 4)} for text in map(normalised, texts)]
    return {
        (later, earlier)
        for later in range(len(sets))
        for earlier in range(later)
        if sets[later] != sets[earlier] and len(sets[later] & sets[earlier]) >= 0.7 * len(sets[later] | sets[earlier])
    }


def precision_and_recall(what: str, found: set[int], planted: set[int]) -> tuple[float, float]:
    """Printed, since that is what a reader wants to know."""
    hits = len(found & planted)
    precision, recall = hits / max(1, len(found)), hits / len(planted)
    print(f"{what}: {len(found)} found, {len(planted)} planted: precision {precision:.2f}, recall {recall:.2f}")
    return precision, recall
