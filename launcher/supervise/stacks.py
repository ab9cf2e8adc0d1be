"""Reading the stacks that a rank wrote to its log when asked: where it is, and whether it waits for others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FRAME = re.compile(r'\s*File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')
_HEADING = re.compile(r"(Current t|T)hread 0x[0-9a-f]+.*\(most recent call first\):")
_OTHER_THREAD = "_bootstrap"
"""The outermost call of every thread but the main one."""
_WAITING = ("torch/distributed/", "deepspeed/comm/", "torch/autograd/graph.py")
"""Files whose code the main thread is in while it waits for other ranks; the backward pass reduces gradients."""


@dataclass(frozen=True)
class Frame:
    """One call of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f'  File "{self.file}", line {self.line} in {self.function}'


@dataclass(frozen=True)
class Stack:
    """What a rank's main thread was doing, the innermost call first."""

    frames: tuple[Frame, ...]

    @property
    def waits_for_others(self) -> bool:
        """Whether the innermost call is a collective, or the backward pass that holds one."""
        return any(part in self.frames[0].file for part in _WAITING)

    def __str__(self) -> str:
        return "\n".join(str(frame) for frame in self.frames)


def dumped_stack(log: Path, start: int) -> Stack | None:
    """The stack of a rank's main thread in what its log holds from byte `start` on, None where it wrote none."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    stacks: list[list[Frame]] = []
    for line in text.splitlines():
        if _HEADING.match(line):
            stacks.append([])
        elif stacks and (found := _FRAME.match(line)):
            stacks[-1].append(Frame(found["file"], int(found["line"]), found["function"]))
    main = [frames for frames in stacks if frames and frames[-1].function != _OTHER_THREAD]
    return Stack(tuple(main[-1])) if main else None
