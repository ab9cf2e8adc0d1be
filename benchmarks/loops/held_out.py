"""Two domains more, on whose pairs the defaults are confirmed that were chosen on the four of `vader`.

Whole film reviews of IMDB (Maas et al. 2011) and tweets about brands, from the packages that the demo reads. They go
with the two domains of `vader` that are neither film reviews nor tweets.
"""

from __future__ import annotations

from itertools import islice, permutations
from pathlib import Path

from launcher.commands.demo_data import Sample, balanced, film_reviews, tweets

from .vader import read_domains

NEW, KNOWN = ("imdb", "brands"), ("products", "editorials")
PAIRS = tuple(pair for pair in permutations((*NEW, *KNOWN), 2) if set(pair) & set(NEW))


def read_held_out(folder: Path, samples: int) -> dict[str, list[Sample]]:
    """As many samples of each domain, each text once and the labels in turn."""
    known = read_domains(folder, samples)
    new = zip(NEW, (film_reviews("imdb"), tweets()), strict=True)
    return {name: list(islice(balanced(texts), samples)) for name, texts in new} | {name: known[name] for name in KNOWN}
