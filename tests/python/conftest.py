"""The finished run that the tests of the commands look at too."""

from __future__ import annotations

from tests.start.conftest import trained

__all__ = ["trained"]
