"""What a task's own file says of it, as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.job.rules.adaptation import DOMAIN_TASK_RULES
from launcher.job.rules.evaluation import EVALUATION_TASK_RULES
from launcher.job.schema import Job
from launcher.job.sections.tasks import find_family


def test_a_file_that_is_edited_is_read_again(tmp_path: Path) -> None:
    for losses in (("mine",), ("mine", "other")):
        (tmp_path / "own.py").write_text(f"class Own:\n    losses = {losses}\n")
        assert find_family("own.py:Own", tmp_path).losses == losses


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"# caf\xe9\nclass Own: ...\n", "own.py: byte 5 is not UTF-8; save the file as UTF-8"),
        (b"class Own:\n    losses = (\n", "own.py, line 2: '\\(' was never closed"),
        (b"class Own:\n    losses = '\0'\n", "own.py: source code .*null bytes"),
    ],
    ids=["another encoding", "a slip", "no text"],
)
def test_a_file_that_is_no_python_is_told(code: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_bytes(code)
    with pytest.raises(RequestError, match=said):
        find_family("own.py:Own", tmp_path)


@pytest.mark.parametrize(
    ("code", "method", "said"),
    [
        ("class Own(TextClassification): ...\n", "mcc", None),
        ("class Own(TextTask):\n    has_features = True\n", "coral", None),
        ("class Own(TextTask):\n    has_features = True\n", "mcc", "mcc needs one class per sample"),
        ("class Own(TextTask): ...\n", "coral", "coral needs one feature vector per sample"),
        ("class Own(LanguageTask): ...\n", "dapt", "own.py:Own is one already"),
    ],
)
def test_what_an_own_task_says_decides_which_methods_go_with_it(
    code: str, method: str, said: str | None, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(code)
    family = find_family("own.py:Own", tmp_path)
    job = Job.model_validate(
        {
            "name": "own",
            "model": {"pretrained": "tiny"},
            "task": "own.py:Own",
            "data": {"train": "train.csv", "target": "target.csv"},
            "adapt": {"method": method},
        }
    )
    found = [message for rule in DOMAIN_TASK_RULES for _, message, _ in rule(job, family)]
    assert not found if said is None else said in found[0]


@pytest.mark.parametrize(("base", "is_refused"), [("TextClassification", False), ("TextRegression", True)])
def test_a_checkpoint_is_selected_for_the_target_where_samples_have_one_class(
    base: str, is_refused: bool, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(f"class Own({base}): ...\n")
    values = {"name": "own", "model": {"pretrained": "tiny"}, "task": "own.py:Own", "data": {"train": "train.csv"}}
    job = Job.model_validate({**values, "validation": {"selector": "importance-weighted"}})
    found = [v for rule in EVALUATION_TASK_RULES for v in rule(job, find_family("own.py:Own", tmp_path))]
    assert bool(found) == is_refused
