"""Files of a model folder that lie, or are damaged: each is a refusal, before anything is loaded or allocated."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.consolidating import consolidate
from launcher.checkpoint.means import means
from launcher.commands.evaluate import checked_model
from launcher.errors import JobError, ModelError, RequestError
from launcher.job.model_files import headers_of
from launcher.job.pretrained import find_pretrained
from launcher.job.reading.job_file import load_job
from launcher.job.requests import EvaluationRequest
from launcher.job.schema import Model
from launcher.models.weights import loading
from launcher.plan.model_size import size_of_job
from launcher.worker.evaluation.inference import open_model
from tests.fuzzing import seed_of_the_day
from tests.tiny import write_texts

AUTO = "AutoModelForSequenceClassification"
HEADER = {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


class Danger:
    """A pickle of this runs code when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("it-ran"),)


def finished(folder: Path, tiny: Path) -> Path:
    """A trained classifier, as a run leaves it."""
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(tiny, folder)
    names = {0: "no", 1: "yes"}
    options = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    AutoModelForSequenceClassification.from_pretrained(tiny, **options).save_pretrained(folder)
    (folder / "adaptrun.json").write_text('{"task": "text-classification", "max_length": 16}')
    return folder


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    write_texts(tmp_path / "data.csv", 8)
    (tmp_path / "job.yaml").write_text(
        f"name: x\nmodel: {{pretrained: {tmp_path}/model}}\ntask: text-classification\ndata: {{train: data.csv}}\n"
        "train: {max_length: 16}\n"
    )
    return finished(tmp_path / "model", tiny_model)


def safetensors(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(**said: object) -> dict[str, object]:
    return {"x": HEADER["x"] | said}


LIES = {
    "empty": b"",
    "no JSON": safetensors(b"nothing"),
    "a list": safetensors([]),
    "null": safetensors(None),
    "a header longer than the file": safetensors(HEADER, length=10**9),
    "a header longer than memory": safetensors(HEADER, length=2**63),
    "a deep header": safetensors(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a null entry": safetensors({"x": None}),
    "a null entry beside a sound one": safetensors({**HEADER, "y": None}),
    "no shape": safetensors({"x": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "a float shape": safetensors(tensor(shape=[2.0, 2.0])),
    "a negative shape": safetensors(tensor(shape=[-2, -2])),
    "a shape that overflows": safetensors(tensor(shape=[2**40, 2**40])),
    "a shape of another size": safetensors(tensor(shape=[3, 2])),
    "an unknown type": safetensors(tensor(dtype="F7")),
    "offsets beyond the file": safetensors(tensor(shape=[4, 2], data_offsets=[0, 32])),
    "offsets backwards": safetensors(tensor(data_offsets=[16, 0])),
    "offsets that are text": safetensors(tensor(data_offsets=["0", "16"])),
    "overlapping": safetensors({**HEADER, "y": HEADER["x"]}),
    "a hole": safetensors({**HEADER, "y": {**HEADER["x"], "data_offsets": [20, 36]}}, bytes(36)),
    "bytes that belong to nobody": safetensors(HEADER, bytes(64)),
}
"""What a `model.safetensors` may hold that is none."""


def indexed(places: object, **others: object) -> dict[str, bytes | None]:
    """Files of a folder that has an index; a file that is None is taken away."""
    return {
        "model.safetensors": None,
        "a.safetensors": safetensors(HEADER),
        "b.safetensors": safetensors({"y": HEADER["x"]}),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": places, **others}).encode(),
    }


INDEXES: dict[str, dict[str, bytes | None]] = {
    "an index that is null": indexed(None),
    "an index of nothing": indexed({}),
    "an index that is a list": indexed(["a.safetensors"]),
    "a null shard": indexed({"x": None}),
    "a shard that is no text": indexed({"x": ["a.safetensors"]}),
    "a shard outside": indexed({"x": "../../a.safetensors"}),
    "an absolute shard": indexed({"x": "/etc/passwd"}),
    "the folder itself": indexed({"x": "."}),
    "a shard that is not there": indexed({"x": "c.safetensors"}),
    "a shard without the tensor": indexed({"x": "b.safetensors", "y": "a.safetensors"}),
    "a tensor that nobody holds": indexed({"x": "a.safetensors", "z": "a.safetensors"}),
    "a tensor that two hold": indexed({"x": "a.safetensors", "y": "b.safetensors"})
    | {"b.safetensors": safetensors({**HEADER, "y": {**HEADER["x"], "data_offsets": [16, 32]}}, bytes(32))},
    "a shard that lies": indexed({"x": "a.safetensors", "y": "b.safetensors"}) | {"b.safetensors": b"nothing"},
    "metadata that is a list": indexed({"x": "a.safetensors"}, metadata=[1]),
    "an index that is no JSON": indexed({}) | {"model.safetensors.index.json": b"{"},
    "a deep index": indexed({}) | {"model.safetensors.index.json": b"[" * 100_000},
    "a pickle": {"model.safetensors": None, "pytorch_model.bin": pickle.dumps(Danger())},
    "a pickle of an old protocol": {"model.safetensors": None, "pytorch_model.bin": pickle.dumps(Danger(), 0)},
    "a pickle of nothing": {"model.safetensors": None, "pytorch_model.bin": b""},
    "a pickle outside": {
        "model.safetensors": None,
        "pytorch_model.bin.index.json": b'{"metadata": {}, "weight_map": {"x": "../evil.bin"}}',
    },
    "a config of nothing": {"config.json": b""},
    "a deep config": {"config.json": b'{"x":' + b"[" * 100_000},
    "a config that is a list": {"config.json": b"[]"},
    "a config with a number of 5,000 digits": {"config.json": b'{"x": ' + b"9" * 5000 + b"}"},
    "a deep card": {"adaptrun.json": b"[" * 100_000},
}
FILES = {name: {"model.safetensors": content} for name, content in LIES.items()} | INDEXES


def spoil(folder: Path, files: dict[str, bytes | None]) -> None:
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)


def opened(folder: Path) -> object:
    data = {"source": str(folder.parent / "data.csv")}
    asked = {"model": {"pretrained": str(folder)}, "data": data, "cache": str(folder.parent / "cache")}
    return open_model(EvaluationRequest.model_validate(asked), print)


def loaded(folder: Path, *, in_parts: bool) -> loading.Loaded:
    spec = Model(pretrained=str(folder))
    place = find_pretrained(spec)
    return loading.load_model(place, spec, AUTO, ("no", "yes"), loading.load_config(place, spec), in_parts=in_parts)


@pytest.mark.parametrize("files", [pytest.param(files, id=name) for name, files in FILES.items()])
def test_a_folder_that_lies_is_refused_by_every_command(
    files: dict[str, bytes | None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    spoil(folder, files)
    with pytest.raises(JobError, match=r"job.yaml:2:9: model.pretrained: .*model"):
        load_job(folder.parent / "job.yaml")
    for refuse in (
        lambda: checked_model(Model(pretrained=str(folder))),
        lambda: opened(folder),
        lambda: loaded(folder, in_parts=True),
        lambda: loaded(folder, in_parts=False),
    ):
        with pytest.raises(ModelError):
            refuse()
    assert not Path("it-ran").exists()


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in LIES.items()])
def test_adapters_and_means_that_lie_are_refused(content: bytes, folder: Path, tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(folder)}
    (adapters / "adapter_config.json").write_text(json.dumps(said))
    (adapters / "adaptrun.json").write_text('{"task": "text-classification"}')
    (adapters / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ModelError):
        consolidate(adapters, tmp_path / "merged", "fp32", None, None)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError):
        means([folder, other])


@pytest.mark.parametrize(
    "changed",
    [
        {"lora_alpha": None},
        {"lora_alpha": "8"},
        {"peft_type": 3},
        {"base_model_name_or_path": None},
        {"base_model_name_or_path": ["x"]},
        {"base_model_name_or_path": "x" * 5000},
        {"base_model_name_or_path": "\0"},
    ],
    ids=str,
)
def test_a_config_of_adapters_that_lies_is_refused(changed: dict[str, object], folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    adapters = tmp_path / "adapters"
    adapters.mkdir()
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(folder), **changed}
    (adapters / "adapter_config.json").write_text(json.dumps(said))
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    save_file(
        {f"{query}.lora_A.weight": torch.zeros(2, 32), f"{query}.lora_B.weight": torch.zeros(32, 2)},
        adapters / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError):
        loaded(adapters, in_parts=True)


@pytest.mark.parametrize(
    "shapes",
    [
        {"lora_A.weight": (2, 32)},
        {"lora_A.weight": (0, 32), "lora_B.weight": (32, 0)},
        {"lora_A.weight": (2,), "lora_B.weight": (32, 2)},
        {"lora_A.weight": (2, 32), "lora_B.weight": (1, 2)},
        {"lora_A.weight": (2, 32), "lora_B.weight": (32, 3)},
        {"lora_A.weight": (2, 32), "lora_B.weight": (32, 2), "lora_magnitude_vector": (1,)},
        {"bias": (1,)},
    ],
    ids=str,
)
def test_adapters_of_other_shapes_are_refused(shapes: dict[str, tuple[int, ...]], folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    adapters = tmp_path / "adapters"
    adapters.mkdir()
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(folder)}
    (adapters / "adapter_config.json").write_text(json.dumps(said))
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    tensors = {f"{query}.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors, adapters / "adapter_model.safetensors")
    for in_parts in (False, True):
        with pytest.raises(ModelError):
            loaded(adapters, in_parts=in_parts)


def test_a_sound_folder_of_several_files_is_read_alike_by_all(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    job = load_job(folder.parent / "job.yaml")
    size = size_of_job(job)
    assert size is not None
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    parts, whole = loaded(folder, in_parts=True), loaded(folder, in_parts=False)
    for name, parameter in parts.model.named_parameters():
        assert torch.equal(parts.stored[parameter].whole(), whole.model.get_parameter(name))


def test_a_sound_pickle_of_tensors_is_read(folder: Path) -> None:
    weights = loaded(folder, in_parts=False).model.state_dict()
    (folder / "model.safetensors").unlink()
    for old in (True, False):
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=old)
        load_job(folder.parent / "job.yaml")
        found = loaded(folder, in_parts=False).model.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_a_file_alone_goes_before_an_index_as_in_transformers(folder: Path) -> None:
    spoil(folder, {name: content for name, content in indexed({"x": "a.safetensors"}).items() if content})
    parts, whole = loaded(folder, in_parts=True), loaded(folder, in_parts=False)
    for name, parameter in parts.model.named_parameters():
        assert torch.equal(parts.stored[parameter].whole(), whole.model.get_parameter(name))


def test_a_header_is_read_anew_where_its_file_has_changed(folder: Path) -> None:
    file = folder / "model.safetensors"
    assert "classifier.weight" in headers_of(file)
    file.write_bytes(safetensors(HEADER))
    assert list(headers_of(file)) == ["x"]


def damage(folder: Path, draw: random.Random) -> str:
    """Spoil one file of a folder; tells what was done."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    file = draw.choice([*files, *[one for one in files if one.suffix == ".json"], folder / "config.json"])
    raw = bytearray(file.read_bytes())
    said = _parsed(raw) if file.suffix == ".json" and draw.random() < 0.7 else None
    if said:
        way = _change(said, draw)
        file.write_text(json.dumps(said))
        return f"{file.name}: {way}"
    way = draw.choice(["cut", "flip", "fill", "double"])
    reach = len(raw) if file.suffix == ".json" else min(len(raw), 4000)
    at = draw.randrange(max(1, reach))
    if way == "cut":
        del raw[at:]
    elif way == "flip" and raw:
        raw[at] ^= 1 << draw.randrange(8)
    elif way == "fill":
        raw[at : at + draw.randint(1, 40)] = bytes(draw.choices(b'{}[]",:09.-eE\x00\xff', k=draw.randint(1, 40)))
    else:
        raw[at:at] = raw[at : at + draw.randint(1, 200)]
    file.write_bytes(bytes(raw))
    return f"{file.name}: {way} at {at}"


def _parsed(raw: bytes) -> Any:
    """What JSON says; nothing where it was damaged before, or holds a single value."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict | list) else None


VALUES: list[Any] = [None, True, -1, 0, 1, 2**70, 1e400, -0.5, "", "x", "../..", [], {}, [[]], [None], {"x": None}]


def _change(said: Any, draw: random.Random) -> str:
    """Put a strange value somewhere into what JSON said."""
    place, path = said, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return "nothing"
        key = draw.choice(keys)
        path.append(str(key))
        below = place[key]
        if isinstance(below, dict | list) and below and draw.random() < 0.6:
            place = below
            continue
        value = draw.choice(VALUES)
        if isinstance(place, dict) and draw.random() < 0.2:
            del place[key]
            return f"{'.'.join(path)} removed"
        place[key] = value
        return f"{'.'.join(path)} = {value!r}"


def use(folder: Path) -> None:
    """Do with a folder what commands do before they compute with it."""
    job = load_job(folder.parent / "job.yaml")
    size_of_job(job)
    opened(folder)
    loaded(folder, in_parts=True)


def hunt(folder: Path, seed: int, rounds: int, use: Callable[[Path], None]) -> list[str]:
    """Damage a folder again and again; tells of what ended otherwise than well or in a refusal."""
    draw, wrong = random.Random(seed), []
    kept = folder.with_name("kept")
    folder.rename(kept)
    for number in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        ways = [damage(folder, draw) for _ in range(draw.choice([1, 1, 2]))]
        try:
            use(folder)
        except RequestError:
            continue
        except BaseException as error:
            wrong.append(f"round {number}, {'; '.join(ways)}: {type(error).__name__}: {error}")
    return wrong


@pytest.mark.parametrize("seed", [1])
def test_a_damaged_folder_is_used_or_refused(seed: int, folder: Path) -> None:
    assert hunt(folder, seed, 25, use) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
@pytest.mark.timeout(3600)
def test_many_damaged_folders_are_used_or_refused(part: int, folder: Path) -> None:
    assert hunt(folder, 10 * seed_of_the_day() + part, 300, use) == []
