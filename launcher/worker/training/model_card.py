"""The model card of a result, README.md in its folder: base model, training and results."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from launcher.errors import ModelError
from launcher.job.pretrained import ADAPTER_CONFIG, find_pretrained
from launcher.job.schema import Job
from launcher.job.sections.data import Source
from launcher.job.sections.tasks import FAMILIES, find_family
from launcher.run.folder import write_whole
from launcher.run.results import Result

CARD_FILE = "README.md"
PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForAudioClassification": "audio-classification",
}
"""The pipeline of `transformers` for models of each of its classes."""


def write_model_card(folder: Path, job: Job, result: Result, labels: tuple[str, ...]) -> None:
    """Write the card into the model's folder, where `transformers` and the hub look for it."""
    front = ModelCardData(
        base_model=_hub_id(job),
        license=_license_of_the_base(job),
        library_name="peft" if (folder / ADAPTER_CONFIG).is_file() else "transformers",
        pipeline_tag=_pipeline(job),
        tags=["adaptrun", *(f"adaptrun-{name}" for name in _of_the_adaptation(job))],
        metrics=sorted({metric for found in result.sets.values() for metric in found.after}) or None,
        model_name=job.name,
        eval_results=list(_eval_results(job, result)) or None,
    )
    body = "\n".join(_body(folder, job, result, labels))
    write_whole(folder / CARD_FILE, f"---\n{front.to_yaml()}\n---\n\n{body}\n")


def _eval_results(job: Job, result: Result) -> Iterator[EvalResult]:
    for name, found in result.sets.items():
        for metric, value in found.after.items():
            if isfinite(value):
                yield EvalResult(_pipeline(job) or "other", name, name, metric, round(value, 6))


def _body(folder: Path, job: Job, result: Result, labels: tuple[str, ...]) -> Iterator[str]:
    yield from (f"# {job.name}", "")
    yield f"`{_name_of(job.model.pretrained)}` fine-tuned for {_shown_task(job)} with adaptrun, {result.steps:,} steps."
    if labels:
        shown = ", ".join(f"`{label}`" for label in labels[:50])
        yield from ("", f"Labels: {shown}{f' and {len(labels) - 50:,} more' if len(labels) > 50 else ''}.")
    yield from ("", "## Data", "")
    for name, source in job.labelled_sets.items():
        yield f"- training: {name} ({_files(source)})"
    if job.data.target is not None:
        yield f"- target, without labels: {_files(job.data.target)}"
    for name, source in job.data.validation.items():
        yield f"- validation: {name} ({_files(source)})"
    if result.sets:
        yield from ("", "## Results", "", "| set | samples | metric | before | after | 95 % interval |")
        yield "|---|---|---|---|---|---|"
    for name, found in result.sets.items():
        for metric, value in found.after.items():
            low, high = found.after_interval.get(metric, (float("nan"), float("nan")))
            before = found.before.get(metric, float("nan"))
            yield f"| {name} | {found.samples:,} | {metric} | {before:.4f} | {value:.4f} | {low:.4f} to {high:.4f} |"
    if result.verdict is not None:
        yield from ("", f"Verdict: **{result.verdict.decision}**. {result.verdict.reason}")
    yield from ("", "## Use", "", "```python")
    yield from _loading(folder, job)
    yield from ("```", "", f"Samples were truncated at {job.train.max_length} tokens in training.")


def _loading(folder: Path, job: Job) -> Iterator[str]:
    if (folder / ADAPTER_CONFIG).is_file():
        yield from ("from peft import AutoPeftModel", "", 'model = AutoPeftModel.from_pretrained("THIS-FOLDER")')
    elif (pipeline := _pipeline(job)) is not None:
        yield from ("from transformers import pipeline", "")
        yield f'model = pipeline("{pipeline}", model="THIS-FOLDER")'
    else:
        yield from ("from transformers import AutoModel", "", 'model = AutoModel.from_pretrained("THIS-FOLDER")')


def _pipeline(job: Job) -> str | None:
    """The pipeline of the job's task; None for a user's own task, which none supports."""
    return PIPELINES.get(find_family(job.task).auto_class or "") if job.task in FAMILIES else None


def _of_the_adaptation(job: Job) -> Iterator[str]:
    yield job.adapt.method
    if job.adapt.adapters is not None:
        yield job.adapt.adapters.kind


def _shown_task(job: Job) -> str:
    return job.task if job.task in FAMILIES else f"a task of its own, {job.task.rpartition(':')[2]}"


def _files(source: Source) -> str:
    """File names without their folders, which exist on one machine only."""
    return ", ".join(f"`{_name_of(place)}`" for place in source.files)


def _name_of(place: str) -> str:
    return Path(place).name if Path(place).is_absolute() else place


def _hub_id(job: Job) -> str | None:
    """The base's id on the hub; None if it is elsewhere, or no longer exists."""
    try:
        return job.model.pretrained if find_pretrained(job.model).kind == "hub" else None
    except ModelError:
        return None


def _license_of_the_base(job: Job) -> str | None:
    """The license in the base's model card; None if it has none."""
    try:
        place = Path(find_pretrained(job.model).location) / CARD_FILE
        said = (metadata_load(place) or {}).get("license") if place.is_file() else None
    except (ModelError, OSError, ValueError, YAMLError, RecursionError):
        return None
    return said if isinstance(said, str) else None
