"""A cluster's profile: what its administrators and its hardware ask of a batch job, one YAML file a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from launcher.errors import RequestError
from launcher.job.places import why_unusable
from launcher.job.reading.job_file import load_section
from launcher.job.sections.section import Section, as_text
from launcher.plan.hardware import Gpu, Hardware
from launcher.plan.table import parse_size


def _one_line(text: str) -> str:
    if any(not character.isprintable() for character in text):
        raise ValueError("one line of printable characters")
    return text


def _folder(text: str) -> str:
    unusable = why_unusable(text, None)
    if unusable:
        raise ValueError(f"the path of a folder; {unusable}")
    return text


def _size(text: str) -> str:
    try:
        parse_size(text)
    except RequestError as error:
        raise ValueError(str(error)) from None
    return text


def _time_limit(text: str) -> str:
    seconds_of(text)
    return text


def seconds_of(time_limit: str) -> int:
    """SLURM's `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours[:minutes[:seconds]]` in seconds."""
    n = "([0-9]{1,9})"
    found = re.fullmatch(rf"(?:{n}-{n}(?::{n})?(?::{n})?)|(?:{n}:{n}:{n})|(?:{n}(?::{n})?)", time_limit)
    if found is None:
        raise ValueError("a time limit as SLURM writes it: 90 (minutes), 12:00:00 or 2-00:00:00")
    days, d_hours, d_minutes, d_seconds, hours, minutes, seconds, m_minutes, m_seconds = (
        int(part or 0) for part in found.groups()
    )
    return (
        86400 * days + 3600 * (d_hours + hours) + 60 * (d_minutes + minutes + m_minutes)
        + d_seconds + seconds + m_seconds
    )  # fmt: skip


def _host_memory(text: str) -> str:
    """Where the unit is a letter or missing, what sbatch takes it for: `64G` is 64GiB, `64000` is 64000MiB."""
    found = re.fullmatch(r"\s*([0-9]{1,15})\s*([KMGT]?)\s*", text, re.IGNORECASE)
    return _size(text) if found is None else f"{found[1]}{(found[2] or 'M').upper()}iB"


Line = Annotated[str, AfterValidator(_one_line)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Mail(Section):
    """Mail from the scheduler."""

    to: Line = Field(description="Address.")
    on: tuple[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "ALL"], ...] = Field(
        ("END", "FAIL"), description="Events to send mail for."
    )


class Container(Section):
    """The container that the ranks run in; adaptrun is installed inside."""

    runtime: Literal["pyxis", "apptainer"] = Field(description="How the cluster runs containers.")
    image: Line = Field(description="The image, in the runtime's notation.")
    mounts: tuple[Line, ...] = Field(
        (), description="Mounts as `outside:inside` paths; must include the runs and the data."
    )
    python: Line = Field("python3", description="The Python interpreter in the container.")


class Profile(Section):
    """One cluster, or one way to use it."""

    partition: Line | None = Field(None, description="Queue; absent: the cluster's default.")
    account: Line | None = Field(None, description="Account that the time is charged to.")
    qos: Line | None = Field(None, description="Quality of service.")
    reservation: Line | None = Field(None, description="Reservation that the nodes come from.")
    constraint: Line | None = Field(None, description="Features that the nodes must have.")
    exclude: Line | None = Field(None, description="Nodes that must not be used.")
    nodes: PositiveInt = Field(1, description="Number of nodes.")
    processes_per_node: Literal["auto"] | PositiveInt = Field(
        "auto", description="auto: one per GPU; without GPUs, `launch.processes` or one per core."
    )
    gpus_per_node: NonNegativeInt = Field(0, description="GPUs of each node.")
    gpu_memory: Annotated[str, AfterValidator(_size)] | None = Field(
        None,
        description="Memory of each GPU, such as 80GiB; required with GPUs, since the plan is made "
        "before the job has them.",
    )
    gpu_capability: PositiveFloat = Field(8.0, description="Compute capability of the GPUs; bf16 needs 8.0 or more.")
    cpus_per_node: PositiveInt = Field(1, description="CPU cores of each node.")
    memory: Annotated[str, BeforeValidator(as_text), AfterValidator(_host_memory)] | None = Field(
        None,
        description="Host memory of each node, as sbatch takes it (`200G`, `64000` MiB, `0`: all) or with a unit "
        "(200GiB, 200GB); absent: the cluster's default.",
    )
    time: Annotated[str, BeforeValidator(as_text), AfterValidator(_time_limit)] = Field(
        "60", description="Time limit as SLURM writes it: minutes, m:s, h:m:s or d-h:m:s; `20:00` is 20 minutes."
    )
    mail: Mail | None = Field(None, description="Mail from the scheduler.")
    extra: tuple[Line, ...] = Field((), description="Further options of sbatch, such as `--exclusive`.")
    modules: tuple[Line, ...] = Field((), description="Environment modules to load.")
    conda: Line | None = Field(None, description="Conda environment, by name or path, that holds adaptrun.")
    venv: Annotated[Line, AfterValidator(_folder)] | None = Field(
        None, description="Virtual environment that holds adaptrun; absent: the one that runs `submit`."
    )
    container: Container | None = Field(None, description="The container that the ranks run in.")
    environment: dict[Variable, Line] = Field(default_factory=dict, description="Environment variables of the ranks.")
    before: tuple[Line, ...] = Field((), description="Lines of bash before the ranks start, copied unchanged.")
    after: tuple[Line, ...] = Field((), description="Lines of bash when the job is done or has failed.")
    signal_seconds: PositiveInt = Field(
        300, description="Seconds before the time limit at which the scheduler asks for a stop."
    )
    max_requeues: NonNegativeInt = Field(20, description="The most often that a run is requeued automatically.")

    @property
    def hardware(self) -> Hardware:
        """What each node has, for the plan."""
        gpu = Gpu("GPU", parse_size(self.gpu_memory or "0B"), self.gpu_capability)
        memory = parse_size(self.memory or "0B") or 2**50  # unknown: no reason to refuse
        return Hardware((gpu,) * self.gpus_per_node, self.cpus_per_node, memory)

    @property
    def seconds(self) -> int:
        """The time limit."""
        return seconds_of(self.time)


SBATCH_OPTIONS = {
    "time": "time",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "reservation": "reservation",
    "constraint": "constraint",
    "exclude": "exclude",
    "nodes": "nodes",
    "gpus_per_node": "gpus-per-node",
    "gpu_memory": "gpu-memory",
    "cpus_per_node": "cpus-per-task",
    "memory": "mem",
    "extra": "sbatch",
}
"""The field of the profile that each option of `submit` overrides, by field. `extra` is added to, not replaced."""


def load_profile(path: Path, options: Mapping[str, object] | None = None) -> Profile:
    """Read and check a profile. Raises JobError with all problems at once, RequestError where two fields disagree.

    options: values by field that override the file's
    """
    given = {
        field: (f"--{SBATCH_OPTIONS[field]} {value}", value)
        for field, value in (options or {}).items()
        if value is not None and value != []
    }
    origin = "start from slurm/example.yaml of adaptrun (docs/reference/profile.md)"
    profile = load_section(path, Profile, origin, given)
    if profile.gpus_per_node and profile.gpu_memory is None:
        raise RequestError(f"{path}: gpu_memory is missing: with {profile.gpus_per_node} GPUs, write such as 80GiB")
    ways = [name for name in ("conda", "venv", "container") if getattr(profile, name) is not None]
    if len(ways) > 1:
        raise RequestError(f"{path}: {' and '.join(ways)} both set where adaptrun is installed; keep one")
    if profile.seconds <= profile.signal_seconds:
        raise RequestError(
            f"{path}: signal_seconds ({profile.signal_seconds}) is not less than the time limit of {profile.seconds} s"
        )
    return profile
