"""Truncated and damaged files of a run's folder are told plainly by every command, and cost no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cluster.requeue import decide
from launcher.commands import status
from launcher.commands.compare import compare_runs
from launcher.display.comparison import Comparison
from launcher.errors import ExitCode, RequestError
from launcher.run.attempts import Attempt, begin_attempt
from launcher.run.checkpoints import checkpoint_name
from launcher.run.events import Began, EventLog, EventTail, Note, Phase, Step
from launcher.run.failures import Failure, first_failure, report_failure
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.run.resuming import decide_run
from launcher.tracking.following import State
from tests.damage import DAMAGES
from tests.run.test_resuming import folder as folder
from tests.run.test_resuming import job, unfinished

GARBAGE = (
    b"\0" * 512,
    b"{",
    b"[]",
    b"\xff\xfe\xc3",
    b'{"kind": "step"}',
    b'{"kind": "step", "time": 1, "step": "x", "loss": null}',
    b'{"kind": ["step"]}',
    b'{"kind": "evaluated", "time": 1, "step": 1, "metrics": [1], "samples": {}, "seconds": 1}',
    b"[" * 50_000,
)


def a_step(step: int) -> Step:
    return Step(step=step, epoch=0, loss=1.0, lr=0.1, gradient_norm=1.0, samples=4, tokens=9, seconds=0.5, memory=2**20)


def run_of(folder: Path, *, done: bool = True) -> RunFolder:
    """A run with all the small files that there may be."""
    run = unfinished(folder)
    log = EventLog(run.events_file)
    begin_attempt(run, "first", None)
    begin_attempt(run, "restart", run.checkpoints / checkpoint_name(10))
    for step in (1, 2, 3):
        log.write(a_step(step))
    if done:
        log.write(Phase(name="done"))
    log.close()
    Result("done" if done else "stopped", "x", steps=3, seconds=1.5, model=str(run.model)).write(run.result_file)
    for file in (run.plan_file, run.prepared_file, run.environment_file):
        file.write_text('{"train": {}, "validation": {}, "target": null}')
    return run


FILES = ("result.json", "start.json", "plan.json", "prepared.json", "environment.json")


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("delete", "flip_a_bit")])
@pytest.mark.parametrize("file", FILES)
def test_status_and_compare_name_the_damaged_file_and_tell_the_rest(
    file: str, damage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = run_of(folder), run_of(folder)
    DAMAGES[damage](run.path / file)
    found = status.status_of(run)
    assert found.damage == (f"{file} cannot be read",)
    assert f"damage   {file} cannot be read" in str(found)
    assert (found.state, found.step, found.starts) == ("done", 3, 2)
    compare_runs([run.path, other.path], as_json=False)
    assert f"run a is damaged: {file} cannot be read" in capsys.readouterr().out
    compared = Comparison.of([run, other]).runs[0]
    assert (compared.state, compared.steps, compared.seconds) == ("done", 3, 1.5)


def test_garbage_among_the_events_is_counted_and_passed_over(folder: Path) -> None:
    run = run_of(folder)
    whole = status.status_of(run)
    with run.events_file.open("ab") as events:
        for line in GARBAGE:
            events.write(line + b"\n")
        events.write(b'{"kind": "of another version", "time": 1}\n{"kind": "note", "te')
    found = status.status_of(run)
    assert found.damage == (f"{len(GARBAGE)} lines of metrics.jsonl cannot be read",)
    assert (found.state, found.step, found.loss, found.starts) == (whole.state, 3, 1.0, 2)
    log = EventLog(run.events_file)
    log.write(Note(text="after"))
    log.close()
    assert [event.text for event in EventTail(run.events_file).read() if isinstance(event, Note)] == ["after"]


@pytest.mark.parametrize("damage", ["truncate", "empty", "zero_a_page"])
def test_a_start_is_known_from_the_events_so_that_counts_only_grow(damage: str, folder: Path) -> None:
    run = run_of(folder, done=False)
    DAMAGES[damage](run.start_file)
    found = Attempt.read(run)
    assert found == Attempt(2, "restart", str(run.checkpoints / checkpoint_name(10)))
    assert begin_attempt(run, "resumed", None).count == 3
    begun = [event.start for event in EventTail(run.events_file).read() if isinstance(event, Began)]
    assert begun == [1, 2, 3]


def test_what_a_later_version_noted_of_a_start_is_passed_over(folder: Path) -> None:
    run = run_of(folder)
    run.start_file.write_text(json.dumps({"count": 4, "cause": "resumed", "mood": "new"}))
    assert Attempt.read(run) == Attempt(4, "resumed")


@pytest.mark.parametrize("done", [True, False])
def test_whether_a_run_with_a_damaged_result_goes_on_is_known_from_its_events(done: bool, folder: Path) -> None:
    run = run_of(folder, done=done)
    run.result_file.write_text(run.result_file.read_text()[:20])
    assert (decide_run(job(folder), "auto").folder == run) == (not done)
    with pytest.raises(RequestError, match=r"result\.json cannot be read: .* its model is not affected"):
        Result.read(run.result_file)


def test_a_batch_job_with_a_damaged_result_ends_plainly(folder: Path) -> None:
    run = run_of(folder)
    run.result_file.write_text("{")
    with pytest.raises(RequestError, match=r"result\.json cannot be read"):
        decide(run, requeues=0, max_requeues=0)


def test_a_damaged_plan_says_how_it_is_made_again(folder: Path) -> None:
    run = run_of(folder)
    with pytest.raises(RequestError, match=r"plan\.json cannot be read: .* writes it anew: adaptrun train"):
        run.plan()


@pytest.mark.parametrize("content", ["", "- 1\n", "{", "\0" * 99])
def test_a_damaged_job_of_a_run_is_told(content: str, folder: Path) -> None:
    run, other = run_of(folder), run_of(folder)
    run.job_file.write_text(content)
    with pytest.raises(RequestError, match=r"job\.yaml (cannot be read|is damaged)"):
        Comparison.of([run, other])
    assert status.status_of(run).state == "done"


def test_the_page_and_the_words_of_a_failure_may_be_damaged_too(folder: Path) -> None:
    run = run_of(folder, done=False)
    for content, shown in ((b"", "failure.txt is empty"), (b"first \xc3\n", "first �")):
        run.failure_file.write_bytes(content)
        assert status.status_of(run).failure == shown
    report_failure(run, Failure(1, "here", 2.0, "ValueError", "it was me", "", 1), start=2)
    for name, content in (("rank-0", b'{"rank": 0, "host"'), ("rank-2", b"[]"), ("rank-3", b"\xff")):
        (run.logs / f"start-2.{name}.failure.json").write_bytes(content)
    (run.logs / "start-2.here.ends.json").write_text('{"rank": 1}')
    found = first_failure(run)
    assert found is not None
    assert found.message == "it was me"


def test_the_logs_of_a_rank_may_end_in_half_a_character(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(folder)
    run.log(0).write_bytes("süß".encode()[:-1])
    status.show_logs(run.path, 0, follow=False)
    assert capsys.readouterr().out == "sü�"


def test_what_a_tracker_left_is_told_where_it_is_damaged(folder: Path) -> None:
    run = run_of(folder)
    run.tracker_state("wandb").write_text('{"id": "x"')
    with pytest.raises(RequestError, match=r"wandb\.json is damaged, .*; remove the file, and the next start sends"):
        State.read(run, "wandb")


def test_a_finished_run_is_done_though_its_data_are_gone(folder: Path) -> None:
    run = run_of(folder)
    (folder / "train.csv").unlink()
    assert decide(run, requeues=0, max_requeues=0) == ExitCode.DONE
    assert status.status_of(run).state == "done"
