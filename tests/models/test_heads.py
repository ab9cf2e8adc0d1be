"""The rows of a trained head lie where the labels of the data have them, however the model is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from launcher.errors import ModelError
from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Model
from launcher.models.weights import loading
from launcher.models.weights.stored import readable

CLASSIFIER = "AutoModelForSequenceClassification"
NLI = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
HEAD = ("classifier.bias", "classifier.weight")


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(3)
    config = BertConfig.from_pretrained(tiny_model, id2label=dict(enumerate(NLI)))
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.bias)
    model.save_pretrained(folder)
    for file in tiny_model.glob("tok*"):
        shutil.copy(file, folder)
    return folder


def load(
    folder: Path, labels: tuple[str, ...], said: Any = "by-name", *, in_parts: bool = False, auto: str = CLASSIFIER
) -> loading.Loaded:
    spec = Model(pretrained=str(folder), labels=said)
    place = find_pretrained(spec)
    torch.manual_seed(5)
    return loading.load_model(place, spec, auto, labels, loading.load_config(place, spec), in_parts=in_parts)


def values(loaded: loading.Loaded) -> dict[str, Tensor]:
    """All that the model holds, wherever it lies."""
    found = {name: readable(parameter, loaded.stored).whole() for name, parameter in loaded.model.named_parameters()}
    return found | dict(loaded.model.named_buffers())


MOVED: dict[str, tuple[tuple[str, ...], Any, list[int | None]]] = {
    "in other case": (("entailment", "neutral", "contradiction"), "by-name", [0, 1, 2]),
    "in another order": (("CONTRADICTION", "ENTAILMENT", "NEUTRAL"), "by-name", [2, 0, 1]),
    "one new of as many": (("contradiction", "mixed", "neutral"), "by-name", [2, None, 1]),
    "one more": (("contradiction", "entailment", "mixed", "neutral"), "by-name", [2, 0, None, 1]),
    "two of three": (("neutral", "contradiction"), "by-name", [1, 2]),
    "as said": (("no", "yes", "neutral"), {"no": "CONTRADICTION", "yes": "ENTAILMENT"}, [2, 0, 1]),
    "a new head": (NLI, "new", [None, None, None]),
    "other labels": (("cat", "cow", "dog"), "by-name", [None, None, None]),
}


@pytest.mark.parametrize(("labels", "said", "rows"), [pytest.param(*case, id=key) for key, case in MOVED.items()])
def test_rows_lie_where_their_labels_are(
    labels: tuple[str, ...], said: Any, rows: list[int | None], trained: Path
) -> None:
    loaded, old = load(trained, labels, said), load_file(trained / "model.safetensors")
    for name in HEAD:
        held = dict(loaded.model.named_parameters())[name]
        assert held.shape[0] == len(labels)
        for place, row in enumerate(rows):
            is_old = [bool(torch.equal(held[place], old[name][number])) for number in range(len(NLI))]
            assert is_old == [number == row for number in range(len(NLI))]
    assert loaded.new == (HEAD if None in rows else ())
    assert loaded.model.config.id2label == dict(enumerate(labels))


@pytest.mark.parametrize(("labels", "said", "rows"), [pytest.param(*case, id=key) for key, case in MOVED.items()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_parts_has_the_same_rows(
    labels: tuple[str, ...], said: Any, rows: list[int | None], dtype: torch.dtype, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    weights = {name: tensor.to(dtype) for name, tensor in load_file(trained / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    whole, parts = load(tmp_path, labels, said), load(tmp_path, labels, said, in_parts=True)
    assert parts.stored
    assert not whole.stored
    assert (parts.new, parts.reshaped, parts.labels) == (whole.new, whole.reshaped, whole.labels)
    assert parts.identity == whole.identity
    found, expected = values(parts), values(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_loading_leaves_the_config_as_it_was(trained: Path) -> None:
    """A teacher is loaded with the same one again."""
    spec = Model(pretrained=str(trained))
    place = find_pretrained(spec)
    config = loading.load_config(place, spec)
    labels = ("CONTRADICTION", "ENTAILMENT", "NEUTRAL")
    first, again = (loading.load_model(place, spec, CLASSIFIER, labels, config) for _ in range(2))
    assert torch.equal(first.model.classifier.weight, again.model.classifier.weight)


def test_a_new_head_begins_as_the_model_begins_one(trained: Path) -> None:
    head = load(trained, NLI, "new").model.classifier
    assert torch.equal(head.bias, torch.zeros(3))
    assert 0.005 < head.weight.std() < 0.05


def test_the_head_of_another_task_is_not_taken(trained: Path, tmp_path: Path) -> None:
    """Its rows have the same names and shape, and another meaning."""
    loaded = load(trained, NLI, auto="AutoModelForTokenClassification")
    assert loaded.new == HEAD
    assert not torch.equal(loaded.model.classifier.weight, load_file(trained / "model.safetensors")[HEAD[1]])


def test_labels_named_by_integers_are_read(trained: Path, tmp_path: Path) -> None:
    import json

    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"id2label": {"0": 0, "1": 1, "2": 2}, "label2id": {"0": 0, "1": 1, "2": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = Model(pretrained=str(tmp_path))
    assert loading.known_labels(loading.load_config(find_pretrained(spec), spec)) == ("0", "1", "2")
    assert load(tmp_path, ("0", "1", "2")).new == ()


SMALL: dict[str, dict[str, Any]] = {
    "roberta": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "llama": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    | {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    "t5": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 32},
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32},
}


@pytest.mark.parametrize("labels", [("b", "a", "c"), ("a", "c", "x"), ("b", "a")])
@pytest.mark.parametrize("kind", SMALL)
def test_any_family_has_its_rows_moved_and_begins_the_same_in_parts(
    kind: str, labels: tuple[str, ...], tmp_path: Path
) -> None:
    """Of 16 labels, as many as the hidden size, so that a row of the head is not known by its shape."""
    names = [*"abcdefghijklmnop"]
    special = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = AutoConfig.for_model(kind, **special, **SMALL[kind], id2label=dict(enumerate(names)))
    torch.manual_seed(1)
    saved = AutoModelForSequenceClassification.from_config(config)
    saved.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    whole, parts = load(tmp_path, labels), load(tmp_path, labels, in_parts=True)
    found, expected = values(parts), values(whole)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    before, after = dict(saved.named_parameters()), dict(whole.model.named_parameters())
    for name, parameter in before.items():
        if after[name].shape == parameter.shape:
            assert torch.equal(after[name], parameter), name
            continue
        for place, label in enumerate(labels):
            same = torch.equal(after[name][place], parameter[names.index(label)]) if label in names else None
            assert same in (True, None), (name, label)


def test_a_pooler_that_is_missing_is_new_with_a_new_head(tiny_model: Path, trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    AutoModelForMaskedLM.from_pretrained(tiny_model).save_pretrained(tmp_path)
    whole, parts = load(tmp_path, ("a", "b")), load(tmp_path, ("a", "b"), in_parts=True)
    assert whole.new == ("bert.pooler.dense.bias", "bert.pooler.dense.weight", *HEAD)
    for name, value in values(whole).items():
        assert torch.equal(values(parts)[name], value), name


def test_a_trained_head_without_its_pooler_is_an_error(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    weights = {name: value for name, value in load_file(trained / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"it lacks bert\.pooler\.dense\.bias"):
        load(tmp_path, NLI)
