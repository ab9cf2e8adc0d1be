"""A model of which only the config is here is as large as the one that `transformers` builds of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Model
from launcher.plan.model_size import COUNTED, ModelSize, find_model_size
from tests.cli import adaptrun
from tests.plan.test_plan import job

MIXTRAL = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
MIXTRAL_PARAMETERS = 46_702_792_704
"""As its authors publish it, of which 12.9 billion compute a token (arXiv:2401.04088)."""


def size_of(folder: Path, config: dict[str, Any], **options: Any) -> ModelSize | None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return find_model_size(find_pretrained(Model(pretrained=str(folder))), **options)


def variants(model_type: str) -> list[dict[str, Any]]:
    """The type's own sizes, and others where it has the usual names for them."""
    usual = AutoConfig.for_model(model_type).to_dict()
    other = {"num_hidden_layers": 8, "hidden_size": 1024, "intermediate_size": 2560, "num_attention_heads": 8}
    if not set(other) <= set(usual):
        return [usual]
    grouped = {"num_key_value_heads": 2} if "num_key_value_heads" in usual else {}
    return [
        usual,
        {"model_type": model_type, "head_dim": usual.get("head_dim"), **other, **grouped},
    ]


@pytest.mark.parametrize("model_type", COUNTED)
def test_the_formula_counts_each_family_that_it_is_used_for(model_type: str, tmp_path: Path) -> None:
    for config in variants(model_type):
        built = AutoConfig.for_model(**{name: value for name, value in config.items() if value is not None})
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in AutoModel.from_config(built).parameters())
        size = size_of(tmp_path / "model", built.to_dict())
        assert size is not None
        assert size.parameters == pytest.approx(parameters, rel=0.02)


def test_a_mixture_of_experts_is_as_large_as_the_model_that_is_built(tmp_path: Path) -> None:
    size = size_of(tmp_path / "model", MIXTRAL, with_lm_head=True)
    assert size is not None
    assert (size.parameters, size.is_estimated, size.layers) == (MIXTRAL_PARAMETERS, True, 32)
    assert size.block == (MIXTRAL_PARAMETERS - 2 * 32000 * 4096 - 4096) // 32
    assert size.intermediate == 2 * 14336


@pytest.mark.slow
def test_the_command_counts_all_experts(tmp_path: Path) -> None:
    _, file = job(tmp_path, train={"max_length": 512})
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(MIXTRAL))
    assert "about 46.57 billion parameters on 8 GPUs" in adaptrun("plan", file, "--gpus", 8, cwd=tmp_path).stdout


@pytest.mark.parametrize("config", [{"model_type": "unheard-of"}, {"hidden_size": 64}])
def test_a_config_that_nobody_can_build_has_no_size(config: dict[str, Any], tmp_path: Path) -> None:
    assert size_of(tmp_path / "model", config) is None
