"""That a checkpoint holds what was written into it, before anything is taken from it. All ranks look, and agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from launcher.checkpoint.hashing import fault_of
from launcher.errors import DamagedCheckpoint
from launcher.run.checkpoints import complete_checkpoints, note_without_hashes, set_aside, step_of
from launcher.run.resuming import damage_of
from launcher.run.starts import go_further_back
from launcher.worker.session import Session


def with_sound_checkpoint(session: Session) -> Session:
    """The session, resuming from the latest checkpoint that is not damaged; each that is passed over is told.

    Raises DamagedCheckpoint where the user named a damaged one, or where there is none before it.
    """
    damaged: dict[Path, str] = {}
    while session.checkpoint is not None:
        session.enter("loading", str(session.checkpoint))
        fault = fault_of(session.checkpoint, session.world.pulse)
        if fault is None:
            _say_if_unhashed(session, session.checkpoint)
            return session
        damaged[session.checkpoint] = fault
        session = _further_back(session, damaged)
    return session


def insist_on_soundness(session: Session, checkpoint: Path) -> None:
    """Raise DamagedCheckpoint, on all ranks, where a checkpoint of this start is damaged."""
    fault = fault_of(checkpoint, session.world.pulse)
    if fault is not None:
        raise DamagedCheckpoint(f"{checkpoint} is damaged: {fault}; the same command resumes from the one before", 0)


def _further_back(session: Session, damaged: dict[Path, str]) -> Session:
    """Resume from the checkpoint before the damaged ones, which no longer count."""
    said = None
    if session.world.is_first:
        latest = list(damaged)[-1]
        complete = complete_checkpoints(session.folder.checkpoints)
        before = [] if session.start.insists else [path for path in complete if step_of(path) < step_of(latest)]
        told = "" if before else damage_of(session.folder, damaged, session.start.insists)
        said = json.dumps([str(before[-1]) if before else "", told])
    place, told = json.loads(session.world.from_first(said) or "")
    if not place:
        raise DamagedCheckpoint(told, 0)
    start = replace(session.start, checkpoint=place)
    if session.world.is_first:
        session.fence.check()
        latest, fault = list(damaged.items())[-1]
        set_aside(latest)
        start = go_further_back(session.folder, session.start, Path(place))
        session.log.note(f"skipped {latest.name}, which is damaged: {fault}; resuming from {place}")
    return replace(session, start=start)


def _say_if_unhashed(session: Session, checkpoint: Path) -> None:
    if session.world.is_first and (note := note_without_hashes(checkpoint)):
        session.log.note(note)
