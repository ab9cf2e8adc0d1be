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
from launcher.measure.outcomes import Values
from launcher.measure.verdict import Verdict
from launcher.run.checkpoints import checkpoint_name
from launcher.run.events import Saved, Started
from launcher.run.folder import RunFolder, write_whole
from launcher.run.results import Result, SetResult, insist_on_adoption
from launcher.worker.baselines import measure_others
from launcher.worker.building import Built, build
from launcher.worker.comparing import SetFindings, judge_result
from launcher.worker.feeding import Feed
from launcher.worker.interpolating import interpolate
from launcher.worker.judging import BEFORE, RESULT, Judge
from launcher.worker.links import try_links
from launcher.worker.loop import Hooks, Loop
from launcher.worker.materials import Materials, open_materials
from launcher.worker.model_card import write_model_card
from launcher.worker.process import RankProcess
from launcher.worker.progress import Metrics, Progress
from launcher.worker.selecting import TargetSelector, selector_of
from launcher.worker.session import Session, joined_session
from launcher.worker.sound import insist_on_soundness, with_sound_checkpoint
from launcher.worker.stopping import StopRequest


def run_job(process: RankProcess, target: Path, sets: Sequence[str], resume: str | None) -> None:
    """Join the world of the run and fine-tune."""
    with joined_session(process, target, sets, resume) as session:
        if session.plan.nodes > 1:
            try_links(session, process.place.node)
        fine_tune(session, process.stop)
        folder = session.folder
    if target.is_file():  # started by hand, and nobody else tells how it ended
        _leave_unless_adopted(folder)


def _leave_unless_adopted(folder: RunFolder) -> None:
    """End this rank with 1 where the job asks for an adoption that is not advised: no failure, so no word is left."""
    try:
        insist_on_adoption(folder)
    except NotAdopted as verdict:
        sys.exit(int(verdict.exit_code))


def fine_tune(session: Session, stop: StopRequest) -> None:
    """One rank's part of the whole run. Raises Stopped when asked to stop before the end."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = session.job.train.tf32
    materials = open_materials(session)
    measure_others(session, materials)
    session = with_sound_checkpoint(session)
    trained_on = Feed.of(session.job, materials, None).pool.name
    progress, reached = _remembered(session, trained_on), session.checkpoint
    checkpoints = _checkpoints(session, stop)
    remembered: dict[str, Values] = {}
    while True:
        built = build(session, materials, progress.step)
        _take_up(session, built, progress, reached)
        judge = _judge(session, materials, built.engine, remembered)
        if not progress.before:
            progress.before = judge.measure(progress.step)
            judge.keep_outcomes(progress.step, BEFORE)
        reached = _train(session, built, progress, judge, checkpoints, stop)
        if reached is None:
            break
        insist_on_soundness(session, reached)
        del built, judge
        gc.collect()  # the engine of the next stage needs the room
    chosen = _choose_weights(session, built, progress)
    if session.job.adapt.interpolate is not None:
        selector = _selector(session, materials, built.engine, remembered)
        interpolate(session, materials, built.engine, selector)
        judge = Judge(session, materials, built.engine.module, selector)
    after = judge.measure(chosen.step)
    judge.keep_outcomes(chosen.step, RESULT)
    session.enter("publishing", str(session.folder.model))
    session.fence.check()
    published = _publish(session, built)
    session.enter("comparing")
    if session.world.is_first:
        verdict, findings = judge_result(
            session, materials, new_head=built.has_new_head, chosen=progress.best_step is not None, lost=chosen.lost
        )
        result = _conclude(session, progress, "done", after, findings, verdict, chosen, published)
        _leave_model_cards(session, materials, result)
        _become_latest(session)
    session.world.wait()


def _become_latest(session: Session) -> None:
    """A file system without links costs the link, not the run."""
    try:
        session.folder.become_latest(session.job)
    except OSError as error:
        session.log.note(f"runs/{session.job.name} could not be made to lead here: {error}")


def _leave_model_cards(session: Session, materials: Materials, result: Result) -> None:
    """Beside what was published; a run that is finished stays so where they cannot be written."""
    for folder in (session.folder.model, session.folder.adapter):
        if folder.is_dir():
            try:
                write_model_card(folder, session.job, result, materials.task.labels)
            except OSError as error:
                session.log.note(f"the model card could not be written: {error}")


def _judge(session: Session, materials: Materials, engine: Engine, remembered: dict[str, Values]) -> Judge:
    """Measures the model in an engine; for a target without labels, in the way that the job selects by."""
    return Judge(session, materials, engine.module, _selector(session, materials, engine, remembered))


def _selector(
    session: Session, materials: Materials, engine: Engine, remembered: dict[str, Values]
) -> TargetSelector | None:
    """What chooses for a target without labels; None where labels choose."""
    if not session.job.selects_for_target:
        return None
    return TargetSelector(session, materials, engine.module, remembered)


def _publish(session: Session, built: Built) -> Path:
    """Leave the result: the whole model or the adapters; or both, where they are to be merged.

    Returns the folder that holds it: that of the adapters where the base that they were to be merged with is gone.
    """
    job, folder, engine = session.job, session.folder, built.engine
    if session.world.is_first and (fault := fault_of_skeleton(folder.skeleton)) is not None:
        session.log.note(f"{folder.skeleton} is damaged, and was written again: {fault}")
        built.write_skeleton()
    if job.adapt.method == "lora" and job.adapt.merge:
        publish_model(folder.adapter, folder.skeleton, engine, "fp32")
        try:
            merge_adapters(folder.adapter, folder.model, job.checkpoint.dtype, job.model.trust_code)
        except ModelError as error:  # raised by all ranks alike
            way = f"adaptrun consolidate {folder.adapter} -o {folder.model}"
            session.log.note(f"the adapters could not be merged: {error}; once the base is back: {way}")
            return folder.adapter
    else:
        publish_model(folder.model, folder.skeleton, engine, job.checkpoint.dtype)
    return folder.model


def _remembered(session: Session, data: str) -> Progress:
    """Where the run stands. Raises RequestError where the data are no longer the same."""
    if session.checkpoint is None:
        return Progress(data=data)
    session.enter("loading", str(session.checkpoint))
    progress = Progress.from_dict(read_progress(session.checkpoint))
    if progress.data != data:
        raise RequestError(
            f"the training data (or the tokenizer) have changed since {session.checkpoint} was saved, or another "
            "version of adaptrun prepared them; put back what was there, or start a new run with --resume never"
        )
    return progress


def _take_up(session: Session, built: Built, progress: Progress, checkpoint: Path | None) -> None:
    """Begin, or stand where the checkpoint stood.

    Raises RequestError where the weights that the checkpoint leaves out are no longer the same.
    """
    progress.micro_batch_limit = session.plan.micro_batch_limit
    if built.feed.method is not None:
        built.feed.method.state = progress.method
    if checkpoint is None:
        progress.base = built.base
        return
    if progress.base != built.base:
        tie = (
            "the adapters in {} were trained with" if session.job.adapt.method == "lora" else "the run of {} began with"
        )
        raise RequestError(
            f"{session.job.model.pretrained} is no longer the model that {tie.format(checkpoint)}; put that one back, "
            "or start a new run with --resume never"
        )
    built.engine.load(read_state(checkpoint, built.state()))


def _checkpoints(session: Session, stop: StopRequest) -> Checkpoints:
    """The run's checkpoints, each of which is told."""

    def saved(step: int, path: Path, seconds: float) -> None:
        stop.saving_took(seconds)
        session.log.write(Saved(step=step, path=str(path), seconds=seconds))

    return Checkpoints(
        session.folder.checkpoints,
        session.job.checkpoint.keep,
        in_background=session.job.checkpoint.in_background,
        on_saved=saved,
        start=session.start.count,
        before_completing=session.fence.check,
    )


def _train(
    session: Session,
    built: Built,
    progress: Progress,
    judge: Judge,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Path | None:
    """Train, validating and adjusting as it goes.

    Returns the checkpoint that the next stage of the run goes on from, None at the run's end.
    """

    def save() -> None:
        session.enter("saving", checkpoint_name(progress.step))
        checkpoints.save(progress.step, built.state(), progress.as_dict(), progress.best_step)
        session.enter("training")

    def finish_saving() -> None:
        session.enter("saving")
        checkpoints.wait()

    def evaluate(before_batch: Callable[[], None]) -> float:
        with built.result_weights(progress.step):
            judge.forget_outcomes(progress.best_step)
            value = judge.deciding_value(progress.step, before_batch)
        session.enter("training")
        return value

    loop = Loop(
        session.job,
        session.plan.split,
        session.plan.precision,
        session.world,
        built.engine,
        built.feed,
        built.learner,
        progress,
        Hooks(session.log.write, evaluate, save, checkpoints.has_failed, finish_saving),
        stop,
        until=built.stage.end,
    )
    session.enter("training")
    if session.plan.evaluations:
        session.log.note(f"validation: {session.plan.evaluations}")
    session.log.write(
        Started(
            step=progress.step,
            total_steps=loop.total_steps,
            steps_per_epoch=built.feed.steps_per_epoch,
            epochs=session.job.train.epochs,
            processes=session.world.size,
            counted_in=built.feed.task.counted_in,
        )
    )
    with stop.deferred(), _discarded_kept(session, loop):
        if loop.train():
            return None if loop.is_over() else checkpoints.at(progress.step)
        if session.world.is_first:
            _conclude(session, progress, "stopped", after={})
        session.world.wait()
    raise Stopped(
        f"stopped after step {progress.step} of {loop.total_steps}; everything is saved, and the same "
        "command resumes from there"
    )


@contextmanager
def _discarded_kept(session: Session, loop: Loop) -> Iterator[None]:
    """Where too many steps were discarded, keep which samples each was made of."""
    try:
        yield
    except NotFinite:
        if session.world.is_first:
            write_whole(
                session.folder.discarded_file, json.dumps([asdict(event) for event in loop.discarded], indent=2)
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


def _choose_weights(session: Session, built: Built, progress: Progress) -> Chosen:
    """Leave the weights that become the result in the engine."""
    chosen = Chosen(progress.step)
    if session.job.checkpoint.result != "last" and progress.best_step not in (None, progress.step):
        chosen = _take_best(session, built, progress)
    if built.is_averaged(chosen.step):
        built.engine.swap_average()
    return chosen


def _take_best(session: Session, built: Built, progress: Progress) -> Chosen:
    """The weights of the best step, from its checkpoint; that one is damaged or gone costs the choice, not the run."""
    step = progress.best_step
    assert step is not None
    checkpoint = session.folder.checkpoints / checkpoint_name(step)
    fault = fault_of(checkpoint, session.world.pulse)
    if fault is not None:
        lost = f"the checkpoint of step {step}, which was best, cannot be taken: {fault}"
        session.log.note(f"{lost}; the last model, of step {progress.step}, is taken")
        return Chosen(progress.step, lost)
    session.log.note(f"the best model was that of step {step}; taking it")
    has_copies = built.is_averaged(step) or session.job.adapt.interpolate is not None
    built.engine.load(read_state(checkpoint, built.state(), optimizer=has_copies))
    return Chosen(step)


def _conclude(
    session: Session,
    progress: Progress,
    status: Literal["done", "stopped"],
    after: Metrics,
    findings: Mapping[str, SetFindings] | None = None,
    verdict: Verdict | None = None,
    chosen: Chosen | None = None,
    published: Path | None = None,
) -> Result:
    """Write what this start came to, and return it. Raises Superseded where a later one has begun."""
    session.fence.check()
    result = Result(
        status=status,
        name=session.job.name,
        steps=progress.step,
        seconds=progress.seconds,
        model=None if published is None else str(published),
        best_step=progress.best_step,
        sets={
            name: _set_result(progress.before[name], after[name], (findings or {}).get(name, SetFindings()))
            for name in after
        },
        verdict=verdict,
        selector=_selector_in_words(session.job, progress, chosen),
        result_step=None if chosen is None else chosen.step,
    )
    result.write(session.folder.result_file)
    session.enter(status)
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
