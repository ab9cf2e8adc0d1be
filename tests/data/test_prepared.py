"""Prepared data: any sample at once, one copy for all, made again only when something that decides them changes."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.data import prepared as prepared_module
from launcher.data.cache import prepared_folder, tokenizer_identity
from launcher.data.prepared import ROWS_A_BATCH, Prepared, PreparedWriter
from launcher.errors import DataError, RequestError
from launcher.job.sections.data import Source
from launcher.job.sections.training import Train


def write(folder: Path, samples: int, chunk: int = 1000) -> list[list[int]]:
    draw = random.Random(0)
    rows = [draw.choices(range(100), k=draw.randint(1, 9)) for _ in range(samples)]
    with PreparedWriter(folder) as writer:
        for start in range(0, samples, chunk):
            part = rows[start : start + chunk]
            writer.write(
                {"input_ids": part, "length": [len(row) for row in part], "label": [len(row) % 2 for row in part]}
            )
        writer.finish(("even", "odd"), (1, 2))
    return rows


@pytest.mark.parametrize("samples", [1, 7, ROWS_A_BATCH - 1, ROWS_A_BATCH, ROWS_A_BATCH + 1, 2 * ROWS_A_BATCH + 3])
def test_every_sample_comes_back_at_its_place(samples: int, tmp_path: Path) -> None:
    rows = write(tmp_path / "p", samples)
    found = Prepared(tmp_path / "p")
    assert len(found) == samples
    assert found.lengths.tolist() == [len(row) for row in rows]
    some = np.array([samples - 1, 0, samples // 2, min(samples - 1, ROWS_A_BATCH)])
    for index, sample in zip(some, found[some], strict=True):
        assert sample["input_ids"].tolist() == rows[index]
        assert (sample["length"], sample["label"]) == (len(rows[index]), len(rows[index]) % 2)
    assert found.facts.labels == ("even", "odd")


def test_samples_are_views_into_the_mapped_file(tmp_path: Path) -> None:
    write(tmp_path / "p", 10)
    sample = Prepared(tmp_path / "p")[[3]][0]["input_ids"]
    assert not sample.flags.owndata
    assert not sample.flags.writeable


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"), PreparedWriter(tmp_path / "p") as writer:
        writer.write({"input_ids": [[1]], "length": [1]})
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []


def prepare_at_once(folder: str, barrier: Any) -> int:
    barrier.wait()
    write(Path(folder), 500)
    return len(Prepared(Path(folder)))


def test_many_may_prepare_the_same_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager, context.Pool(4) as pool:
        barrier = manager.Barrier(4)
        assert pool.starmap(prepare_at_once, [(str(tmp_path / "p"), barrier)] * 4) == [500] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_the_key_follows_all_that_decides_the_data(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\na,b\n")
    settings = {"tokenizer": "t", "max_length": 8}

    def key(settings: dict[str, object] = settings, **source: Any) -> Path:  # type: ignore[assignment]
        return prepared_folder(tmp_path, Source(source=str(file), **source), settings)

    first = key()
    assert key() == first
    assert key(limit=1) != first
    assert key(text="other") != first
    assert key({**settings, "max_length": 9}) != first
    assert key({**settings, "tokenizer": "u"}) != first
    copy = tmp_path / "copy.csv"
    copy.write_bytes(file.read_bytes())
    assert prepared_folder(tmp_path, Source(source=str(copy)), settings) == first
    file.write_text("text,label\na,c\n")
    assert key() != first


def test_a_class_folders_names_decide(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_text(name)
    source = Source(source=str(tmp_path / "data"))
    first = prepared_folder(tmp_path, source, {})
    (tmp_path / "data" / "dog").rename(tmp_path / "data" / "hound")
    assert prepared_folder(tmp_path, source, {}) != first
    (tmp_path / "data" / "hound").rename(tmp_path / "data" / "dog")
    assert prepared_folder(tmp_path, source, {}) == first
    (tmp_path / "data" / "dog/2.png").rename(tmp_path / "data" / "cat/2.png")
    assert prepared_folder(tmp_path, source, {}) != first


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_that_rows_name_decide(kind: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def key(folder: str) -> Path:
        source = Source(source=str(tmp_path / folder / f"list.{kind}"))
        return prepared_folder(tmp_path, source, {}, {"image": "image"})

    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_text(folder)
        (tmp_path / folder / "list.csv").write_text("image\n0.png\nnowhere.png\n")
        held = [{"bytes": None, "path": "0.png"}, {"bytes": b"x", "path": None}]
        pq.write_table(pa.table({"image": held}), tmp_path / folder / "list.parquet")
    first = key("one")
    assert key("other") != first, "the lists are alike, and the images are not"
    (tmp_path / "one" / "0.png").write_text("changed")
    assert key("one") != first
    (tmp_path / "other" / "0.png").write_text("changed")
    assert key("other") == key("one")


def test_a_tokenizer_is_known_by_its_files_and_not_by_the_models(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()
    assert tokenizer_identity(str(copy), None) == tokenizer_identity(str(tiny_model), None)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert tokenizer_identity(str(copy), None) != tokenizer_identity(str(tiny_model), None)
    assert tokenizer_identity("some/model", "v1") != tokenizer_identity("some/model", None)


def test_preparing_reads_once_and_says_how_far_it_is(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from launcher.models.tasks.text_classification import TextClassification
    from launcher.worker.data.preparing import Preparer
    from tests.tiny import write_texts

    said: list[tuple[int, int]] = []
    preparer = Preparer(
        TextClassification,
        AutoTokenizer.from_pretrained(tiny_model),
        "identity",
        Train(max_length=16),
        tmp_path / "cache",
        lambda done, total: said.append((done, total)),
    )
    source = Source(source=str(write_texts(tmp_path / "t.csv", 2500)))
    first = preparer.prepare_training({"train": source}, known=())["train"]
    assert said == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert first.facts.labels == ("class-0", "class-1")
    assert sum(first.facts.counts) == 2500
    monkeypatch.setattr(prepared_module.PreparedWriter, "write", None)
    assert preparer.prepare_training({"train": source}, known=())["train"].folder == first.folder
    assert preparer.prepare(source, first.facts.labels).folder == first.folder


def test_what_a_task_says_that_it_prepares_with_decides_too(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from launcher.models.tasks.text_classification import TextClassification
    from launcher.worker.data.preparing import Preparer
    from tests.tiny import write_texts

    class Own(TextClassification):
        prepares_with = ("mask_share",)

    source = Source(source=str(write_texts(tmp_path / "t.csv", 3)))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def folder(task: type[TextClassification], **train: Any) -> Path:
        preparer = Preparer(task, tokenizer, "i", Train(**train), tmp_path / "cache", lambda done, total: None)
        return preparer.prepare(source, ("class-0", "class-1")).folder

    assert folder(TextClassification, mask_share=0.2) == folder(TextClassification)
    assert folder(Own, mask_share=0.2) != folder(Own)
    assert folder(Own, mask_share=0.2, seed=1) == folder(Own, mask_share=0.2)
    assert folder(TextClassification, max_length=2) != folder(TextClassification)


def test_a_head_that_already_knows_the_labels_keeps_their_order(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from launcher.models.tasks.text_classification import TextClassification
    from launcher.worker.data.preparing import Preparer
    from tests.tiny import write_texts

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    preparer = Preparer(
        TextClassification, tokenizer, "i", Train(max_length=16), tmp_path / "cache", lambda done, total: None
    )
    source = Source(source=str(write_texts(tmp_path / "t.csv", 30)))
    known = ("other", "class-1", "class-0")
    assert preparer.prepare_training({"train": source}, known)["train"].facts.labels == known
    found = preparer.prepare_training({"train": source}, ("class-1", "x"))["train"]
    assert found.facts.labels == ("class-0", "class-1")


def test_vectors_of_0_and_1_are_learned_as_the_labels_of_their_places(tiny_model: Path, tmp_path: Path) -> None:
    import json

    from transformers import AutoTokenizer

    from launcher.models.tasks.text_classification import MultiLabelTextClassification
    from launcher.worker.data.preparing import Preparer
    from tests.tiny import WORDS

    def written(name: str, labels: list[object]) -> Source:
        lines = [json.dumps({"text": WORDS[number], "label": label}) for number, label in enumerate(labels)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return Source(source=str(tmp_path / name))

    preparer = Preparer(
        MultiLabelTextClassification,
        AutoTokenizer.from_pretrained(tiny_model),
        "i",
        Train(max_length=16),
        tmp_path / "cache",
        lambda done, total: None,
    )
    vectors, names = [[1, 0, 1], [0, 0, 0], [1.0, 1.0, 1.0]], ("x", "y", "z")
    train = written("train.jsonl", vectors)
    found = preparer.prepare_training({"train": train}, ())["train"]
    assert found.facts.labels == ("0", "1", "2")
    assert found.facts.counts == (2, 1, 2)
    assert [example["label"].tolist() for example in found[range(3)]] == [[0, 2], [], [0, 1, 2]]
    assert preparer.prepare_training({"train": train}, (), names=names)["train"].facts.labels == names
    assert found.facts.label_format == "vector"
    judged = preparer.prepare(written("names.jsonl", [["z"], ["x", "y"]]), names)
    assert [example["label"].tolist() for example in judged[range(2)]] == [[2], [0, 1]]
    assert judged.facts.label_format == "names"
    with pytest.raises(DataError, match=r"row 1: the label \[1, 0\] is no vector of 3 numbers"):
        preparer.prepare(written("short.jsonl", [[1, 0], [1, 1]]), names)
    with pytest.raises(DataError, match="the sets have labels of different formats: a 3 places, b names"):
        preparer.prepare_training({"a": train, "b": written("b.jsonl", [["x"]])}, ())


def test_samples_are_read_without_pandas(tmp_path: Path) -> None:
    """Each rank would import it for a second."""
    rows = write(tmp_path / "p", 5)
    read = f"p = Prepared(Path({str(tmp_path / 'p')!r})); print(p.lengths.tolist(), p[[1]][0]['input_ids'].tolist())"
    code = f"import sys; from pathlib import Path; from launcher.data.prepared import Prepared; {read}"
    code += "; assert 'pandas' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"{[len(row) for row in rows]} {rows[1]}\n"


def test_a_cache_that_cannot_be_made_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from launcher.models.tasks.text_classification import TextClassification
    from launcher.worker.data.preparing import Preparer
    from tests.tiny import write_texts

    source = Source(source=str(write_texts(tmp_path / "t.csv", 3)))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    preparer = Preparer(TextClassification, tokenizer, "i", Train(), tmp_path / "t.csv" / "cache", lambda *_: None)
    for prepare in (lambda: preparer.prepare_training({"train": source}, ()), lambda: preparer.prepare(source, ("a",))):
        with pytest.raises(
            RequestError, match=r"prepared data cannot be written to .*: Not a directory; " r".*data\.cache"
        ):
            prepare()
