"""Word of machines that are not fit for a run, left by whoever found out, for whoever decides what runs next."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.run.folder import RunFolder

_ENDING = ".unhealthy.txt"


def report_unhealthy(folder: RunFolder, node: str, faults: Sequence[str]) -> None:
    """Leave word that a machine is not fit, and why."""
    (folder.logs / f"{node}{_ENDING}").write_text("\n".join(faults) + "\n", encoding="utf-8")


def take_unhealthy(folder: RunFolder) -> dict[str, str]:
    """The machines that were reported since this was last asked, each with what speaks against it."""
    found = {}
    for file in sorted(folder.logs.glob(f"*{_ENDING}")):
        node = file.name.removesuffix(_ENDING)
        found[node] = "; ".join(file.read_text(encoding="utf-8").split("\n")).strip("; ")
        file.rename(file.with_name(f"{node}.was-unhealthy.txt"))
    return found
