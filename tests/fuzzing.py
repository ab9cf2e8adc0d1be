"""What the fuzzers share: a seed a day, which ADAPTRUN_FUZZ_SEED repeats."""

from __future__ import annotations

import os
from datetime import date


def seed_of_the_day() -> int:
    """Another one each day, so that what is run often tries new cases; printed where a test fails."""
    seed = int(os.environ.get("ADAPTRUN_FUZZ_SEED", date.today().toordinal()))
    print(f"repeat it: ADAPTRUN_FUZZ_SEED={seed}")
    return seed
