"""A job in Python: read from a file, or built from sections with the keys of the job file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from pydantic import PrivateAttr

from launcher.job import schema
from launcher.job.reading.job_file import PYTHON, check_job, load_job

Section = Mapping[str, Any]
"""The keys of a section of the job file, those of sections below it included; paths may be `Path`s."""


class Sections(TypedDict, total=False):
    """The top level of the job file, described in docs/reference/job-file.md."""

    name: Required[str]
    model: Required[Section]
    task: Required[str]
    data: Required[Section]
    train: Section
    validation: Section
    verdict: Section
    checkpoint: Section
    adapt: Section
    engine: Section
    launch: Section
    track: str | Sequence[str | Section]


class Job(schema.Job):
    """One job, checked when it is made: `Job.from_file("job.yaml")`, or `Job(name="x", model={…}, …)`.

    Its values are read as attributes (`job.train.optimizer.lr`), and cannot be changed.
    """

    _file: Path = PrivateAttr(PYTHON)

    def __init__(self, **sections: Unpack[Sections]) -> None:
        """Sections with the keys of the job file; relative paths are relative to the working directory.

        Raises JobError with all problems at once.
        """
        super().__init__(**dict(check_job(sections, Path.cwd())))

    @classmethod
    def from_file(cls, file: str | PathLike[str], sets: Sequence[str] = ()) -> Job:
        """Read a job file.

        sets: values that go over the file's, such as `train.optimizer.lr=1e-5`
        Raises JobError with all problems at once.
        """
        path = Path(file)
        job = cls.model_construct(**dict(load_job(path, sets)))
        job._file = path
        return job

    @property
    def file(self) -> Path:
        """The file it was read from; `Python` where there is none."""
        return self._file
