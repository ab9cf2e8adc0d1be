"""Load a pretrained model and its tokenizer (or other processor) from any location that a job file can name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.data.labels import LabelMatch, listed, match_labels
from launcher.errors import AdaptrunError, ModelError
from launcher.job.model_files import (
    check_weights,
    headers_of,
    is_kernel_of_the_hub,
    kernel_of_the_hub,
    refusal_of_kernel,
    refusal_of_pickle,
    safetensors_files,
)
from launcher.job.pretrained import Base, Pretrained, read_config
from launcher.job.pretrained import read_card as read_card
from launcher.job.schema import Model
from launcher.job.vocabulary import no_padding_token, too_many_tokens
from launcher.models.parts.own_code import build_model
from launcher.models.parts.padding_token import give_padding_token
from launcher.models.weights.adapters import add_adapters
from launcher.models.weights.heads import HeadRows, all_outputs, head_labels, label_parameters, old_rows
from launcher.models.weights.heads import known_labels as known_labels
from launcher.models.weights.state_names import without_wrapper
from launcher.models.weights.stored import LazyTensor, LazyTensors, Placeholders, identity_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from launcher.models.tasks.base import Task

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
"""Keys under which training scripts save a state dict with other state; the first is Lightning's."""


@dataclass(frozen=True)
class Loaded:
    """A model in memory, or on the meta device with its weights still in their files.

    new: weights initialised at random because the pretrained model lacks them (a head)
    reshaped: new weights that the pretrained model has in another shape
    left_out: weights of the file that the model does not have (an old head)
    stored: where weights on the meta device are stored
    labels: the row of the pretrained head for each label; None for a task without labels
    """

    model: PreTrainedModel
    new: tuple[str, ...]
    left_out: tuple[str, ...]
    stored: LazyTensors = field(default_factory=dict)
    reshaped: tuple[str, ...] = ()
    labels: LabelMatch | None = None

    @property
    def identity(self) -> str:
        """Identity of the pretrained weights; call it before anything is added to the model."""
        came = [parameter for name, parameter in self.model.named_parameters() if name not in self.new]
        return identity_of(came, self.stored)


def load_processor(pretrained: Pretrained, spec: Model, class_name: str = "AutoTokenizer") -> Any:
    """The tokenizer, with a padding token, or the processor of another `transformers` class.

    Raises ModelError if there is none.
    """
    import transformers

    kind = {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "image processor"}.get(class_name, "feature extractor")
    with _reading(f"no {kind} in {pretrained.tokenizer}", spec, "set model.tokenizer to its folder or hub id"):
        try:
            processor = getattr(transformers, class_name).from_pretrained(pretrained.tokenizer, **_hub_options(spec))
        except ImportError as error:
            raise ModelError(f'{_first_line(error)}; run: pip install "adaptrun[images]"') from error
    if kind == "tokenizer" and processor.pad_token_id is None:
        give_padding_token(processor, load_config(pretrained, spec))
    if kind == "tokenizer" and processor.pad_token_id is None:
        raise no_padding_token(pretrained.tokenizer)
    return processor


def check_vocabulary(tokenizer: Any, embeddings: int | None, place: str) -> None:
    """Raises ModelError for a tokenizer with more tokens than embeddings; other processors have no tokens."""
    if embeddings is None or not callable(getattr(tokenizer, "get_vocab", None)):
        return
    token, number = max(tokenizer.get_vocab().items(), key=lambda one: one[1], default=("", -1))
    if number >= embeddings:
        raise too_many_tokens(place, token, number, embeddings)


def embeddings_in(model: PreTrainedModel) -> int | None:
    """The number of token embeddings of a model; None if it has none."""
    try:
        found = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return found.num_embeddings if isinstance(found, nn.Embedding) else None


def load_config(pretrained: Pretrained, spec: Model) -> PretrainedConfig | None:
    """The model's config; None if a function builds the model. For a run of such a model, its saved config."""
    from transformers import AutoConfig, PretrainedConfig

    if pretrained.kind == "function":
        return None
    with _reading(f"no usable config in {pretrained.config}", spec):
        if pretrained.builder is not None:
            return PretrainedConfig.from_dict(read_config(pretrained) or {})
        config: PretrainedConfig = AutoConfig.from_pretrained(pretrained.config, **_hub_options(spec))
        kernel = kernel_of_the_hub(read_config(pretrained)) or kernel_of(config)
        if kernel is not None and not spec.trust_remote_code:
            raise refusal_of_kernel(kernel, pretrained.config)
    return config


def kernel_of(config: PretrainedConfig) -> str | None:
    """The hub kernel that a model of this config would run, under any of its names in config.json."""
    from transformers import PretrainedConfig

    attention: str | None = getattr(config, "_attn_implementation", None)
    if is_kernel_of_the_hub(attention):
        return attention
    parts = (kernel_of(part) for part in vars(config).values() if isinstance(part, PretrainedConfig))
    return next((kernel for kernel in parts if kernel is not None), None)


def trained_head(pretrained: Pretrained, config: PretrainedConfig | None, auto_class: str) -> tuple[str, ...]:
    """Names of the rows of a trained head for the class, or of a head that a function built; empty without one."""
    return head_labels(config, auto_class) if pretrained.builder is None else all_outputs(config)


def configure(task: Task, config: PretrainedConfig) -> None:
    """Set a config's fields for the task; those of an earlier task could select another loss in `transformers`."""
    config.problem_type = None
    task.configure(config)


def load_model(
    pretrained: Pretrained,
    spec: Model,
    auto_class: str,
    labels: Sequence[str],
    config: PretrainedConfig | None,
    *,
    in_parts: bool = False,
    stored_config: PretrainedConfig | None = None,
) -> Loaded:
    """Load in fp32, with a head for `labels` that keeps the pretrained rows of the same labels.

    in_parts: leave weights in their files if these can be read lazily, as safetensors can
    stored_config: config with the names of the pretrained head's rows, if `config` is not that of the weights

    A head that is missing in the file, or has another shape, is initialised at random. Any other missing or
    unexpected weight is a ModelError unless `allow_missing` or `allow_unexpected` names it.
    """
    if pretrained.base is not None:
        return _with_adapters(pretrained, pretrained.base, spec, auto_class, labels, config, in_parts)
    if pretrained.kind == "function":
        model = build_model(pretrained.location, labels)
        _name_labels(model.config, labels)
        _replace_dropout(model, spec.dropout)
        return Loaded(model, (), ())
    if pretrained.function is not None:
        return _built_and_filled(pretrained, pretrained.function, spec, labels, config)
    assert config is not None
    check_weights(pretrained.kind, Path(pretrained.location))
    stored_config = config if stored_config is None else stored_config
    match = match_labels(head_labels(stored_config, auto_class), labels, spec.labels) if labels else None
    config, drawn_from = copy.deepcopy(config), torch.get_rng_state()
    _name_labels(config, labels)
    _replace_dropout_settings(config, spec.dropout)
    loaded = _load(pretrained, spec, auto_class, config, in_parts)
    if match is None or (match.head and match.keeps_the_head):
        return replace(loaded, labels=match)

    def load_old() -> Loaded:
        return _load(pretrained, spec, auto_class, copy.deepcopy(stored_config), in_parts=True)

    return _with_rows_moved(loaded, match, auto_class, load_old, drawn_from)


def _load(pretrained: Pretrained, spec: Model, auto_class: str, config: PretrainedConfig, in_parts: bool) -> Loaded:
    """Load with the number of outputs in `config`, whatever their labels."""
    import transformers

    auto = getattr(transformers, auto_class)
    options: dict[str, Any] = {
        "config": config,
        "dtype": torch.float32,
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }
    with _reading(f"{pretrained.location} cannot be loaded as {auto_class}", spec):
        files = weight_files(pretrained, spec) if in_parts else []
        like: Any = _on_meta(auto, config) if files or pretrained.kind == "state_dict" else None
        if files and _is_stored_as_it_is(like):
            drawn = torch.get_rng_state()
            holders = Placeholders(files)
            model, found = type(like).from_pretrained(
                None, state_dict=_renamed(holders.tensors, pretrained, like), **options
            )
            stored = holders.found_in(model, _new(found))
            if stored is not None:
                _replace_dropout(model, spec.dropout)
                return replace(_judge(model, found, pretrained, spec), stored=stored)
            torch.set_rng_state(drawn)  # a new head must not depend on how the rest is loaded
        if pretrained.kind == "state_dict":
            weights = without_wrapper(read_state_dict(Path(pretrained.location)), like)
            model, found = type(like).from_pretrained(None, state_dict=weights, **options)
        else:
            model, found = auto.from_pretrained(pretrained.location, **options, **_hub_options(spec))
    _replace_dropout(model, spec.dropout)
    return _judge(model, found, pretrained, spec)


def _built_and_filled(
    pretrained: Pretrained, function: str, spec: Model, labels: Sequence[str], config: PretrainedConfig | None
) -> Loaded:
    """The model of a run whose architecture a function builds, with the weights of the run.

    Raises ModelError if its head has other labels, since it is unknown which of its parameters have a row per label.
    """
    match = match_labels(all_outputs(config), labels, spec.labels) if labels else None
    if match is not None and not match.keeps_the_head:
        raise ModelError(
            f"the head of {pretrained.location} has the labels {listed(match.head)}, and the data have "
            f"{listed(labels)}; the head of a model built by {function} cannot be changed: use data with "
            "its labels, or start from the function"
        )
    model = build_model(function, labels)
    _name_labels(model.config, labels)
    _replace_dropout(model, spec.dropout)
    wanted = model.state_dict()
    stored: dict[str, Tensor] = {}
    for file in safetensors_files("folder", Path(pretrained.location)):
        headers_of(file)
        stored |= load_file(file)
    reshaped = {name for name in {*stored} & {*wanted} if stored[name].shape != wanted[name].shape}
    missing, unexpected = model.load_state_dict({n: t for n, t in stored.items() if n not in reshaped}, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    model.tie_weights()
    found = {
        "missing_keys": set(missing) - tied - reshaped,
        "unexpected_keys": set(unexpected),
        "mismatched_keys": [(name,) for name in reshaped],
    }
    return _judge(model, found, pretrained, spec)


def _with_rows_moved(
    loaded: Loaded, match: LabelMatch, auto_class: str, load_old: Callable[[], Loaded], drawn_from: Tensor
) -> Loaded:
    """The loaded model with its head's rows in the order of the labels, and new rows for labels that the head lacks.

    load_old: loads the model with the stored head
    """
    import transformers

    model, loaded = loaded.model, replace(loaded, labels=match)
    if not match.head and not _outside_the_body(loaded):
        return loaded
    keeps_rows = any(row is not None for row in match.rows)
    auto = getattr(transformers, auto_class)
    names = label_parameters(model, lambda config: _on_meta(auto, config), keeps_rows=keeps_rows)
    old: Mapping[str, LazyTensor] = {}
    if keeps_rows:
        with torch.random.fork_rng(devices=[]):
            source = load_old() if set(names) & set(loaded.new) else loaded
        old = old_rows(source.model, [name for name in names if name not in source.new], source.stored)
    elif set(names) <= set(loaded.new):
        return loaded
    begins = set(names) if match.new or len(old) < len(names) else set()
    stored = HeadRows(match, names, old, drawn_from).place(model, loaded.stored)
    new = (set(loaded.new) - set(names)) | begins
    reshaped = set(loaded.reshaped) - (set(names) - begins)
    return replace(loaded, stored=stored, new=tuple(sorted(new)), reshaped=tuple(sorted(reshaped)))


def _outside_the_body(loaded: Loaded) -> bool:
    """Whether the files have weights outside the model's body, though no config says that they are a head."""
    model = loaded.model
    body = set(model.base_model.parameters())
    return model.base_model is not model and any(
        parameter not in body and name not in loaded.new for name, parameter in model.named_parameters()
    )


def _with_adapters(
    pretrained: Pretrained,
    base: Base,
    spec: Model,
    auto_class: str,
    labels: Sequence[str],
    config: PretrainedConfig | None,
    in_parts: bool,
) -> Loaded:
    """The base with the adapters merged, lazily if the base's weights can be left in their files."""
    base_spec = base.model.model_copy(
        update={"trust_remote_code": spec.trust_remote_code, "dropout": spec.dropout, "tokenizer": None}
    )
    stored_config = load_config(base.pretrained, base_spec)
    loaded = load_model(
        base.pretrained, base_spec, auto_class, labels, config, in_parts=in_parts, stored_config=stored_config
    )
    if base.identity is not None and loaded.identity != base.identity:
        raise ModelError(
            f"{base.pretrained.location} is no longer the model that the adapters in "
            f"{pretrained.location} were trained on; restore that model"
        )
    supplied = add_adapters(Path(pretrained.location), loaded.model, loaded.stored)
    own = match_labels(head_labels(config, auto_class), labels, spec.labels)
    body = {f"{loaded.model.base_model_prefix}.{name}" for name, _ in loaded.model.base_model.named_parameters()}
    if own.head and labels and not own.keeps_the_head and set(supplied) - body:
        raise ModelError(
            f"the adapters in {pretrained.location} include a head for {listed(own.head)}, and the data "
            f"have other labels: {listed(own.new) or 'fewer of them'}; merge the adapters first "
            f"(adaptrun consolidate {pretrained.location} -o FOLDER), and start from that folder, whose "
            "head keeps its rows by name"
        )
    return replace(loaded, new=tuple(name for name in loaded.new if name not in supplied))


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze matching parameters. Raises ModelError for a pattern without a match, or if none is left to train."""
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        named = [name for name in parameters if fnmatch(name, pattern)]
        if not named:
            shown = ", ".join(name for name, _ in model.named_children())
            raise ModelError(f"model.frozen: no parameter is named {pattern!r}; the model's parts are {shown}")
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ModelError("model.frozen: no parameter is left to train; freeze fewer")


def load_finished(
    pretrained: Pretrained, spec: Model, auto_class: str, labels: Sequence[str], config: PretrainedConfig
) -> PreTrainedModel:
    """The model of a finished model folder, in fp32. Raises ModelError if some of its weights are missing."""
    loaded = load_model(pretrained, spec, auto_class, labels, config)
    if pretrained.base is None and pretrained.function is not None and (loaded.new or loaded.left_out):
        raise ModelError(
            f"{pretrained.function} no longer builds the model whose weights are in {pretrained.location}: "
            f"{[*loaded.new, *loaded.left_out][0]}"
        )
    if loaded.new and pretrained.base is None:
        raise ModelError(
            f"{pretrained.location} has no trained {loaded.new[0]}, so it has no trained head; fine-tune it first"
        )
    return loaded.model


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Weights from a `.safetensors` file, or from a pickle that contains only tensors.

    Raises ModelError for a pickle that could run code, with advice.
    """
    if path.suffix == ".safetensors":
        headers_of(path)
        return load_file(path)
    check_weights("state_dict", path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise errors of any type
        raise ModelError(f"{path} is not a plain state dict: {refusal_of_pickle()}") from error
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(f"{path} holds no state dict (names and tensors); save `model.state_dict()`")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def _renamed(tensors: dict[str, Tensor], pretrained: Pretrained, like: Any) -> dict[str, Tensor]:
    return without_wrapper(tensors, like) if pretrained.kind == "state_dict" else tensors


def can_stay_in_files(auto_class: str, config: PretrainedConfig) -> bool:
    """Whether a model's weights can be left in their files, which requires that each parameter is a stored tensor."""
    import transformers

    return _is_stored_as_it_is(_on_meta(getattr(transformers, auto_class), config))


def _is_stored_as_it_is(model: Any) -> bool:
    """Whether each parameter is a stored tensor; not so in mixtures whose stored experts are merged into one."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    return not any(isinstance(step, WeightConverter) for step in get_model_conversion_mapping(model))


def _on_meta(auto: Any, config: PretrainedConfig) -> PreTrainedModel:
    """A model on the meta device, of the class that the auto class selects for `config`."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # some models use the CPU's generator even so
        made: PreTrainedModel = auto.from_config(config)
    return made


def _judge(model: PreTrainedModel, found: Mapping[str, Any], pretrained: Pretrained, spec: Model) -> Loaded:
    """Distinguish a new head, which is expected, from missing weights, which are an error."""
    body = {name for name, _ in model.base_model.named_children()}
    new = _new(found)
    left_out = set(found["unexpected_keys"])

    def is_of_the_body(name: str) -> bool:
        return name.removeprefix(model.base_model_prefix + ".").split(".")[0] in body

    has_new_head = any(not is_of_the_body(name) for name in new)
    missing = sorted(
        name
        for name in new
        if is_of_the_body(name)
        and not (has_new_head and _is_of_the_pooler(name))
        and not _matches(name, spec.allow_missing)
    )
    unexpected = sorted(n for n in left_out if is_of_the_body(n) and not _matches(n, spec.allow_unexpected))
    if missing or unexpected:
        raise ModelError(
            "\n".join(
                [
                    f"{pretrained.location} does not fit {type(model).__name__}:",
                    *_explain("it lacks", missing, "allow_missing"),
                    *_explain("it has in addition", unexpected, "allow_unexpected"),
                ]
            )
        )
    return Loaded(model, tuple(sorted(new)), tuple(sorted(left_out)), reshaped=tuple(sorted(_reshaped(found))))


def _is_of_the_pooler(name: str) -> bool:
    """Whether a parameter belongs to the pooler, which models saved with another head lack."""
    return "pooler" in name.split(".")


def _new(found: Mapping[str, Any]) -> set[str]:
    """Names of the parameters that are missing in the files, or have another shape there."""
    return {*found["missing_keys"], *_reshaped(found)}


def _reshaped(found: Mapping[str, Any]) -> set[str]:
    return {key[0] for key in found["mismatched_keys"]}


def weight_files(pretrained: Pretrained, spec: Model) -> list[Path]:
    """The safetensors files of a model, downloaded for a hub id; empty if it has none."""
    if pretrained.kind == "hub":
        from huggingface_hub import snapshot_download

        patterns = ["model*.safetensors", "model.safetensors.index.json"]
        folder = snapshot_download(pretrained.location, revision=spec.revision, allow_patterns=patterns)
        return safetensors_files("folder", Path(folder))
    return safetensors_files(pretrained.kind, Path(pretrained.location))


def _explain(verb: str, names: Sequence[str], field: str) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    pattern = names[0].rsplit(".", 1)[0] + ".*"
    return [f"  {verb} {shown}", f'    fix: name the right model, or allow it: model.{field}: ["{pattern}"]']


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _name_labels(config: PretrainedConfig, labels: Sequence[str]) -> None:
    if not labels:
        return
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def _replace_dropout_settings(config: PretrainedConfig, dropout: float | None) -> None:
    """Set dropout in the config under all its names, since some models read the config in the forward pass."""
    if dropout is None:
        return
    for name, value in config.to_dict().items():
        if (
            ("dropout" in name or name.endswith("pdrop"))
            and isinstance(value, float | int)
            and not isinstance(value, bool)
        ):
            setattr(config, name, dropout)


def _replace_dropout(model: nn.Module, dropout: float | None) -> None:
    if dropout is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def _hub_options(spec: Model) -> dict[str, Any]:
    return {"revision": spec.revision or "main", "trust_remote_code": spec.trust_remote_code}


@contextmanager
def _reading(what: str, spec: Model, fix: str = "") -> Iterator[None]:
    """Turn any error of a library that reads a folder into a ModelError.

    The type's name is added for errors whose message is not meant for users. Errors in the folder's own code, if the
    user has trusted it, are raised unchanged.
    """
    try:
        yield
    except (AdaptrunError, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        is_ordinary = isinstance(error, OSError | ValueError)
        is_panic = type(error).__name__ == "PanicException"  # of a library in Rust
        if (not isinstance(error, Exception) and not is_panic) or (spec.trust_remote_code and not is_ordinary):
            raise
        name = "" if is_ordinary else f"{type(error).__name__}: "
        raise ModelError(f"{what}: {name}{_first_line(error)}{fix and f'; {fix}'}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
