"""Rules that join several fields of a job. Each gives the field, what is wrong, and the cheapest fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from launcher.job.schema import Job

Found = tuple[tuple[str, ...], str, str]
Rule = Callable[[Job], Iterator[Found]]

METHODS_WITH_TARGET: frozenset[str] = frozenset()
"""The methods of `adapt` that learn from `data.target`; fine-tuning does not."""


def broken_rules(job: Job) -> list[Found]:
    """Everything that these rules have against a job."""
    return [found for rule in RULES for found in rule(job)]


def _validation_is_needed(job: Job) -> Iterator[Found]:
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


def _deciding_set_exists(job: Job) -> Iterator[Found]:
    wanted = job.validation.set
    if wanted is not None and wanted not in job.data.validation:
        names = ", ".join(job.data.validation) or "none"
        yield (
            ("validation", "set"),
            f"there is no validation set {wanted!r}",
            f"the sets of data.validation are {names}",
        )


def _fp16_needs_a_gpu(job: Job) -> Iterator[Found]:
    if job.train.precision == "fp16" and job.launch.device == "cpu":
        yield ("train", "precision"), "fp16 does not train on a CPU", "use fp32, or bf16"


def _batch_covers_the_processes(job: Job) -> Iterator[Found]:
    processes, batch = job.launch.processes, job.train.global_batch_size
    if processes != "auto" and batch < processes:
        yield (
            ("train", "global_batch_size"),
            f"{batch} samples a step leave some of {processes} processes without any",
            f"launch.processes: {batch}, or train.global_batch_size: {processes}",
        )


def _micro_batch_fits_the_batch(job: Job) -> Iterator[Found]:
    micro, batch = job.train.micro_batch_size, job.train.global_batch_size
    if micro != "auto" and micro > batch:
        yield (
            ("train", "micro_batch_size"),
            f"{micro} is more than the {batch} samples of a step",
            f"train.micro_batch_size: {batch}, or auto",
        )


def _engine_fits_the_processes(job: Job) -> Iterator[Found]:
    engine, processes = job.engine.name, job.launch.processes
    if engine == "single" and processes not in ("auto", 1):
        yield ("engine", "name"), f"single is one process, and {processes} are asked for", "engine.name: ddp, or auto"
    if engine == "ddp" and processes == 1:
        yield ("engine", "name"), "ddp is for several processes, and 1 is asked for", "engine.name: single, or auto"
    if engine == "deepspeed" and job.train.precision == "fp16":
        message = "deepspeed does not scale the loss as fp16 needs it"
        yield ("train", "precision"), message, "engine.name: fsdp, which does, or train.precision: bf16"


def _engine_settings_are_used(job: Job) -> Iterator[Found]:
    for name, engine in (("block", "fsdp"), ("deepspeed", "deepspeed"), ("nvme_path", "deepspeed")):
        default = type(job.engine).model_fields[name].default
        if job.engine.name != engine and getattr(job.engine, name) != default:
            yield ("engine", name), f"only {engine} uses {name}, not {job.engine.name}", f"remove {name}"


def _target_is_used(job: Job) -> Iterator[Found]:
    method, target = job.adapt.method, job.data.target
    if method in METHODS_WITH_TARGET and target is None:
        yield ("adapt", "method"), f"{method} learns from unlabelled target data", "add data.target"
    if method not in METHODS_WITH_TARGET and target is not None:
        yield ("data", "target"), f"{method} does not use unlabelled target data", "remove data.target"


def _warmup_ends(job: Job) -> Iterator[Found]:
    warmup, steps = job.train.schedule.warmup, job.train.max_steps
    if steps is not None and warmup >= 1 and warmup >= steps:
        yield (
            ("train", "schedule", "warmup"),
            f"{warmup:g} steps of warm-up leave nothing of {steps} steps",
            "a fraction such as 0.1 follows the number of steps",
        )


def _floor_is_below_the_peak(job: Job) -> Iterator[Found]:
    floor, peak = job.train.schedule.min_lr, job.train.optimizer.lr
    if floor > peak:
        yield ("train", "schedule", "min_lr"), f"{floor:g} is above the peak train.optimizer.lr {peak:g}", "lower it"


def _optimizer_settings_are_used(job: Job) -> Iterator[Found]:
    optimizer = job.train.optimizer
    unused = {"sgd": ("betas", "eps"), "adamw": ("momentum",)}[optimizer.name]
    for name in unused:
        if (
            name in optimizer.model_fields_set
            and getattr(optimizer, name) != type(optimizer).model_fields[name].default
        ):
            yield ("train", "optimizer", name), f"{optimizer.name} does not use {name}", f"remove {name}"


def _plateau_settings_are_used(job: Job) -> Iterator[Found]:
    schedule = job.train.schedule
    if schedule.name == "plateau":
        return
    for name in ("factor", "patience", "min_delta"):
        if getattr(schedule, name) != type(schedule).model_fields[name].default:
            yield ("train", "schedule", name), f"only plateau uses {name}, not {schedule.name}", f"remove {name}"


def _validation_is_not_training(job: Job) -> Iterator[Found]:
    train = job.data.train
    for name, source in job.data.validation.items():
        shared = sorted(set(source.files) & set(train.files))
        if shared and source.split == train.split:
            yield (
                ("data", "validation", name),
                f"{shared[0]} is also trained on, so it says nothing of new samples",
                "hold some rows out of data.train in a file of their own",
            )


TRACKER_MODULES = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
"""What the extra of each tracker brings."""


def _trackers_are_installed(job: Job) -> Iterator[Found]:
    for index, tracker in enumerate(job.track):
        if not all(_is_installed(module) for module in TRACKER_MODULES[tracker.name]):
            yield (
                ("track", str(index)),
                f"{tracker.name} is asked for and not installed",
                f"pip install 'adaptrun[{tracker.name}]', or remove it",
            )


def _is_installed(module: str) -> bool:
    """A folder of that name without code, such as wandb leaves where it ran, is no module."""
    found = find_spec(module)
    return found is not None and found.origin is not None


def _trackers_are_named_once(job: Job) -> Iterator[Found]:
    names = [tracker.name for tracker in job.track]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("track", str(index)), f"{name} is named twice", "remove one of the two"


def _tracker_settings_are_used(job: Job) -> Iterator[Found]:
    users = {
        "project": ("wandb", "mlflow"),
        "entity": ("wandb",),
        "mode": ("wandb",),
        "uri": ("mlflow",),
        "folder": ("tensorboard", "wandb"),
    }
    for index, tracker in enumerate(job.track):
        for name, by in users.items():
            default = type(tracker).model_fields[name].default
            if tracker.name not in by and getattr(tracker, name) != default:
                message = f"is a setting of {' and '.join(by)}, not of {tracker.name}"
                yield ("track", str(index), name), message, f"remove {name}"


RULES: tuple[Rule, ...] = (
    _validation_is_needed,
    _deciding_set_exists,
    _fp16_needs_a_gpu,
    _batch_covers_the_processes,
    _micro_batch_fits_the_batch,
    _engine_fits_the_processes,
    _engine_settings_are_used,
    _target_is_used,
    _warmup_ends,
    _floor_is_below_the_peak,
    _optimizer_settings_are_used,
    _plateau_settings_are_used,
    _validation_is_not_training,
    _trackers_are_installed,
    _trackers_are_named_once,
    _tracker_settings_are_used,
)
