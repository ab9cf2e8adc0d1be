"""Rules that join several fields of a job. Each gives the field, what is wrong, and the cheapest fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from math import ceil

from launcher.errors import ModelError, RequestError
from launcher.job.heads import has_trained_head
from launcher.job.pretrained import find_pretrained, read_config
from launcher.job.rules.adaptation import DOMAIN_RULES, DOMAIN_TASK_RULES, LOOKING_RULES, TRAINING_RULES
from launcher.job.rules.evaluation import EVALUATION_RULES, EVALUATION_TASK_RULES
from launcher.job.rules.rule import Rule, TaskRule, Violation
from launcher.job.schema import Job, Model
from launcher.job.sections.adapting import Swa
from launcher.job.sections.data import COLUMNS, Source
from launcher.job.sections.marks import changed_fields, mark_of
from launcher.job.sections.tasks import Family, all_losses, all_settings, find_family
from launcher.job.sections.training import Loss
from launcher.job.splits import TRAINING, likely, splits_of


def broken_rules(job: Job, trains: bool = True) -> list[Violation]:
    """Everything that these rules have against a job whose paths are absolute.

    trains: false for a job that is only looked at, which may name a target that its method does not use
    """
    found = [found for rule in (TRAINING_RULES if trains else LOOKING_RULES) + RULES for found in rule(job)]
    try:
        family = find_family(job.task, loss=job.train.loss.name)
    except RequestError:
        return found  # resolving the paths has said so
    return found + [found for rule in TASK_RULES for found in rule(job, family)]


def _validation_is_needed(job: Job) -> Iterator[Violation]:
    if job.data.validation:
        return
    if job.train.schedule.name == "plateau":
        yield (
            ("train", "schedule", "name"),
            "plateau needs validation data",
            "add data.validation, or use cosine",
        )
    if job.train.early_stopping is not None:
        yield ("train", "early_stopping"), "needs validation data", "add data.validation, or remove early_stopping"


def _deciding_set_exists(job: Job) -> Iterator[Violation]:
    wanted = job.validation.set
    if wanted is not None and wanted not in job.data.validation:
        names = ", ".join(job.data.validation) or "none"
        yield (
            ("validation", "set"),
            f"there is no validation set {wanted!r}",
            f"the sets of data.validation are {names}",
        )


def _fp16_needs_a_gpu(job: Job) -> Iterator[Violation]:
    if job.train.precision == "fp16" and job.launch.device == "cpu":
        yield ("train", "precision"), "fp16 does not train on a CPU", "use fp32, or bf16"


def _batch_covers_the_processes(job: Job) -> Iterator[Violation]:
    processes, batch = job.launch.processes, job.train.global_batch_size
    if processes != "auto" and batch < processes:
        yield (
            ("train", "global_batch_size"),
            f"{batch} samples per step are too few for {processes} processes",
            f"launch.processes: {batch}, or train.global_batch_size: {processes}",
        )


def _micro_batch_fits_the_batch(job: Job) -> Iterator[Violation]:
    micro, batch = job.train.micro_batch_size, job.train.global_batch_size
    if micro != "auto" and micro > batch:
        yield (
            ("train", "micro_batch_size"),
            f"{micro} is more than the {batch} samples per step",
            f"train.micro_batch_size: {batch}, or auto",
        )


def _engine_fits_the_processes(job: Job) -> Iterator[Violation]:
    engine, processes = job.engine.name, job.launch.processes
    if engine == "single" and processes not in ("auto", 1):
        yield ("engine", "name"), f"single is one process, and {processes} are requested", "engine.name: ddp, or auto"
    if engine == "ddp" and processes == 1:
        yield ("engine", "name"), "ddp is for several processes, and 1 is requested", "engine.name: single, or auto"


def _settings_go_with_their_names(job: Job) -> Iterator[Violation]:
    """Settings that only one kind of engine, optimizer, schedule or tracker uses; the losses are the task's."""
    for path, section, mark in changed_fields(job):
        name = getattr(section, "name", None)
        if mark.only and name not in mark.only and not isinstance(section, Loss):
            yield _unused(path, mark.only, str(name))


def _unused(path: tuple[str, ...], users: Sequence[str], name: str) -> Violation:
    """A setting that only others than `name` use."""
    verb = "uses" if len(users) == 1 else "use"
    return path, f"only {' and '.join(users)} {verb} {path[-1]}, not {name}", f"remove {path[-1]}"


def _adapters_alone_learn(job: Job) -> Iterator[Violation]:
    """Where adapters learn, nothing else of the body does."""
    if job.adapt.adapters is None:
        return
    if job.model.frozen:
        message = "all weights but the adapters and the head are frozen already"
        yield ("model", "frozen"), message, "remove model.frozen"
    for name in ("l2_sp", "interpolate"):
        if job.adapt.adapters.adds_weights and getattr(job.adapt, name):
            message = "adapters are new weights, so there are no pretrained ones to stay near"
            yield ("adapt", name), message, f"remove {name}, or adapters"
    if job.adapt.why_no_adapters is not None:
        message = f"{job.adapt.method} trains {job.adapt.why_no_adapters}"
        yield ("adapt", "adapters"), message, "remove adapters, or use another method"


def _quantised_weights_stay_whole(job: Job) -> Iterator[Violation]:
    adapters = job.adapt.adapters
    if adapters is None or not adapters.is_quantised:
        return
    field = ("adapt", "adapters", "quantised")
    if job.launch.device == "cpu":
        yield (
            field,
            "bitsandbytes computes on GPUs, and launch.device is cpu",
            "quantised: false, or launch.device: auto",
        )
    if job.engine.name in ("fsdp", "deepspeed"):
        message = f"weights in 4 bits cannot be sharded, and {job.engine.name} shards them"
        yield field, message, "engine.name: ddp, or quantised: false"
    if adapters.is_merged:
        message = (
            "the adapters were trained on weights in 4 bits; merged into full-precision weights they give another model"
        )
        yield ("adapt", "adapters", "merge"), message, "merge: false, or quantised: false"


def _options_go_together(job: Job) -> Iterator[Violation]:
    """Options of `adapt` that cannot be had with this method, engine or data."""
    adapt = job.adapt
    if adapt.interpolate == "auto" and not job.data.validation:
        yield ("adapt", "interpolate"), "auto needs validation data", "add data.validation, or write 0.5"
    if isinstance(adapt.average, Swa) and adapt.average.every == "epoch" and job.train.max_steps is None:
        epochs = job.train.epochs
        if epochs - max(1, ceil(adapt.average.start * epochs)) < 1:
            message = f"only one of {epochs} epochs would be averaged, which is no mean"
            yield ("adapt", "average"), message, "a smaller start, or every: NUMBER-OF-STEPS"
    if adapt.distill is not None and adapt.is_quantised:
        yield ("adapt", "distill"), "the teacher would be in 4 bits too", "quantised: false, or remove distill"
    kept = adapt.kept_beside
    if kept is not None and job.engine.name == "deepspeed" and job.engine.deepspeed == "zero3_nvme":
        message = f"{kept} keeps copies of the weights in memory, and zero3_nvme keeps the weights on a disk"
        yield ("adapt", kept), message, "engine.deepspeed: zero3_offload"


def _warmup_ends(job: Job) -> Iterator[Violation]:
    warmup, steps = job.train.schedule.warmup, job.train.max_steps
    if steps is not None and warmup >= 1 and warmup >= steps:
        yield (
            ("train", "schedule", "warmup"),
            f"{warmup:g} steps of warm-up leave no other step of {steps}",
            "a lower number, or a fraction such as 0.1",
        )


def _floor_is_below_the_peak(job: Job) -> Iterator[Violation]:
    floor, peak = job.train.schedule.min_lr, job.train.optimizer.lr
    if floor > peak:
        yield ("train", "schedule", "min_lr"), f"{floor:g} is above the peak train.optimizer.lr {peak:g}", "lower it"


def _schedule_free_stands_alone(job: Job) -> Iterator[Violation]:
    if job.train.optimizer.name != "schedule_free_adamw":
        return
    field = ("train", "optimizer", "name")
    if job.engine.name == "deepspeed":
        message = "schedule_free_adamw does not work with DeepSpeed's sharded weights"
        yield field, message, "engine.name: fsdp, or optimizer.name: adamw"
    if job.train.schedule.name != "constant":
        message = f"schedule_free_adamw replaces the schedule, and this one is {job.train.schedule.name}"
        yield ("train", "schedule", "name"), message, "schedule.name: constant, with warmup if you like"
    if job.adapt.average is not None:
        yield (
            ("adapt", "average"),
            "schedule_free_adamw already averages the weights",
            "remove it, or optimizer.name: adamw",
        )
    if job.adapt.l2_sp:
        message = (
            "schedule_free_adamw updates other weights than those that it evaluates, so neither stays near the start"
        )
        yield ("adapt", "l2_sp"), message, "optimizer.name: adamw, or adapt.interpolate"


def _validation_is_not_training(job: Job) -> Iterator[Violation]:
    if job.data.allow_leakage:
        return
    for name, source in job.data.validation.items():
        if source.split is None and any(map(splits_of, source.files)):
            continue  # which split is meant has to be said first
        for train in job.labelled_sets.values():
            shared = sorted(set(source.files) & set(train.files))
            if not shared or source.split != train.split:
                continue
            yield (
                ("data", "validation", name),
                f"{shared[0]} is also trained on, so its metrics say nothing about new samples",
                "move some rows of data.train into a file of their own, or set data.allow_leakage: true",
            )


def _splits_are_named(job: Job) -> Iterator[Violation]:
    """Of a folder of several splits that of training is trained on; which one is validated on nobody may guess."""
    judged = {("data", "validation", name): source for name, source in job.data.validation.items()}
    for path, source in _sources(job):
        if source.split is not None:
            continue
        for splits in map(splits_of, source.files):
            if splits and (path in judged or TRAINING not in splits):
                fix = f"{'.'.join((*path, 'split'))}: {likely(splits, path not in judged)}"
                yield (*path, "source"), f"holds the splits {', '.join(splits)}, and none is named", fix


def _loss_is_of_the_task(job: Job, family: Family) -> Iterator[Violation]:
    loss, losses = job.train.loss, family.losses
    name = loss.name if loss.name != "auto" or not losses else losses[0]
    if losses is not None and name not in losses:
        yield ("train", "loss", "name"), f"{job.task} has no loss {name!r}", _nearest(name, losses)
        return
    if losses is not None and set(losses) <= all_losses():
        for path, _, mark in changed_fields(loss, ("train", "loss")):
            if mark.only and name not in mark.only:
                yield (
                    path,
                    f"only {' and '.join(mark.only)} use{'s' * (len(mark.only) == 1)} it, not {name}",
                    "remove it",
                )
    if loss.class_weights is not None and name in mark_of(Loss, "class_weights").only and not family.has_classes:
        yield ("train", "loss", "class_weights"), f"{job.task} has no classes", "remove class_weights"


def _labels_are_used(job: Job, family: Family) -> Iterator[Violation]:
    if family.has_classes or family.losses is None:
        return
    if job.model.labels != Model.model_fields["labels"].default:
        yield ("model", "labels"), f"{job.task} has no classes", "remove labels"
    for path, source in _sources(job):
        if source.label_format != "auto":
            yield (*path, "label_format"), f"{job.task} has no classes", "remove label_format"


def _outputs_can_be_distilled(job: Job, family: Family) -> Iterator[Violation]:
    losses = family.losses
    name = job.train.loss.name if job.train.loss.name != "auto" or not losses else losses[0]
    if job.adapt.distill is not None and name not in ("cross-entropy", "focal", "binary"):
        message = f"{job.task} with the loss {name} has no probabilities to distil"
        yield ("adapt", "distill"), message, "remove it; adapt.l2_sp holds weights near their start"


def _start_has_a_head(job: Job, family: Family) -> Iterator[Violation]:
    """A head that starts at random is nothing to stay near, nor to adapt; that a model has none, its config may say."""
    adapt = job.adapt
    if adapt.is_source_free:
        asks, instead = "method", "or use a method with data.train"
    elif adapt.distill is not None:
        asks, instead = "distill", "or remove distill"
    elif adapt.interpolate is not None and adapt.probe is None:
        asks, instead = "interpolate", "or adapt.probe: 0.2"
    else:
        return
    if not (family.auto_class or "").endswith("Classification"):
        return
    with suppress(ModelError):  # resolving the paths has said so
        heads = (read_config(find_pretrained(job.model)) or {}).get("architectures")
        if isinstance(heads, list) and heads and not has_trained_head(heads, family.auto_class):
            message = f"{job.model.pretrained} is a {heads[0]}: its head for {job.task} would be initialised at random"
            yield ("adapt", asks), message, f"start from a fine-tuned model, {instead}"


def _metric_is_of_the_task(job: Job, family: Family) -> Iterator[Violation]:
    if family.metric_directions is None:
        return
    metrics = ("loss", *family.metric_directions)
    for section, metric in (("validation", job.validation.metric), ("verdict", job.verdict.metric)):
        if metric not in metrics and (section, metric) != ("verdict", "auto"):
            yield (section, "metric"), f"{job.task} has no metric {metric!r}", _nearest(metric, metrics)


def _columns_are_read(job: Job, family: Family) -> Iterator[Violation]:
    """A column named for nothing is a job that means another task."""
    if family.inputs is None or family.targets is None:
        return
    read = {*family.inputs, *family.targets}
    for path, source in _sources(job):
        for role in COLUMNS:
            if role not in read and getattr(source, role) != Source.model_fields[role].default:
                yield (*path, role), f"{job.task} does not read {role}", f"it reads {', '.join(sorted(read))}"
        for role in set(source.columns) - read:
            yield (*path, "columns", role), f"{job.task} does not read {role}", f"it reads {', '.join(sorted(read))}"


def _columns_go_together(job: Job, family: Family) -> Iterator[Violation]:
    for path, source in _sources(job):
        prompt, response = source.column("prompt"), source.column("response")
        if (prompt is None) != (response is None):
            lacking = "response" if response is None else "prompt"
            yield path, f"{lacking} is missing: prompt and response are used together", f"name the column: {lacking}: …"
        if source.column("messages") is not None and prompt is not None:
            yield path, "messages and prompt are alternatives", "keep one of them"


def _settings_are_used(job: Job, family: Family) -> Iterator[Violation]:
    for name in all_settings():
        default = type(job.train).model_fields[name].get_default(call_default_factory=True)
        if getattr(job.train, name) != default and name not in (family.settings or ()):
            yield ("train", name), f"{job.task} does not use {name}", f"remove {name}"


def _sources(job: Job) -> Iterator[tuple[tuple[str, ...], Source]]:
    for name, source in job.data.train.items():
        yield job.data.place_in_train(name), source
    if job.adapt.rehearsed is not None:
        yield ("adapt", "rehearsal", "source"), job.adapt.rehearsed.source
    for name, source in job.data.validation.items():
        yield job.data.place_in_validation(name), source


def _nearest(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"


TRACKER_MODULES = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
"""What the extra of each tracker brings."""


def _trackers_are_installed(job: Job) -> Iterator[Violation]:
    for index, tracker in enumerate(job.track):
        if not all(_is_installed(module) for module in TRACKER_MODULES[tracker.name]):
            yield (
                ("track", str(index)),
                f"{tracker.name} is not installed",
                f"pip install 'adaptrun[{tracker.name}]', or remove it",
            )


def _is_installed(module: str) -> bool:
    """A folder of that name without code, such as wandb leaves where it ran, is no module."""
    found = find_spec(module)
    return found is not None and found.origin is not None


def _trackers_are_named_once(job: Job) -> Iterator[Violation]:
    names = [tracker.name for tracker in job.track]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("track", str(index)), f"{name} is named twice", "remove one of the two"


RULES: tuple[Rule, ...] = (
    *DOMAIN_RULES,
    _validation_is_needed,
    _deciding_set_exists,
    *EVALUATION_RULES,
    _fp16_needs_a_gpu,
    _batch_covers_the_processes,
    _micro_batch_fits_the_batch,
    _engine_fits_the_processes,
    _settings_go_with_their_names,
    _adapters_alone_learn,
    _quantised_weights_stay_whole,
    _options_go_together,
    _warmup_ends,
    _floor_is_below_the_peak,
    _schedule_free_stands_alone,
    _validation_is_not_training,
    _splits_are_named,
    _trackers_are_installed,
    _trackers_are_named_once,
)

TASK_RULES: tuple[TaskRule, ...] = (
    *DOMAIN_TASK_RULES,
    *EVALUATION_TASK_RULES,
    _loss_is_of_the_task,
    _labels_are_used,
    _outputs_can_be_distilled,
    _start_has_a_head,
    _metric_is_of_the_task,
    _columns_are_read,
    _columns_go_together,
    _settings_are_used,
)
