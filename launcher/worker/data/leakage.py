"""Validation samples that are also trained on, found by their fingerprints, without reading the data again."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.data.fingerprints import repeated
from launcher.data.pool import Pool
from launcher.data.prepared import Prepared
from launcher.errors import LeakageError
from launcher.job.schema import Job
from launcher.job.sections.methods import REHEARSAL
from launcher.run.events import EventLog


def check_leakage(
    job: Job, train: Pool, target: Prepared | None, validation: Mapping[str, Prepared], log: EventLog
) -> None:
    """Raises LeakageError if sets share samples; if the job allows it, their number is logged.

    target: the target set, if it is trained on
    """
    places = {name: ".".join(job.data.place_in_train(name)) for name in train.sets}
    learned = {
        places[name] if name != REHEARSAL else "adapt.rehearsal.source": data for name, data in train.sets.items()
    }
    if target is not None:
        learned["data.target"] = target
    found = []
    for name, held in validation.items():
        judged = ".".join(job.data.place_in_validation(name))
        for place, data in learned.items():
            leaks = repeated(data.fingerprints, held.fingerprints)
            if not len(leaks):
                continue
            here, there = leaks[0] + 1
            text = f"{len(leaks)} of the {len(held)} samples of {judged} are also in {place}"
            found.append(f"{text} (sample {here} of {name} is sample {there} there)")
    if not found:
        return
    if job.data.allow_leakage:
        log.note("; ".join(found))
        return
    raise LeakageError(
        "; ".join(found) + ", so metrics on them say little about new samples; remove them from one of "
        "the two (adaptrun gap lists them all), or set data.allow_leakage: true to train anyway"
    )
