"""A real notebook: the display changes in place, the result is a table, and interrupting saves and raises Stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from launcher.run.checkpoints import complete_checkpoints, step_of
from tests.api.test_python import wait_for_steps
from tests.cli import PATIENCE
from tests.small_run import write_job

TRAIN = """\
from launcher import Job, train
result = train(Job.from_file("job.yaml", sets=["train.epochs=20"]))
result.sets["near"].after["accuracy"]
"""
ENDLESS = 'from launcher import Job, train\ntrain(Job.from_file("job.yaml", sets=["train.epochs=300"]))'


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    write_job(tmp_path, tiny_model)
    return tmp_path


def test_a_notebook_shows_the_run_and_keeps_the_result(folder: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(TRAIN)])
    shown: list[str] = []
    client = NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(folder)}})
    process = client.process_message

    def keep(message: dict[str, Any], *rest: Any) -> Any:
        if message["msg_type"] == "update_display_data":
            shown.append(message["content"]["data"]["text/html"])
        return process(message, *rest)

    client.process_message = keep  # type: ignore[method-assign]
    client.execute()
    outputs = notebook.cells[0].outputs
    result = json.loads((folder / "runs" / "small" / "result.json").read_text())
    assert outputs[-1]["data"]["text/plain"] == str(result["sets"]["near"]["after"]["accuracy"])
    html = [output["data"].get("text/html", "") for output in outputs if output.output_type == "display_data"]
    assert any("near: 25 samples, each counted once" in each for each in html)
    assert any(re.search(r"epoch \d+/20 .* loss \d", each) for each in shown)
    assert shown[-1] == "", "the display leaves nothing behind"
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.fixture
def kernel(folder: Path) -> Iterator[tuple[Any, BlockingKernelClient]]:
    manager, client = start_new_kernel(cwd=str(folder))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_interrupting_a_cell_saves_and_raises_stopped(folder: Path, kernel: tuple[Any, BlockingKernelClient]) -> None:
    manager, client = kernel
    asked = client.execute(ENDLESS)
    wait_for_steps(folder)
    manager.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=PATIENCE))["parent_header"].get("msg_id") != asked:
        pass
    assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", "Stopped")
    (result,) = folder.glob("runs/*/result.json")
    step = json.loads(result.read_text())["steps"]
    assert f"stopped after step {step} of" in reply["content"]["evalue"]
    assert [step_of(path) for path in complete_checkpoints(result.parent / "checkpoints")][-1] == step
