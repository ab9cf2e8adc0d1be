"""What the process imports that all ranks of `tests/worlds.py` are forked from. None of it may start a thread."""

from __future__ import annotations

import gc
from importlib import import_module

for name in (
    "deepspeed",
    "peft",
    "pytest",
    "torch.distributed.checkpoint",
    "launcher.engines.deepspeed",
    "launcher.engines.fsdp",
    "launcher.worker.training.recipe",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
):
    import_module(name)
gc.collect()
gc.freeze()  # a collection in a rank then writes to none of the pages that all share
