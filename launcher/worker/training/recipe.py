"""Fine-tuning, in the words of the task: each step is one call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from launcher.errors import NotAdopted
from launcher.measure.compare.per_sample_results import Values
from launcher.run.folder import RunFolder
from launcher.run.results import insist_on_adoption
from launcher.worker.data.inputs import open_inputs
from launcher.worker.evaluation.baselines import measure_others
from launcher.worker.evaluation.checkpoint_selection import CheckpointSelector
from launcher.worker.evaluation.model_comparison import judge_result
from launcher.worker.evaluation.validation import RESULT, Validator
from launcher.worker.rank.network_check import check_network
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.run_context import RunContext, joined_run
from launcher.worker.training.checkpoint_integrity import with_sound_checkpoint
from launcher.worker.training.conclusion import conclude
from launcher.worker.training.interpolation import interpolate
from launcher.worker.training.publication import become_latest, leave_model_cards, publish
from launcher.worker.training.restoring import remembered_progress
from launcher.worker.training.result_weights import choose_weights
from launcher.worker.training.train import train


def run_job(process: RankProcess, target: Path, sets: Sequence[str], resume: str | None) -> None:
    """Join the world of the run and fine-tune."""
    with joined_run(process, target, sets, resume) as context:
        if context.plan.nodes > 1:
            check_network(context, process.place.node)
        fine_tune(context, process.stop)
        folder = context.folder
    if target.is_file():  # started by hand, and nobody else tells how it ended
        _leave_unless_adopted(folder)


def fine_tune(context: RunContext, stop: StopRequest) -> None:
    """One rank's part of the whole run. Raises Stopped when asked to stop before the end."""
    allow_tf32(context.job.train.tf32)
    inputs = open_inputs(context)
    measure_others(context, inputs)
    context = with_sound_checkpoint(context)
    progress, weights = remembered_progress(context, inputs), dict[str, Values]()
    setup, validator = train(context, inputs, progress, stop, weights)
    chosen = choose_weights(context, setup, progress)
    if context.job.adapt.interpolate is not None:
        interpolate(context, inputs, setup, CheckpointSelector.of(context, inputs, setup.engine.module, weights))
        validator = Validator.of(context, inputs, setup.engine.module, weights)
    after = validator.measure(chosen.step)
    validator.keep_outcomes(chosen.step, RESULT)
    published = publish(context, setup)
    context.enter("comparing")
    if context.world.is_first:
        verdict, findings = judge_result(
            context, inputs, new_head=setup.has_new_head, chosen=progress.best_step is not None, lost=chosen.lost
        )
        result = conclude(context, progress, "done", after, findings, verdict, chosen, published)
        leave_model_cards(context, inputs, result)
        become_latest(context)
    context.world.wait()


def allow_tf32(allowed: bool) -> None:
    """Whether matrix products on GPUs may round to tf32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def _leave_unless_adopted(folder: RunFolder) -> None:
    """End this rank with 1 where the job asks for an adoption that is not advised: no failure, so no word is left."""
    try:
        insist_on_adoption(folder)
    except NotAdopted as verdict:
        sys.exit(int(verdict.exit_code))
