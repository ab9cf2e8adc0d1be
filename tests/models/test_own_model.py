"""What a user's own file may be: what lies beside it is found, and what builds no model is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import ModelError
from launcher.job.own_files import with_imports
from launcher.job.own_function import check_function
from launcher.models.parts.own_code import build_model, own_object

BERT = """
from transformers import BertConfig, BertForSequenceClassification

def made(count):
    return BertForSequenceClassification(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1,
                                                    intermediate_size=8, vocab_size=20, num_labels=count))
"""


def own(folder: Path, text: str, **beside: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in beside.items():
        (folder / f"{name}.py").write_text(content)
    (folder / "build.py").write_text(text)
    return folder / "build.py"


def test_modules_beside_the_file_are_found_where_python_does_not_look(tmp_path: Path) -> None:
    file = own(tmp_path, "from plain_net import NAME\nimport bag.words\nNAMES = NAME, bag.words.NAME\n")
    (tmp_path / "plain_net.py").write_text("NAME = 'net'\n")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "words.py").write_text("NAME = 'bag'\n")
    code = f"from launcher.models.parts.own_code import own_object\nprint(own_object({f'{file}:NAMES'!r}))"
    said = subprocess.run([sys.executable, "-P", "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "('net', 'bag')"


def test_a_module_beside_the_file_never_stands_in_for_one_that_is_installed(tmp_path: Path) -> None:
    shadows = {"random": "evil = 1\n", "launcher": "evil = 1\n", "torch": "evil = 1\n", "this": "evil = 1\n"}
    file = own(tmp_path, "import random, launcher, torch\nFILES = random.__file__, launcher.__file__\n", **shadows)
    assert not any(place.startswith(str(tmp_path)) for place in own_object(f"{file}:FILES"))
    own(tmp_path / "other", "from random import evil\n", random="evil = 1\n")
    with pytest.raises(ModelError, match=r"line 1: .*an installed module has the same name as .*other/random\.py"):
        own_object(f"{tmp_path}/other/build.py:build")


def test_a_folder_without_python_beside_the_file_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "nowhere_installed").mkdir()
    file = own(tmp_path, "try:\n    import nowhere_installed\nexcept ImportError:\n    FOUND = False\n")
    assert own_object(f"{file}:FOUND") is False


def test_two_files_each_have_their_own_module_of_one_name(tmp_path: Path) -> None:
    files = [own(tmp_path / name, "from common_part import NAME\n", common_part=f"NAME = {name!r}\n") for name in "ab"]
    assert [own_object(f"{file}:NAME") for file in files] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "\nimport nothing_of_that_name\n",
            r"build\.py, line 2: No module named .* neither installed nor in the folder",
        ),
        ("from .plain_net import Net\n", r"build\.py, line 1: attempted relative import"),
        ("def build(:\n", r"build\.py, line 1: invalid syntax"),
        ("def other(labels): ...\n", r"build\.py defines no build"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        own_object(f"{own(tmp_path, text)}:build")


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no .*build\.py"):
        own_object(f"{tmp_path}/build.py:build")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("def build(labels): return made(len(labels))", 3),
        ("def build(): return made(5)", 5),
        ("def build(labels=('x',)): return made(len(labels))", 3),
        ("def build(labels, width=8): return made(len(labels))", 3),
        ("def build(*labels): return made(len(labels[0]))", 3),
        ("def build(*, width=8): return made(4)", 4),
        ("build = lambda labels: made(len(labels))", 3),
    ],
)
def test_a_function_takes_the_labels_or_nothing(text: str, labels: int, tmp_path: Path) -> None:
    file = own(tmp_path, f"{BERT}\n{text}\n")
    check_function(file, "build")
    assert build_model(f"{file}:build", ("a", "b", "c")).config.num_labels == labels


PLAIN = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    pass\n"
REFUSED = {
    "two arguments": ("def build(labels, width): return made(2)", "has required arguments besides the labels"),
    "a keyword": ("def build(labels, *, width): return made(2)", "has required arguments besides the labels"),
    "a class": (f"{PLAIN}class build(nn.Module):\n    pass", "build is a class"),
    "asynchronous": ("async def build(labels): return made(2)", "is asynchronous"),
    "plain": (f"{PLAIN}def build(labels): return Net()", "returns Net, a plain nn.Module"),
    "plain by a name": (f"{PLAIN}def build():\n    net = Net()\n    return net", "returns Net, a plain nn.Module"),
    "plain of torch": (f"{PLAIN}def build(labels): return nn.Sequential()", "returns nn.Sequential, a plain"),
    "plain of plain": (f"{PLAIN}class Own(Net): ...\ndef build(labels): return Own()", "returns Own, a plain"),
    "plain beside": ("from plain_net import Net as N\ndef build(labels): return N()", "returns N, a plain nn.Module"),
    "plain in a module": ("import plain_net\ndef build(): return plain_net.Net()", "returns plain_net.Net, a plain"),
    "plain either way": (
        f"{PLAIN}def build(labels):\n    if labels:\n        return Net()\n    return Net()",
        "returns Net, a plain nn.Module",
    ),
}


@pytest.mark.parametrize(("text", "said"), [pytest.param(*one, id=name) for name, one in REFUSED.items()])
def test_what_builds_no_model_is_refused_without_running_it(text: str, said: str, tmp_path: Path) -> None:
    file = own(tmp_path, f"{text}\nraise SystemError('was run')\n", plain_net=PLAIN)
    with pytest.raises(ModelError, match=said) as refused:
        check_function(file, "build")
    assert "(labels):" in str(refused.value)
    assert "docs/guides/own-model.md" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{PLAIN}def build(labels): return [Net()][0]", "returned Net, a plain nn.Module, which has no config"),
        ("def build(labels): return None", "returned NoneType, not a model"),
        ("build = lambda one, two: None", r"has the arguments \(one, two\)"),
        ("build = 3", "is not a function"),
    ],
)
def test_what_only_running_it_tells_is_refused_with_the_form_expected(text: str, said: str, tmp_path: Path) -> None:
    file = own(tmp_path, f"{BERT}\n{text}\n")
    check_function(file, "build")
    with pytest.raises(ModelError, match=said) as refused:
        build_model(f"{file}:build", ("a", "b"))
    assert "def build(labels):" in str(refused.value)


def test_the_modules_beside_a_file_that_it_imports_are_a_part_of_it(tmp_path: Path) -> None:
    file = own(tmp_path, "import bag.words, os\nfrom net import part\n", net="import deep\n", deep="", other="")
    (tmp_path / "bag").mkdir()
    for name in ("__init__", "words", "other"):
        (tmp_path / "bag" / f"{name}.py").write_text("")
    names = ["build.py", "bag/__init__.py", "bag/words.py", "net.py", "deep.py"]
    assert with_imports(file) == [tmp_path / name for name in names]
