"""`from launcher import …`: the commands from a script, a thread and a notebook."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Required, get_origin, get_type_hints

import numpy as np
import pandas
import pytest
from PIL import Image
from pyarrow import parquet

import launcher
from launcher import Job, Result, evaluate, predict, train
from launcher.api.calls import _asked
from launcher.api.job import Sections
from launcher.api.rows import held_rows, write_rows
from launcher.errors import DataError, JobError, ModelError, Problem, RequestError, RunFailed
from launcher.job import schema
from launcher.run.checkpoints import complete_checkpoints, step_of
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder
from tests.cli import PATIENCE, adaptrun, with_fork_server
from tests.small_run import Trained, write_job

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a job file and its data."""
    write_job(tmp_path, tiny_model)
    (tmp_path / "my-model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_public_names() -> None:
    assert launcher.__all__ == [
        "Evaluation",
        "Job",
        "Result",
        "SetResult",
        "__version__",
        "evaluate",
        "predict",
        "train",
    ]
    assert set(launcher.__all__) <= set(dir(launcher))
    for name in launcher.__all__:
        assert getattr(launcher, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        launcher.fine_tune  # noqa: B018


def test_importing_is_light_and_calling_imports_no_torch() -> None:
    code = (
        "import sys, launcher\n"
        "light = [n for n in ('torch', 'transformers', 'pydantic', 'rich') if n in sys.modules]\n"
        "from launcher import Job, train, evaluate, predict\n"
        "print(light, [n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[] []"


def test_the_command_line_pays_for_nothing_of_it() -> None:
    code = (
        "import sys\nsys.argv = ['adaptrun', '--help']\nfrom launcher.cli import main\n"
        "try: main()\nexcept SystemExit: assert not [n for n in ('pydantic', 'torch', 'psutil') if n in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_the_keywords_are_the_sections_of_the_job_file() -> None:
    assert set(Sections.__annotations__) == set(schema.Job.model_fields)
    hints = get_type_hints(Sections, include_extras=True)
    needed = {name for name, hint in hints.items() if get_origin(hint) is Required}
    assert needed == {name for name, field in schema.Job.model_fields.items() if field.is_required()}


def test_the_code_of_the_page_runs_as_a_script_without_a_guard(folder: Path) -> None:
    page = (REPOSITORY / "docs/guides/python.md").read_text()
    (folder / "page.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    said = subprocess.run(
        [sys.executable, "page.py"], cwd=folder, env=with_fork_server(), capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    result = json.loads((folder / "runs" / "reviews" / "result.json").read_text())
    found = result["sets"]["near"]
    expected = f"{result['model']} 16 {found['after']['accuracy']} {tuple(found['after_interval']['accuracy'])}"
    assert expected in said.stdout
    assert "near: 25 samples, each counted once" in said.stdout
    assert "train.epochs found 0; allowed is a number above 0" in said.stdout
    assert {path.name for path in (folder / "runs").iterdir() if path.is_symlink()} == {
        "reviews",
        "lr-0.001",
        "lr-0.0001",
    }


def test_types_reach_the_user(folder: Path) -> None:
    (folder / "good.py").write_text(
        "from launcher import Evaluation, Job, Result, evaluate, train\n"
        "job = Job(name='x', model={'pretrained': 'm'}, task='t', data={'train': 'a.csv'}, track='wandb')\n"
        "lr: float = job.train.optimizer.lr\n"
        "result: Result = train(job, quiet=True)\n"
        "found: Evaluation = evaluate('m', {'source': 'a.csv'})\n"
        "accuracy: float = found.metrics['accuracy']\n"
    )
    (folder / "bad.py").write_text(
        "from launcher import Job, train\n"
        "Job(nam='x', model={}, task='t', data={})\n"
        "train('job.yaml')\n"
        "Job.from_file('job.yaml').train.optimizer.lrr\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir=cache-of-mypy", "--follow-imports=silent"]
    here = os.environ | {"MYPYPATH": str(Path(launcher.__file__).parents[1])}  # mypy does not follow editable installs
    said = {}
    for name in ("good.py", "bad.py"):
        said[name] = subprocess.run([*command, name], cwd=folder, env=here, capture_output=True, text=True).stdout
    assert "no issues" in said["good.py"], said["good.py"]
    lines = re.findall(r"^bad\.py:(\d+): error", said["bad.py"], re.MULTILINE)
    assert sorted(set(lines)) == ["2", "3", "4"], said["bad.py"]


def test_a_job_built_in_python_is_that_of_the_file(folder: Path, tiny_model: Path) -> None:
    built = Job(
        name="small",
        model={"pretrained": tiny_model},
        task="text-classification",
        data={"train": Path("train.csv"), "validation": {"near": "near.csv", "far": Path("far.csv")}, "cache": "cache"},
        train={"epochs": 3, "global_batch_size": 8, "max_length": 32, "optimizer": {"lr": 2e-3}},
        validation={"metric": "accuracy"},
        launch={"processes": 2, "device": "cpu", "max_restarts": 0},
    )
    read = Job.from_file(folder / "job.yaml")
    assert built.as_dict() == read.as_dict()
    assert (str(built.file), read.file) == ("Python", folder / "job.yaml")
    assert Job.from_file("job.yaml", ["train.epochs=1"]).train.epochs == 1


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown key": ({"trian": {}}, ["Python: trian: unknown key 'trian'", "did you mean train?"]),
    "a value": ({"train": {"epochs": 0}}, ["Python: train.epochs: found 0; allowed is a number above 0"]),
    "a rule": ({"engine": {"name": "ddp"}, "launch": {"processes": 1}}, ["Python: engine.name: ddp is for several"]),
    "a path": ({"data": {"train": "tain.csv"}}, ["Python: data.train.source: there is no", "did you mean train.csv"]),
    "several": ({"name": "?", "train": {"seed": -1}}, ["Python: name: found '?'", "Python: train.seed: found -1"]),
}


@pytest.mark.parametrize("change", BAD)
def test_mistakes_are_told_as_those_of_a_file(folder: Path, change: str) -> None:
    good = {
        "name": "x",
        "model": {"pretrained": "my-model"},
        "task": "text-classification",
        "data": {"train": "train.csv"},
    }
    good |= {"train": {"max_length": 32}}
    changes, parts = BAD[change]
    with pytest.raises(JobError) as wrong:
        Job(**{**good, **changes})
    for part in parts:
        assert part in str(wrong.value)


def test_samples_in_a_job_are_told_in_one_line(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    sections = {"name": "x", "model": {"pretrained": "my-model"}, "task": "text-classification"}
    for held in (pandas.DataFrame({"text": ["a"] * 9, "label": ["b"] * 9}), [{"text": "a", "label": "b"}] * 9):
        for given in (held, {"source": held}):
            with pytest.raises(JobError) as wrong:
                Job(**sections, data={"train": given})  # type: ignore[arg-type]
            assert str(wrong.value).count("write samples that a program holds to a file") == 1
            assert len(str(wrong.value)) < 500


def test_what_is_missing_is_told_and_not_a_type_error(folder: Path) -> None:
    with pytest.raises(JobError, match="Python: model: is required and missing"):
        Job(name="x", task="text-classification", data={"train": "train.csv"})  # type: ignore[call-arg]


def test_errors_of_the_call_are_those_of_the_command(folder: Path, trained: Trained) -> None:
    with pytest.raises(RequestError, match="nowhere is neither a run's folder nor one of its checkpoints"):
        train(Job.from_file("job.yaml"), resume="nowhere", quiet=True)
    with pytest.raises(DataError) as lost:
        evaluate(trained.run, "nowhere.csv")
    assert (Path(lost.value.file).name, lost.value.row) == ("nowhere.csv", None)
    with pytest.raises(ModelError):
        evaluate("no/such/model", "near.csv")
    with pytest.raises(JobError, match="Python: txt: unknown key 'txt'"):
        evaluate(trained.run, {"source": "near.csv", "txt": "x"})
    (folder / "own.py").write_text("def build(labels):\n    raise ValueError('the cause of it all')\n")
    with pytest.raises(RunFailed, match="ValueError: the cause of it all"):
        train(Job.from_file("job.yaml", ["model.pretrained=own.py:build", "model.tokenizer=my-model"]), quiet=True)


@pytest.mark.parametrize(
    "error",
    [JobError([Problem("f:1:2", "a.b", "wrong", "mend it")]), DataError("f.csv", "wrong", 3), RunFailed("page")],
)
def test_errors_survive_the_way_between_processes(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_the_run_is_that_of_the_command(folder: Path, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    result = train(Job.from_file("job.yaml"))
    assert handlers == {number: signal.getsignal(number) for number in handlers}
    printed = capsys.readouterr().out
    for part in ("a new run", "2 × ", "step 24/24", "near: 25 samples, each counted once", f"model: {result.model}"):
        assert part in printed
    assert Result.read(trained.run / "result.json").sets == result.sets
    model, theirs = Path(str(result.model)) / "model.safetensors", trained.run / "model" / "model.safetensors"
    assert model.read_bytes() == theirs.read_bytes()
    run = RunFolder(model.parent.parent)
    assert run.plan().commands[0][-1] == "job.yaml"
    assert not run.is_claimed(), "nothing holds the run once the call is over"


def test_evaluating_and_predicting_in_a_thread_give_what_the_commands_give(
    folder: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Any] = {}

    def work() -> None:
        found["measured"] = evaluate(trained.run, "near.csv", processes=2)
        found["rows"] = predict(trained.run / "model", Path("far.csv"))
        found["result"] = train(Job.from_file("job.yaml", ["launch.processes=1", "train.max_steps=2"]), quiet=True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert capsys.readouterr().out == ""
    result = Result.read(trained.run / "result.json")
    assert found["measured"].samples == 25
    assert found["measured"].metrics == pytest.approx(result.sets["near"].after)
    adaptrun("predict", trained.run, "--data", "far.csv", "-o", "rows.jsonl", cwd=folder)
    assert found["rows"] == [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(found["rows"]) == 13
    assert found["result"].steps == 2


def test_rows_texts_and_data_frames_are_taken_as_files_are(folder: Path, trained: Trained) -> None:
    frame = pandas.read_csv("near.csv").rename(columns={"text": "review"})
    frame.index = frame.index[::-1]
    measured = evaluate(trained.run, {"source": frame, "text": "review"}, processes=1)
    assert measured.metrics == pytest.approx(Result.read(trained.run / "result.json").sets["near"].after)
    expected = predict(trained.run, "near.csv", processes=1)
    answers = predict(trained.run, list(frame["review"]), processes=1)
    assert [row["label"] for row in answers] == [row["label"] for row in expected]
    with pytest.raises(RequestError, match=r"^the given rows, row 2: label 'unheard of' does not occur"):
        evaluate(trained.run, [{"text": "a", "label": "class-0"}, {"text": "b", "label": "unheard of"}], processes=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the given rows are empty"),
        ([{"text": "a"}, 3], "the given rows, row 2: found int; a row must be {column: value}, or a text"),
        ([{"text": "a"}, {"text": 3}], "the given rows: .*; a column must hold values of one type"),
        ([{"text": "\ud800"}], "the given rows: .*surrogates"),
        (["near.csv", "far.csv"], r'these are names of files; give files as {"source": \[...\]}'),
    ],
)
def test_rows_that_cannot_be_taken_are_told(folder: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        write_rows(rows, folder / "rows.parquet", "text", ())


def test_rows_keep_their_values(folder: Path) -> None:
    image = Image.new("RGB", (2, 3), "red")
    rows = [
        {"text": "a", "image": "x.png", "tags": ["b"], "picture": image},
        {"text": "c", "image": folder / "y.png", "label": np.float32(0.5)},
    ]
    write_rows(rows, folder / "rows.parquet", "text", ("image", "audio"))
    first, second = parquet.read_table(folder / "rows.parquet").to_pylist()
    assert (first["image"], second["image"]) == (str(folder / "x.png"), str(folder / "y.png"))
    assert (first["tags"], first["label"], second["label"]) == (["b"], None, 0.5)
    assert Image.open(io.BytesIO(first["picture"])).getpixel((0, 0)) == (255, 0, 0)
    for data in ("near.csv", Path("near.csv"), {"source": ["near.csv", Path("far.csv")]}, {"source": "near.csv"}):
        assert held_rows(data) is None


@pytest.mark.parametrize("named", [{"audio": "sound"}, {"columns": {"audio": "sound"}}])
def test_paths_in_rows_are_relative_to_the_working_directory_however_their_column_is_named(
    named: dict[str, Any], folder: Path
) -> None:
    rows = [{"sound": "a.wav", "label": "x"}, {"sound": "b/c.wav", "label": "y"}]
    with _asked("model", {"source": rows, **named}, 8, None, ()) as asked:
        written = parquet.read_table(asked["source"]["source"]).to_pylist()
    assert [Path(row["sound"]) for row in written] == [folder / "a.wav", folder / "b" / "c.wav"]


def test_a_result_has_its_history_as_a_data_frame(trained: Trained) -> None:
    result = Result.read(trained.run / "result.json")
    history = result.history()
    steps = [event for event in EventTail(trained.run / "metrics.jsonl").read() if isinstance(event, Step)]
    assert list(history.loc[1:, "train/loss"]) == [step.loss for step in steps]
    assert list(history.index) == list(range(result.steps + 1)), "step 0 is the evaluation before training"
    assert history["validation/near/accuracy"].dropna().iloc[0] == result.sets["near"].before["accuracy"]
    assert "run" not in json.loads((trained.run / "result.json").read_text())


ENDLESS = """\
import os, signal, subprocess, sys
from launcher import Job, train
from launcher.errors import Stopped
mine = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
try:
    train(Job.from_file("job.yaml", ["train.epochs=300"]))
except Stopped as stopped:
    print("raised:", stopped, mine.poll(), flush=True)
mine.kill()
"""


def wait_for_steps(folder: Path) -> None:
    begun = time.monotonic()
    while not any(b'"kind": "step"' in file.read_bytes() for file in folder.glob("runs/*/metrics.jsonl")):
        assert time.monotonic() - begun < PATIENCE, "no step was ever made"
        time.sleep(0.05)


def wait_until_free(folder: Path) -> RunFolder:
    (run,) = [RunFolder(path) for path in (folder / "runs").iterdir()]
    begun = time.monotonic()
    while run.is_claimed():
        assert time.monotonic() - begun < PATIENCE, "the run goes on"
        time.sleep(0.05)
    return run


@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_ctrl_c_raises_stopped_and_the_end_of_the_program_stops_the_run_too(folder: Path, number: str) -> None:
    (folder / "endless.py").write_text(ENDLESS)
    command = [sys.executable, "endless.py"]
    with (folder / "said").open("w") as out:
        script = subprocess.Popen(command, cwd=folder, env=with_fork_server(), stdout=out, text=True)
    wait_for_steps(folder)
    script.send_signal(signal.Signals[number])
    script.wait(PATIENCE)
    said = (folder / "said").read_text()
    run = wait_until_free(folder)
    result = run.result()
    assert result is not None
    assert result["status"] == "stopped"
    assert step_of(complete_checkpoints(run.checkpoints)[-1]) == result["steps"]
    if number == "SIGINT":
        assert f"raised: stopped after step {result['steps']} of" in said
        assert said.strip().endswith("None"), "other children of the program are left alone"
