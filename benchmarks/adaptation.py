"""Methods of domain adaptation over every ordered pair of four domains, beside skada's on the same features.

python benchmarks/adaptation.py [--seeds 3] [--samples 1800] [--folder FOLDER]

Each domain gives two thirds of its samples to learn from and one third to be measured on. A model of one layer on a
sentence encoder's cached features learns the labels of the source; methods see the target's samples without labels, the
oracle sees them with labels. One setting for all, chosen before any was measured, and the last weights are taken, so
nothing is selected by labels of the target. Printed for each method: accuracy on the target, its gain over the source
alone with an interval over the pairs, on how many pairs it gained, what it did to the accuracy on the source, and how
often a run's own verdict was to adopt it in place of the model of the source alone.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loops.vader import DOMAINS, read_domains
from benchmarks.measuring import surroundings

BESIDE: dict[str, dict[str, Any]] = {
    name: {"method": name} for name in ("coral", "mmd", "dann", "cdan", "mcc", "self-training")
}
SOURCE_FREE: dict[str, dict[str, Any]] = {name: {"method": name} for name in ("shot", "tent")}
EPOCHS, BATCH, LR, WEIGHT_DECAY = 5, 64, 5e-4, 0.01
SOURCE_ONLY, ORACLE, POOLED, GROUPS = "source only", "oracle", "three sources", "group-dro"


@dataclass(frozen=True)
class Figure:
    """One trained model.

    where: the target, with its source where it has one alone
    gain: on the target, over the source alone
    on_source: change of the accuracy on the source, where that is one set
    decision: of the run's own verdict against the source alone, if it was asked
    """

    side: str
    method: str
    where: tuple[str, ...]
    accuracy: float
    gain: float
    on_source: float | None = None
    decision: str | None = None


def main() -> None:
    """Run all pairs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1800, help="of each domain")
    parser.add_argument("--folder", type=Path, help="where to keep downloads and features; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        write_material(folder, arguments.samples)
        work = [(folder, cell, seed) for seed in range(arguments.seeds) for cell in cells()]
        figures: list[Figure] = []
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            for number, found in enumerate(pool.map(measure_cell, work), 1):
                figures += found
                print(f"  {number} of {len(work)}", file=sys.stderr, flush=True)
    print(surroundings("torch", "transformers", "skada"))
    print(f"{len(DOMAINS)} domains of {arguments.samples} samples, {arguments.seeds} seeds\n")
    print(one_source_table(figures))
    print()
    print(several_sources_table(figures))


def cells() -> Iterator[tuple[str, ...]]:
    """Source and target of each pair; then each target alone, to which all others are sources."""
    yield from permutations(DOMAINS, 2)
    yield from ((target,) for target in DOMAINS)


def write_material(folder: Path, samples: int) -> None:
    """Features, a model on them, and each domain's two files; what lies there already is taken."""
    from benchmarks.loops.top import encode, word_of, write_top
    from launcher.job.pretrained import find_pretrained
    from launcher.job.schema import Model

    done = folder / f"material-{samples}"
    if done.exists():
        return
    domains = read_domains(folder / "download", samples)
    texts = [text for samples_of in domains.values() for text, _ in samples_of]
    encoder = find_pretrained(Model(pretrained="minilm"))
    features = encode(encoder.location, texts)
    np.save(folder / "features.npy", features)
    write_top(folder / "top", features)
    first = 0
    for name, found in domains.items():
        rows = [(word_of(first + i), label) for i, (_, label) in enumerate(found)]
        cut = 2 * samples // 3
        _write(folder / f"{name}-train.csv", rows[:cut])
        _write(folder / f"{name}-test.csv", rows[cut:])
        first += samples
    done.touch()


def _write(file: Path, rows: Sequence[tuple[str, str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("text", "label"), *rows])


def measure_cell(work: tuple[Path, tuple[str, ...], int]) -> list[Figure]:
    """Every method on one pair, or on one target with three sources, with one seed."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder, cell, seed = work
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        runs = Path(temporary)
        if len(cell) == 1:
            return list(_several_sources(folder, runs, cell[0], seed))
        return [*_one_source(folder, runs, *cell, seed), *_of_skada(folder, *cell, seed)]


def _one_source(folder: Path, runs: Path, source: str, target: str, seed: int) -> Iterator[Figure]:
    def trained(name: str, **parts: Any) -> Figure:
        return _trained(folder, runs, name, {"new": target, "old": source}, (source, target), seed, **parts)

    train, unlabelled = _samples(folder, source), _unlabelled(folder, target)
    base = trained(SOURCE_ONLY, data={"train": train})
    yield base
    model = str(runs / SOURCE_ONLY)
    for name, adapt in BESIDE.items():
        yield trained(name, data={"train": train, "target": unlabelled}, adapt=adapt, base=model)
    for name, adapt in SOURCE_FREE.items():
        yield trained(name, data={"target": unlabelled}, adapt=adapt, base=model, start=model)
    yield trained(ORACLE, data={"train": _samples(folder, target)}, base=model)


def _several_sources(folder: Path, runs: Path, target: str, seed: int) -> Iterator[Figure]:
    sources = {name: _samples(folder, name) for name in DOMAINS if name != target}
    yield _trained(folder, runs, POOLED, {"new": target}, (target,), seed, data={"train": sources})
    base = str(runs / POOLED)
    adapt = {"method": "group-dro"}
    yield _trained(
        folder, runs, GROUPS, {"new": target}, (target,), seed, data={"train": sources}, adapt=adapt, base=base
    )


def _trained(
    folder: Path,
    runs: Path,
    name: str,
    measured: dict[str, str],
    where: tuple[str, ...],
    seed: int,
    *,
    data: dict[str, Any],
    adapt: dict[str, Any] | None = None,
    base: str | None = None,
    start: str | None = None,
) -> Figure:
    """Fine-tune one job and read its result; measured: domain of each set that is measured."""
    from benchmarks.loops.fine_tuning import fine_tuned
    from benchmarks.loops.top import FROZEN

    result = fine_tuned(
        runs / name,
        {
            "name": "pair",
            "model": {"pretrained": start or str(folder / "top"), "frozen": FROZEN},
            "task": "text-classification",
            "data": {
                **data,
                "validation": {part: str(folder / f"{domain}-test.csv") for part, domain in measured.items()},
                "cache": str(folder / "cache"),
            },
            "train": {
                "epochs": EPOCHS,
                "global_batch_size": BATCH,
                "max_length": 4,
                "seed": seed,
                "optimizer": {"name": "adamw", "lr": LR, "weight_decay": WEIGHT_DECAY},
                "schedule": {"name": "constant"},
            },
            "validation": {"every": 10**6, "metric": "accuracy", "batch_size": 1024},
            "checkpoint": {"result": "last", "every_steps": 10**6},
            "adapt": adapt or {"method": "finetune"},
            "verdict": {"set": "new", "baseline": base},
            "launch": {"processes": 1, "device": "cpu", "runs": str(runs)},
        },
    )
    found = {part: of_set.after["accuracy"] for part, of_set in result.sets.items()}
    if base is None:
        _BASES[runs / name] = found
        return Figure("adaptrun", name, where, found["new"], 0.0, 0.0 if "old" in found else None)
    shutil.rmtree(runs / name)
    before = _BASES[Path(base)]
    assert result.verdict is not None
    return Figure(
        "adaptrun",
        name,
        where,
        found["new"],
        found["new"] - before["new"],
        found["old"] - before["old"] if "old" in found else None,
        result.verdict.decision,
    )


_BASES: dict[Path, dict[str, float]] = {}
"""Accuracies of the models that others are compared with, by their run."""


def _samples(folder: Path, domain: str) -> str:
    return str(folder / f"{domain}-train.csv")


def _unlabelled(folder: Path, domain: str) -> dict[str, str]:
    return {"source": _samples(folder, domain), "text": "text"}


def _of_skada(folder: Path, source: str, target: str, seed: int) -> Iterator[Figure]:
    from benchmarks.loops.skada_nets import NETS, trained

    features = np.load(folder / "features.npy")

    def samples(domain: str, part: str) -> tuple[Any, Any]:
        with (folder / f"{domain}-{part}.csv").open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        numbers = [int(row["text"][1:]) for row in rows]
        return features[numbers], np.array([int(row["label"] == "positive") for row in rows])

    bases: dict[str, float] = {}
    tests = {name: samples(domain, "test") for name, domain in (("target", target), ("source", source))}
    for method in NETS:
        predict = trained(
            method,
            folder / "top",
            samples(source, "train"),
            samples(target, "train")[0],
            epochs=EPOCHS,
            batch=BATCH,
            lr=LR,
            weight_decay=WEIGHT_DECAY,
            seed=seed,
        )
        found = {name: float((predict(inputs) == labels).mean()) for name, (inputs, labels) in tests.items()}
        bases = bases or found
        gain, on_source = (found[name] - bases[name] for name in ("target", "source"))
        yield Figure("skada", method, (source, target), found["target"], gain, on_source)


def one_source_table(figures: Sequence[Figure]) -> str:
    """A row for each method of each side."""
    lines = [
        "| | | accuracy on the target | gain over the source alone, points [95 %] | pairs with a gain | change on the "
        "source, points | verdicts: adopt, keep, inconclusive |",
        "|---|---|---|---|---|---|---|",
    ]
    pairs = [figure for figure in figures if len(figure.where) == 2]
    for side, method in dict.fromkeys((figure.side, figure.method) for figure in pairs):
        found = [figure for figure in pairs if (figure.side, figure.method) == (side, method)]
        gains = _by_place(found)
        on_source = 100 * np.mean([figure.on_source or 0.0 for figure in found])
        lines.append(
            f"| {side} | {method} | {np.mean([figure.accuracy for figure in found]):.3f} | {_interval(gains)} "
            f"| {sum(gain > 0 for gain in gains)} of {len(gains)} | {on_source:+.1f} | {_decisions(found)} |"
        )
    return "\n".join(lines)


def several_sources_table(figures: Sequence[Figure]) -> str:
    """A row for each target: the accuracy of all sources together, and what GroupDRO gains."""
    lines = [
        "| target | three sources, accuracy | group-dro, gain in points | verdicts: adopt, keep, inconclusive |",
        "|---|---|---|---|",
    ]
    for target in DOMAINS:
        found = [figure for figure in figures if figure.where == (target,)]
        pooled = [figure.accuracy for figure in found if figure.method == POOLED]
        groups = [figure for figure in found if figure.method == GROUPS]
        gain = 100 * np.mean([figure.gain for figure in groups])
        lines.append(f"| {target} | {np.mean(pooled):.3f} | {gain:+.1f} | {_decisions(groups)} |")
    return "\n".join(lines)


def _by_place(figures: Sequence[Figure]) -> list[float]:
    """The mean gain over the seeds of each pair."""
    places = dict.fromkeys(figure.where for figure in figures)
    return [float(np.mean([figure.gain for figure in figures if figure.where == place])) for place in places]


def _interval(gains: Sequence[float]) -> str:
    """Mean and ends of a bootstrap interval over the pairs, in points."""
    values = 100 * np.array(gains)
    draws = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def _decisions(figures: Sequence[Figure]) -> str:
    told = [figure.decision for figure in figures if figure.decision is not None]
    if not told:
        return ""
    return ", ".join(str(told.count(decision)) for decision in ("adopt", "keep the old model", "inconclusive"))


if __name__ == "__main__":
    main()
