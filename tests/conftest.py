"""Fixtures that many tests share."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub's client, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else threads that wait take the cores that other tests need

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from launcher.run.forking import FORK_SERVER
from launcher.supervise.fork_server import fork_server
from tests.cli import ENVIRONMENT, INHERITED
from tests.small_run import trained
from tests.tiny import tiny_model_folder
from tests.worlds import Worlds

__all__ = ["trained"]


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """Without it glibc keeps what the tests of each file have freed, some gigabytes by the end."""
    yield
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


@pytest.fixture(scope="session", autouse=True)
def ranks_are_forked() -> Iterator[None]:
    """The ranks of what `adaptrun` and `run` start share what they import."""
    with patch.dict(os.environ, INHERITED, clear=True), fork_server(threads=1):
        yield


@pytest.fixture(scope="module", autouse=True)
def environment_of_commands(ranks_are_forked: None) -> None:
    """Without what libraries have set while they were imported: the fork server would refuse an environment with it."""
    for name in {*os.environ} - {*ENVIRONMENT, FORK_SERVER, "PYTEST_CURRENT_TEST"}:
        del os.environ[name]


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    """Real gloo worlds of any size, kept alive across the tests of a file."""
    worlds = Worlds()
    yield worlds
    worlds.end()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a very small BERT at random and its tokenizer."""
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rounds N`: how often the tests of random moments and faults try."""
    parser.addoption("--rounds", type=int, default=7, help="rounds of the tests that draw moments and faults")


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often a test of random events tries."""
    given: int = request.config.getoption("--rounds")
    return given
