"""One consolidation in a process of its own: python -m benchmarks.loops.consolidators NAME SOURCE TARGET

Prints seconds, and the most memory above what the imports took: anonymous memory, which the system cannot take back.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """Import, then measure."""
    name, source, target = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        work = STRATEGIES[name]()
        before, reached, done = anonymous_memory(), [0], threading.Event()

        def watch() -> None:
            while not done.is_set():
                reached.append(anonymous_memory())
                time.sleep(0.002)

        thread = threading.Thread(target=watch)
        thread.start()
        begun = time.perf_counter()
        work(Path(source), Path(target))
        os.sync()
        seconds = time.perf_counter() - begun
        done.set()
        thread.join()
    print(json.dumps({"seconds": seconds, "memory": (max(reached) - before) / 2**20}))


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def adaptrun() -> Callable[[Path, Path], object]:
    """Writes safetensors, reads them back and compares."""
    import deepspeed  # noqa: F401 (its pickles import it late, and it whatever trackers are installed)

    from launcher.checkpoint.consolidating import consolidate

    return lambda source, target: consolidate(source, target, "fp32", skeleton=None, prefix=None)


def zero_to_fp32() -> Callable[[Path, Path], object]:
    """DeepSpeed's own, writing safetensors."""
    import safetensors.torch  # noqa: F401 (imported late by DeepSpeed)
    from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict

    return lambda source, target: convert_zero_checkpoint_to_fp32_state_dict(
        str(source), str(target), safe_serialization=True
    )


def dcp_to_torch_save() -> Callable[[Path, Path], object]:
    """torch's own, writing a pickle."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save as convert

    return lambda source, target: convert(source, target)


STRATEGIES = {"adaptrun": adaptrun, "zero_to_fp32": zero_to_fp32, "dcp_to_torch_save": dcp_to_torch_save}

if __name__ == "__main__":
    main()
