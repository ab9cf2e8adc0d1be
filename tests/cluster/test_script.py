"""The batch script: as it was read and approved, clean, and deaf to what names and values try to say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import scheduler
from launcher.cluster.profile import Profile, load_profile
from launcher.cluster.script import quoted, render_script
from launcher.errors import JobError, RequestError
from tests.cluster.golden import HERE, PROFILES, SCRIPTS, script

IN_A_PATH = "a b'c\"d$(touch injected)`touch injected`;touch injected"
HOSTILE = IN_A_PATH + "\\"
STUB = (
    f"#!{sys.executable} -E\n"
    + """\
import json, os, pathlib, sys
with open(pathlib.Path(os.environ["SPOKEN"]), "a") as file:
    variables = {name: value for name, value in os.environ.items() if name.startswith("MY_")}
    file.write(json.dumps([pathlib.Path(sys.argv[0]).name, sys.argv[1:], variables]) + "\\n")
name = pathlib.Path(sys.argv[0]).name
if name == "date":
    print(os.environ.get("MY_END" if "-d" in sys.argv else "MY_NOW", "0"))
if name == "srun" and "MY_SIGNAL" in os.environ:
    os.kill(os.getppid(), int(os.environ["MY_SIGNAL"]))
if sys.argv[1:2] == ["hostnames"] or "hostnames" in sys.argv:
    print("n1\\nn2")
"""
)


def test_the_scripts_are_those_that_were_approved() -> None:
    assert {file.stem for file in HERE.glob("*.sbatch")} == set(SCRIPTS)
    for name in SCRIPTS:
        assert script(name) == (HERE / f"{name}.sbatch").read_text(), f"read the change, then {HERE.parent}/golden.py"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="apt-get install shellcheck")
@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    found = subprocess.run(["shellcheck", "-"], input=script(name), capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="apt-get install shellcheck")
def test_shellcheck_finds_nothing_in_the_script_for_copying() -> None:
    found = subprocess.run(["shellcheck", PROFILES / "by-hand.sbatch"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("profile", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_example_profiles_are_valid(profile: Path) -> None:
    assert load_profile(profile).nodes >= 1


def spoken(rendered: str, folder: Path, *stubs: Path) -> list[tuple[str, list[str], dict[str, str]]]:
    """Run a script with stubs for the cluster's commands; what each was called with, and its variables."""
    commands = folder / "commands"
    commands.mkdir()
    names = ("srun", "scontrol", "scancel", "squeue", "sbatch", "module", "conda", "apptainer", "date", "python")
    for stub in (*(commands / name for name in names), *stubs):
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(STUB)
        stub.chmod(0o755)
    environment = {
        "PATH": f"{commands}:/usr/bin:/bin",
        "SPOKEN": str(folder / "spoken"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "1",
    }
    done = subprocess.run(["bash"], input=rendered, env=environment, cwd=folder, text=True, timeout=60)
    assert done.returncode in (0, 75)
    assert not list(folder.rglob("injected"))
    return [json.loads(line) for line in (folder / "spoken").read_text().splitlines()]


def test_hostile_values_arrive_as_they_are(tmp_path: Path) -> None:
    run = tmp_path / IN_A_PATH / "run"
    run.mkdir(parents=True)
    venv = tmp_path / f"venv {HOSTILE}"
    profile = Profile(nodes=2, modules=(HOSTILE,), venv=str(venv), environment={"MY_VALUE": HOSTILE})
    said = spoken(render_script("x", [run], profile), tmp_path, venv / "bin" / "python")
    (started,) = [arguments for name, arguments, _ in said if name == "srun"]
    assert started[started.index("-P") - 1] == str(venv / "bin" / "python")
    assert started[started.index("launcher.cluster.node_agent") + 1] == str(run)
    assert started[started.index("--nodes") + 1] == "n1,n2"
    assert ["load", HOSTILE] in [arguments for name, arguments, _ in said if name == "module"]
    decided = [arguments for name, arguments, _ in said if name == "python" and "launcher.cluster.requeue" in arguments]
    assert [arguments[arguments.index("launcher.cluster.requeue") + 1] for arguments in decided] == [str(run)]
    assert all(variables["MY_VALUE"] == HOSTILE for name, _, variables in said if name == "srun")


def test_a_hostile_conda_environment_is_activated_as_it_is_called(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    said = spoken(render_script("x", [run], Profile(conda=HOSTILE)), tmp_path)
    assert ["activate", HOSTILE] in [arguments for name, arguments, _ in said if name == "conda"]
    assert "srun" in [name for name, _, _ in said]


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_hostile_containers_arrive_as_they_are(runtime: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / IN_A_PATH
    run.mkdir(parents=True)
    container = {"runtime": runtime, "image": HOSTILE, "mounts": (f"/{HOSTILE}:/x",), "python": HOSTILE}
    said = spoken(render_script("x", [run], Profile.model_validate({"container": container})), tmp_path)
    (started,) = [words for name, words, _ in said if name == "srun" and "launcher.cluster.node_agent" in words]
    assert started[started.index("-P") - 1] == HOSTILE
    given = started if runtime == "apptainer" else [word.partition("=")[2] for word in started]
    assert HOSTILE in given
    assert any(f"/{HOSTILE}:/x" in word and str(run.parent) in "".join(given) for word in given)


def test_an_array_runs_the_run_of_its_own_number(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", IN_A_PATH)]
    for run in runs:
        run.mkdir()
    venv = tmp_path / "venv"
    said = spoken(render_script("x", runs, Profile(venv=str(venv))), tmp_path, venv / "bin" / "python")
    (started,) = [arguments for name, arguments, _ in said if name == "srun"]
    assert str(runs[1]) in started
    assert str(runs[0]) not in started


def test_unfit_nodes_are_left_out_beside_those_of_the_profile(tmp_path: Path) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        run.mkdir()
    (runs[1] / "exclude").write_text("n7\nn8\n")
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    rendered = render_script("x", runs, Profile(venv=str(venv), exclude="n[1-2]"))
    said = spoken(rendered.replace("NEXT=$?", "NEXT=75"), tmp_path, python)
    assert ["--parsable", "--exclude=n[1-2],n7,n8", "--array=1", f"{runs[1]}/job.sbatch"] in [a for _, a, _ in said]
    assert not [arguments for name, arguments, _ in said if name == "scontrol" and "requeue" in arguments]


@pytest.mark.parametrize("number", [None, signal.SIGTERM], ids=["by adaptrun cancel", "by the scheduler"])
def test_the_scheduler_is_told_of_a_cancelled_run_that_it_has_not_cancelled_itself(
    number: signal.Signals | None, tmp_path: Path
) -> None:
    run, venv = tmp_path / "run", tmp_path / "venv"
    run.mkdir()
    profile = Profile(
        venv=str(venv),
        environment={} if number is None else {"MY_SIGNAL": str(int(number))},
        after=('echo "ended with $NEXT" >after',),
    )
    rendered = render_script("x", [run], profile).replace("NEXT=$?", "NEXT=11").replace("sleep", "true")
    said = spoken(rendered, tmp_path, venv / "bin" / "python")
    assert [words for name, words, _ in said if name == "scancel"] == ([["7"]] if number is None else [])
    assert (tmp_path / "after").read_text() == "ended with 75\n"
    assert not [words for name, words, _ in said if name == "scontrol" and "requeue" in words]


def test_each_task_of_an_array_asks_for_itself_alone(tmp_path: Path) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        run.mkdir()
    venv = tmp_path / "venv"
    rendered = render_script("x", runs, Profile(venv=str(venv))).replace("NEXT=$?", "NEXT=75").replace("sleep", "true")
    said = spoken(rendered, tmp_path, venv / "bin" / "python")
    assert ["requeue", "7_1"] in [arguments for name, arguments, _ in said if name == "scontrol"]
    assert [arguments[2] for name, arguments, _ in said if name == "squeue"] == ["7_1"]
    assert not (runs[0] / "jobs").exists()
    assert (runs[1] / "jobs").read_text() == "7_1\n"


@pytest.mark.parametrize(
    ("number", "now", "end", "written"),
    [
        (signal.SIGUSR1, 1000, 9000, ""),
        (signal.SIGTERM, 1000, 9000, "cancel\n"),
        (signal.SIGTERM, 1000, 0, "cancel\n"),
        (signal.SIGTERM, 8990, 9000, ""),
        (signal.SIGTERM, 9020, 9000, ""),
    ],
    ids=["a warning", "scancel", "scancel without a limit", "the time limit by a late clock", "the time limit"],
)
def test_a_signal_asks_for_a_stop_and_one_that_ends_the_job_for_its_end(
    number: signal.Signals, now: int, end: int, written: str, tmp_path: Path
) -> None:
    run, venv = tmp_path / "run", tmp_path / "venv"
    run.mkdir()
    before = (f"export MY_NOW={now} MY_END={end}",)
    profile = Profile(venv=str(venv), before=before, environment={"MY_SIGNAL": str(int(number))})
    spoken(render_script("x", [run], profile), tmp_path, venv / "bin" / "python")
    assert (run / "stop").read_text() == written


def test_a_script_that_is_queued_by_hand_notes_its_number_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "jobs").write_text("6\n")
    venv = tmp_path / "venv"
    for again in ("first", "second"):
        (tmp_path / again).mkdir()
        spoken(render_script("x", [run], Profile(venv=str(venv))), tmp_path / again, venv / "bin" / "python")
        assert (run / "jobs").read_text() == "6\n7\n"


def test_the_ranks_get_the_cores_that_were_asked_for(tmp_path: Path) -> None:
    """srun does not take them from the batch job, since SLURM 22.05."""
    run, venv = tmp_path / "run", tmp_path / "venv"
    run.mkdir()
    profile = Profile(cpus_per_node=8, venv=str(venv))
    said = spoken(render_script("x", [run], profile), tmp_path, venv / "bin" / "python")
    assert ["--cpus-per-task=8" in arguments for name, arguments, _ in said if name == "srun"] == [True]


def test_what_sets_up_the_environment_may_read_variables_that_nobody_has_set(tmp_path: Path) -> None:
    run, venv = tmp_path / "run", tmp_path / "venv"
    run.mkdir()
    profile = Profile(before=('CFLAGS="$CFLAGS -O2"',), venv=str(venv))
    said = spoken(render_script("x", [run], profile), tmp_path, venv / "bin" / "python")
    assert "srun" in [name for name, _, _ in said]


@pytest.mark.parametrize(("value", "written"), [("a-b_c", "a-b_c"), ("a b", '"a b"'), ('a"b\\', '"a\\"b\\\\"')])
def test_values_of_sbatch_options_are_quoted_as_sbatch_reads_them(value: str, written: str) -> None:
    assert quoted(value) == written


FREE = [
    *(
        {name: "TEXT"}
        for name in ("partition", "account", "qos", "reservation", "constraint", "exclude", "venv", "conda")
    ),
    *({name: ["TEXT"]} for name in ("extra", "modules", "before", "after")),
    {"environment": {"MY_VALUE": "TEXT"}},
    {"mail": {"to": "TEXT"}},
    *({"container": {"runtime": "pyxis", "image": "x", name: "TEXT"}} for name in ("image", "python")),
    {"container": {"runtime": "pyxis", "image": "x", "mounts": ["TEXT"]}},
]
"""Every field of a profile that holds free text."""


@pytest.mark.parametrize("profile", FREE, ids=str)
@pytest.mark.parametrize("end", ["\n", "\r", "\x00", "\x1b", "\u2028"])
def test_values_of_more_than_one_line_are_refused(profile: dict[str, object], end: str, tmp_path: Path) -> None:
    written = json.dumps(profile).replace("TEXT", json.dumps(f"a{end}#SBATCH --uid=0")[1:-1])
    (tmp_path / "p.yaml").write_text(written)
    with pytest.raises(JobError, match="one line of printable characters"):
        load_profile(tmp_path / "p.yaml")


@pytest.mark.parametrize("path", ["/runs/a\nrm -rf b", "/runs/a\\b"])
def test_a_run_folder_that_no_script_can_name_is_refused(path: str) -> None:
    with pytest.raises(RequestError, match="a batch script cannot"):
        render_script("x", [Path(path)], Profile())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus_per_node: 2", "gpu_memory is missing"),
        ("{conda: a, venv: b}", "conda and venv both set"),
        ("{time: '5', signal_seconds: 300}", "is not less than the time limit"),
        ("time: 1:2:3:4", "a time limit as SLURM writes it"),
        ("memory: much", "memory"),
        ("partiton: gpu", "partition"),
        ("environment: {'A B': c}", "environment"),
        ("container: {runtime: docker, image: x}", "pyxis"),
        ("nodes: 0", "nodes"),
        ("venv: ~nobody-here/venv", "p.yaml:1:1: venv: .*there is no user 'nobody-here' on this machine"),
    ],
)
def test_a_bad_profile_is_told_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(RequestError, match=message) as error:
        load_profile(tmp_path / "p.yaml")
    assert "p.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("said", "written"),
    [
        *(("64G", "65536M"), ("2000", "2000M"), (2000, "2000M"), ("3g", "3072M"), ("1T", "1048576M")),
        *(("2GiB", "2048M"), ("512K", "1M"), ("0", "0M")),
    ],
)
def test_memory_is_taken_as_sbatch_takes_it(said: object, written: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("partition: x")
    profile = load_profile(tmp_path / "p.yaml", {"memory": said})
    assert f"#SBATCH --mem={written}\n" in render_script("x", [Path("/runs/a")], profile)
    assert profile.hardware.memory > 2**30 or said == "512K"


def test_without_slurm_submit_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(RequestError, match="sbatch is not found: SLURM is not installed"):
        scheduler.submit(tmp_path / "job.sbatch")


@pytest.mark.parametrize(
    ("call", "command"),
    [(scheduler.job_state, "scontrol"), (scheduler.cancel, "scancel")],
)
def test_a_command_of_slurm_that_is_missing_is_named(
    call: Callable[[str], object], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(
        RequestError, match=f"{command} cannot be started: No such file.*has to be on the PATH"
    ) as error:
        call("7")
    assert error.value.exit_code == 2
