"""The reference page of profiles is the profile's own fields."""

from __future__ import annotations

from launcher.cluster import reference
from launcher.cluster.profile import Profile
from launcher.job.reference import DOCS


def test_the_page_is_made_from_the_fields_as_they_are() -> None:
    assert (DOCS / reference.PAGE).read_text() == reference.page(), "run: make docs"


def test_every_key_is_described() -> None:
    page = reference.page()
    assert all(f"| `{name}` |" in page for name in Profile.model_fields)
    assert not [line for line in page.splitlines() if line.endswith(("| None |", "|  |"))]
