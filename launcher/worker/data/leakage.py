"""Validation samples that are also trained on: known by their fingerprints, so that no data are read again."""

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
    """Raises LeakageError where sets share samples; where the job allows it, the run notes how many.

    target: where it is learned from
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
        "; ".join(found) + ", so what they measure says little of new samples; remove them from one of the two "
        "(adaptrun gap lists them all), or train all the same: data.allow_leakage: true"
    )
