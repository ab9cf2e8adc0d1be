"""The engine of one stage of the run, with the adapted model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from launcher.adapt.adapters.adapters import AdapterContext, Adapters, kept_in_base
from launcher.adapt.methods import make_method
from launcher.adapt.methods.method import Method
from launcher.adapt.methods.module import PARTS, AdaptingModule, joined_module
from launcher.adapt.options.distillation import TEACHER, add_teacher
from launcher.adapt.options.weight_options import WeightOptions
from launcher.checkpoint.model_folder import MODEL, write_skeleton
from launcher.engines import make_engine
from launcher.engines.base import Engine, EngineSettings, ParamOptions, StateDict, without
from launcher.job.pretrained import longest_input
from launcher.job.schema import Job
from launcher.models.tasks.base import TaskModule
from launcher.models.weights.loading import Loaded
from launcher.plan.engines import ENGINES
from launcher.plan.stages import Span
from launcher.worker.data.inputs import Inputs, load_model
from launcher.worker.data.train_data import TrainData
from launcher.worker.evaluation.padding_check import choose_batches
from launcher.worker.evaluation.target_inference import target_inference
from launcher.worker.rank.run_context import RunContext
from launcher.worker.training.apply_adaptation import Adapted, apply_adaptation
from launcher.worker.training.objective import MethodObjective, Objective, TaskObjective


@dataclass(frozen=True)
class TrainSetup:
    """A model in an engine, ready to train or to load a checkpoint.

    options: operations on the weights in addition to the optimizer's steps
    feed: the training data
    learner: the objective, which computes gradients
    base: identity of the pretrained weights, if the run needs them to resume; else empty
    never_saved: names of frozen parameters that checkpoints do not contain
    has_new_head: whether weights of the pretrained model were initialised at random
    write_skeleton: writes the model folder without its weights
    """

    job: Job
    engine: Engine
    options: WeightOptions
    feed: TrainData
    learner: Objective
    span: Span
    base: str
    never_saved: frozenset[str]
    has_new_head: bool
    write_skeleton: Callable[[], None]

    def state(self) -> StateDict:
        """The state for a checkpoint, without frozen weights, which are read from the pretrained model again."""
        return without(self.options.state(), self.never_saved)

    def load(self, state: StateDict) -> None:
        """Load a checkpoint's state."""
        self.options.load(state)

    @contextmanager
    def result_weights(self, step: int) -> Iterator[None]:
        """Swap in the weights that would be the result after `step` steps, such as an average."""
        self.options.swap_result(step)
        try:
            yield
        finally:
            self.options.swap_result(step)

    def is_averaged(self, step: int) -> bool:
        """Whether the result after `step` steps is an average, which must be read back in addition to the weights."""
        return self.job.train.optimizer.name == "schedule_free_adamw" or self.options.average_stands(step)


def build(context: RunContext, inputs: Inputs, step: int) -> TrainSetup:
    """Load the model, adapt it, and prepare the engine for the stage that continues after `step` steps."""
    job = context.job
    method = _method(job, inputs)
    feed = TrainData.of(job, inputs, method)
    engine = make_engine(context.plan.engine, _settings(context))
    loaded = load_model(context, inputs, in_parts=engine.shards_weights or job.adapt.is_quantised)
    base, has_new_head = loaded.identity if job.adapt.needs_the_start else "", bool(loaded.new)
    adapted = apply_adaptation(job, loaded, method, _setting(context, inputs), feed.stages)
    adapters, span = adapted.adapters, adapted.stages.span_at(step)
    writes_skeleton = _skeleton_writer(context, inputs, loaded, adapters)
    _begin(context, loaded, adapters, span, writes_skeleton)
    treatments = _treatments(adapted, loaded)
    never_saved = set() if adapters is None else {f"{MODEL}{name}" for name in kept_in_base(loaded.model, adapters)}
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(name in span.learning)
    module, stored = inputs.task.build(loaded.model), loaded.stored
    if job.adapt.distill is not None:
        teacher = load_model(context, inputs, in_parts=engine.shards_weights)
        add_teacher(module, teacher.model, job.adapt.distill)
        stored |= teacher.stored
        never_saved |= {name for name, _ in module.named_parameters() if name.startswith(f"{TEACHER}.")}
    module = joined_module(module, method, loaded, job, inputs.pretrained)
    treatments |= _treatments_of_parts(module, method)
    if adapters is not None:
        never_saved |= {name for name, p in module.named_parameters() if _is_of_parts(name) and not p.requires_grad}
    engine.prepare(module, job.train.optimizer, stored, treatments)
    interpolates = job.adapt.interpolate is not None and adapted.stages.at(step).has_start
    options = WeightOptions(job.adapt, engine, feed.total_steps, feed.steps_per_epoch, interpolates=interpolates)
    _choose_batches(context, inputs, engine)
    base = base if adapters is None else adapters.base
    learner = _learner(context, feed, engine)
    unsaved = frozenset(never_saved)
    return TrainSetup(job, engine, options, feed, learner, span, base, unsaved, has_new_head, writes_skeleton)


def _choose_batches(context: RunContext, inputs: Inputs, engine: Engine) -> None:
    """Check whether padding changes the model's outputs; batches are then made without padding."""
    plan = context.plan
    weights_in = plan.precision if ENGINES[plan.engine].gathers_in_precision else "fp32"
    choose_batches(engine.module, inputs.task, inputs.sets, context.world, context.log.note, weights_in)


def _method(job: Job, inputs: Inputs) -> Method | None:
    sizes = dict(zip(inputs.train.sets, inputs.train.sizes, strict=True))
    return make_method(job, inputs.task, sizes, 0 if inputs.target is None else len(inputs.target))


def _learner(context: RunContext, feed: TrainData, engine: Engine) -> Objective:
    """The objective, which computes gradients from batches."""
    if feed.method is None:
        return TaskObjective(engine)
    plan, world = context.plan, context.world
    view = None
    if feed.target is not None:
        size, precision = plan.evaluation_batch, plan.precision
        view = partial(target_inference, engine.module, feed.task, feed.target, world, size, precision)
    return MethodObjective(feed.method, engine, world, plan.precision, context.job.train.seed, view)


def _setting(context: RunContext, inputs: Inputs) -> AdapterContext:
    job = context.job
    return AdapterContext(
        inputs.pretrained,
        job.model.revision,
        inputs.task.auto_class,
        job.train.seed,
        context.world.device,
        context.plan.precision,
    )


def _settings(context: RunContext) -> EngineSettings:
    job = context.job
    return EngineSettings(
        context.world.device,
        context.plan.precision,
        job.train.clip_norm,
        job.engine.block,
        context.folder.deepspeed_file if context.plan.deepspeed is not None else None,
        context.world.mesh,
        whole_gradients=context.plan.whole_gradients,
    )


def _begin(
    context: RunContext,
    loaded: Loaded,
    adapters: Adapters | None,
    span: Span,
    writes_skeleton: Callable[[], None],
) -> None:
    """Write the skeleton of the result at the first stage, and log the beginning of a stage."""
    if not context.world.is_first:
        return
    if span.of > 1:
        learning = sum(p.numel() for name, p in loaded.model.named_parameters() if name in span.learning)
        place = f"stage {span.number + 1} of {span.of}, to step {span.end}"
        context.log.note(f"{place}: {learning:,} parameters are trained")
    if span.number and context.folder.skeleton.is_dir():
        return
    if adapters is not None:
        context.log.note(str(adapters))
    writes_skeleton()


def _skeleton_writer(
    context: RunContext, inputs: Inputs, loaded: Loaded, adapters: Adapters | None
) -> Callable[[], None]:
    """Writes the model folder without its weights, at the start, and again if it was damaged."""
    config = None if adapters is None else adapters.config
    card, model = inputs.card(context.job, adapters), loaded.model
    processor, length = inputs.task.processor, _longest_text(context.job, inputs, loaded)
    return lambda: write_skeleton(context.folder.skeleton, model, processor, card, config, length)


def _longest_text(job: Job, inputs: Inputs, loaded: Loaded) -> int | None:
    """Truncation length of the published tokenizer: as in training, except for language models, which generate."""
    is_language = inputs.task.auto_class in ("AutoModelForCausalLM", "AutoModelForMaskedLM")
    return longest_input(loaded.model.config.to_dict()) if is_language else job.train.max_length


def _treatments(adapted: Adapted, loaded: Loaded) -> dict[str, ParamOptions]:
    """Options of the model's parameters, by their names in the task's module."""
    return {
        f"{MODEL}{name}": ParamOptions(factor, adapted.stages.since(name), name in loaded.new)
        for name, factor in adapted.factors.items()
    }


def _is_of_parts(name: str) -> bool:
    """Whether a parameter belongs to a method's own modules."""
    return name.startswith(f"{PARTS}.")


def _treatments_of_parts(module: TaskModule, method: Method | None) -> dict[str, ParamOptions]:
    """Options of the parameters of a method's modules: they have their own learning rates, and no L2-SP."""
    if method is None or not isinstance(module, AdaptingModule) or module.parts is None:
        return {}
    factors = method.learning_rate_factors(module.parts)
    return {
        f"{PARTS}.{name}": ParamOptions(factors.get(name, 1.0), is_new=True)
        for name, _ in module.parts.named_parameters()
    }
