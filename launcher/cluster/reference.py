"""The reference page of profiles, made from the fields' own descriptions."""

from __future__ import annotations

from launcher.cluster.profile import Profile
from launcher.job.reference import tables

PAGE = "reference/profile.md"
HEAD = """\
# The profile of a cluster

A YAML file with the cluster's options for a batch job and the hardware of its nodes. Unknown keys are errors.
[The guide to SLURM](../guides/slurm.md) shows how to use it. `make docs` writes this page from the descriptions in
`launcher/cluster/profile.py`.
"""


def page() -> str:
    """The page."""
    return tables(HEAD, Profile)
