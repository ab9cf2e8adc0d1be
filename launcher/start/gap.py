"""`adaptrun gap`: are these data fit for fine-tuning, and how far is the target from the source?"""

from __future__ import annotations

from launcher.errors import ExitCode
from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Job
from launcher.job.tasks import Family, find_family
from launcher.measure.advice import findings
from launcher.measure.lengths import TokenCounter, lengths_of
from launcher.measure.report import LeftOut, Report, look_at
from launcher.measure.samples import SampleSet, read_sets
from launcher.measure.showing import as_json, print_report


def measure_gap(job: Job, with_features: bool, as_plain: bool) -> ExitCode:
    """Measure, print, and say by the exit code whether something must be mended. Raises RequestError."""
    family = find_family(job.task, loss=job.train.loss.name)
    sets = read_sets(job, family)
    report = look_at(sets, family.has_classes, job.data.allow_leakage)
    _count_tokens(job, family, sets, report)
    lines = findings(report)
    fit = not any(line.level == "mend" for line in lines)
    if as_plain:
        print(as_json(report, lines, fit))
    else:
        print_report(report, lines, fit)
    return ExitCode.DONE if fit else ExitCode.FAILED


def _count_tokens(job: Job, family: Family, sets: list[SampleSet], report: Report) -> None:
    if not (family.needs_tokenizer and report.has_texts):
        return
    counter = TokenCounter.of(find_pretrained(job.model).tokenizer)
    if counter is None:
        report.left_out.append(LeftOut("lengths", "there is no tokenizer.json in the model's folder here"))
        return
    report.lengths = [lengths_of(data, counter.count(data), job.train.max_length) for data in sets]
