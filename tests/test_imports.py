"""Who may import whom, as a table. Data flows one way, and nothing before the ranks needs torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "launcher"

ALLOWED = {
    "errors": set(),
    "files": set(),
    "terminal": set(),
    "job": {"errors"},
    "data": {"errors", "files", "job"},
    "measure": {"errors", "files", "job", "data", "terminal"},
    "plan": {"errors", "files", "job", "data"},
    "run": {"errors", "files", "job", "plan", "measure", "terminal"},
    "tracking": {"errors", "job", "run"},
    "display": {"errors", "job", "measure", "run", "terminal"},
    "supervise": {"errors", "job", "plan", "run", "display", "tracking", "terminal"},
    "cluster": {"errors", "job", "plan", "run", "display", "supervise", "tracking", "terminal"},
    "commands": {
        "errors",
        "job",
        "data",
        "measure",
        "plan",
        "run",
        "display",
        "supervise",
        "cluster",
        "tracking",
        "terminal",
    },
    "cli": {"errors", "job", "plan", "commands", "cluster", "terminal"},
    "api": {"errors", "job", "run", "display", "supervise", "commands"},
    "models": {"errors", "job", "data"},
    "engines": {"errors", "job", "plan", "models"},
    "adapt": {"errors", "job", "models", "engines"},
    "checkpoint": {"errors", "files", "job", "run", "engines", "models"},
    "worker": {
        "errors",
        "files",
        "job",
        "data",
        "measure",
        "plan",
        "run",
        "display",
        "tracking",
        "engines",
        "checkpoint",
        "adapt",
        "models",
        "terminal",
    },
    "tasks": {"errors", "data", "models"},
    "methods": {"adapt"},
    "reference": {"job", "cluster", "run", "measure", "cli"},
}
"""What each part of `launcher` may import of it. `supervise` and `worker` meet only in the run folder."""

ROOMS = ("rank", "data", "evaluation", "training", "requests")
"""The rooms of `worker`, each of which may import those before it."""

WITHOUT_TORCH = (
    "errors",
    "files",
    "cli",
    "job",
    "data",
    "measure",
    "plan",
    "run",
    "display",
    "tracking",
    "supervise",
    "commands",
    "cluster",
    "api",
    "reference",
)
HEAVY = ("torch", "transformers", "deepspeed", "peft")


def modules() -> dict[str, Path]:
    """Every module of the package by name, the linked folders included."""
    files = [file for folder in (PACKAGE, PACKAGE / "models") for file in folder.rglob("*.py")]
    return {".".join(["launcher", *file.relative_to(PACKAGE).with_suffix("").parts]): file for file in files}


def imports_of(file: Path) -> list[tuple[ast.stmt, str]]:
    """The modules that a file imports, wherever in it; what only type checkers see is left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    hidden = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for below in ast.walk(node)
    }
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found += [(node, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def part_of(module: str) -> str:
    """`launcher.job.schema` → `job`."""
    return module.split(".")[1] if "." in module else ""


def test_every_part_is_in_the_table() -> None:
    assert {part_of(module) for module in modules()} - {"__init__", ""} == set(ALLOWED)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_it_may(part: str) -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, file in modules().items()
        if part_of(module) == part
        for _, imported in imports_of(file)
        if imported.startswith("launcher.") and part_of(imported) not in ALLOWED[part] | {part, "__version__"}
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_worker_imports_only_those_before_it(room: str) -> None:
    before = [f"launcher.worker.{name}." for name in ROOMS[: ROOMS.index(room) + 1]]
    wrong = [
        f"{module} imports {imported}"
        for module, file in modules().items()
        if module.startswith(f"launcher.worker.{room}.")
        for _, imported in imports_of(file)
        if imported.startswith("launcher.worker.") and not imported.startswith(tuple(before))
    ]
    assert not wrong


def test_every_module_of_the_worker_is_in_a_room() -> None:
    rooms = {module.split(".")[2] for module in modules() if module.startswith("launcher.worker.")}
    assert rooms == {*ROOMS, "__init__", "__main__", "fork_server"}


def test_how_many_processes_there_are_is_asked_in_one_file() -> None:
    asking = {
        module
        for module, file in modules().items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("get_world_size", "get_rank")
    }
    assert asking == {"launcher.engines.mesh"}


def test_rules_and_files_are_checked_by_whoever_starts_a_run_and_in_no_rank() -> None:
    asking = {
        module
        for module, file in modules().items()
        if part_of(module) == "worker"
        for _, imported in imports_of(file)
        if imported.startswith(("launcher.job.rules", "launcher.job.reading.job_file"))
    }
    assert asking == {"launcher.worker.rank.run_context"}, "that of a job file which is started by hand"


def test_no_module_imports_itself_in_a_circle() -> None:
    names = set(modules())
    graph = {
        module: {
            target
            for _, imported in imports_of(file)
            for target in (imported, imported.rpartition(".")[0])
            if target in names and target != module
        }
        for module, file in modules().items()
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_importing_what_runs_before_the_ranks_does_not_import_torch(part: str) -> None:
    ours = [name.removesuffix(".__init__") for name in modules() if part_of(name) == part]
    code = f"import importlib, sys\nfor name in {ours}: importlib.import_module(name)\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", "job.yaml"],
        ["gap", "job.yaml", "--no-features"],
        ["plan", "job.yaml"],
        ["train", "job.yaml", "--dry-run"],
    ],
)
def test_commands_that_only_look_do_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,b\nc,d\n")
    (tmp_path / "job.yaml").write_text(
        "{name: x, model: {pretrained: minilm}, task: text-classification, data: {train: train.csv}}"
    )
    code = (
        f"import sys\nsys.argv = ['adaptrun', *{arguments}]\n"
        "from launcher.cli import main\n"
        "try: main()\n"
        "except SystemExit as leave: assert not leave.code, leave.code\n"
        f"assert not [name for name in {HEAVY} if name in sys.modules]"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout
