"""A run is compared with the model it came from and with other runs, on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.errors import NotAdopted
from launcher.measure.compare.per_sample_results import PerSampleResults
from launcher.measure.compare.verdict import Verdict
from launcher.run.events import EventTail, Phase
from launcher.run.folder import RunFolder
from launcher.run.results import Result, insist_on_adoption
from tests.domains import write_domain
from tests.verdicts import Laboratory, fine_tune_in
from tests.worlds import Worlds


@pytest.fixture(scope="module")
def laboratory(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Laboratory:
    """Two domains, and a model that was trained on the first of them."""
    made = Laboratory(worlds, tmp_path_factory.mktemp("laboratory"), tiny_model)
    made.train("here", "tiny", "here", sets={"here": "here-held.csv", "there": "there-held.csv"})
    return made


@pytest.fixture(scope="module")
def adapted(laboratory: Laboratory) -> RunFolder:
    """A run that starts afresh on the second domain, beside the run on the first."""
    verdict = {
        "set": "there",
        "baseline": str(laboratory.run("here").path),
        "compare": {"older": str(laboratory.run("here").model)},
        "must_hold": ["here"],
        "gate": True,
    }
    return laboratory.train("adapted", "tiny", "there", world=2, verdict=verdict)


def verdict_of(run: RunFolder) -> Verdict:
    found = Result.read(run.result_file).verdict
    assert found is not None
    return found


def evaluated(run: RunFolder) -> list[str]:
    """What was evaluated, and with what."""
    events = EventTail(run.events_file).read()
    return [event.detail for event in events if isinstance(event, Phase) and event.name == "evaluating"]


def test_a_named_run_decides_and_the_model_with_a_new_head_does_not(adapted: RunFolder) -> None:
    found = verdict_of(adapted)
    assert (found.metric, found.set, found.baseline) == ("accuracy", "there", "the baseline here")
    roles = {(one.set, one.candidate): one.role for one in found.comparisons}
    assert roles["there", "the baseline here"] == "decides"
    assert roles["here", "the baseline here"] == "must hold"
    assert {roles["there", candidate] for candidate in ("pretrained", "older", "majority class")} == {"shown"}
    assert "new weights" not in found.reason


def test_learning_another_domain_from_nothing_is_an_improvement_there_and_forgets_the_first(adapted: RunFolder) -> None:
    found = {(one.set, one.candidate): one for one in verdict_of(adapted).comparisons}
    there, here = found["there", "the baseline here"], found["here", "the baseline here"]
    assert there.low > 0
    assert here.high < -0.01
    assert verdict_of(adapted).decision == "keep the old model"
    with pytest.raises(NotAdopted, match=r"keep the old model: Accuracy on there rose by .* which it does not"):
        insist_on_adoption(adapted)


def test_the_same_samples_are_not_evaluated_twice(laboratory: Laboratory, adapted: RunFolder) -> None:
    place = str(laboratory.run("here").path)
    assert not [detail for detail in evaluated(adapted) if place in detail]
    for name in ("here", "there"):
        ours, theirs = (
            PerSampleResults.read(run.outcomes(name, candidate))
            for run, candidate in ((adapted, "baseline"), (laboratory.run("here"), "result"))
        )
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours.values, theirs.values)


def test_a_model_that_was_never_measured_on_these_samples_is_measured(laboratory: Laboratory) -> None:
    write_domain(laboratory.folder / "new.csv", "here", 60, seed=9)
    place = str(laboratory.run("here").path)
    run = laboratory.train(
        "measured", place, "there", sets={"new": "new.csv"}, world=2, verdict={"baseline": place}, steps=2
    )
    assert evaluated(run)[0] == f"new with {place}"
    baseline, before = (PerSampleResults.read(run.outcomes("new", candidate)) for candidate in ("baseline", "before"))
    assert baseline is not None
    assert before is not None
    np.testing.assert_allclose(baseline.values, before.values, atol=1e-5)  # the model as it came is that same model


def test_the_metrics_of_the_result_follow_from_the_samples_that_were_kept(adapted: RunFolder) -> None:
    result = Result.read(adapted.result_file)
    for name, found in result.sets.items():
        kept = PerSampleResults.read(adapted.outcomes(name, "result"))
        assert kept is not None
        assert len(kept.values) == found.samples
        assert (kept.values[:, 1] == kept.values[:, 2]).mean() == pytest.approx(found.after["accuracy"])
        assert kept.values[:, 0].mean() == pytest.approx(found.after["loss"], rel=1e-6)
        low, high = found.change_interval["accuracy"]
        assert low <= found.after["accuracy"] - found.before["accuracy"] <= high
        assert set(found.others) == {"baseline", "older"}
        assert set(found.calibration) == {"before", "result"}


def test_without_a_baseline_a_new_head_is_compared_with_the_commonest_label(laboratory: Laboratory) -> None:
    found = verdict_of(laboratory.run("here"))
    assert found.baseline == "majority class"
    assert found.decision == "adopt"
    assert "set verdict.baseline to a finished run for a fair comparison" in found.reason
    shares = PerSampleResults.read(laboratory.run("here").outcomes("here", "result"))
    assert shares is not None
    deciding = next(one for one in found.comparisons if one.role == "decides")
    assert deciding.old in (
        pytest.approx((shares.values[:, 1] == 0).mean()),
        pytest.approx((shares.values[:, 1] == 1).mean()),
    )


def test_a_model_of_other_labels_cannot_be_compared(laboratory: Laboratory) -> None:
    for part in ("train", "held"):
        text = (laboratory.folder / f"there-{part}.csv").read_text()
        (laboratory.folder / f"renamed-{part}.csv").write_text(text.replace(",good", ",fine"))
    with pytest.raises(AssertionError, match=r"RequestError: .*here cannot be compared on renamed: .*'fine'"):
        laboratory.train(
            "renamed",
            "tiny",
            "renamed",
            sets={"renamed": "renamed-held.csv"},
            verdict={"baseline": str(laboratory.run("here").path)},
            steps=1,
        )


def test_a_run_without_validation_has_no_verdict(laboratory: Laboratory) -> None:
    run = laboratory.train("blind", "tiny", "there", sets={}, steps=1)
    assert Result.read(run.result_file).verdict is None


def test_a_verdict_is_the_same_whatever_the_world(laboratory: Laboratory) -> None:
    place = str(laboratory.run("here").path)
    settings: dict[str, Any] = {
        "verdict": {"must_hold": ["here"]},
        "steps": 12,
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    runs = [laboratory.train(f"world-{world}", place, "there", world=world, **settings) for world in (1, 2, 3)]
    first, *others = (verdict_of(run) for run in runs)
    assert all(found == first for found in others)
    for name in ("here", "there"):
        alone, *rest = (PerSampleResults.read(run.outcomes(name, "before")) for run in runs)
        assert alone is not None
        for other in rest:
            assert other is not None
            np.testing.assert_array_equal(other.values, alone.values)


def test_a_run_that_goes_on_is_still_compared_with_the_model_as_it_came(laboratory: Laboratory) -> None:
    run = laboratory.train("interrupted", "tiny", "there", steps=20)
    whole = verdict_of(run)
    run.result_file.unlink()
    checkpoint = run.checkpoints / "step-00000010"
    laboratory.worlds.run(1, fine_tune_in, str(run.path), str(checkpoint))
    assert verdict_of(run) == whole
