"""Which run a start belongs to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest

from launcher.errors import DamagedCheckpoint, RequestError
from launcher.files import hash_folder
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.run import resuming
from launcher.run.checkpoints import MARKER, PROGRESS, checkpoint_name, complete_checkpoints
from launcher.run.events import EventLog, Step
from launcher.run.folder import RunFolder
from launcher.run.results import Result, mark_stopped
from launcher.run.resuming import decide_run
from tests.damage import DAMAGES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    for name in ("tiny/config.json", "tiny/tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    (tmp_path / "job.yaml").write_text(
        "{name: x, model: {pretrained: tiny}, task: text-classification, data: {train: train.csv}}"
    )
    return tmp_path


def job(folder: Path, *sets: str) -> Job:
    return load_job(folder / "job.yaml", sets)


def unfinished(folder: Path, *sets: str, steps: tuple[int, ...] = (10, 20)) -> RunFolder:
    run = RunFolder.create(job(folder, *sets))
    for step in steps:
        checkpoint = run.checkpoints / checkpoint_name(step)
        checkpoint.mkdir()
        (checkpoint / MARKER).write_text("{}")
    return run


def test_the_first_start_is_a_new_run(folder: Path) -> None:
    decision = decide_run(job(folder), "auto")
    assert decision.checkpoint is None
    assert decision.folder.path.parent == folder / "runs"
    assert load_job(decision.folder.job_file) == job(folder)


def test_the_same_job_goes_on_from_its_last_complete_checkpoint(folder: Path) -> None:
    run = unfinished(folder)
    (run.checkpoints / checkpoint_name(30)).mkdir()
    run.failure_file.write_text("old")
    decision = decide_run(job(folder), "auto")
    assert decision.folder == run
    assert decision.checkpoint == run.checkpoints / checkpoint_name(20)
    assert decision.reason.startswith("resuming from step-00000020 (to start a new run: --resume never)")
    assert decision.reason.endswith("skipped the incomplete step-00000030")
    assert not run.failure_file.exists()


def test_what_changes_no_number_may_change(folder: Path) -> None:
    run = unfinished(folder)
    changed = job(folder, "launch.processes=2", "train.micro_batch_size=1", "checkpoint.keep=5", "data.cache=elsewhere")
    assert decide_run(changed, "auto").folder == run
    assert load_job(run.job_file) == changed


def test_packing_changes_no_number(folder: Path) -> None:
    run = unfinished(folder, "task=causal-lm")
    assert decide_run(job(folder, "task=causal-lm", "train.packing=true"), "auto").folder == run


def test_another_job_is_a_new_run_and_says_why(folder: Path) -> None:
    run = unfinished(folder)
    decision = decide_run(job(folder, "train.optimizer.lr=1"), "auto")
    assert decision.folder != run
    assert decision.reason == f"a new run: the unfinished {run.path.name} has another job"


def test_a_finished_run_is_not_gone_on_with(folder: Path) -> None:
    run = unfinished(folder)
    run.result_file.write_text(json.dumps({"status": "done"}))
    run.become_latest(job(folder))
    assert decide_run(job(folder), "auto").folder != run


def test_a_stopped_run_is_gone_on_with(folder: Path) -> None:
    run = unfinished(folder)
    run.result_file.write_text(json.dumps({"status": "stopped"}))
    assert decide_run(job(folder), "auto").folder == run


@pytest.mark.parametrize("resume", ["auto", "RUN"])
def test_a_run_that_was_stopped_before_it_saved_begins_again(resume: str, folder: Path) -> None:
    run = unfinished(folder, steps=())
    mark_stopped(run)
    decision = decide_run(job(folder), resume.replace("RUN", str(run.path)))
    assert (decision.folder, decision.checkpoint, decision.cause) == (run, None, "resumed")
    assert decision.reason.startswith("resuming from the beginning: it was stopped before its first checkpoint")


def test_a_run_that_ended_without_a_word_before_it_saved_does_not(folder: Path) -> None:
    run = unfinished(folder, steps=())
    decision = decide_run(job(folder), "auto")
    assert (decision.folder == run, decision.cause) == (False, "first")


def test_a_run_of_another_job_that_was_stopped_before_it_saved_hides_no_earlier_one(folder: Path) -> None:
    run = unfinished(folder)
    mark_stopped(unfinished(folder, "train.seed=7", steps=()))
    assert decide_run(job(folder), "auto").folder == run


def test_a_run_of_another_job_that_was_stopped_before_it_saved_is_not_held_while_the_new_one_goes(
    folder: Path,
) -> None:
    stopped = unfinished(folder, "train.seed=7", steps=())
    mark_stopped(stopped)
    begun = decide_run(job(folder), "auto").folder
    code = "import sys; from pathlib import Path; from launcher.run.folder import RunFolder\n"
    code += "print([RunFolder(Path(run)).is_claimed() for run in sys.argv[1:]])"
    runs = [str(run.path) for run in (begun, stopped)]
    said = subprocess.run([sys.executable, "-c", code, *runs], capture_output=True, text=True, check=True)
    assert said.stdout == "[True, False]\n", "as another process sees them"


def test_a_stop_is_noted_once_with_what_is_saved(folder: Path) -> None:
    run = unfinished(folder)
    log = EventLog(run.events_file)
    for step in (19, 20, 21):
        log.write(
            Step(step=step, epoch=1, loss=1.0, lr=0.1, gradient_norm=1.0, samples=4, tokens=9, seconds=2.0, memory=1)
        )
    log.close()
    mark_stopped(run)
    expected = Result("stopped", "x", steps=20, seconds=4.0)
    assert Result.read(run.result_file) == expected
    Result("done", "x", 30, 9.0).write(run.result_file)
    mark_stopped(run)
    assert Result.read(run.result_file).status == "done"


def test_never_starts_afresh(folder: Path) -> None:
    assert decide_run(job(folder), "never").folder != unfinished(folder)


def test_a_run_or_a_checkpoint_can_be_named(folder: Path) -> None:
    run = unfinished(folder)
    unfinished(folder)
    assert decide_run(job(folder), str(run.path)).checkpoint == run.checkpoints / checkpoint_name(20)
    first = run.checkpoints / checkpoint_name(10)
    assert decide_run(job(folder), str(first)).checkpoint == first


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        ("nowhere", "is neither a run's folder nor one of its checkpoints"),
        ("RUN/checkpoints/step-00000099", "is no complete checkpoint; the complete ones are step-00000010"),
        ("EMPTY", "holds no complete checkpoint to resume from"),
        ("OTHER", "differs from that of .* in train.optimizer.lr, train.seed, which would change its numbers"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused(resume: str, message: str, folder: Path) -> None:
    runs = {
        "RUN": unfinished(folder),
        "EMPTY": unfinished(folder, steps=()),
        "OTHER": unfinished(folder, "train.optimizer.lr=1", "train.seed=2"),
    }
    for name, run in runs.items():
        resume = resume.replace(name, str(run.path))
    with pytest.raises(RequestError, match=message):
        decide_run(job(folder), resume)


def test_two_starts_in_one_second_have_two_folders(folder: Path) -> None:
    assert len({RunFolder.create(job(folder)).path for _ in range(3)}) == 3


def test_the_link_leads_to_the_latest_and_spares_what_is_no_link(folder: Path) -> None:
    first, second = unfinished(folder), unfinished(folder)
    for run in (first, second):
        run.become_latest(job(folder))
        assert (folder / "runs" / "x").resolve() == run.path
    (folder / "runs" / "x").unlink()
    (folder / "runs" / "x").mkdir()
    second.become_latest(job(folder))
    assert not (folder / "runs" / "x").is_symlink()


def test_a_run_of_a_longer_name_is_not_mistaken(folder: Path) -> None:
    mine = unfinished(folder)
    unfinished(folder, "name=x-large")
    assert decide_run(job(folder), "auto").folder == mine


def test_an_unfinished_run_whose_data_are_gone_is_not_in_the_way(folder: Path) -> None:
    (folder / "old.csv").write_text("text,label\na,b\n")
    run = unfinished(folder, "data.train=old.csv")
    (folder / "old.csv").unlink()
    assert decide_run(job(folder), "auto").folder != run


@contextmanager
def held_by_another_process(run: RunFolder) -> Iterator[subprocess.Popen[str]]:
    code = "import sys; from pathlib import Path; from launcher.run.folder import RunFolder\n"
    code += f"print(RunFolder(Path({str(run.path)!r})).claim(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        yield other


def test_a_run_that_is_still_going_is_left_alone(folder: Path) -> None:
    run = unfinished(folder)
    with held_by_another_process(run) as other:
        beside = decide_run(job(folder), "auto")
        assert beside.folder != run
        assert beside.reason == f"a new run, since {run.path.name} is still running or waiting"
        with pytest.raises(RequestError, match="is still running, or waiting in a queue"):
            decide_run(job(folder), str(run.path))
        other.kill()
    assert decide_run(job(folder), "auto").folder == run


def test_of_two_starts_at_once_the_slower_one_says_why_its_run_is_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unfinished(folder)
    with ExitStack() as faster:

        def claimed_meanwhile(checkpoints: Path) -> list[Path]:
            faster.enter_context(held_by_another_process(run))
            return complete_checkpoints(checkpoints)

        monkeypatch.setattr(resuming, "complete_checkpoints", claimed_meanwhile)
        decision = decide_run(job(folder), "auto")
    assert decision.folder != run
    assert decision.reason == f"a new run, since {run.path.name} is still running or waiting"


def hashed(folder: Path, *sets: str) -> RunFolder:
    """An unfinished run whose checkpoints, of steps 10 and 20, carry hashes."""
    run = unfinished(folder, *sets)
    for step in (10, 20):
        checkpoint = run.checkpoints / checkpoint_name(step)
        (checkpoint / MARKER).unlink()
        (checkpoint / PROGRESS).write_text(json.dumps({"step": step}))
        (checkpoint / "__0_0.distcp").write_bytes(b"numbers" * 99)
        hash_folder(checkpoint)
        (checkpoint / MARKER).write_text('{"format": 2}')
    return run


@pytest.mark.parametrize("file", [PROGRESS, "__0_0.distcp", "hashes.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_seen_to_be_damaged_is_passed_over(damage: str, file: str, folder: Path) -> None:
    run = hashed(folder)
    last = run.checkpoints / checkpoint_name(20)
    DAMAGES[damage](last / file)
    if file == "hashes.json" and damage == "flip_a_bit":
        return  # what it says may be of any other file
    decision = decide_run(job(folder), "auto")
    assert decision.checkpoint == run.checkpoints / checkpoint_name(10)
    assert f"; skipped step-00000020, which is damaged: {file} " in decision.reason
    assert not last.exists()
    assert (run.checkpoints / "step-00000020.damaged").is_dir(), "it no longer counts"


def test_a_run_may_be_named_and_a_damaged_checkpoint_of_it_may_not(folder: Path) -> None:
    run = hashed(folder)
    last = run.checkpoints / checkpoint_name(20)
    (last / PROGRESS).write_text("{")
    with pytest.raises(
        DamagedCheckpoint, match=r"step-00000020 is damaged: progress\.json has 1 bytes.*; the others are st"
    ):
        decide_run(job(folder), str(last))
    assert last.is_dir()
    decision = decide_run(job(folder), str(run.path))
    assert (decision.checkpoint, decision.insists) == (run.checkpoints / checkpoint_name(10), False)
    assert decide_run(job(folder), str(run.checkpoints / checkpoint_name(10))).insists


def test_where_all_are_damaged_all_are_named(folder: Path) -> None:
    run = hashed(folder)
    for step in (10, 20):
        (run.checkpoints / checkpoint_name(step) / PROGRESS).unlink()
    with pytest.raises(
        DamagedCheckpoint, match="there is no earlier one to resume from; there is no other; start a new run"
    ) as error:
        decide_run(job(folder), "auto")
    assert str(error.value).count("progress.json is missing") == 2


def test_a_run_whose_job_is_damaged_is_not_in_the_way_and_is_named(folder: Path) -> None:
    run = hashed(folder)
    run.job_file.write_text(run.job_file.read_text()[:15])
    decision = decide_run(job(folder), "auto")
    assert decision.folder != run
    assert decision.reason.startswith(f"a new run: the job of the unfinished {run.path.name} cannot be read: ")


def test_a_place_that_no_run_can_be_made_in_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"train\.csv/runs.* cannot be created: Not a directory; .*launch\.runs"):
        decide_run(job(folder, "launch.runs=train.csv/runs"), "auto")
