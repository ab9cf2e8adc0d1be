"""An addition takes the files that docs/extending names and no others, and then works on two processes.

`tests/additions/` holds the new files of each, laid out as in the repository; what they put into files that are there
already is below.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

import launcher.methods
import launcher.tasks
from launcher.run.events import EventTail, Step
from tests.adapt.domains import write_domain
from tests.cli import run

REPOSITORY = Path(__file__).parents[1]
ADDITIONS = Path(__file__).parent / "additions"
DOCS = REPOSITORY / "docs/extending"
CODE = ("launcher", "models", "ds_configs", "slurm", "examples")
"""What is copied: the package, and the folders that it links to."""


@dataclass(frozen=True)
class Addition:
    """Something new.

    row: what docs/extending/index.md calls it
    stem: NAME in the names of its files
    edits: text of a file that is there already, and what stands in its place afterwards
    """

    row: str
    stem: str
    edits: dict[str, tuple[tuple[str, str], ...]]

    @property
    def folder(self) -> Path:
        """Its new files."""
        return ADDITIONS / self.stem

    def put_into(self, copy: Path) -> None:
        """Add it to a copy of the repository."""
        shutil.copytree(self.folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for name, edits in self.edits.items():
            text = (copy / name).read_text()
            for old, new in edits:
                assert text.count(old) == 1, f"{name}: {old}"
                text = text.replace(old, new)
            (copy / name).write_text(text)


STARTER = '    "text-length": Starter("minilm", "{}.csv", ", text: text"),\n'
MEANS = '''class Means(Adapting):
    """Equal means of the features in both domains."""

    target: ClassVar[TargetUse] = "alongside"
    needs: ClassVar[Needs] = "features"

    method: Literal["means"] = numbers(description="Add the squared distance of the means.")
    weight: PositiveFloat = numbers(1.0, description="Weight of this loss.")
    target_batch_size: TargetBatch = "auto"


'''
BIASES = '''class Biases(AdapterKind):
    """The biases alone."""

    kind: Literal["biases"] = numbers(description="Only biases and the head are trained.")

    def trains(self, name: str) -> bool:
        """Whether it is a bias."""
        return name.endswith(".bias")


AnyAdapters = Annotated[LowRank | Biases, Field(discriminator="kind")]
'''
SCALES = '''class Scales(AdapterKind):
    """A number for each output."""

    kind: Literal["scales"] = numbers(description="What the linear layers give is multiplied by trained numbers.")
    merge: bool = report(False, description="Leave the whole model in `model/`.")

    @property
    def layers(self) -> Layers:
        """All of the repeated blocks."""
        return "auto"

    @property
    def added_to_layer(self) -> AddedToLayer:
        """The numbers."""
        return AddedToLayer(magnitudes=True)

    @property
    def is_merged(self) -> bool:
        """As the job says."""
        return self.merge


AnyAdapters = Annotated[LowRank | Scales, Field(discriminator="kind")]
'''
ALL_REDUCE = """    if name == "all_reduce":
        from launcher.engines.all_reduce import AllReduced

        return TorchEngine(settings, AllReduced(settings))
"""
COUNT = '''@app.command()
def count(job: JobFile, processes: Processes = None) -> None:
    """Count the words of the training data."""
    from launcher.commands.count import count_words
    from launcher.job.reading.job_file import load_job

    count_words(load_job(job), processes or 1)


'''
REQUEST = '''class CountAnswer(Answer):
    """Words of all files, and how many ranks looked."""

    words: int
    ranks: int


class CountRequest(Request[CountAnswer]):
    """Count the words of files."""

    files: tuple[str, ...]


'''

ALL = (
    Addition(
        "a task",
        "text_length",
        {
            "launcher/job/sections/tasks.py": (
                ("FAMILIES = {\n", 'FAMILIES = {\n    "text-length": "text_length:TextLength",\n'),
            ),
            "launcher/job/starter.py": (("STARTERS = {\n", f"STARTERS = {{\n{STARTER}"),),
        },
    ),
    Addition(
        "a method",
        "means",
        {
            "launcher/adapt/methods/__init__.py": (
                ("METHODS = {\n", 'METHODS = {\n    "means": "means:MeanAlignment",\n'),
            ),
            "launcher/job/sections/methods.py": (("DomainMethod = ", f"{MEANS}DomainMethod = Means | "),),
        },
    ),
    Addition(
        "an adapter",
        "biases",
        {
            "launcher/adapt/adapters/__init__.py": (("ADAPTERS = {", 'ADAPTERS = {"biases": "biases:train_biases", '),),
            "launcher/job/sections/adapters.py": (("AnyAdapters = LowRank\n", BIASES),),
        },
    ),
    Addition(
        "an adapter that adds weights",
        "scales",
        {
            "launcher/adapt/adapters/__init__.py": (("ADAPTERS = {", 'ADAPTERS = {"scales": "scales:add_scales", '),),
            "launcher/job/sections/adapters.py": (("AnyAdapters = LowRank\n", SCALES),),
            "models/weights/adapters.py": (
                (
                    "from launcher.models.weights.low_rank import LowRankFormat\n",
                    "from launcher.models.weights.low_rank import LowRankFormat\n"
                    "from launcher.models.weights.scales import ScalesFormat\n",
                ),
                ('{"LORA": LowRankFormat()}', '{"LORA": LowRankFormat(), "IA3": ScalesFormat()}'),
            ),
        },
    ),
    Addition(
        "an engine",
        "all_reduce",
        {
            "launcher/engines/__init__.py": (('    if name == "ddp":\n', f'{ALL_REDUCE}    if name == "ddp":\n'),),
            "launcher/plan/engines/__init__.py": (
                (
                    "from launcher.plan.engines.ddp import",
                    "from launcher.plan.engines.all_reduce import AllReduce\nfrom launcher.plan.engines.ddp import",
                ),
                ("DeepSpeed())}", "DeepSpeed(), AllReduce())}"),
            ),
            "launcher/job/schema.py": (
                ('Literal["auto", "single", "ddp",', 'Literal["auto", "single", "all_reduce", "ddp",'),
            ),
        },
    ),
    Addition(
        "a command that needs ranks",
        "count",
        {
            "launcher/cli.py": (("def with_trust(", f"{COUNT}def with_trust("),),
            "launcher/job/requests.py": (
                ("class SelfcheckMaterialRequest(", f"{REQUEST}class SelfcheckMaterialRequest("),
            ),
            "launcher/worker/__main__.py": (
                ("    asked.ShapesRequest:", '    asked.CountRequest: "count:serve",\n    asked.ShapesRequest:'),
            ),
        },
    ),
)


def copy_of_the_code(folder: Path) -> Path:
    """The code as it is tracked or would be, links kept."""
    for name in CODE:
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def contents(copy: Path) -> dict[str, str]:
    """A hash of each file by its name; what lies behind a link has the name of its own place."""
    files = [file for file in copy.rglob("*") if file.is_file() and not any(p.is_symlink() for p in file.parents)]
    return {str(file.relative_to(copy)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def row_of(what: str) -> list[str]:
    """The cells of what an addition touches: new files, places, sometimes, page."""
    table = (DOCS / "index.md").read_text().partition("## The files that an addition to adaptrun touches")[2]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and re.sub(r"\[(.*)\]\(.*\)", r"\1", cells[0]) == what:
            return cells[1:]
    raise AssertionError(f"docs/extending/index.md has no row of {what}")


def paths_in(cell: str) -> set[str]:
    return set(re.findall(r"`([\w./]+\.py)`", cell))


@pytest.mark.parametrize("addition", ALL, ids=lambda addition: addition.stem)
def test_it_takes_exactly_the_files_that_the_page_names(addition: Addition, tmp_path: Path) -> None:
    copy = copy_of_the_code(tmp_path)
    before = contents(copy)
    addition.put_into(copy)
    after = contents(copy)
    new, places, sometimes, _ = row_of(addition.row)
    assert set(after) - set(before) == {path.replace("NAME", addition.stem) for path in paths_in(new)}
    assert {name for name in before if after[name] != before[name]} == paths_in(places)
    assert not paths_in(sometimes) & paths_in(places)
    print(f"{addition.row}: {len(paths_in(new))} new files, {len(paths_in(places))} places in others")


@pytest.mark.parametrize(("page", "row"), [("adapter", "an adapter that adds weights"), ("engine", "an engine")])
def test_the_page_of_an_addition_names_the_same_files(page: str, row: str) -> None:
    table = (DOCS / f"{page}.md").read_text().partition("## The files that it touches")[2]
    table = table.strip().partition("\n\n")[0]
    new, places, sometimes, _ = row_of(row)
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    assert {path for cell, _ in rows for path in paths_in(cell)} == paths_in(new + places + sometimes)
    assert {path for cell, text in rows if "sometimes" in text for path in paths_in(cell)} == paths_in(sometimes)
    if page == "adapter":
        plain, listed, _, _ = row_of("an adapter")
        added = {path for cell, text in rows if "if weights are added" in text for path in paths_in(cell)}
        assert paths_in(new + places) - added == paths_in(plain + listed)


@pytest.mark.parametrize(("page", "module"), [("task", launcher.tasks), ("method", launcher.methods)])
def test_what_may_be_imported_is_on_the_page(page: str, module: Any) -> None:
    text = (DOCS / f"{page}.md").read_text().partition("## What may be imported")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(module.__all__)
    assert {name for name in vars(module) if not name.startswith("_")} == set(module.__all__)


JOB: dict[str, Any] = {
    "name": "extended",
    "task": "text-classification",
    "data": {"train": "source.csv", "validation": "held.csv", "cache": "cache"},
    "train": {"max_steps": 2, "global_batch_size": 8, "max_length": 32, "optimizer": {"lr": 1e-3}},
    "launch": {"processes": 2, "device": "cpu", "max_restarts": 0},
}
USES: dict[str, dict[str, Any]] = {
    "text_length": {"task": "text-length", "validation": {"metric": "words_apart"}},
    "means": {"data": {"target": "target.csv"}, "adapt": {"method": "means", "weight": 1e9}},
    "biases": {"adapt": {"adapters": {"kind": "biases"}}},
    "all_reduce": {"engine": {"name": "all_reduce"}},
}
"""What a job says to use each addition."""
SCALED: dict[str, Any] = {"adapt": {"adapters": {"kind": "scales", "merge": True}}}


def merged(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """The job with changes, sections put together."""
    for change in changes:
        base = base | {k: base.get(k, {}) | v if isinstance(v, dict) else v for k, v in change.items()}
    return base


@dataclass(frozen=True)
class Trained:
    """What a run of a copy left, and the model that it began with."""

    run: Path
    model: Path

    def check(self, stem: str) -> None:
        """Fails where the run did not use an addition."""
        getattr(self, f"_{stem}")()

    def _text_length(self) -> None:
        [found] = json.loads((self.run / "result.json").read_text())["sets"].values()
        assert found["after"]["words_apart"] == pytest.approx(10 * found["after"]["mse"] ** 0.5)
        assert 0 < found["after"]["words_apart"] < 14
        card = (self.run / "model/README.md").read_text()
        assert "fine-tuned for text-length with" in card
        assert 'pipeline("text-classification"' in card

    def _means(self) -> None:
        losses = [event.loss for event in EventTail(self.run / "metrics.jsonl").read() if isinstance(event, Step)]
        assert losses[0] > 20, "the distance times its weight, which no task's loss is"

    def _biases(self) -> None:
        before, after = (load_file(folder / "model.safetensors") for folder in (self.model, self.run / "model"))
        body = {name.removeprefix("bert."): tensor for name, tensor in after.items() if name.startswith("bert.")}
        assert set(body) == set(before)
        moved = {name for name in before if not torch.equal(before[name], body[name])}
        assert moved
        assert all(name.endswith(".bias") for name in moved)
        count = sum(tensor.numel() for name, tensor in before.items() if name.endswith(".bias"))
        head = 2 * (32 + 1)  # of two classes, since the model's config says none
        reasons = json.loads((self.run / "plan.json").read_text())["reasons"]
        assert any(reason.startswith(f"adapters: {count + head:,} of ") for reason in reasons)

    def _all_reduce(self) -> None:
        plan = json.loads((self.run / "plan.json").read_text())
        assert (plan["engine"], plan["processes"]) == ("all_reduce", 2)


def of(copy: Path, *arguments: object, cwd: Path) -> str:
    """What a command of the copy prints; its processes import nothing of this repository."""
    program = f"import launcher.cli as cli; assert cli.__file__.startswith({str(copy)!r}); cli.main()"
    return run("env", f"PYTHONPATH={copy}", sys.executable, "-P", "-c", program, *arguments, cwd=cwd).stdout


def train(copy: Path, folder: Path, model: Path, *changes: dict[str, Any]) -> Trained:
    """A run of two processes."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(("source", "held", "target")):
        write_domain(folder / f"{name}.csv", number // 2, 24, seed=number)
    job = merged(JOB | {"model": {"pretrained": str(model), "dropout": 0.0}}, *changes)
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    of(copy, "train", "job.yaml", cwd=folder)
    return Trained(folder / "runs" / "extended", model)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with one of each."""
    copy = copy_of_the_code(tmp_path_factory.mktemp("extended"))
    for addition in ALL:
        if addition.stem != "scales":  # a job has one kind of adapters
            addition.put_into(copy)
    return copy


def test_a_run_of_two_processes_uses_them_all_at_once(extended: Path, tmp_path: Path, tiny_model: Path) -> None:
    found = train(extended, tmp_path, tiny_model, *USES.values())
    for stem in USES:
        found.check(stem)


def test_the_command_is_answered_by_two_ranks(extended: Path, tmp_path: Path) -> None:
    write_domain(tmp_path / "train.csv", 0, 24, seed=0)
    assert of(extended, "init", "--task", "text-length", cwd=tmp_path)
    words = [len(line.split()) for line in (tmp_path / "train.csv").read_text().splitlines()[1:]]
    (tmp_path / "validation.csv").write_bytes((tmp_path / "train.csv").read_bytes())
    answer = of(extended, "count", "job.yaml", "--processes", 2, cwd=tmp_path)
    assert answer == f"{sum(words)} words, counted by 2 ranks\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "addition", [addition for addition in ALL if addition.stem in USES], ids=lambda addition: addition.stem
)
def test_a_run_of_two_processes_uses_it_alone(addition: Addition, tmp_path: Path, tiny_model: Path) -> None:
    copy = copy_of_the_code(tmp_path / "copy")
    addition.put_into(copy)
    train(copy, tmp_path / "run", tiny_model, USES[addition.stem]).check(addition.stem)


def test_adapters_that_add_weights_are_left_as_peft_reads_them_and_merged(tmp_path: Path, tiny_model: Path) -> None:
    copy = copy_of_the_code(tmp_path / "copy")
    next(addition for addition in ALL if addition.stem == "scales").put_into(copy)
    found = train(copy, tmp_path / "run", tiny_model, SCALED)
    plan = json.loads((found.run / "plan.json").read_text())
    outputs = 2 * (4 * 32 + 64 + 32)
    assert any(reason.startswith(f"adapters: {outputs + 2 * (32 + 1):,} of ") for reason in plan["reasons"])
    config = AutoConfig.from_pretrained(found.run / "adapter/config")
    base = AutoModelForSequenceClassification.from_pretrained(found.model, config=config)
    scaled = PeftModel.from_pretrained(base, str(found.run / "adapter"))
    numbers = [tensor for name, tensor in scaled.named_parameters() if "ia3_l" in name]
    assert sum(tensor.numel() for tensor in numbers) == outputs
    assert not any(torch.equal(tensor, torch.ones_like(tensor)) for tensor in numbers)
    expected = scaled.merge_and_unload().state_dict()
    merged = load_file(found.run / "model/model.safetensors")
    torch.testing.assert_close(merged, {name: expected[name] for name in merged})


@pytest.mark.slow
def test_a_checkpoint_of_adapters_that_add_nothing_gives_the_same_whole_model(
    extended: Path, tmp_path: Path, tiny_model: Path
) -> None:
    found = train(extended, tmp_path / "run", tiny_model, USES["biases"])
    of(extended, "consolidate", found.run, "-o", tmp_path / "again", cwd=tmp_path)
    torch.testing.assert_close(*(load_file(f / "model.safetensors") for f in (found.run / "model", tmp_path / "again")))


@pytest.mark.slow
def test_the_engine_gives_the_numbers_of_ddp(extended: Path, tmp_path: Path, tiny_model: Path) -> None:
    ways = [{"engine": {"name": name}} for name in ("all_reduce", "ddp")]
    runs = [train(extended, tmp_path / str(number), tiny_model, way).run for number, way in enumerate(ways)]
    torch.testing.assert_close(*(load_file(folder / "model/model.safetensors") for folder in runs))
