"""The engine of one stage of the run, with the model in it as the job adapts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from launcher.adapt import joined_module, make_method
from launcher.adapt.adapters import Adapters, Setting
from launcher.adapt.averaging import first_step
from launcher.adapt.course import Course, Stage, probe_steps
from launcher.adapt.distilling import TEACHER, add_teacher
from launcher.adapt.method import Method
from launcher.adapt.module import PARTS, AdaptingModule
from launcher.checkpoint.model_folder import MODEL, write_skeleton
from launcher.engines import make_engine
from launcher.engines.base import Engine, EngineSettings, StateDict, Treatment, without
from launcher.job.pretrained import longest_input
from launcher.job.schema import Job
from launcher.models.base import TaskModule
from launcher.models.loading import Loaded
from launcher.worker.adapted import Adapted, adapt
from launcher.worker.feeding import Feed
from launcher.worker.learning import Learner, MethodLearner, TaskLearner
from launcher.worker.looking import target_view
from launcher.worker.materials import Materials, load_model
from launcher.worker.padding import choose_batches
from launcher.worker.session import Session


@dataclass(frozen=True)
class Built:
    """A model in an engine, ready to go on from a checkpoint or to begin.

    feed: what its steps see
    learner: what makes gradients of that
    base: identity of the pretrained weights, where the run needs them when it goes on; else empty
    never_saved: names of parameters that checkpoints leave out, since they never learn
    has_new_head: whether weights of the model as it came started at random
    write_skeleton: writes the model folder without its weights
    """

    job: Job
    engine: Engine
    feed: Feed
    learner: Learner
    stage: Stage
    base: str
    never_saved: frozenset[str]
    has_new_head: bool
    write_skeleton: Callable[[], None]

    def state(self) -> StateDict:
        """What a checkpoint holds: all but frozen weights that are read from the pretrained model again."""
        return without(self.engine.state(), self.never_saved)

    @contextmanager
    def result_weights(self, step: int) -> Iterator[None]:
        """Inside, the module holds the weights that would be the result after `step` steps: perhaps an average."""
        if not self.is_averaged(step):
            yield
            return
        self.engine.swap_average()
        try:
            yield
        finally:
            self.engine.swap_average()

    def is_averaged(self, step: int) -> bool:
        """Whether the average stands for the weights after `step` steps."""
        average = self.job.adapt.average
        if self.job.train.optimizer.name == "schedule_free_adamw":
            return True
        return average is not None and step >= first_step(average, self.feed.total_steps, self.feed.steps_per_epoch)


def build(session: Session, materials: Materials, step: int) -> Built:
    """Load the model, adapt it, and spread it as the stage of the run needs it that goes on after `step` steps."""
    job = session.job
    method = _method(job, materials)
    feed = Feed.of(job, materials, method)
    steps = feed.total_steps
    engine = make_engine(session.plan.engine, _settings(session, is_probe=step < probe_steps(job.adapt, steps)))
    loaded = load_model(session, materials, in_parts=engine.shards_weights or _is_quantised(job))
    base, has_new_head = loaded.identity if job.adapt.needs_the_start else "", bool(loaded.new)
    adapted = adapt(job, loaded, method, _setting(session, materials), steps)
    adapters, course = adapted.adapters, adapted.course
    stage = course.at(step)
    writes_skeleton = _skeleton_writer(session, materials, loaded, adapters)
    _begin(session, loaded, adapters, stage, course, writes_skeleton)
    treatments = _treatments(adapted, loaded)
    never = [name for name, parameter in loaded.model.named_parameters() if not parameter.requires_grad]
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(name in stage.learning)
    module, stored = materials.task.build(loaded.model), loaded.stored
    never_saved = set() if adapters is None else {f"{MODEL}{name}" for name in never}
    if job.adapt.distill is not None:
        teacher = load_model(session, materials, in_parts=engine.shards_weights)
        add_teacher(module, teacher.model, job.adapt.distill)
        stored |= teacher.stored
        never_saved |= {name for name, _ in module.named_parameters() if name.startswith(f"{TEACHER}.")}
    module = joined_module(module, method, loaded, job, materials.pretrained)
    treatments |= _treatments_of_parts(module, method)
    engine.prepare(module, job.train.optimizer, stored, treatments)
    _choose_batches(session, materials, engine)
    base = base if adapters is None else adapters.base
    learner = _learner(session, feed, engine)
    unsaved = frozenset(never_saved)
    return Built(job, engine, feed, learner, stage, base, unsaved, has_new_head, writes_skeleton)


def _choose_batches(session: Session, materials: Materials, engine: Engine) -> None:
    """Find out whether padding changes the model's numbers; nothing is padded then."""
    plan = session.plan
    weights_in = plan.precision if plan.engine == "fsdp" else "fp32"
    choose_batches(engine.module, materials.task, materials.sets, session.world, session.log.note, weights_in)


def _method(job: Job, materials: Materials) -> Method | None:
    sizes = dict(zip(materials.train.sets, materials.train.sizes, strict=True))
    return make_method(job, materials.task, sizes, 0 if materials.target is None else len(materials.target))


def _learner(session: Session, feed: Feed, engine: Engine) -> Learner:
    """What makes gradients of batches."""
    if feed.method is None:
        return TaskLearner(engine)
    plan, world = session.plan, session.world
    view = None
    if feed.target is not None:
        size, precision = plan.evaluation_batch, plan.precision
        view = partial(target_view, engine.module, feed.task, feed.target, world, size, precision)
    return MethodLearner(feed.method, engine, world, plan.precision, session.job.train.seed, view)


def _is_quantised(job: Job) -> bool:
    return job.adapt.method == "lora" and bool(job.adapt.quantised)


def _setting(session: Session, materials: Materials) -> Setting:
    job = session.job
    return Setting(
        materials.pretrained,
        job.model.revision,
        materials.task.auto_class,
        job.train.seed,
        session.world.device,
        session.plan.precision,
    )


def _settings(session: Session, *, is_probe: bool) -> EngineSettings:
    """What a probe ends with is the start of a new head, so nothing is kept of the start until then."""
    job = session.job
    return EngineSettings(
        session.world.device,
        session.plan.precision,
        job.train.clip_norm,
        job.engine.block,
        session.folder.deepspeed_file if session.plan.deepspeed is not None else None,
        pull=job.adapt.l2_sp,
        averages=job.adapt.average is not None,
        keeps_start=job.adapt.interpolate is not None and not is_probe,
        whole_gradients=session.plan.whole_gradients,
    )


def _begin(
    session: Session,
    loaded: Loaded,
    adapters: Adapters | None,
    stage: Stage,
    course: Course,
    writes_skeleton: Callable[[], None],
) -> None:
    """Write what is known of the result before it has any weights, and say which stage begins."""
    if not session.world.is_first:
        return
    if len(course.stages) > 1:
        learning = sum(p.numel() for name, p in loaded.model.named_parameters() if name in stage.learning)
        place = f"stage {stage.number + 1} of {len(course.stages)}, to step {stage.end}"
        session.log.note(f"{place}: {learning:,} parameters are trained")
    if stage.number and session.folder.skeleton.is_dir():
        return
    if adapters is not None:
        session.log.note(str(adapters))
    writes_skeleton()


def _skeleton_writer(
    session: Session, materials: Materials, loaded: Loaded, adapters: Adapters | None
) -> Callable[[], None]:
    """Writes the model folder without its weights, at the start and again where something happened to it."""
    config = None if adapters is None else adapters.config
    card, model = materials.card(session.job, adapters), loaded.model
    processor, length = materials.task.processor, _longest_text(session.job, materials, loaded)
    return lambda: write_skeleton(session.folder.skeleton, model, processor, card, config, length)


def _longest_text(job: Job, materials: Materials, loaded: Loaded) -> int | None:
    """Tokens at which others should cut a text: as in training, but for language models, which may write on."""
    is_language = materials.task.auto_class in ("AutoModelForCausalLM", "AutoModelForMaskedLM")
    return longest_input(loaded.model.config.to_dict()) if is_language else job.train.max_length


def _treatments(adapted: Adapted, loaded: Loaded) -> dict[str, Treatment]:
    """By the names that parameters have in the task's module."""
    return {
        f"{MODEL}{name}": Treatment(factor, adapted.course.since(name), name in loaded.new)
        for name, factor in adapted.factors.items()
    }


def _treatments_of_parts(module: TaskModule, method: Method | None) -> dict[str, Treatment]:
    """Of what a method adds: it has rates of its own, and nothing pulls it back to where it started."""
    if method is None or not isinstance(module, AdaptingModule) or module.parts is None:
        return {}
    factors = method.learning_rate_factors(module.parts)
    return {
        f"{PARTS}.{name}": Treatment(factors.get(name, 1.0), is_new=True) for name, _ in module.parts.named_parameters()
    }
