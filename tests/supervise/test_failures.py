"""A run that fails names the rank that failed first, shows its own words, and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launcher.run.checkpoints import last_checkpoint
from launcher.run.folder import RunFolder
from tests.cli import TORCHRUN, adaptrun, assert_gone, is_gone, ranks_of, run, start, wait_until
from tests.small_run import write_job

MISCHIEF = """\
import os, time
from transformers import AutoModelForSequenceClassification

def build(labels):
    model = AutoModelForSequenceClassification.from_pretrained({model!r}, num_labels=len(labels))
    calls = 0
    def before(module, inputs):
        nonlocal calls
        calls += module.training
        if module.training:
            {mischief}
    model.register_forward_pre_hook(before)
    return model
"""


FILL = """\
def fill(name):
    with open(name, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
"""


def mischievous(folder: Path, model: Path, mischief: str) -> None:
    """A job whose model does something at a training step."""
    job = write_job(folder, model)
    (folder / "own.py").write_text(MISCHIEF.format(model=str(model), mischief=mischief))
    text = job.read_text().replace(f"{{pretrained: {model}}}", f"{{pretrained: own.py:build, tokenizer: {model}}}")
    job.write_text(text.replace("epochs: 3", "epochs: 300"))


def failure_page(folder: Path) -> str:
    (page,) = (folder / "runs").glob("*/failure.txt")
    return page.read_text()


def test_the_first_failing_ranks_own_traceback_is_shown(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(
        tmp_path, tiny_model, "if calls == 3 and os.environ['RANK'] == '1': raise ValueError('the cause of it all')"
    )
    said = adaptrun("train", "job.yaml", cwd=tmp_path, code=1)
    page = failure_page(tmp_path)
    assert page.startswith(f"rank 1 on {os.uname().nodename} failed first, at ")
    for part in ("ValueError: the cause of it all", "own.py", "last step: 2"):
        assert part in page
        assert part in said.stderr
    assert "ChildFailedError" not in said.stderr
    assert "launcher.py" not in said.stderr.replace("launcher/", "")


@pytest.mark.slow
def test_by_hand_the_page_is_written_too(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "if calls == 3 and os.environ['RANK'] == '1': raise ValueError('the cause')")
    said = run(TORCHRUN, "--nproc-per-node", 2, "-m", "launcher.worker", "job.yaml", cwd=tmp_path, code=1)
    assert failure_page(tmp_path).startswith("rank 1 on ")
    assert "ValueError: the cause" in failure_page(tmp_path)
    assert "ValueError: the cause" in said.stderr


def test_a_killed_rank_is_named_with_its_signal_and_what_it_said_last(tmp_path: Path, tiny_model: Path) -> None:
    mischief = "print('call', calls, flush=True); calls == 4 and os.environ['RANK'] == '1' and os.kill(os.getpid(), 9)"
    mischievous(tmp_path, tiny_model, mischief)
    adaptrun("train", "job.yaml", cwd=tmp_path, code=1)
    page = failure_page(tmp_path)
    assert page.startswith("rank 1 on ")
    assert "SIGKILL" in page
    assert "call 4" in page
    assert "what to do: often the system's out-of-memory killer" in page


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs root, to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_to_the_last_byte_is_named_all_the_same(
    tmp_path: Path, tiny_model: Path, small_disk: Path
) -> None:
    fill = f"fill('{small_disk}/filler')"
    mischievous(tmp_path, tiny_model, f"os.environ['RANK'] == '1' and calls == 5 and {fill}")
    own = (tmp_path / "own.py").read_text()
    (tmp_path / "own.py").write_text(f"{own}\n{FILL}")
    said = adaptrun("train", "job.yaml", cwd=tmp_path, code=1).stderr
    assert re.search(r"rank 0 on \S+ failed first, at .*: (OSError|CheckpointError): ", said)
    assert "kind: disk" in said
    assert "what to do: look at the disk's free space" in said
    assert re.search(r"could not be kept in .*failure\.txt", said)
    assert "launcher.py" not in said.replace("launcher/", "")


def test_out_of_memory_comes_with_what_to_do(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "if calls == 2: raise MemoryError('no room')")
    adaptrun("train", "job.yaml", "--set", "launch.processes=1", cwd=tmp_path, code=1)
    assert "what to do: lower train.micro_batch_size" in failure_page(tmp_path)


def test_losses_that_are_no_number_end_the_run_at_the_limit_and_name_the_samples(
    tmp_path: Path, tiny_model: Path
) -> None:
    mischievous(tmp_path, tiny_model, "calls == 2 and module.classifier.weight.data.fill_(float('nan'))")
    sets = ["--set", "launch.processes=1", "--set", "train.discard_limit=1"]
    said = adaptrun("train", "job.yaml", *sets, cwd=tmp_path, code=1)
    assert "step 2 was skipped: its loss is nan" in said.stdout
    assert "the loss of step 3 is nan and its gradient norm nan; its samples were rows [" in said.stderr
    assert "kind: NaN or infinite" in said.stderr
    assert "lower train.optimizer.lr" in said.stderr
    (kept,) = (tmp_path / "runs").glob("*/discarded-steps.json")
    assert [(step["step"], len(step["samples"])) for step in json.loads(kept.read_text())] == [(2, 8), (3, 8)]


NAN_ON_RANK_1 = """os.environ['RANK'] == '1' and calls == 3 and setattr(
                module, 'trouble', module.classifier.register_forward_hook(lambda m, i, o: o * float('nan')))
            hasattr(module, 'trouble') and calls == 4 and module.trouble.remove()"""


def test_one_step_that_is_no_number_is_discarded_and_counted(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, NAN_ON_RANK_1)
    said = adaptrun("train", "job.yaml", "--set", "train.epochs=2", cwd=tmp_path)
    assert "step 3 was skipped: its loss is nan" in said.stdout
    run = RunFolder((tmp_path / "runs" / "small").resolve())
    assert json.loads((last_checkpoint(run.checkpoints) / "progress.json").read_text())["discarded"] == 1
    assert not run.discarded_file.exists()
    assert all(tensor.isfinite().all() for tensor in load_file(run.model / "model.safetensors").values())


@pytest.mark.parametrize(
    ("mischief", "kind", "error"),
    [
        ("os.kill(os.getpid(), 9)", "killed by the system", "SIGKILL"),
        ("os.kill(os.getpid(), 19)", "no progress", "Hung"),
    ],
)
def test_a_rank_that_dies_or_hangs_is_started_again_from_the_last_checkpoint(
    mischief: str, kind: str, error: str, tmp_path: Path, tiny_model: Path
) -> None:
    once = f"os.environ['RANK'] == '1' and calls == 12 and not os.path.exists('{tmp_path}/done') and "
    mischievous(tmp_path, tiny_model, f"{once}(open('{tmp_path}/done', 'w').close(), {mischief})")
    sets = {"train.epochs": 2, "checkpoint.every_steps": 4, "launch.max_restarts": 1, "launch.patience": 0.05}
    arguments = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    said = adaptrun("train", "job.yaml", *arguments, cwd=tmp_path)
    assert re.search(f"{kind}; resuming from step-0000000[48] after {error} of rank 1 on", said.stdout)
    assert said.stderr == ""
    whole = tmp_path / "whole"
    whole.mkdir()
    write_job(whole, tiny_model)
    adaptrun("train", "job.yaml", *arguments[:4], cwd=whole)
    weights = "runs/small/model/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_rank_that_hangs_is_told_with_the_stacks_of_all(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "os.environ['RANK'] == '1' and calls == 12 and time.sleep(600)")
    adaptrun("train", "job.yaml", "--set", "launch.patience=0.05", cwd=tmp_path, code=1)
    page = failure_page(tmp_path)
    assert page.startswith(f"rank 1 on {os.uname().nodename} failed first")
    assert "Hung: no progress for" in page
    assert "rank 0 on" in page
    (logs,) = (tmp_path / "runs").glob("*/logs")
    assert "own.py" in (logs / "rank-1.log").read_text()
    assert "in _accumulate" in (logs / "rank-0.log").read_text()


def test_what_never_saves_a_step_is_not_started_for_ever(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "os.environ['RANK'] == '1' and calls == 2 and os.kill(os.getpid(), 9)")
    said = adaptrun("train", "job.yaml", "--set", "launch.max_restarts=2", cwd=tmp_path, code=1)
    assert said.stdout.count("killed by the system; resuming from the beginning") == 2


def test_bad_data_are_the_users_to_mend(tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    with (tmp_path / "far.csv").open("a") as file:
        file.write("babe,other\n")
    wrong = "far.csv, row 14: label 'other' does not occur in the training data"
    said = adaptrun("train", "job.yaml", cwd=tmp_path, code=2)
    assert wrong in said.stderr
    assert "rank 0" not in said.stderr
    run(sys.executable, "-P", "-m", "launcher.worker", "job.yaml", "--resume", "never", cwd=tmp_path, code=2)
    found = json.loads(adaptrun("status", "--json", cwd=tmp_path).stdout)
    assert [told["state"] for told in found] == ["failed"] * 2
    assert all(wrong in told["failure"] for told in found)
    assert [len(file.read_text().splitlines()) for file in tmp_path.glob("runs/*/failure.txt")] == [1, 1]


@pytest.mark.parametrize(
    ("number", "processes"), [pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow), (signal.SIGUSR1, 2)]
)
def test_a_request_to_stop_saves_and_the_same_command_goes_on(
    number: signal.Signals, processes: int, tmp_path: Path, tiny_model: Path
) -> None:
    mischievous(tmp_path, tiny_model, "time.sleep(0.02)")
    command = ["train", "job.yaml", "--set", f"launch.processes={processes}", "--set", "train.epochs=6"]
    launcher = start(*command, cwd=tmp_path)
    wait_until(lambda: has_trained(tmp_path), launcher)
    ranks = ranks_of(launcher)
    assert len(ranks) == processes
    launcher.send_signal(number)
    assert launcher.wait(60) == 75
    assert_gone(ranks)
    assert "a checkpoint is saved, and the same command resumes from there" in (tmp_path / "stderr").read_text()
    (folder,) = (tmp_path / "runs").iterdir()
    assert not (folder / "failure.txt").exists()
    if processes == 1:
        data = (tmp_path / "train.csv").read_bytes()
        (tmp_path / "train.csv").write_bytes(data + b"babe,class-1\n")
        changed = adaptrun(*command, cwd=tmp_path, code=2)
        assert "the training data or the tokenizer have changed since" in changed.stderr
        (tmp_path / "train.csv").write_bytes(data)
    assert '"status": "stopped"' in (folder / "result.json").read_text()
    said = adaptrun(*command, cwd=tmp_path).stdout
    assert f"{folder}: resuming from step-" in said
    assert '"status": "done"' in (folder / "result.json").read_text()


def test_a_second_request_stops_at_once(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "time.sleep(600 if calls > 1 else 0)")
    launcher = start("train", "job.yaml", cwd=tmp_path, own_server=False)
    wait_until(lambda: has_trained(tmp_path), launcher)
    ranks = ranks_of(launcher)
    launcher.send_signal(signal.SIGINT)
    with pytest.raises(Exception, match="timed out"):
        launcher.wait(2)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 75
    assert "stopped at once" in (tmp_path / "stderr").read_text()
    assert_gone(ranks)


def test_ranks_do_not_outlive_a_killed_launcher(tmp_path: Path, tiny_model: Path) -> None:
    mischievous(tmp_path, tiny_model, "time.sleep(0.02)")
    launcher = start("train", "job.yaml", cwd=tmp_path)
    wait_until(lambda: has_trained(tmp_path), launcher)
    ranks = ranks_of(launcher)
    assert not any(is_gone(rank) for rank in ranks)
    launcher.kill()
    launcher.wait()
    assert_gone(ranks)


def has_trained(folder: Path) -> bool:
    return any('"kind": "step"' in file.read_text() for file in (folder / "runs").glob("*/metrics.jsonl"))
