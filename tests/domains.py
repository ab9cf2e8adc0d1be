"""Texts of two made-up domains, of which a small model learns one in seconds and half understands the other."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from tests.tiny import WORDS

SIGNS = {"here": (0, 24), "there": (12, 36), "far": (24, 0)}
"""Where in `WORDS` a domain's words of praise and of blame begin, 12 of each; `there` shares half with `here`."""


def write_domain(
    file: Path, domain: str, samples: int, *, seed: int, wrong: float = 0.0, clear: float = 0.9, longest: int = 12
) -> Path:
    """Write texts of a domain: neutral words, and some of praise or of blame.

    wrong: share of labels that are drawn anew; clear: how often a telling word tells the truth
    """
    draw = random.Random(f"{domain} {seed}")
    good, bad = (WORDS[start : start + 12] for start in SIGNS[domain])
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        for _ in range(samples):
            is_good = draw.random() < 0.5
            words = draw.choices(WORDS[60:], k=draw.randint(2, longest))
            for _ in range(2):
                tells_truth = draw.random() < clear
                words.append(draw.choice(good if is_good == tells_truth else bad))
            draw.shuffle(words)
            if draw.random() < wrong:
                is_good = draw.random() < 0.5
            writer.writerow([" ".join(words), "good" if is_good else "bad"])
    return file
