"""torchrun's agent within the launcher: what goes wrong in it is told in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch.distributed.launcher.api as api
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

from launcher.run.folder import RunFolder
from launcher.start.processes import AgentFailed, run_agent


def test_an_agent_that_loses_the_store_is_a_failure_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        def __init__(self, *arguments: object) -> None:
            pass

        def __call__(self, *arguments: object) -> None:
            raise RendezvousConnectionError("The connection to the C10d store has failed.")

    monkeypatch.setattr(api, "elastic_launch", Lost)
    with pytest.raises(AgentFailed, match=r"agent: RendezvousConnectionError: The connection to the C10d store"):
        run_agent([sys.executable, "-c", "pass"], 2, 1, RunFolder(tmp_path), [])
