"""Fine-tuning, in the words of the task: each step is one call."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from launcher.checkpoint.hashing import fault_of
from launcher.checkpoint.merging import merge_adapters
from launcher.checkpoint.model_folder import fault_of_skeleton, publish_model
from launcher.checkpoint.reading import read_progress, read_state
from launcher.checkpoint.saving import Checkpoints
from launcher.engines.base import Engine
from launcher.errors import ModelError, NotAdopted, NotFinite, RequestError, Stopped
from launcher.job.schema import Job
from launcher.measure.compare.per_sample_results import Values
from launcher.measure.compare.verdict import Verdict
from launcher.run.checkpoints import checkpoint_name
from launcher.run.events import Saved, Started
from launcher.run.folder import RunFolder, write_whole
from launcher.run.results import Result, SetResult, insist_on_adoption
from launcher.worker.data.inputs import Inputs, open_inputs
from launcher.worker.data.train_data import TrainData
from launcher.worker.evaluation.baselines import measure_others
from launcher.worker.evaluation.checkpoint_selection import CheckpointSelector, selector_of
from launcher.worker.evaluation.evaluate import Metrics
from launcher.worker.evaluation.model_comparison import SetFindings, judge_result
from launcher.worker.evaluation.validation import BEFORE, RESULT, Validator
from launcher.worker.rank.network_check import check_network
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.process import RankProcess
from launcher.worker.rank.run_context import RunContext, joined_run
from launcher.worker.training.checkpoint_integrity import insist_on_soundness, with_sound_checkpoint
from launcher.worker.training.interpolation import interpolate
from launcher.worker.training.loop import Hooks, Loop
from launcher.worker.training.model_card import write_model_card
from launcher.worker.training.progress import Progress
from launcher.worker.training.setup import TrainSetup, build


def run_job(process: RankProcess, target: Path, sets: Sequence[str], resume: str | None) -> None:
    """Join the world of the run and fine-tune."""
    with joined_run(process, target, sets, resume) as context:
        if context.plan.nodes > 1:
            check_network(context, process.place.node)
        fine_tune(context, process.stop)
        folder = context.folder
    if target.is_file():  # started by hand, and nobody else tells how it ended
        _leave_unless_adopted(folder)


def _leave_unless_adopted(folder: RunFolder) -> None:
    """End this rank with 1 where the job asks for an adoption that is not advised: no failure, so no word is left."""
    try:
        insist_on_adoption(folder)
    except NotAdopted as verdict:
        sys.exit(int(verdict.exit_code))


def fine_tune(context: RunContext, stop: StopRequest) -> None:
    """One rank's part of the whole run. Raises Stopped when asked to stop before the end."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = context.job.train.tf32
    inputs = open_inputs(context)
    measure_others(context, inputs)
    context = with_sound_checkpoint(context)
    trained_on = TrainData.of(context.job, inputs, None).pool.name
    progress, reached = _remembered(context, trained_on), context.checkpoint
    checkpoints = _checkpoints(context, stop)
    remembered: dict[str, Values] = {}
    while True:
        built = build(context, inputs, progress.step)
        _take_up(context, built, progress, reached)
        judge = _judge(context, inputs, built.engine, remembered)
        if not progress.before:
            progress.before = judge.measure(progress.step)
            judge.keep_outcomes(progress.step, BEFORE)
        reached = _train(context, built, progress, judge, checkpoints, stop)
        if reached is None:
            break
        insist_on_soundness(context, reached)
        del built, judge
        gc.collect()  # the engine of the next stage needs the room
    chosen = _choose_weights(context, built, progress)
    if context.job.adapt.interpolate is not None:
        selector = _selector(context, inputs, built.engine, remembered)
        interpolate(context, inputs, built, selector)
        judge = Validator(context, inputs, built.engine.module, selector)
    after = judge.measure(chosen.step)
    judge.keep_outcomes(chosen.step, RESULT)
    context.enter("publishing", str(context.folder.model))
    context.fence.check()
    published = _publish(context, built)
    context.enter("comparing")
    if context.world.is_first:
        verdict, findings = judge_result(
            context, inputs, new_head=built.has_new_head, chosen=progress.best_step is not None, lost=chosen.lost
        )
        result = _conclude(context, progress, "done", after, findings, verdict, chosen, published)
        _leave_model_cards(context, inputs, result)
        _become_latest(context)
    context.world.wait()


def _become_latest(context: RunContext) -> None:
    """A file system without links costs the link, not the run."""
    try:
        context.folder.become_latest(context.job)
    except OSError as error:
        context.log.note(f"runs/{context.job.name} could not be made to lead here: {error}")


def _leave_model_cards(context: RunContext, inputs: Inputs, result: Result) -> None:
    """Beside what was published; a run that is finished stays so where they cannot be written."""
    for folder in (context.folder.model, context.folder.adapter):
        if folder.is_dir():
            try:
                write_model_card(folder, context.job, result, inputs.task.labels)
            except OSError as error:
                context.log.note(f"the model card could not be written: {error}")


def _judge(context: RunContext, inputs: Inputs, engine: Engine, remembered: dict[str, Values]) -> Validator:
    """Measures the model in an engine; for a target without labels, in the way that the job selects by."""
    return Validator(context, inputs, engine.module, _selector(context, inputs, engine, remembered))


def _selector(
    context: RunContext, inputs: Inputs, engine: Engine, remembered: dict[str, Values]
) -> CheckpointSelector | None:
    """What chooses for a target without labels; None where labels choose."""
    if not context.job.selects_for_target:
        return None
    return CheckpointSelector(context, inputs, engine.module, remembered)


def _publish(context: RunContext, built: TrainSetup) -> Path:
    """Leave the result: the whole model or the adapters; or both, where they are to be merged.

    Returns the folder that holds it: that of the adapters where the base that they were to be merged with is gone.
    """
    job, folder, engine = context.job, context.folder, built.engine
    if context.world.is_first and (fault := fault_of_skeleton(folder.skeleton)) is not None:
        context.log.note(f"{folder.skeleton} is damaged, and was written again: {fault}")
        built.write_skeleton()
    if job.adapt.method == "lora" and job.adapt.merge:
        publish_model(folder.adapter, folder.skeleton, engine, "fp32")
        try:
            merge_adapters(folder.adapter, folder.model, job.checkpoint.dtype, job.model.trust_code)
        except ModelError as error:  # raised by all ranks alike
            way = f"adaptrun consolidate {folder.adapter} -o {folder.model}"
            context.log.note(f"the adapters could not be merged: {error}; once the base is back: {way}")
            return folder.adapter
    else:
        publish_model(folder.model, folder.skeleton, engine, job.checkpoint.dtype)
    return folder.model


def _remembered(context: RunContext, data: str) -> Progress:
    """Where the run stands. Raises RequestError where the data are no longer the same."""
    if context.checkpoint is None:
        return Progress(data=data)
    context.enter("loading", str(context.checkpoint))
    progress = Progress.from_dict(read_progress(context.checkpoint))
    if progress.data != data:
        raise RequestError(
            f"the training data (or the tokenizer) have changed since {context.checkpoint} was saved, or another "
            "version of adaptrun prepared them; put back what was there, or start a new run with --resume never"
        )
    return progress


def _take_up(context: RunContext, built: TrainSetup, progress: Progress, checkpoint: Path | None) -> None:
    """Begin, or stand where the checkpoint stood.

    Raises RequestError where the weights that the checkpoint leaves out are no longer the same.
    """
    progress.micro_batch_limit = context.plan.micro_batch_limit
    if built.feed.method is not None:
        built.feed.method.state = progress.method
    if checkpoint is None:
        progress.base = built.base
        return
    if progress.base != built.base:
        tie = (
            "the adapters in {} were trained with" if context.job.adapt.method == "lora" else "the run of {} began with"
        )
        raise RequestError(
            f"{context.job.model.pretrained} is no longer the model that {tie.format(checkpoint)}; put that one back, "
            "or start a new run with --resume never"
        )
    built.load(read_state(checkpoint, built.state()))


def _checkpoints(context: RunContext, stop: StopRequest) -> Checkpoints:
    """The run's checkpoints, each of which is told."""

    def saved(step: int, path: Path, seconds: float) -> None:
        stop.saving_took(seconds)
        context.log.write(Saved(step=step, path=str(path), seconds=seconds))

    return Checkpoints(
        context.folder.checkpoints,
        context.job.checkpoint.keep,
        in_background=context.job.checkpoint.in_background,
        on_saved=saved,
        start=context.start.count,
        before_completing=context.fence.check,
    )


def _train(
    context: RunContext,
    built: TrainSetup,
    progress: Progress,
    judge: Validator,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Path | None:
    """Train, validating and adjusting as it goes.

    Returns the checkpoint that the next stage of the run goes on from, None at the run's end.
    """

    def save() -> None:
        context.enter("saving", checkpoint_name(progress.step))
        checkpoints.save(progress.step, built.state(), progress.as_dict(), progress.best_step)
        context.enter("training")

    def finish_saving() -> None:
        context.enter("saving")
        checkpoints.wait()

    def evaluate(before_batch: Callable[[], None]) -> float:
        with built.result_weights(progress.step):
            judge.forget_outcomes(progress.best_step)
            value = judge.deciding_value(progress.step, before_batch)
        context.enter("training")
        return value

    loop = Loop(
        context.job,
        context.plan.split,
        context.plan.precision,
        context.world,
        built.engine,
        built.options,
        built.feed,
        built.learner,
        progress,
        Hooks(context.log.write, evaluate, save, checkpoints.has_failed, finish_saving),
        stop,
        until=built.span.end,
    )
    context.enter("training")
    if context.plan.evaluations:
        context.log.note(f"validation: {context.plan.evaluations}")
    context.log.write(
        Started(
            step=progress.step,
            total_steps=loop.total_steps,
            steps_per_epoch=built.feed.steps_per_epoch,
            epochs=context.job.train.epochs,
            processes=context.world.size,
            counted_in=built.feed.task.counted_in,
        )
    )
    with stop.deferred(), _discarded_kept(context, loop):
        if loop.train():
            return None if loop.is_over() else checkpoints.at(progress.step)
        if context.world.is_first:
            _conclude(context, progress, "stopped", after={})
        context.world.wait()
    raise Stopped(
        f"stopped after step {progress.step} of {loop.total_steps}; everything is saved, and the same "
        "command resumes from there"
    )


@contextmanager
def _discarded_kept(context: RunContext, loop: Loop) -> Iterator[None]:
    """Where too many steps were discarded, keep which samples each was made of."""
    try:
        yield
    except NotFinite:
        if context.world.is_first:
            write_whole(
                context.folder.discarded_file, json.dumps([asdict(event) for event in loop.discarded], indent=2)
            )
        raise


@dataclass(frozen=True)
class Chosen:
    """Whose weights become the result.

    step: that they are of
    lost: why they are the last ones, where those of a better step were chosen and cannot be had; None elsewhere
    """

    step: int
    lost: str | None = None


def _choose_weights(context: RunContext, built: TrainSetup, progress: Progress) -> Chosen:
    """Leave the weights that become the result in the engine."""
    chosen = Chosen(progress.step)
    if context.job.checkpoint.result != "last" and progress.best_step not in (None, progress.step):
        chosen = _take_best(context, built, progress)
    built.options.swap_result(chosen.step)
    return chosen


def _take_best(context: RunContext, built: TrainSetup, progress: Progress) -> Chosen:
    """The weights of the best step, from its checkpoint; that one is damaged or gone costs the choice, not the run."""
    step = progress.best_step
    assert step is not None
    checkpoint = context.folder.checkpoints / checkpoint_name(step)
    fault = fault_of(checkpoint, context.world.heartbeat)
    if fault is not None:
        lost = f"the checkpoint of step {step}, which was best, cannot be taken: {fault}"
        context.log.note(f"{lost}; the last model, of step {progress.step}, is taken")
        return Chosen(progress.step, lost)
    context.log.note(f"the best model was that of step {step}; taking it")
    has_copies = built.is_averaged(step) or context.job.adapt.interpolate is not None
    built.load(read_state(checkpoint, built.state(), optimizer=has_copies))
    return Chosen(step)


def _conclude(
    context: RunContext,
    progress: Progress,
    status: Literal["done", "stopped"],
    after: Metrics,
    findings: Mapping[str, SetFindings] | None = None,
    verdict: Verdict | None = None,
    chosen: Chosen | None = None,
    published: Path | None = None,
) -> Result:
    """Write what this start came to, and return it. Raises Superseded where a later one has begun."""
    context.fence.check()
    result = Result(
        status=status,
        name=context.job.name,
        steps=progress.step,
        seconds=progress.seconds,
        model=None if published is None else str(published),
        best_step=progress.best_step,
        sets={
            name: _set_result(progress.before[name], after[name], (findings or {}).get(name, SetFindings()))
            for name in after
        },
        verdict=verdict,
        selector=_selector_in_words(context.job, progress, chosen),
        result_step=None if chosen is None else chosen.step,
    )
    result.write(context.folder.result_file)
    context.enter(status)
    return result


def _selector_in_words(job: Job, progress: Progress, chosen: Chosen | None) -> str | None:
    if chosen is not None and chosen.lost is not None:
        return f"being the last, of step {chosen.step}, since {chosen.lost}"
    return None if progress.best_step is None else selector_of(job)


def _set_result(before: dict[str, Any], after: dict[str, Any], found: SetFindings) -> SetResult:
    return SetResult(
        samples=after["samples"],
        before=before["metrics"],
        after=after["metrics"],
        before_interval=before["intervals"],
        after_interval=after["intervals"],
        change_interval=found.change_interval,
        calibration=found.calibration,
        others=found.others,
    )
