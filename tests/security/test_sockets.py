"""Where a run listens: on the loopback alone where all ranks are on one machine, else on the cluster's interface."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from launcher.run.folder import RunFolder
from launcher.run.network import ANYWHERE, address_towards
from launcher.run.rendezvous import TOKEN
from launcher.supervise.processes import Rendezvous, run_agent
from tests.cli import start
from tests.small_run import write_job

JOINED = """
import sys
from launcher.worker.rank.process import RankProcess

def work():
    from launcher.worker.rank.world import World
    with World.at(process.place, "cpu").joined(2) as world:
        assert world.sum([1.0]).item() == world.size
        print("joined", flush=True)
        sys.stdin.read()
        world.wait()

process = RankProcess.here()
process.run(work)
"""


def listening(process: psutil.Process) -> set[str]:
    """The addresses that a process and those below it listen on."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found |= {c.laddr.ip for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def test_a_run_on_one_machine_listens_on_the_loopback_alone(tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    launcher = start("train", "job.yaml", "--set", "train.max_steps=5", cwd=tmp_path)
    seen: set[str] = set()
    while launcher.poll() is None:
        seen |= listening(psutil.Process(launcher.pid))
    assert launcher.returncode == 0, (tmp_path / "stderr").read_text()
    assert seen == {"127.0.0.1"}


def test_ranks_on_several_machines_listen_on_the_interface_between_them(tmp_path: Path) -> None:
    """Two launchers, as on two machines, which know each other by an address that is not the loopback."""
    address = address_towards(ANYWHERE)
    if address.startswith("127."):
        pytest.skip("this machine has no other interface")
    leading = Rendezvous.at(address, "secret", nodes=2)
    assert leading.listener is not None
    assert leading.listener.getsockname()[0] == address
    other = Rendezvous(leading.endpoint, "secret", nodes=2, node=1)
    seen: set[str] = set()
    ended: list[bool] = []

    def launch(rendezvous: Rendezvous) -> None:
        def look() -> None:
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if JOINED in child.cmdline():
                        seen.update(listening(child))

        folder = RunFolder(tmp_path / str(rendezvous.node))
        folder.logs.mkdir(parents=True)
        command = [sys.executable, "-P", "-c", JOINED]
        ended.append(run_agent(command, 1, 1, folder, [look], rendezvous=rendezvous))

    threads = [threading.Thread(target=launch, args=(place,)) for place in (leading, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [True, True]
    assert seen == {address}


@pytest.fixture
def by_hand() -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks that a shell has started, which wait until their input is closed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PATH": "/usr/bin:/bin"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED],
            env=told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    yield ranks
    for rank in ranks:
        rank.kill()
        rank.wait()
        for pipe in (rank.stdin, rank.stdout):
            assert pipe is not None
            pipe.close()


def test_ranks_that_were_started_by_hand_on_one_machine_do_too(by_hand: list[subprocess.Popen[str]]) -> None:
    for rank in by_hand:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "joined\n"
    assert set().union(*(listening(psutil.Process(rank.pid)) for rank in by_hand)) == {"127.0.0.1"}
    for rank in by_hand:
        assert rank.stdin is not None
        rank.stdin.close()
    assert [rank.wait(60) for rank in by_hand] == [0, 0]


def test_the_keys_of_a_run_stand_behind_its_token(tmp_path: Path) -> None:
    """A rank with another token meets nobody: what it asks for is not there."""
    code = """
import datetime, os, sys
import torch.distributed as dist
from launcher.worker.rank.world import _store
store = _store(int(os.environ["RANK"]), 2, False, datetime.timedelta(seconds=5))
store.set("key of " + os.environ["RANK"], "value")
store.get("key of 0")
"""
    folder = RunFolder(tmp_path)
    folder.logs.mkdir()
    assert run_agent([sys.executable, "-P", "-c", code], 2, 1, folder, [])
    stray = f"import os\nif os.environ['RANK'] == '1': os.environ['{TOKEN}'] = 'another'\n{code}"
    assert not run_agent([sys.executable, "-P", "-c", stray], 2, 1, folder, [])
