"""`adaptrun gap`: are these data fit for fine-tuning, and how far is the target from the source?"""

from __future__ import annotations

import numpy as np

from launcher.commands.evaluate import worthwhile
from launcher.data.columns import left_out_of
from launcher.data.label_vectors import read_as
from launcher.display.live import Display
from launcher.errors import ExitCode, RequestError
from launcher.job.pretrained import find_pretrained
from launcher.job.requests import FeaturesRequest
from launcher.job.schema import Job
from launcher.job.sections.data import LabelFormat
from launcher.job.sections.tasks import Family, find_family
from launcher.measure.quality.advice import findings
from launcher.measure.quality.label_errors import NEEDS, is_installed
from launcher.measure.quality.label_sets import LabelSet, label_format, named_outputs, read_label_set
from launcher.measure.quality.lengths import TokenCounter, lengths_of
from launcher.measure.quality.on_features import Features, measure_features
from launcher.measure.quality.rendering import as_json, print_report
from launcher.measure.quality.report import LeftOut, Report, look_at
from launcher.measure.quality.samples import SampleSet, read_sets
from launcher.plan.hardware import find_hardware
from launcher.run.folder import temporary_folder
from launcher.supervise.requests import ask_ranks


def measure_gap(job: Job, with_features: bool, label_errors: bool | None, as_plain: bool) -> ExitCode:
    """Measure, print, and say by the exit code whether something must be mended.

    label_errors: None looks for them where the packages are there
    Raises RequestError for data that cannot be read, and where label errors are asked for and cannot be found.
    """
    if label_errors and not is_installed("cleanlab"):
        raise RequestError(f"finding label errors needs the package cleanlab, which is not installed: {NEEDS}")
    if label_errors and not with_features:
        raise RequestError("finding label errors needs the model's features; leave out --no-features")
    family = find_family(job.task, loss=job.train.loss.name)
    form = label_format(job, family)
    sets = read_sets(job, family, form)
    allowed, learns = job.data.allow_leakage, job.learns_from_target
    report = look_at(sets, family.has_classes, allowed, learns_from_target=learns)
    report.left_out += [LeftOut("files in folders of classes", line) for line in left_out_of(job)]
    report.labels = _label_sets(job, family, form)
    _count_tokens(job, family, sets, report)
    if with_features:
        _measure_with_model(job, family, sets, report, label_errors is not False, quietly=as_plain)
    else:
        report.left_out.append(LeftOut("distances, transferability, label errors", "--no-features"))
    lines = findings(report)
    fit = not any(line.level == "mend" for line in lines)
    if as_plain:
        print(as_json(report, lines, fit))
    else:
        print_report(report, lines, fit)
    return ExitCode.DONE if fit else ExitCode.FAILED


def _label_sets(job: Job, family: Family, form: LabelFormat) -> list[LabelSet]:
    """Those of all that is trained on and validated on."""
    if not family.has_classes:
        return []
    outputs = named_outputs(job)
    return [
        read_label_set(name, read_as(source, form), family, outputs, at_most=None, strictly=False)
        for name, source in (job.labelled_sets | job.data.validation).items()
    ]


def _count_tokens(job: Job, family: Family, sets: list[SampleSet], report: Report) -> None:
    if not (family.needs_tokenizer and report.has_texts):
        return
    counter = TokenCounter.of(find_pretrained(job.model).tokenizer)
    if counter is None:
        report.left_out.append(LeftOut("lengths", "there is no tokenizer.json in the model's folder here"))
        return
    report.lengths = [lengths_of(data, counter.count(data), job.train.max_length) for data in sets]


def _measure_with_model(
    job: Job, family: Family, sets: list[SampleSet], report: Report, errors: bool, quietly: bool
) -> None:
    """Data that training would refuse have no features; what is wrong with them is in the table."""
    try:
        features = _extract(job, sum(len(data) for data in sets), quietly)
    except RequestError as error:
        report.left_out.append(LeftOut("distances, transferability, label errors", str(error)))
        return
    measure_features(report, sets, features, family, job.train.seed, errors)


def _extract(job: Job, samples: int, quietly: bool) -> Features:
    """[samples, size] of each set, by as many ranks as are worth starting, or from the cache. Raises RequestError."""
    hardware = find_hardware()
    gpus = len(hardware.gpus) if job.launch.device != "cpu" else 0
    wanted = job.launch.processes if job.launch.processes != "auto" else gpus or hardware.cores
    ranks = wanted if gpus else min(wanted, worthwhile(hardware.cores, samples))
    with temporary_folder() as folder:
        folder.write_job(job)
        display = Display(folder, quietly=quietly)
        request = FeaturesRequest(folder=str(folder.path), device="cuda" if gpus else "cpu")
        threads = max(1, hardware.cores // ranks)
        files = ask_ranks(request, processes=ranks, threads=threads, watch=display.refresh).features
        display.close()
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}
