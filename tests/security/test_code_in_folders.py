"""A folder is data: code that it names runs only where the user names the same file."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launcher.checkpoint.consolidating import consolidate
from launcher.cli import main
from launcher.commands.evaluate import checked_model
from launcher.errors import JobError, ModelError
from launcher.job.pretrained import check_model_files, find_pretrained, own_code
from launcher.job.reading.job_file import load_job
from launcher.job.requests import EvaluationRequest
from launcher.job.schema import Job, Model
from launcher.worker.evaluation.inference import open_model
from tests.families import bert
from tests.tiny import write_texts

EVIL = """
from pathlib import Path
from transformers import BertConfig, BertForSequenceClassification
from launcher.models.tasks.text_classification import TextClassification

Path(__file__).with_name("it-ran").touch()


class Own(TextClassification):
    pass


def build(labels):
    return BertForSequenceClassification(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1,
                                                    intermediate_size=8, vocab_size=200, num_labels=len(labels)))
"""


class Case:
    """A model folder from elsewhere, and the file of code beside it."""

    def __init__(self, place: Path, tiny: Path) -> None:
        from transformers import AutoModelForSequenceClassification

        self.place, self.tiny, self.folder = place, tiny, place / "model"
        self.evil = place / "evil.py"
        self.evil.write_text(EVIL)
        shutil.copytree(tiny, self.folder)
        names = {0: "no", 1: "yes"}
        options = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
        AutoModelForSequenceClassification.from_pretrained(tiny, **options).save_pretrained(self.folder)

    def card(self, folder: Path | None = None, **said: object) -> Path:
        """Let a folder's card say something."""
        folder = folder or self.folder
        (folder / "adaptrun.json").write_text(json.dumps({"task": "text-classification", **said}))
        return folder

    def adapters(self, name: str, to: object, **said: object) -> Path:
        """A folder of adapters of some base."""
        folder = self.place / name
        folder.mkdir()
        shutil.copytree(self.folder, folder / "config", ignore=shutil.ignore_patterns("*.safetensors"))
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(to)}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        query = "base_model.model.bert.encoder.layer.0.attention.self.query"
        tensors = {f"{query}.lora_A.weight": torch.zeros(2, 32), f"{query}.lora_B.weight": torch.zeros(32, 2)}
        save_file(tensors, folder / "adapter_model.safetensors")
        return self.card(folder, **said)

    @property
    def ran(self) -> bool:
        """Whether the code has run."""
        return (self.place / "it-ran").exists()


def function(case: Case) -> Path:
    return case.card(function=f"{case.evil}:build")


def task(case: Case) -> Path:
    return case.card(task=f"{case.evil}:Own")


def run_of_others(case: Case) -> Path:
    case.card(function=f"{case.evil}:build")
    (case.place / "run").mkdir()
    case.folder.rename(case.place / "run" / "model")
    return case.place / "run"


def base(case: Case) -> Path:
    return case.adapters("adapters", f"{case.evil}:build", base={"tokenizer": str(case.tiny)})


def base_that_says_it_is_trusted(case: Case) -> Path:
    own = {"tokenizer": str(case.tiny), "trust_code": [str(case.evil)], "trust_remote_code": True}
    return case.adapters("adapters", f"{case.evil}:build", base=own)


def base_of_the_base(case: Case) -> Path:
    below = case.adapters("below", f"{case.evil}:build", base={"tokenizer": str(case.tiny)})
    return case.adapters("adapters", below)


def base_with_a_function(case: Case) -> Path:
    return case.adapters("adapters", function(case))


def task_of_adapters(case: Case) -> Path:
    return case.adapters("adapters", case.folder, task=f"{case.evil}:Own")


STRATEGIES = [function, task, run_of_others, base, base_that_says_it_is_trusted, base_of_the_base]
STRATEGIES += [base_with_a_function, task_of_adapters]


@pytest.fixture
def case(tmp_path: Path, tiny_model: Path) -> Case:
    return Case(tmp_path, tiny_model)


def request(case: Case, place: Path, *trusted: Path) -> EvaluationRequest:
    model = Model(pretrained=str(place), trust_code=tuple(map(str, trusted)))
    data = {"source": str(case.place / "data.csv")}
    return EvaluationRequest.model_validate({"model": model, "data": data, "cache": str(case.place / "cache")})


@pytest.mark.parametrize("way", STRATEGIES)
def test_code_that_a_folder_names_is_refused_with_its_hash_and_the_way_out(
    way: Callable[[Case], Path], case: Case
) -> None:
    place = way(case)
    digest = hashlib.sha256(EVIL.encode()).hexdigest()
    for refuse in (
        lambda: checked_model(Model(pretrained=str(place))),
        lambda: open_model(request(case, place), print),
        lambda: open_model(request(case, place, case.tiny / "config.json"), print),
    ):
        with pytest.raises(ModelError, match=rf"evil\.py \(sha256 {digest}\).* --trust-code .*evil\.py"):
            refuse()
    assert not case.ran


@pytest.mark.parametrize("way", [base, base_of_the_base, base_with_a_function, task_of_adapters])
def test_merging_adapters_runs_no_code_of_theirs(way: Callable[[Case], Path], case: Case) -> None:
    with pytest.raises(ModelError, match="--trust-code"):
        consolidate(way(case), case.place / "merged", "fp32", None, None)
    assert not case.ran
    assert not (case.place / "merged").exists()


@pytest.mark.parametrize("way", [function, run_of_others, base, base_of_the_base, base_with_a_function])
def test_a_job_runs_no_code_of_its_model_unless_it_names_the_file(way: Callable[[Case], Path], case: Case) -> None:
    place = way(case)
    write_texts(case.place / "data.csv", 8)
    job = case.place / "job.yaml"
    said = f"name: x\nmodel: {{pretrained: {place}}}\ntask: text-classification\ndata: {{train: data.csv}}\n"
    said += "train: {max_length: 16}\n"
    job.write_text(said)
    with pytest.raises(JobError, match=r"(?s)job.yaml:2:9: model.pretrained: .*model.trust_code"):
        load_job(job)
    assert load_job(job, ["model.trust_code=[evil.py]"]).model.trust_code == (str(case.evil),)
    with pytest.raises(JobError, match=r"model.trust_code: there is no .*elsewhere.py"):
        load_job(job, ["model.trust_code=[elsewhere.py]"])
    said = said.replace(str(place), str(case.tiny)).replace(
        "{train: data.csv}", "{train: data.csv, validation: data.csv, allow_leakage: true}"
    )
    job.write_text(f"{said}verdict: {{baseline: {place}}}\n")
    with pytest.raises(JobError, match=r"(?s)verdict.baseline: .*model.trust_code"):
        load_job(job)
    assert not case.ran


def test_a_task_that_the_job_names_itself_is_trusted_in_the_folders_it_names(case: Case) -> None:
    place = task(case)
    write_texts(case.place / "data.csv", 8)
    job = case.place / "job.yaml"
    job.write_text(
        f"name: x\nmodel: {{pretrained: {case.tiny}}}\ntask: evil.py:Own\ntrain: {{max_length: 16}}\n"
        f"data: {{train: data.csv, validation: data.csv, allow_leakage: true}}\nverdict: {{baseline: {place}}}\n"
    )
    loaded: Job = load_job(job)
    assert loaded.model.trust_code == (str(case.evil),)
    assert not case.ran


@pytest.mark.parametrize("way", STRATEGIES)
def test_with_the_same_file_named_the_code_runs(way: Callable[[Case], Path], case: Case) -> None:
    place = way(case)
    trusting = Model(pretrained=str(place), trust_code=(str(case.evil),))
    assert own_code(find_pretrained(trusting), trusting) == [str(case.evil)]
    if way is task:
        assert type(open_model(request(case, place, case.evil), print).task).__name__ == "Own"
        assert case.ran


def test_a_file_that_has_moved_is_the_one_that_the_user_names(case: Case) -> None:
    place = task(case)
    moved = case.place / "mine" / "evil.py"
    moved.parent.mkdir()
    case.evil.rename(moved)
    with pytest.raises(ModelError, match=r"evil\.py, which does not exist here\. .* --trust-code WHERE-IT-IS/evil.py"):
        open_model(request(case, place), print)
    open_model(request(case, place, moved), print)
    assert (moved.parent / "it-ran").exists()


def test_another_file_of_the_same_name_is_not_the_same_file(case: Case) -> None:
    place = task(case)
    other = case.place / "mine" / "evil.py"
    other.parent.mkdir()
    other.write_text(EVIL)
    with pytest.raises(ModelError, match="--trust-code"):
        open_model(request(case, place, other), print)
    assert not case.ran


@pytest.mark.parametrize("name", ["Path", "run", "later", "Own.build", "nothing"])
@pytest.mark.parametrize("key", ["function", "task"])
@pytest.mark.parametrize("is_here", [True, False])
def test_a_folder_chooses_only_what_the_trusted_file_defines_itself(
    name: str, key: str, is_here: bool, case: Case
) -> None:
    case.evil.write_text(f"from os import system as run\n{EVIL}\nlater = build\n")
    digest = hashlib.sha256(case.evil.read_bytes()).hexdigest()
    named = case.evil if is_here else Path("/gone") / case.evil.name
    with pytest.raises(ModelError, match=rf"names {name} of .*evil\.py \(sha256 {digest}\), which is no function"):
        checked_model(Model(pretrained=str(case.card(**{key: f"{named}:{name}"})), trust_code=(str(case.evil),)))
    assert not case.ran


def test_the_commands_end_with_2_and_without_a_traceback(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    function(case)
    adapters = case.adapters("adapters", f"{case.evil}:build", base={"tokenizer": str(case.tiny)})
    write_texts(case.place / "data.csv", 8)
    monkeypatch.chdir(case.place)
    for command in (
        ["evaluate", "model", "--data", "data.csv"],
        ["predict", "model", "--data", "data.csv", "-o", "answers.csv"],
        ["consolidate", str(adapters), "-o", "merged"],
    ):
        monkeypatch.setattr(sys, "argv", ["adaptrun", *command])
        with pytest.raises(SystemExit) as leaving:
            main()
        said = capsys.readouterr().err
        assert leaving.value.code == 2
        assert "--trust-code" in said
        assert "Traceback" not in said
    assert not case.ran


@pytest.mark.parametrize(
    "card",
    [
        {"task": 3},
        {"task": "nothing"},
        {"task": "evil.py"},
        {"function": ["evil.py:build"]},
        {"function": "\0.py:build"},
        {"function": "x" * 5000 + ".py:build"},
        {"function": "\033[2Jevil.py:build"},
        {"max_length": "long"},
        {"max_length": -3},
        {"train": {"loss": 3}},
        {"train": []},
        {"base": 3},
    ],
    ids=str,
)
def test_a_card_that_says_what_none_of_ours_does_is_refused(card: dict[str, object], case: Case) -> None:
    with pytest.raises(ModelError) as refused:
        open_model(request(case, case.card(**card)), print)
    assert "\033" not in str(refused.value)


def test_adapters_of_themselves_are_refused(case: Case) -> None:
    one = case.adapters("one", case.place / "two")
    case.adapters("two", one)
    with pytest.raises(ModelError, match="holds adapters whose base is the same folder"):
        find_pretrained(Model(pretrained=str(one)))


def test_a_whole_model_with_adapters_in_it_is_refused(case: Case) -> None:
    (case.folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/x"}')
    with pytest.raises(ModelError, match="holds both a whole model and adapters"):
        find_pretrained(Model(pretrained=str(case.folder)))


KERNELS: dict[str, dict[str, object]] = {
    "its own": {"attn_implementation": "some/kernel"},
    "by its inner name": {"_attn_implementation": "some/kernel"},
    "of a part": {"text_config": {"model_type": "llama", "attn_implementation": "some/kernel"}},
    "for a part": {"attn_implementation": {"": "sdpa", "text_config": "some/kernel"}},
    "of one of several parts": {"parts": [{"deeper": {"attn_implementation": "some/kernel"}}]},
}
HIDDEN = {"attribute_map": {"foo": "_attn_implementation"}, "foo": "some/kernel"}
"""`transformers` takes this for its kind of attention too."""


@pytest.mark.parametrize("named", [*KERNELS.values(), HIDDEN], ids=[*KERNELS, "under another name"])
def test_a_kernel_of_the_hub_is_code_and_is_refused(named: dict[str, object], tmp_path: Path) -> None:
    from launcher.models.weights import loading
    from launcher.worker.requests.shapes import parameter_shapes

    folder = bert(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | named))
    spec = Model(pretrained=str(folder))
    place = find_pretrained(spec)
    with pytest.raises(ModelError, match="some/kernel, which is code from the hub"):
        loading.load_config(place, spec)
    trusting = spec.model_copy(update={"trust_remote_code": True})
    assert loading.load_config(place, trusting) is not None
    check_model_files(place, trusting)
    if named is HIDDEN:
        with pytest.raises(ValueError, match="some/kernel is code from the hub"):
            parameter_shapes(str(folder), "AutoModel")
    else:
        with pytest.raises(ModelError, match="some/kernel, which is code from the hub"):
            check_model_files(place, spec)


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_job_whose_model_names_a_kernel_of_the_hub_is_refused_before_anything_is_built(
    command: str, case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((case.folder / "config.json").read_text())
    (case.folder / "config.json").write_text(json.dumps(config | KERNELS["of a part"]))
    write_texts(case.place / "data.csv", 8)
    job = case.place / "job.yaml"
    job.write_text(
        f"name: x\nmodel: {{pretrained: {case.folder}}}\ntask: text-classification\ntrain: {{max_length: 16}}\n"
        "data: {train: data.csv}\n"
    )
    monkeypatch.setattr(sys, "argv", ["adaptrun", command, str(job)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "names some/kernel, which is code from the hub" in capsys.readouterr().err


def test_a_chat_template_runs_in_a_sandbox(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    from launcher.data.rows import Row
    from launcher.errors import DataError
    from launcher.models.parts.chats import chat_tokens

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    row = Row(file="chats.jsonl", number=3, values={})
    for template in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch it-ran') }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ 1 / 0 }}",
    ):
        tokenizer.chat_template = template
        with pytest.raises(DataError, match=r"chats\.jsonl, row 3: the chat template rejects the chat"):
            chat_tokens(tokenizer, [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], row, True)
