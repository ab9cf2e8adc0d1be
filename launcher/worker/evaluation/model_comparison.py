"""Compare the result, sample by sample, with the pretrained model and with other finished models.

Candidates are `before` (the pretrained model), `result`, `baseline` and those of `verdict.compare`, whose per-sample
results are in the run's folder, and `constant`, which always predicts the most frequent label of the training data.
`constant` replaces a pretrained model with a new head: such a head guesses, and a better result means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from launcher.data.prepared import Prepared
from launcher.job.schema import Job
from launcher.job.sections.evaluation import BASELINE
from launcher.job.sections.tasks import find_family
from launcher.measure.compare.calibration import calibration
from launcher.measure.compare.paired import Difference, holm, mcnemar, paired_bootstrap
from launcher.measure.compare.per_sample_results import PerSampleResults
from launcher.measure.compare.verdict import PRETRAINED, Comparison, Role, Scale, Verdict, corrected, decide, undecided
from launcher.models.tasks.base import Array, Task
from launcher.worker.data.inputs import Inputs
from launcher.worker.evaluation.validation import BEFORE, RESULT
from launcher.worker.rank.run_context import RunContext

CONSTANT = "constant"
NAMES = {BEFORE: PRETRAINED, CONSTANT: "majority class"}


@dataclass(frozen=True)
class SetFindings:
    """Results on one set in addition to the metrics.

    change_interval: ends of the 95 % interval of each metric's change from the pretrained model
    calibration: of `before` and `result`, if the task has scores
    others: the metrics of each other candidate
    """

    change_interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    others: dict[str, dict[str, float]] = field(default_factory=dict)


def judge_result(
    context: RunContext, inputs: Inputs, *, new_head: bool, chosen: bool, lost: str | None = None
) -> tuple[Verdict | None, dict[str, SetFindings]]:
    """The verdict, None without validation data, and further results on each set.

    new_head: whether the pretrained model had weights that were initialised at random
    chosen: whether any checkpoint had a valid metric to be selected by
    lost: why the selected checkpoint could not be used
    """
    job, task = context.job, inputs.task
    target = job.verdict_set
    if target is None:
        return None, {}
    scale = scale_of(job)
    comparisons, findings = list[Comparison](), dict[str, SetFindings]()
    for name, data in inputs.validation.items():
        candidates = dict(_candidates(context, task, name, data, with_constant=new_head))
        result = candidates.pop(RESULT, None)
        if result is None:
            continue
        differences = paired_bootstrap(result, candidates, task.resampled, seed=job.train.seed)
        findings[name] = _findings(task, candidates, result, differences, job.train.seed)
        comparisons += [
            _compared(task, scale, name, candidate, candidates[candidate], result, found[scale.metric])
            for candidate, found in differences.items()
            if scale.metric in found
        ]
    deciding = _deciding_candidate(job, comparisons)
    comparisons = [replace(found, role=_role(job, found, deciding)) for found in comparisons]
    comparisons = corrected(comparisons, holm([found.p for found in comparisons]))
    named = [replace(found, candidate=_name(job, found.candidate)) for found in comparisons]
    if not any(found.role == "decides" for found in comparisons):
        why = f"there are no per-sample results of {_name(job, deciding)} on {target}"
        return undecided(why, scale, target, _name(job, deciding)), findings
    verdict = decide(named, scale, _caveats(job, new_head, chosen, deciding, lost), chose=job.deciding_set)
    if job.selects_for_target and lost is not None:
        verdict = verdict.forbidden(lost)
    elif job.selects_for_target and not chosen:
        verdict = verdict.forbidden("no checkpoint could be selected for the target, since each has collapsed there")
    return verdict, findings


def scale_of(job: Job) -> Scale:
    """The deciding metric: the verdict's, else the one that selects checkpoints, else the task's usual one."""
    family = find_family(job.task, loss=job.train.loss.name)
    metric = job.verdict.metric
    if metric == "auto":
        metric = job.validation.metric
        if metric == "loss":
            metric = next(iter(family.metric_directions or {}), "loss")
    return Scale(metric, family.is_lower_better(metric), job.verdict.margin)


def _candidates(
    context: RunContext, task: Task, name: str, data: Prepared, *, with_constant: bool
) -> Iterator[tuple[str, Array]]:
    """The per-sample results on this set in the run's folder."""
    for candidate in (RESULT, BEFORE, *context.job.others):
        file = context.folder.outcomes(name, candidate)
        known = PerSampleResults.read(file)
        if known is None and file.exists():
            context.log.note(f"{file} is damaged, so the result is not compared with it")
        if known is None or known.data != data.folder.name:
            continue
        yield candidate, known.values
        if candidate == RESULT and with_constant:
            constant = task.constant_results(known.values)
            if constant is not None:
                yield CONSTANT, constant


def _deciding_candidate(job: Job, comparisons: list[Comparison]) -> str:
    if job.verdict.baseline is not None:
        return BASELINE
    has_constant = any(found.candidate == CONSTANT and found.set == job.verdict_set for found in comparisons)
    return CONSTANT if has_constant else BEFORE


def _role(job: Job, found: Comparison, deciding: str) -> Role:
    if found.candidate != deciding:
        return "shown"
    if found.set == job.verdict_set:
        return "decides"
    return "must hold" if found.set in job.verdict.must_hold else "shown"


def _compared(
    task: Task, scale: Scale, name: str, candidate: str, old: Array, new: Array, difference: Difference
) -> Comparison:
    is_yes_or_no = scale.metric == task.yes_or_no
    return Comparison(
        set=name,
        candidate=candidate,
        role="shown",
        samples=len(new),
        old=difference.old,
        new=difference.new,
        low=difference.low,
        high=difference.high,
        p=mcnemar(task.right(old), task.right(new)) if is_yes_or_no else difference.p,
        test="exact McNemar" if is_yes_or_no else "bootstrap",
    )


def _findings(
    task: Task, candidates: dict[str, Array], result: Array, differences: dict[str, dict[str, Difference]], seed: int
) -> SetFindings:
    calibrated = {}
    for candidate, outcomes in ((BEFORE, candidates.get(BEFORE)), (RESULT, result)):
        scores = None if outcomes is None else task.scores(outcomes)
        found = None if scores is None else calibration(*scores, seed)
        if found is not None:
            calibrated[candidate] = asdict(found)
    return SetFindings(
        change_interval={metric: (found.low, found.high) for metric, found in differences.get(BEFORE, {}).items()},
        calibration=calibrated,
        others={
            candidate: {metric: difference.old for metric, difference in found.items()}
            for candidate, found in differences.items()
            if candidate not in (BEFORE, CONSTANT)
        },
    )


def _name(job: Job, candidate: str) -> str:
    """The name of a candidate in reports."""
    if candidate == BASELINE and job.verdict.baseline is not None:
        return f"the baseline {job.verdict.baseline.rstrip('/').rpartition('/')[2]}"
    return NAMES.get(candidate, candidate)


def _caveats(job: Job, new_head: bool, chosen: bool, deciding: str, lost: str | None) -> Iterator[str]:
    """Sentences on the limits of the comparison."""
    if lost is not None:
        yield f"The result is the last model, since {lost}"
    if job.selects_for_target:
        alone = (
            "; only the checkpoint was selected for it"
            if chosen and not lost and job.checkpoint.result != "last"
            else ""
        )
        yield f"The target has no labels, so this says nothing about it{alone}"
    if new_head and deciding in (BEFORE, CONSTANT):
        instead = ", so the result was not compared with it" if deciding == CONSTANT else ""
        yield (
            f"The pretrained model has new weights, which predict at random{instead}; set "
            "verdict.baseline to a finished run for a fair comparison"
        )
