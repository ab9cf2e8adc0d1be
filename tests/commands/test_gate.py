"""`--gate`: the exit code says whether the result should be taken, on every way to start a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from launcher.cluster.requeue import decide
from launcher.errors import ExitCode, NotAdopted
from launcher.job.reading.job_file import load_job
from launcher.measure.compare.verdict import Verdict
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from tests.cli import adaptrun, run
from tests.small_run import Trained, write_job


def test_a_run_ends_in_a_verdict_that_is_printed_kept_and_told_again(trained: Trained) -> None:
    verdict = Result.read(trained.run / "result.json").verdict
    assert verdict is not None
    assert f"verdict: {verdict.decision}: Accuracy on near " in trained.printed.stdout
    assert str(verdict) in json.loads(adaptrun("status", trained.run, "--json", cwd=trained.folder).stdout)["verdict"]
    for name in ("near", "far"):
        kept = {path.name for path in (trained.run / "outcomes" / name).iterdir()}
        assert kept == {"before.parquet", "result.parquet"}


def test_a_result_that_is_not_better_ends_with_one(tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    settings = ["--set", "train.max_steps=1", "--set", "train.optimizer.lr=1e-9", "--set", "launch.processes=1"]
    done = adaptrun("train", "job.yaml", "--gate", *settings, cwd=tmp_path, code=1)
    assert done.stderr.splitlines()[-1].startswith(("adaptrun: inconclusive: ", "adaptrun: keep the old model: "))
    assert (tmp_path / "runs" / "small" / "model" / "config.json").is_file()
    by_hand = [sys.executable, "-P", "-m", "launcher.worker", "job.yaml", "--set", "verdict.gate=true", *settings]
    said = run(*by_hand, cwd=tmp_path, code=1)
    assert "verdict: " in said.stdout
    assert "Traceback" not in said.stderr
    assert not list((tmp_path / "runs").glob("*/failure.txt"))


@pytest.mark.parametrize("decision", ["adopt", "keep the old model", "inconclusive"])
@pytest.mark.parametrize("gate", [True, False])
def test_a_batch_job_ends_as_the_verdict_is(gate: bool, decision: str, tmp_path: Path, tiny_model: Path) -> None:
    job = load_job(write_job(tmp_path, tiny_model), [f"verdict.gate={gate}"])
    folder = RunFolder.create(job)
    verdict = Verdict(decision, "So it is.", "accuracy", False, 0.01, "near", "pretrained", ())  # type: ignore[arg-type]
    Result(status="done", name="small", steps=1, seconds=1.0, verdict=verdict).write(folder.result_file)
    if gate and decision != "adopt":
        with pytest.raises(NotAdopted, match=f"{decision}: So it is"):
            decide(folder, requeues=0, max_requeues=0)
    else:
        assert decide(folder, requeues=0, max_requeues=0) == ExitCode.DONE
