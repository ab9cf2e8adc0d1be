"""Labels that are likely wrong: confident learning (Northcutt et al. 2021, JAIR 70) on out-of-fold predictions of a
linear probe.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.measure.shift.a_distance import FOLDS, STRENGTH, linear_probe, wilson

NEEDS = 'pip install "adaptrun[gap]"'


@dataclass(frozen=True)
class Probe:
    """A linear probe on the model's features, over five folds.

    majority: accuracy of always predicting the most frequent class
    """

    accuracy: float
    low: float
    high: float
    majority: float
    samples: int


@dataclass(frozen=True)
class LabelError:
    """A sample whose label is likely wrong according to the probe; the most confident first.

    number: of the training sample, from 1
    confidence: the probe's probability of the given label
    """

    number: int
    label: str
    suggested: str
    confidence: float


@dataclass(frozen=True)
class Believed:
    """The probe's predictions for labelled samples.

    numbers: [samples] their numbers from 0: samples of classes with at least one sample per fold
    labels: [samples] 0 … classes − 1
    probabilities: [samples, classes], out of fold
    """

    classes: tuple[str, ...]
    numbers: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def is_installed(package: str) -> bool:
    """Whether a package of the extra is installed; it is not imported."""
    return importlib.util.find_spec(package) is not None


def believe(
    features: NDArray[Any], labels: Sequence[str | None], samples: NDArray[np.uint64], seed: int = 0
) -> Believed | None:
    """Cross-validated probabilities; None if fewer than two classes have a sample for each fold.

    samples: fingerprints; duplicates are kept in one fold, or a copy would leak the label
    """
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    pairs = {(label, int(sample)) for label, sample in zip(labels, samples, strict=True) if label is not None}
    counts = Counter(label for label, _ in pairs)
    classes = tuple(sorted(label for label, count in counts.items() if count >= FOLDS))
    if len(classes) < 2:
        return None
    places = {name: place for place, name in enumerate(classes)}
    numbers = np.array([number for number, label in enumerate(labels) if label in places], dtype=np.int64)
    given = np.array([places[labels[number]] for number in numbers], dtype=np.int64)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    kept, groups = features[numbers].astype(np.float64), samples[numbers]
    found = cross_val_predict(linear_probe(STRENGTH), kept, given, groups=groups, cv=folds, method="predict_proba")
    return Believed(classes, numbers, given, found)


def probe_of(believed: Believed) -> Probe:
    """The accuracy of the linear probe."""
    samples = len(believed.labels)
    accuracy = float((believed.probabilities.argmax(axis=1) == believed.labels).mean())
    majority = float(np.bincount(believed.labels).max()) / samples
    return Probe(accuracy, *wilson(accuracy, samples), majority, samples)


def label_errors(believed: Believed) -> list[LabelError]:
    """The labels that are likely wrong. Needs cleanlab."""
    from cleanlab.filter import find_label_issues

    order = find_label_issues(
        believed.labels,
        believed.probabilities,
        filter_by="confident_learning",  # of a tenth of wrong labels it names fewer right ones than the other filters
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return [
        LabelError(
            int(believed.numbers[place]) + 1,
            believed.classes[believed.labels[place]],
            believed.classes[int(believed.probabilities[place].argmax())],
            float(believed.probabilities[place, believed.labels[place]]),
        )
        for place in order
    ]
