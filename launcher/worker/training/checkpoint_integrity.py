"""Verify a checkpoint's hashes before it is loaded. All ranks take part, and agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from launcher.checkpoint.hashing import fault_of
from launcher.errors import DamagedCheckpoint
from launcher.run.attempts import fall_back
from launcher.run.checkpoints import complete_checkpoints, note_without_hashes, set_aside, step_of
from launcher.run.resuming import damage_of
from launcher.worker.rank.run_context import RunContext


def with_sound_checkpoint(context: RunContext) -> RunContext:
    """The context, resuming from the latest undamaged checkpoint; each skipped one is reported.

    Raises DamagedCheckpoint if the user named a damaged one, or if there is none before it.
    """
    damaged: dict[Path, str] = {}
    while context.checkpoint is not None:
        context.enter("loading", str(context.checkpoint))
        fault = fault_of(context.checkpoint, context.world.heartbeat)
        if fault is None:
            _say_if_unhashed(context, context.checkpoint)
            return context
        damaged[context.checkpoint] = fault
        context = _further_back(context, damaged)
    return context


def insist_on_soundness(context: RunContext, checkpoint: Path) -> None:
    """Raise DamagedCheckpoint, on all ranks, if a checkpoint of this attempt is damaged."""
    fault = fault_of(checkpoint, context.world.heartbeat)
    if fault is not None:
        raise DamagedCheckpoint(f"{checkpoint} is damaged: {fault}; the same command resumes from the one before", 0)


def _further_back(context: RunContext, damaged: dict[Path, str]) -> RunContext:
    """Resume from the checkpoint before the damaged ones."""
    said = None
    if context.world.is_first:
        latest = list(damaged)[-1]
        complete = complete_checkpoints(context.folder.checkpoints)
        before = [] if context.start.insists else [path for path in complete if step_of(path) < step_of(latest)]
        damage = "" if before else damage_of(context.folder, damaged, context.start.insists)
        said = json.dumps([str(before[-1]) if before else "", damage])
    place, damage = json.loads(context.world.from_first(said) or "")
    if not place:
        raise DamagedCheckpoint(damage, 0)
    start = replace(context.start, checkpoint=place)
    if context.world.is_first:
        context.fence.check()
        latest, fault = list(damaged.items())[-1]
        set_aside(latest)
        start = fall_back(context.folder, context.start, Path(place))
        context.log.note(f"skipped {latest.name}, which is damaged: {fault}; resuming from {place}")
    return replace(context, start=start)


def _say_if_unhashed(context: RunContext, checkpoint: Path) -> None:
    if context.world.is_first and (note := note_without_hashes(checkpoint)):
        context.log.note(note)
