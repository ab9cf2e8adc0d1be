"""Methods of domain adaptation over every ordered pair of four domains, beside skada's on the same features.

python benchmarks/adaptation.py [--seeds 3] [--samples 1800] [--texts 800] [--processes 2] [--folder FOLDER]
python benchmarks/adaptation.py --sweep [--pairs 12] [--seeds 1] [--samples 1800] [--processes 2] [--folder FOLDER]

Each domain gives two thirds of its samples to learn from and one third to be measured on. A model of one layer on a
sentence encoder's cached features learns the labels of the source; methods see the target's samples without labels, the
oracle sees them with labels. Each method has its default settings, the same for all pairs, and the last weights are
taken, so nothing is selected by labels of one target. Printed for each method: accuracy on the target, its gain over
the source alone with an interval over the pairs, on how many pairs it gained, what it did to the accuracy on the
source, and how often a run's own verdict was to adopt it in place of the model of the source alone.

With --sweep, the gain of each method at other settings too, which is what the defaults were chosen by; and that of the
defaults on ten pairs of domains that had no part in the choice.

The methods that learn words cannot do so from cached features: they take the whole encoder from films to tweets, once.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from loops.arms import Arms, Figure, KeptFigures, kept_figures
from loops.held_out import KNOWN, NEW, PAIRS, read_held_out
from loops.settings import EPOCHS, METHODS, ORACLE, SOURCE_ONLY, Setting, all_settings, by_default
from loops.top import FROZEN, encode, word_of, write_top
from loops.vader import DOMAINS, read_domains
from measuring import surroundings

from launcher.commands.demo_data import Sample
from launcher.data.fingerprints import fingerprint
from launcher.data.rows import Row
from launcher.job.sections.methods import SECTIONS

OF_WORDS = ("udalm", "dapt")
BATCH, LR, WEIGHT_DECAY = 64, 5e-4, 0.01
HELD_OUT, NEVER = 400, 10**6
POOLED, GROUPS = "three sources", "group-dro"
DEFAULTS = tuple(map(by_default, METHODS))
HARSH = tuple(Setting(method, (("weight", 1.0), ("discriminator_lr_factor", 1.0))) for method in ("dann", "cdan"))
"""Confirmed to do harm, as the defaults are confirmed to do none."""

Pair = tuple[str, str]
Work = tuple[Path, tuple[str, ...], int, tuple[Setting, ...] | None]
"""The material, a pair or a target, a seed, and the settings to compare; None: the defaults and skada."""


def main() -> None:
    """Run what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="compare settings of the methods")
    parser.add_argument("--pairs", type=int, default=12, help="of the sweep's own domains; fewer for a quick look")
    parser.add_argument("--seeds", type=int, help="3, of the sweep 1")
    parser.add_argument("--samples", type=int, default=1800, help="of each domain")
    parser.add_argument(
        "--texts", type=int, default=800, help="of each domain, for the methods that learn words; 0: none"
    )
    parser.add_argument(
        "--folder", type=Path, help="keeps downloads, features and figures, so that it resumes where it was stopped"
    )
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds or (1 if arguments.sweep else 3))
    with tempfile.TemporaryDirectory() as temporary:
        kept = (arguments.folder or Path(temporary)).absolute()
        if arguments.sweep:
            tables = sweep(kept, arguments.samples, arguments.pairs, seeds, arguments.processes)
        else:
            tables = compare(kept, arguments.samples, seeds, arguments.processes)
            if arguments.texts:
                quiet()
                file = kept / f"words-{arguments.texts}.json"
                words = kept_figures(file, lambda: _of_words(kept, Path(temporary), arguments.texts))
                tables.append(f"The whole encoder, {arguments.texts} texts of films and as many tweets, one seed")
                tables.append(one_source_table(words))
    print(surroundings("torch", "transformers", "skada"))
    print(f"{arguments.samples} samples of each domain, {len(seeds)} seed{'s' * (len(seeds) > 1)}\n")
    print("\n\n".join(tables))


def compare(kept: Path, samples: int, seeds: Iterable[int], processes: int) -> list[str]:
    """The methods with their defaults, beside skada's."""
    folder = write_material(kept / f"{samples}-samples", read_domains(kept / "download", samples))
    cells = [*permutations(DOMAINS, 2), *((target,) for target in DOMAINS)]
    figures = _all([(folder, cell, seed, None) for seed in seeds for cell in cells], processes)
    return [one_source_table(figures), several_sources_table(figures)]


def sweep(kept: Path, samples: int, most: int, seeds: Iterable[int], processes: int) -> list[str]:
    """The methods with many settings, and the defaults on other domains."""
    chosen = write_material(kept / f"{samples}-samples", read_domains(kept / "download", samples))
    held_out = write_material(kept / f"{samples}-held-out", read_held_out(kept / "download", samples))
    own = list(permutations(DOMAINS, 2))
    random.Random(1).shuffle(own)  # so that the first few are of all domains
    work: list[Work] = [(held_out, pair, seed, (*DEFAULTS, *HARSH)) for seed in seeds for pair in PAIRS]
    work += [(chosen, pair, seed, tuple(all_settings())) for seed in seeds for pair in own[:most]]
    figures = _all(work, processes)
    of_own = [figure for figure in figures if figure.where not in PAIRS]
    others = [figure for figure in figures if figure.where in PAIRS]
    return [
        f"Chosen on {min(most, len(own))} pairs of {', '.join(DOMAINS)}",
        settings_table(of_own),
        f"Confirmed on {len(PAIRS)} pairs of {', '.join((*NEW, *KNOWN))}, each with one of the first two",
        settings_table(others),
    ]


def _all(work: Sequence[Work], processes: int) -> list[Figure]:
    figures: list[Figure] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(measure_cell, work), 1):
            figures += found
            print(f"  {number} of {len(work)}", file=sys.stderr, flush=True)
    return figures


def write_material(folder: Path, domains: dict[str, list[Sample]]) -> Path:
    """Features, a model on them, and each domain's two files, in a folder; what lies there already is taken."""
    from launcher.job.pretrained import find_pretrained
    from launcher.job.schema import Model

    done = folder / "done"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for samples_of in domains.values() for text, _ in samples_of]
    encoder = find_pretrained(Model(pretrained="minilm"))
    features = encode(encoder.location, texts)
    np.save(folder / "features.npy", features)
    write_top(folder / "top", features)
    first = 0
    for name, found in domains.items():
        rows = [(word_of(first + i), label) for i, (_, label) in enumerate(found)]
        cut = 2 * len(rows) // 3
        _write(folder / f"{name}-train.csv", rows[:cut])
        _write(folder / f"{name}-test.csv", rows[cut:])
        first += len(rows)
    done.touch()
    return folder


def _write(file: Path, rows: Sequence[tuple[str, str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("text", "label"), *rows])


def measure_cell(work: Work) -> list[Figure]:
    """Every method or setting on one pair, or on one target with three sources, with one seed."""
    import torch

    quiet()
    torch.set_num_threads(1)
    folder, cell, seed, settings = work
    kept = folder / f"{'-'.join(cell)}-{seed}.json"
    if len(cell) == 1:
        return kept_figures(kept, lambda: _several_sources(folder, cell[0], seed))
    source, target = cell
    if settings is not None:
        return _of_settings(folder, (source, target), seed, settings)
    own = _of_settings(folder, (source, target), seed, (Setting(SOURCE_ONLY), *DEFAULTS, Setting(ORACLE)))
    skada = kept_figures(kept.with_stem(f"{kept.stem}-skada"), lambda: _of_skada(folder, source, target, seed))
    return [*(replace(figure, method=figure.method.partition(":")[0]) for figure in own), *skada]


def quiet() -> None:
    """Keep what libraries say off the screen."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _of_settings(folder: Path, pair: Pair, seed: int, settings: Sequence[Setting]) -> list[Figure]:
    """Those that are not kept yet are trained."""
    kept = KeptFigures(folder / f"{'-'.join(pair)}-{seed}-settings.json")
    for epochs in dict.fromkeys(setting.source_epochs for setting in settings):
        missing = [one for one in settings if one.source_epochs == epochs and str(one) not in kept]
        if missing:
            with tempfile.TemporaryDirectory(dir=folder) as runs:
                for setting, figure in _trained(folder, Path(runs), pair, seed, epochs, missing):
                    kept.keep(str(setting), figure)
    return [kept[str(setting)] for setting in settings]


def _trained(
    folder: Path, runs: Path, pair: Pair, seed: int, epochs: int, settings: Sequence[Setting]
) -> Iterator[tuple[Setting, Figure]]:
    """The settings, each against the model that the source alone makes in some epochs."""
    source, target = pair
    job = _job(folder, {"new": target, "old": source}, seed)
    arms = Arms(runs, pair, job)
    train, unlabelled = _samples(folder, source), {"source": _samples(folder, target), "text": "text"}
    first = arms.trained(SOURCE_ONLY, data={"train": train}, train=job["train"] | {"epochs": epochs})
    for setting in settings:
        steps = job["train"] | {"epochs": setting.epochs}
        if setting.method == SOURCE_ONLY:
            yield setting, first
        elif setting.method == ORACLE:
            yield setting, arms.trained(str(setting), data={"train": _samples(folder, target)}, train=steps)
        elif SECTIONS[setting.method].target == "alone":
            model = {"pretrained": arms.model(SOURCE_ONLY), "frozen": FROZEN}
            data = {"target": unlabelled}
            yield setting, arms.trained(str(setting), data=data, adapt=setting.adapt, model=model, train=steps)
        else:
            data = {"train": train, "target": unlabelled}
            yield setting, arms.trained(str(setting), data=data, adapt=setting.adapt, train=steps)


def _several_sources(folder: Path, target: str, seed: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        arms = Arms(Path(runs), (target,), _job(folder, {"new": target}, seed))
        sources = {name: _samples(folder, name) for name in DOMAINS if name != target}
        yield arms.trained(POOLED, data={"train": sources})
        yield arms.trained(GROUPS, data={"train": sources}, adapt={"method": GROUPS})


def _job(folder: Path, measured: dict[str, str], seed: int) -> dict[str, Any]:
    """What all models on cached features have in common; measured: domain of each set that is measured."""
    return {
        "model": {"pretrained": str(folder / "top"), "frozen": FROZEN},
        "task": "text-classification",
        "data": {
            "validation": {part: str(folder / f"{domain}-test.csv") for part, domain in measured.items()},
            "cache": str(folder / "cache"),
        },
        "train": {
            "epochs": EPOCHS,
            "global_batch_size": BATCH,
            "micro_batch_size": BATCH,
            "max_length": 4,
            "seed": seed,
            "optimizer": {"name": "adamw", "lr": LR, "weight_decay": WEIGHT_DECAY},
            "schedule": {"name": "constant"},
        },
        "validation": {"every": NEVER, "metric": "accuracy", "batch_size": 1024},
        "checkpoint": {"result": "last", "every_steps": NEVER, "keep": 1},
    }


def _samples(folder: Path, domain: str) -> str:
    return str(folder / f"{domain}-train.csv")


def _of_words(kept: Path, runs: Path, texts: int) -> Iterator[Figure]:
    """Source alone, and the methods that learn the target's words, with the whole encoder."""
    domains = read_domains(kept / "download", texts + HELD_OUT)
    for name in ("films", "tweets"):
        learned, held = domains[name][:texts], domains[name][texts:]
        known = {_known_by(text) for text, _ in learned}
        _write(runs / f"{name}-train.csv", learned)
        _write(runs / f"{name}-test.csv", [(text, label) for text, label in held if _known_by(text) not in known])
    job = _job(runs, {"new": "tweets", "old": "films"}, seed=0)
    job["model"] = {"pretrained": "minilm"}
    job["train"] |= {"epochs": 2, "global_batch_size": 32, "micro_batch_size": "auto", "max_length": 48}
    job["train"]["optimizer"]["lr"] = 1e-4
    job["validation"]["batch_size"] = 32
    arms = Arms(runs, ("films", "tweets"), job)
    train, unlabelled = _samples(runs, "films"), {"source": _samples(runs, "tweets"), "text": "text"}
    yield arms.trained(SOURCE_ONLY, data={"train": train})
    for method in OF_WORDS:
        yield arms.trained(method, data={"train": train, "target": unlabelled}, adapt={"method": method})


def _known_by(text: str) -> int:
    """The same for texts that adaptrun takes for one, which it refuses to learn from and to measure on."""
    return fingerprint(Row("", 0, {"text": text}), ())


def _of_skada(folder: Path, source: str, target: str, seed: int) -> Iterator[Figure]:
    from loops.skada_nets import NETS, trained

    features = np.load(folder / "features.npy")

    def samples(domain: str, part: str) -> tuple[Any, Any]:
        with (folder / f"{domain}-{part}.csv").open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        numbers = [int(row["text"][1:]) for row in rows]
        return features[numbers], np.array([int(row["label"] == "positive") for row in rows])

    first: dict[str, float] = {}
    tests = {name: samples(domain, "test") for name, domain in (("new", target), ("old", source))}
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
        first = first or found
        gain, on_source = (found[name] - first[name] for name in ("new", "old"))
        yield Figure("skada", method, (source, target), found["new"], gain, on_source)


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


def settings_table(figures: Sequence[Figure]) -> str:
    """A row for each setting; a bold one is the method's default."""
    lines = [
        "| setting | gain over the source alone, points [95 %] | pairs with a gain | least gain of a pair |",
        "|---|---|---|---|",
    ]
    defaults = [str(setting) for setting in DEFAULTS]
    for name in dict.fromkeys(figure.method for figure in figures):
        gains = _by_place([figure for figure in figures if figure.method == name])
        shown = f"**{name}**" if name in defaults else name
        won = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        lines.append(f"| {shown} | {_interval(gains)} | {won} | {100 * min(gains):+.1f} |")
    return "\n".join(lines)


def several_sources_table(figures: Sequence[Figure]) -> str:
    """A row for each target and one for all: the accuracy of three sources together, and what GroupDRO gains."""
    lines = [
        "| target | three sources, accuracy | group-dro, gain in points [95 %] | targets with a gain | verdicts: "
        "adopt, keep, inconclusive |",
        "|---|---|---|---|---|",
    ]
    for name, targets in (*((target, (target,)) for target in DOMAINS), ("all", DOMAINS)):
        found = [figure for figure in figures if figure.where in [(target,) for target in targets]]
        pooled = [figure.accuracy for figure in found if figure.method == POOLED]
        groups = [figure for figure in found if figure.method == GROUPS]
        gains = _by_place(groups)
        shown = f"{100 * gains[0]:+.1f}" if len(targets) == 1 else _interval(gains)
        won = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        lines.append(f"| {name} | {np.mean(pooled):.3f} | {shown} | {won} | {_decisions(groups)} |")
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
    decided = [figure.decision for figure in figures if figure.decision is not None]
    if not decided:
        return ""
    return ", ".join(str(decided.count(decision)) for decision in ("adopt", "keep the old model", "inconclusive"))


if __name__ == "__main__":
    main()
