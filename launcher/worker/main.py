"""Fine-tuning, in the words of the task: each step is one call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from launcher.adapt import adapt_model, joined_module, make_method
from launcher.adapt.adapters import Adapters
from launcher.checkpoint.merging import merge_adapters
from launcher.checkpoint.model_folder import publish_model, write_skeleton
from launcher.checkpoint.reading import read_progress, read_state
from launcher.checkpoint.saving import Checkpoints
from launcher.engines import make_engine
from launcher.engines.base import Engine, EngineSettings, StateDict, without_frozen
from launcher.errors import NotFinite, RequestError, Stopped
from launcher.run.checkpoints import checkpoint_name
from launcher.run.events import Note, Saved, Started
from launcher.run.folder import write_whole
from launcher.run.results import Result, SetResult
from launcher.worker.feeding import Feed
from launcher.worker.judging import Judge
from launcher.worker.learning import Learner, MethodLearner, TaskLearner
from launcher.worker.links import try_links
from launcher.worker.looking import target_view
from launcher.worker.loop import Hooks, Loop
from launcher.worker.materials import Materials, load_model, open_materials
from launcher.worker.process import RankProcess
from launcher.worker.progress import Metrics, Progress
from launcher.worker.session import Session, joined_session
from launcher.worker.stopping import StopAgreed, StopRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run_job(process: RankProcess, target: Path, sets: Sequence[str], resume: str | None) -> None:
    """Join the world of the run and fine-tune."""
    with joined_session(process, target, sets, resume) as session:
        if session.plan.nodes > 1:
            try_links(session, process.place.node)
        fine_tune(session, process.stop)


def fine_tune(session: Session, stop: StopRequest) -> None:
    """One rank's part of the whole run. Raises Stopped when asked to stop before the end."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = session.job.train.tf32
    engine = make_engine(session.plan.engine, _engine_settings(session))
    materials = open_materials(session)
    loaded = load_model(session, materials, in_parts=engine.shards_weights)
    adapters = adapt_model(session.job, loaded, materials.pretrained, materials.task.auto_class)
    if session.world.is_first:
        _begin_model_folder(session, materials, loaded.model, adapters)
    sizes = dict(zip(materials.train.sets, materials.train.sizes, strict=True))
    target = 0 if materials.target is None else len(materials.target)
    method = make_method(session.job, materials.task, sizes, target)
    feed = Feed(session.job, materials.task, materials.train, materials.target, method)
    module = joined_module(materials.task.build(loaded.model), method, loaded, session.job, materials.pretrained)
    engine.prepare(module, session.job.train.optimizer, loaded.stored)
    progress = _take_up(session, engine, feed.pool.name, adapters)
    if method is not None:
        method.state = progress.method
    progress.micro_batch_limit = session.plan.micro_batch_limit
    judge = Judge(session, materials, engine.module)
    if not progress.before:
        progress.before = judge.measure(progress.step)
    _train(session, feed, engine, progress, judge, stop)
    step = _choose_weights(session, engine, progress)
    after = judge.measure(step)
    session.enter("publishing", str(session.folder.model))
    session.fence.check()
    _publish(session, engine)
    if session.world.is_first:
        _conclude(session, progress, "done", after)
        session.folder.become_latest(session.job)
    session.world.wait()


def _begin_model_folder(
    session: Session, materials: Materials, model: PreTrainedModel, adapters: Adapters | None
) -> None:
    """Write what is known of the result before it has any weights."""
    if adapters is not None:
        session.log.write(Note(text=str(adapters)))
    config = None if adapters is None else adapters.config
    card = materials.card(session.job, adapters)
    write_skeleton(session.folder.skeleton, model, materials.task.processor, card, config)


def _publish(session: Session, engine: Engine) -> None:
    """Leave the result: the whole model or the adapters; or both, where they are to be merged."""
    job, folder = session.job, session.folder
    if job.adapt.method == "lora" and job.adapt.merge:
        publish_model(folder.adapter, folder.skeleton, engine, job.checkpoint.dtype)
        merge_adapters(folder.adapter, folder.model, job.checkpoint.dtype)
    else:
        publish_model(folder.model, folder.skeleton, engine, job.checkpoint.dtype)


def _state(session: Session, engine: Engine) -> StateDict:
    """What a checkpoint holds: all but frozen weights that are read from the pretrained model again."""
    state = engine.state()
    return without_frozen(state, engine.module) if session.job.adapt.method == "lora" else state


def _learner(session: Session, feed: Feed, engine: Engine) -> Learner:
    """What makes gradients of batches."""
    if feed.method is None:
        return TaskLearner(engine)
    plan, world = session.plan, session.world
    view = None
    if feed.target is not None:
        view = target_view(engine.module, feed.task, feed.target, world, plan.evaluation_batch, plan.precision)
    return MethodLearner(feed.method, engine, world, plan.precision, session.job.train.seed, view)


def _engine_settings(session: Session) -> EngineSettings:
    job = session.job
    return EngineSettings(
        session.world.device,
        session.plan.precision,
        job.train.clip_norm,
        job.engine.block,
        session.folder.deepspeed_file if session.plan.deepspeed is not None else None,
    )


def _take_up(session: Session, engine: Engine, data: str, adapters: Adapters | None) -> Progress:
    """Start afresh, or stand where the checkpoint stood.

    Raises RequestError where the data, or the weights that adapters are added to, are no longer the same.
    """
    base = "" if adapters is None else adapters.base
    if session.checkpoint is None:
        return Progress(data=data, base=base)
    session.enter("loading", str(session.checkpoint))
    progress = Progress.from_dict(read_progress(session.checkpoint))
    if progress.data != data:
        raise RequestError(
            f"the training data (or the tokenizer) have changed since {session.checkpoint} was saved; put back what "
            "was there, or start afresh with --resume never"
        )
    if progress.base != base:
        raise RequestError(
            f"{session.job.model.pretrained} is no longer the model that the adapters in {session.checkpoint} were "
            "trained beside; put that one back, or start afresh with --resume never"
        )
    engine.load(read_state(session.checkpoint, _state(session, engine)))
    return progress


def _train(
    session: Session,
    feed: Feed,
    engine: Engine,
    progress: Progress,
    judge: Judge,
    stop: StopRequest,
) -> None:
    """Train, validating and adjusting as it goes."""

    def saved(step: int, path: Path, seconds: float) -> None:
        stop.saving_took(seconds)
        session.log.write(Saved(step=step, path=str(path), seconds=seconds))

    checkpoints = Checkpoints(
        session.folder.checkpoints,
        session.job.checkpoint.keep,
        in_background=session.job.checkpoint.in_background,
        on_saved=saved,
        start=session.start.count,
        before_completing=session.fence.check,
    )

    def save() -> None:
        session.enter("saving", checkpoint_name(progress.step))
        checkpoints.save(progress.step, _state(session, engine), progress.as_dict(), progress.best_step)
        session.enter("training")

    def finish_saving() -> None:
        session.enter("saving")
        checkpoints.wait()

    def evaluate() -> float:
        def vote() -> None:
            if session.world.sum([stop.asked]).item() > 0:
                raise StopAgreed

        value = judge.deciding_value(progress.step, vote)
        session.enter("training")
        return value

    loop = Loop(
        session.job,
        session.plan.split,
        session.plan.precision,
        session.world,
        engine,
        feed,
        _learner(session, feed, engine),
        progress,
        Hooks(session.log.write, evaluate, save, checkpoints.has_failed, finish_saving),
        stop,
    )
    session.enter("training")
    session.log.write(
        Started(
            step=progress.step,
            total_steps=loop.total_steps,
            steps_per_epoch=feed.steps_per_epoch,
            epochs=session.job.train.epochs,
            processes=session.world.size,
        )
    )
    with stop.deferred(), _discarded_kept(session, loop):
        if loop.train():
            return
        if session.world.is_first:
            _conclude(session, progress, "stopped", after={})
        session.world.wait()
    raise Stopped(
        f"stopped after step {progress.step} of {loop.total_steps}; everything is saved, and the same "
        "command goes on from there"
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


def _choose_weights(session: Session, engine: Engine, progress: Progress) -> int:
    """Leave the weights that become the result in the engine; returns the step they are of."""
    best = progress.best_step
    if session.job.checkpoint.result == "last" or best is None or best == progress.step:
        return progress.step
    session.log.write(Note(text=f"the best model was that of step {best}; taking it"))
    checkpoint = session.folder.checkpoints / checkpoint_name(best)
    engine.load(read_state(checkpoint, _state(session, engine), optimizer=False))
    return best


def _conclude(session: Session, progress: Progress, status: Literal["done", "stopped"], after: Metrics) -> None:
    """Write what this start came to."""
    Result(
        status=status,
        name=session.job.name,
        steps=progress.step,
        seconds=progress.seconds,
        model=str(session.folder.model) if status == "done" else None,
        best_step=progress.best_step,
        sets={name: _set_result(progress.before[name], after[name]) for name in after},
    ).write(session.folder.result_file)
    session.enter(status)


def _set_result(before: dict[str, Any], after: dict[str, Any]) -> SetResult:
    return SetResult(
        samples=after["samples"],
        before=before["metrics"],
        after=after["metrics"],
        before_interval=before["intervals"],
        after_interval=after["intervals"],
    )
