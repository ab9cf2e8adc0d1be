"""The reference page of profiles, made from the fields' own descriptions."""

from __future__ import annotations

from launcher.cluster.profile import Profile
from launcher.job.reference import tables

PAGE = "reference/profile.md"
HEAD = """\
# The profile of a cluster

A YAML file that says what a cluster wants of a batch job and what its nodes have. Unknown keys are errors.
[The guide to SLURM](../guides/slurm.md) says how it is used. `make docs` writes this page from the descriptions in
`launcher/cluster/profile.py`.
"""


def page() -> str:
    """The page."""
    return tables(HEAD, Profile)
