"""`adaptrun consolidate`: `python -m launcher.worker.requests.consolidate FOLDER`, with request.json in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from launcher.run.folder import RunFolder, write_whole
from launcher.worker.rank.process import RankEnv, RankProcess


def main() -> None:
    """Do what the request says and leave the count of tensors."""
    folder = RunFolder(Path(sys.argv[1]))
    process = RankProcess(RankEnv(), folder)
    process.keep_output()

    def work() -> None:
        from launcher.checkpoint.consolidating import consolidate

        request = json.loads((folder.path / "request.json").read_text(encoding="utf-8"))
        skeleton, notes = request["skeleton"], list[str]()
        tensors = consolidate(
            Path(request["checkpoint"]),
            Path(request["output"]),
            request["dtype"],
            None if skeleton is None else Path(skeleton),
            request["prefix"],
            notes.append,
            request["trusted"],
        )
        write_whole(folder.result_file, json.dumps({"tensors": tensors, "notes": notes}))

    process.run(work)


if __name__ == "__main__":
    main()
