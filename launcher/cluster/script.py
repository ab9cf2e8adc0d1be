"""The batch script of a run, rendered from `slurm/job.sbatch`, every value quoted."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

from launcher.cluster.profile import Container, Profile
from launcher.errors import RequestError
from launcher.job.places import resolve_from

TEMPLATE = Path(__file__).parent.parent / "slurm" / "job.sbatch"
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def render_script(name: str, runs: Sequence[Path], profile: Profile, after: str | None = None) -> str:
    """The script that runs each of `runs`, as an array where there are several.

    after: number of the job that must have gone well before
    Raises RequestError for a path that no batch script can hold.
    """
    from jinja2 import Environment, StrictUndefined

    for run in runs:
        if not str(run).isprintable() or "\\" in str(run):  # sbatch takes a backslash out of the name of its output
            raise RequestError(
                f"{str(run)!r} contains characters that a batch script cannot hold; choose another launch.runs"
            )
    on_nodes, here = _commands(profile, runs)
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        options=list(_options(name, runs, profile, after)),
        runs=[shlex.quote(str(run)) for run in runs],
        modules=[shlex.quote(module) for module in profile.modules],
        conda=None if profile.conda is None else shlex.quote(profile.conda),
        environment={variable: shlex.quote(value) for variable, value in profile.environment.items()},
        before=profile.before,
        after=profile.after,
        cpus=profile.cpus_per_node,
        on_nodes=[_array_word(word) for word in on_nodes],
        here=[_array_word(word) for word in here],
        exclude="" if profile.exclude is None else shlex.quote(f"{profile.exclude},"),
        only_this='--array="$SLURM_ARRAY_TASK_ID" ' if len(runs) > 1 else "",
        task="_$SLURM_ARRAY_TASK_ID" if len(runs) > 1 else "",
        max_requeues=profile.max_requeues,
    )


def _options(name: str, runs: Sequence[Path], profile: Profile, after: str | None) -> Iterator[str]:
    """What sbatch is asked for, one option a line."""
    given = {
        "job-name": name,
        "output": _output(runs),
        "open-mode": "append",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "reservation": profile.reservation,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "nodes": str(profile.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(profile.cpus_per_node),
        "gpus-per-node": str(profile.gpus_per_node) if profile.gpus_per_node else None,
        "mem": _mebibytes(profile),
        "time": profile.time,
        "signal": f"B:USR1@{profile.signal_seconds}",
        "array": f"0-{len(runs) - 1}" if len(runs) > 1 else None,
        "dependency": None if after is None else f"afterok:{after}",
        "kill-on-invalid-dep": None if after is None else "yes",
        "mail-user": None if profile.mail is None else profile.mail.to,
        "mail-type": None if profile.mail is None else ",".join(profile.mail.on),
    }
    yield "--requeue"
    for option, value in given.items():
        if value is not None:
            yield f"--{option}={quoted(value)}"
    yield from profile.extra


def quoted(value: str) -> str:
    """A value as sbatch reads it in a script: in double quotes, where it takes a backslash before any character."""
    if _PLAIN.fullmatch(value):
        return value
    return '"' + re.sub(r'([\\"])', r"\\\1", value) + '"'


def _array_word(word: str) -> str:
    """A word of a bash array; a comma alone is harmless there, but looks like a mistake."""
    quoted_word = shlex.quote(word)
    return f"'{word}'" if quoted_word == word and "," in word else quoted_word


def _output(runs: Sequence[Path]) -> str:
    """Where the script's output goes, by the job's number as `jobs` has it; a `%` of the path itself is doubled."""
    folder, name = (runs[0], "slurm-%j.out") if len(runs) == 1 else (runs[0].parent, "slurm-%A_%a.out")
    return f"{str(folder).replace('%', '%%')}/{name}"


def _mebibytes(profile: Profile) -> str | None:
    from launcher.plan.table import parse_size

    return None if profile.memory is None else f"{ceil(parse_size(profile.memory) / 2**20)}M"


def _commands(profile: Profile, runs: Sequence[Path]) -> tuple[list[str], list[str]]:
    """What stands before `-m launcher.…` on all nodes, under srun, and on the first one, in the batch script."""
    container = profile.container
    if container is None:
        python = "python" if profile.conda is not None else sys.executable
        python = python if profile.venv is None else str(resolve_from(profile.venv, None).absolute() / "bin" / "python")
        return [python, "-P"], [python, "-P"]
    mounts = [*container.mounts, *dict.fromkeys(f"{run.parent}:{run.parent}" for run in runs)]
    if container.runtime == "apptainer":
        inside = _apptainer(container, mounts, profile.gpus_per_node > 0)
        return inside, inside
    inside = _pyxis(container, mounts)
    return inside, ["srun", "--overlap", "--nodes=1", "--ntasks=1", *inside]


def _pyxis(container: Container, mounts: Sequence[str]) -> list[str]:
    flags = [f"--container-image={container.image}", f"--container-mounts={','.join(mounts)}"]
    return [*flags, "--container-mount-home", container.python, "-P"]


def _apptainer(container: Container, mounts: Sequence[str], gpus: bool) -> list[str]:
    binds = [word for mount in mounts for word in ("--bind", mount)]
    return ["apptainer", "exec", *(["--nv"] if gpus else []), *binds, container.image, container.python, "-P"]
