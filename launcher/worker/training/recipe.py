"""The recipe of fine-tuning: one call per stage."""

from __future__ import annotations

import torch

from launcher.measure.compare.per_sample_results import Values
from launcher.worker.data.inputs import open_inputs
from launcher.worker.evaluation.baselines import measure_others
from launcher.worker.evaluation.checkpoint_selection import CheckpointSelector
from launcher.worker.evaluation.model_comparison import judge_result
from launcher.worker.evaluation.validation import RESULT, Validator
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.checkpoint_integrity import with_sound_checkpoint
from launcher.worker.training.conclusion import conclude
from launcher.worker.training.interpolation import interpolate
from launcher.worker.training.publication import become_latest, leave_model_cards, publish
from launcher.worker.training.restoring import remembered_progress
from launcher.worker.training.result_weights import choose_weights
from launcher.worker.training.train import train


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
