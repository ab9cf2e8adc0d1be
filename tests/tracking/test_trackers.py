"""Trackers have what `metrics.jsonl` has, each step once, also of a run that was killed and went on."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from launcher.errors import RunFailed, Stopped
from launcher.job.schema import Job
from launcher.run.events import Evaluated, EventLog, EventTail, Note, Step
from launcher.run.flatten import flat
from launcher.run.folder import RunFolder
from launcher.tracking import starting
from launcher.tracking.figures import Figures
from launcher.tracking.following import State
from launcher.tracking.starting import tracked
from tests.cli import PATIENCE, TORCHRUN, adaptrun, assert_gone, ranks_of, run, start, wait_until
from tests.tiny import write_texts
from tests.tracking.reading import Curves, of_events, of_mlflow, of_tensorboard, of_wandb, texts_of_tensorboard

TRACK = "[tensorboard, {name: wandb, project: p, mode: offline}, {name: mlflow, project: x, uri: 'sqlite:///m.db'}]"
JOB = """\
name: small
model: {{pretrained: {model}}}
task: text-classification
data: {{train: train.csv, validation: {{near: near.csv, far.off: far.csv}}, cache: cache, allow_leakage: true}}
train: {{epochs: 3, global_batch_size: 8, max_length: 32, optimizer: {{lr: 2e-3}}}}
validation: {{metric: accuracy}}
checkpoint: {{every_steps: 3}}
launch: {{processes: {processes}, device: cpu, max_restarts: 0}}
track: {track}
"""
STEPS = 3 * 8


def write_job(folder: Path, model: Path, *, track: str = TRACK, processes: int = 1) -> None:
    write_texts(folder / "train.csv", 60)
    write_texts(folder / "near.csv", 25, seed=1)
    write_texts(folder / "far.csv", 13, seed=2, longest=5)
    (folder / "job.yaml").write_text(JOB.format(model=model, track=track, processes=processes))


def the_run(folder: Path) -> Path:
    (found,) = [path for path in (folder / "runs").glob("small-2*") if not path.is_symlink()]
    return found


def steps_of(run: Path) -> list[int]:
    return [event.step for event in EventTail(run / "metrics.jsonl").read() if isinstance(event, Step)]


def notes_of(run: Path) -> list[str]:
    """What trackers have said of themselves."""
    notes = [event.text for event in EventTail(run / "metrics.jsonl").read() if isinstance(event, Note)]
    return [note for note in notes if "receives no more metrics" in note]


def assert_same(found: Curves, kept: Curves) -> None:
    """The same steps, once each, and the same values, to the 32 bits that TensorBoard keeps."""
    assert set(kept) <= set(found)
    for name, curve in kept.items():
        assert [step for step, _ in found[name]] == [step for step, _ in sorted(curve)], name
        assert [v for _, v in found[name]] == pytest.approx([v for _, v in sorted(curve)], rel=1e-6), name


def assert_all_have(folder: Path, starts: int) -> None:
    """All three have the run, finished, with its figures, its job and its result."""
    path = the_run(folder)
    kept, result = of_events(path), json.loads((path / "result.json").read_text())
    assert [step for step, _ in kept["train/loss"]] == list(range(1, STEPS + 1))
    assert len(kept["validation/near/accuracy"]) == 4
    assert len(kept["validation/far.off/loss"]) >= 2
    after = result["sets"]["near"]["after"]["accuracy"]

    assert_same(of_tensorboard(path / "tensorboard"), kept)
    texts = texts_of_tensorboard(path / "tensorboard")
    assert "lr: 0.002" in texts["job/text_summary"]
    assert f"| result/near/accuracy/after | {after} |" in texts["result/text_summary"]
    assert "| status | done |" in texts["result/text_summary"]

    tracked, curves = of_mlflow(folder / "m.db")
    assert_same(curves, kept)
    assert (tracked.info.status, tracked.info.run_name) == ("FINISHED", path.name)
    assert tracked.data.params["train.optimizer.lr"] == "0.002"
    assert float(tracked.data.tags["result/near/accuracy/after"]) == after

    ids, curves, configs, codes = of_wandb(path / "wandb")
    assert ids == {json.loads((path / "wandb.json").read_text())["id"]}
    assert len(configs) == len(codes) == starts
    assert {name: sorted(curve) for name, curve in curves.items() if name in kept} == {
        name: sorted(curve) for name, curve in kept.items()
    }
    assert all(config["train.optimizer.lr"] == 0.002 for config in configs)
    assert codes[-1] == 0


def test_all_three_have_what_the_run_kept(tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    done = adaptrun("train", "job.yaml", cwd=tmp_path)
    assert_all_have(tmp_path, starts=1)
    assert "wandb" not in done.stdout + done.stderr
    assert not notes_of(the_run(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "status"), [("SIGKILL", -9, "KILLED"), ("SIGINT", 75, "KILLED")])
def test_a_run_that_ended_early_goes_on_in_the_same_tracker_runs_and_no_step_is_doubled(
    number: str, code: int, status: str, tmp_path: Path, tiny_model: Path
) -> None:
    write_job(tmp_path, tiny_model, processes=2)
    launcher = start("train", "job.yaml", cwd=tmp_path, own_server=False)

    def has_steps() -> bool:
        files = list((tmp_path / "runs").glob("*/metrics.jsonl"))
        return bool(files) and len(steps_of(files[0].parent)) >= 10

    wait_until(has_steps, launcher)
    processes = [*psutil.Process(launcher.pid).children(recursive=True), *ranks_of(launcher)]
    launcher.send_signal(signal.Signals[number])
    assert launcher.wait() == code
    assert_gone(processes)
    path = the_run(tmp_path)
    before = of_mlflow(tmp_path / "m.db")
    assert before[0].info.status == status
    assert len(before[1]["train/loss"]) == steps_of(path)[-1], "all that was kept has gone out"
    adaptrun("train", "job.yaml", cwd=tmp_path)
    assert the_run(tmp_path) == path
    assert len(steps_of(path)) > STEPS if number == "SIGKILL" else len(steps_of(path)) == STEPS
    assert_all_have(tmp_path, starts=2)


@pytest.mark.slow
def test_ranks_started_by_hand_are_tracked_as_well_and_a_tracker_that_cannot_start_costs_a_note(
    tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "file").touch()
    write_job(tmp_path, tiny_model, track="[{name: wandb, folder: file, mode: offline}, tensorboard]")
    done = run(TORCHRUN, "--nproc-per-node", 2, "-m", "launcher.worker", "job.yaml", cwd=tmp_path)
    assert_same(of_tensorboard(the_run(tmp_path) / "tensorboard"), of_events(the_run(tmp_path)))
    (note,) = notes_of(the_run(tmp_path))
    assert note.startswith("wandb receives no more metrics, and the run continues: NotADirectoryError")
    assert note in done.stdout


def a_step(number: int) -> Step:
    return Step(step=number, epoch=0, loss=0.5, lr=1e-3, gradient_norm=1.0, samples=8, tokens=9, seconds=0.5, memory=1)


def bare_run(folder: Path, /, **track: str) -> tuple[Job, RunFolder, EventLog]:
    """A run without ranks, whose events the test writes."""
    values = {"name": "bare", "model": {"pretrained": "m"}, "task": "text-classification", "data": {"train": "t.csv"}}
    job = Job.model_validate({**values, "launch": {"runs": str(folder / "runs")}, "track": [track]})
    run = RunFolder.create(job)
    return job, run, EventLog(run.events_file)


def wait_for(happened: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < PATIENCE, "waited in vain"
        time.sleep(0.05)


def test_a_tracker_that_fails_on_the_way_says_so_once(tmp_path: Path) -> None:
    database = tmp_path / "m.db"
    job, run, log = bare_run(tmp_path, name="mlflow", uri=f"sqlite:///{database}")
    with tracked(run, job):
        log.write(a_step(1))
        wait_for(lambda: run.tracker_state("mlflow").exists() and State.read(run, "mlflow").position > 0)
        database.write_bytes(b"no database any more" * 1000)
        log.write(a_step(2))
        wait_for(lambda: bool(notes_of(run.path)))
        log.write(a_step(3))
    (note,) = notes_of(run.path)
    assert "DatabaseError" in note or "MlflowException" in note
    assert "Traceback" in run.tracker_log("mlflow").read_text()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_what_was_sent_and_not_noted_down_is_there_once_in_the_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job, run, log = bare_run(tmp_path, name=name)
    with tracked(run, job):
        log.write(a_step(1))
        after_one = run.events_file.stat().st_size
        log.write(a_step(2))
        log.write(a_step(3))
    noted = State.read(run, name)
    assert noted.position == run.events_file.stat().st_size
    State(noted.id, after_one).write(run, name)  # as a process leaves it that is killed before it notes down
    log.write(a_step(4))
    with tracked(run, job):
        pass
    if name == "mlflow":
        curve = of_mlflow(tmp_path / "runs" / "mlflow.db")[1]["train/loss"]
    else:
        curve = of_tensorboard(run.path / "tensorboard")["train/loss"]
    assert curve == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5)]


def test_a_tracker_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "PATIENCE", 0.2)
    job, run, _ = bare_run(tmp_path, name="tensorboard")
    with tracked(run, job):
        (process,) = [p for p in psutil.Process().children() if "launcher.tracking" in p.cmdline()]
        process.send_signal(signal.SIGSTOP)
    assert_gone([process])
    assert "did not finish" in notes_of(run.path)[0]


def test_the_end_is_told_as_it_was(tmp_path: Path) -> None:
    job, run, log = bare_run(tmp_path, name="mlflow", uri=f"sqlite:///{tmp_path / 'm.db'}")
    with pytest.raises(RunFailed), tracked(run, job):
        log.write(a_step(1))
        raise RunFailed("a rank died")
    assert of_mlflow(tmp_path / "m.db")[0].info.status == "FAILED"
    with pytest.raises(Stopped), tracked(run, job):
        raise Stopped("at once")
    found, curves = of_mlflow(tmp_path / "m.db")
    assert (found.info.status, found.data.tags["status"]) == ("KILLED", "stopped")
    assert curves["train/loss"] == [(1, 0.5)]


def test_secrets_and_the_trackers_own_settings_are_not_passed_on(tmp_path: Path) -> None:
    job, run, log = bare_run(tmp_path, name="tensorboard", folder=str(tmp_path / "boards"))
    values = job.as_dict()
    values["data"]["train"]["train"]["source"] = "s3://me:word@bucket/a.csv"  # type: ignore[index]
    run.write_job(Job.model_validate(values))
    with tracked(run, job):
        log.write(a_step(1))
    board = tmp_path / "boards" / run.path.name
    text = texts_of_tensorboard(board)["job/text_summary"]
    assert "source: s3://[redacted]@bucket/a.csv" in text
    assert "boards" not in text
    assert b"me:word" not in b"".join(file.read_bytes() for file in board.iterdir())


def test_parameters_are_named_as_in_the_job_file(tmp_path: Path) -> None:
    found = flat(bare_run(tmp_path, name="mlflow")[0].as_dict())
    assert found["train.optimizer.betas"] == "[0.9, 0.999]"
    assert found["train.epochs"] == 3
    assert found["train.tf32"] is False
    assert found["model.tokenizer"] == "null"


def test_names_that_mlflow_does_not_take_are_written_otherwise(tmp_path: Path) -> None:
    job, run, log = bare_run(tmp_path, name="mlflow", uri=f"sqlite:///{tmp_path / 'm.db'}")
    values = job.as_dict()
    values["train"]["loss"]["class_weights"] = {"C++": 2.0}  # type: ignore[index]
    run.write_job(Job.model_validate(values))
    with tracked(run, Job.model_validate(values)):
        log.write(a_step(1))
    found, curves = of_mlflow(tmp_path / "m.db")
    assert found.data.params["train.loss.class_weights.C__"] == "2.0"
    assert curves["train/loss"] == [(1, 0.5)]
    assert not notes_of(run.path)


def test_figures_of_an_earlier_step_than_the_last_are_new_where_they_are(tmp_path: Path) -> None:
    figures = Figures()

    def measured(name: str, step: int) -> Evaluated:
        return Evaluated(step=step, metrics={name: {"loss": 1.0}}, samples={name: 3}, seconds=1.0)

    events = [measured("near", 0), a_step(1), a_step(2), measured("near", 2), a_step(2), measured("near", 2)]
    events += [a_step(3), measured("far", 2)]
    points = [(point.step, len(point.values)) for event in events if (point := figures.take(event)) is not None]
    assert points == [(0, 1), (1, 7), (2, 7), (2, 1), (3, 7), (2, 1)]


def test_the_page_shows_what_a_job_file_takes() -> None:
    page = (Path(__file__).parents[2] / "docs/guides/tracking.md").read_text()
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    job = {"name": "x", "model": {"pretrained": "m"}, "task": "text-classification", "data": {"train": "t.csv"}}
    assert [tracker.name for tracker in Job.model_validate({**job, **yaml.safe_load(shown)}).track] == [
        "tensorboard",
        "wandb",
        "mlflow",
    ]
    point = Figures().take(a_step(1))
    assert point is not None
    assert {"train/loss", "train/lr", "train/gradient_norm"} <= {name for name in point.values if f"`{name}`" in page}
