"""Validation samples that are also trained on: known by their fingerprints, so that no data are read again."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.data.fingerprints import repeated
from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.errors import LeakageError
from launcher.job.methods import REHEARSAL
from launcher.job.schema import Job
from launcher.run.events import EventLog, Note


def check_leakage(job: Job, train: Pool, validation: Mapping[str, Prepared], log: EventLog) -> None:
    """Raises LeakageError where sets share samples; where the job allows it, the run notes how many."""
    found = []
    for name, held in validation.items():
        for known, learned in train.sets.items():
            leaks = repeated(learned.fingerprints, held.fingerprints)
            if not len(leaks):
                continue
            here, there = leaks[0] + 1
            where = "adapt.rehearsal.source" if known == REHEARSAL else ".".join(job.data.place_in_train(known))
            text = f"{len(leaks)} of the {len(held)} samples of data.validation.{name} are also in {where}"
            found.append(f"{text} (sample {here} of {name} is sample {there} of {known})")
    if not found:
        return
    if job.data.allow_leakage:
        log.write(Note(text="; ".join(found)))
        return
    raise LeakageError(
        "; ".join(found) + ", so what they measure says little of new samples; remove them from one of the two "
        "(adaptrun gap lists them all), or train all the same: data.allow_leakage: true"
    )
