"""What the benchmarks share: turns taken one after the other, and figures as ratios of a reference."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from importlib.metadata import version

from launcher.plan.hardware import find_hardware

Measure = Callable[[], float]


def interleaved(contenders: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Let every contender have its turn, `rounds` times over, so that a slow minute hits all alike."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, measure in contenders.items():
            figures[name].append(measure())
            print(f"  round {turn + 1} of {rounds}: {name} {figures[name][-1]:.3g}", flush=True)
    return figures


def table(figures: Mapping[str, list[float]], unit: str, reference: str) -> str:
    """A Markdown table: the median, the spread, and the median of each round's ratio to the reference."""
    lines = [f"| | {unit}, median | lowest to highest | ratio to {reference} |", "|---|---|---|---|"]
    for name, values in figures.items():
        ratios = [value / base for value, base in zip(values, figures[reference], strict=True)]
        middle = statistics.median(values)
        lines.append(
            f"| {name} | {middle:.3g} | {min(values):.3g} to {max(values):.3g} | {statistics.median(ratios):.2f} |"
        )
    return "\n".join(lines)


def surroundings(*packages: str) -> str:
    """Hardware and versions, in a line."""
    hardware = find_hardware()
    gpus = ", ".join(gpu.name for gpu in hardware.gpus) or "no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    machine = f"{hardware.cores} cores, {hardware.memory / 2**30:.0f} GiB, {gpus}"
    return f"{machine}; Python {platform.python_version()}, {versions}"
