"""How methods label the target themselves, by their definitions written out sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

IGNORE_INDEX = -100


def nearest_centres(features: Any, probabilities: Any) -> list[int]:
    """Section 3.2 of SHOT's paper; the second time from whole labels."""
    rows = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels: list[int] = []
    for _ in range(2):
        weights = probabilities if not labels else np.eye(probabilities.shape[1])[labels]
        centres = {
            number: (weight[:, None] * rows).sum(0) / weight.sum()
            for number, weight in enumerate(weights.T)
            if any(weight)
        }
        labels = [
            max(centres, key=lambda number: float(row @ centres[number] / np.linalg.norm(centres[number])))
            for row in rows
        ]
    return labels


def surest(probabilities: Tensor, threshold: float, balanced: bool) -> list[int]:
    """Labels that reach the threshold; balanced, of each class the surest, as many as of the one with the fewest."""
    sure = [
        (float(row.max()), number, int(row.argmax()))
        for number, row in enumerate(probabilities)
        if row.max() >= threshold
    ]
    classes = range(probabilities.shape[1])
    of_class = [[one for one in sorted(sure, reverse=True) if one[2] == label] for label in classes]
    fewest = min((len(mine) for mine in of_class if mine), default=0)
    labels = [IGNORE_INDEX] * len(probabilities)
    for mine in of_class:
        for _, number, label in mine[:fewest] if balanced else mine:
            labels[number] = label
    return labels
