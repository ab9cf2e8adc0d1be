"""Measures on the model's own features: distances between sets, and how well the features predict the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.job.sections.tasks import Family
from launcher.measure.quality.label_errors import NEEDS, believe, is_installed, label_errors, probe_of
from launcher.measure.quality.report import Distance, LeftOut, Report
from launcher.measure.quality.samples import SampleSet
from launcher.measure.quality.transferability import transferability
from launcher.measure.shift.a_distance import proxy_a_distance
from launcher.measure.shift.mmd import mmd_test

Features = Mapping[str, NDArray[Any]]
FEWEST = 10
"""Minimum number of samples on each side for a distance."""


def measure_features(
    report: Report, sets: Sequence[SampleSet], features: Features, family: Family, seed: int, errors: bool
) -> None:
    """Add the measures on features to the report.

    features: [samples, size] of each set
    errors: whether to look for labels that are likely wrong, if the packages are installed
    """
    train = sets[0]
    has_sklearn = is_installed("sklearn")
    if not has_sklearn:
        report.left_out.append(LeftOut("A-distance, linear probe", f"scikit-learn is not installed: {NEEDS}"))
    for other in sets[1:]:
        if min(len(train), len(other)) < FEWEST:
            why = f"fewer than {FEWEST} samples on one side"
            report.left_out.append(LeftOut(f"distance from train to {other.name}", why))
            continue
        one, two = features[train.name], features[other.name]
        distance = proxy_a_distance(one, two, seed) if has_sklearn else None
        report.distances.append(Distance(other.name, distance, mmd_test(one, two, seed)))
    _labels(report, train, features[train.name], family, seed, errors, has_sklearn)


def _labels(
    report: Report, train: SampleSet, features: NDArray[Any], family: Family, seed: int, errors: bool, has_sklearn: bool
) -> None:
    labels = train.labels or ()
    if not labels or not all(isinstance(label, str) for label in labels):
        why = "the samples do not have exactly one label each" if labels else "the task has no labels"
        report.left_out.append(LeftOut("transferability, label errors", why))
        return
    names = [str(label) for label in labels]
    if len(set(names)) < 2:
        report.left_out.append(LeftOut("transferability, label errors", "all labels are the same"))
        return
    if not family.has_classes:
        report.transferability = transferability(features, np.array([float(name) for name in names]), seed)
        report.left_out.append(LeftOut("label errors", "labels are numbers, not classes"))
        return
    report.transferability = transferability(features, np.unique(names, return_inverse=True)[1], seed)
    believed = believe(features, names, train.fingerprints, seed) if has_sklearn else None
    if believed is None:
        why = "too few samples of each class" if has_sklearn else f"scikit-learn is not installed: {NEEDS}"
        report.left_out.append(LeftOut("label errors", why))
        return
    report.probe = probe_of(believed)
    if errors and is_installed("cleanlab"):
        report.label_errors = label_errors(believed)
    else:
        why = f"cleanlab is not installed: {NEEDS}" if errors else "not requested"
        report.left_out.append(LeftOut("label errors", why))
