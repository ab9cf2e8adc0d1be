"""One rank of a step-time measurement: the bare library's loop and ours in turns, the same model and batches.

torchrun --nproc-per-node 2 -m benchmarks.loops.engines NAME STEPS OUTPUT     NAME: ddp, fsdp, zero1, zero2 or zero3

Both sides live in one process and take turns of a few steps, so that a slow moment hits both alike.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertForSequenceClassification

from launcher.engines import make_engine
from launcher.engines.base import EngineSettings
from launcher.engines.deepspeed import _import_deepspeed
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses
from launcher.plan.deepspeed_config import TEMPLATES

CONFIG = BertConfig(hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4)
SAMPLES, LENGTH, CLIP, LR, TURN = 8, 64, 1.0, 1e-4, 4
Step = Callable[[], None]


class Classifier(nn.Module):
    """The model with its loss, as our engines take it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = BertForSequenceClassification(CONFIG)

    def forward(self, batch: Batch) -> Losses:
        """Weighted cross-entropy of each sample."""
        logits = self.model(**batch.inputs).logits
        losses = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
        return Losses(losses * batch.weights, logits.detach())


def main() -> None:
    """Take turns; rank 0 writes the seconds of each side's steps."""
    name, steps, output = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo")
    draw = torch.Generator().manual_seed(dist.get_rank())
    ids = torch.randint(5, 1000, (SAMPLES, LENGTH), generator=draw)
    mask, targets = torch.ones_like(ids), torch.randint(0, 2, (SAMPLES,), generator=draw)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "deepspeed.json"
        if name.startswith("zero"):
            config.write_text(json.dumps(_rendered(name)))
        bare = BARE[name](config, {"input_ids": ids, "attention_mask": mask, "labels": targets})
        inputs = {"input_ids": ids, "attention_mask": mask}
        ours = _ours(name, config, Batch(inputs, targets, torch.ones(SAMPLES), torch.arange(SAMPLES), ids.numel()))
        sides: dict[str, list[float]] = {"bare": [], "adaptrun": []}
        for turn in range(steps // TURN):
            for side, step in (("bare", bare), ("adaptrun", ours))[:: 1 if turn % 2 else -1]:
                dist.barrier()
                begun = time.perf_counter()
                for _ in range(TURN):
                    step()
                sides[side].append((time.perf_counter() - begun) / TURN)
    if dist.get_rank() == 0:
        output.write_text(json.dumps({side: seconds[2:] for side, seconds in sides.items()}))
    dist.barrier()


def _rendered(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((TEMPLATES / f"{name}.json").read_text())
    return config | {
        "train_micro_batch_size_per_gpu": SAMPLES,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": CLIP,
    }


def _ours(name: str, config: Path, batch: Batch) -> Step:
    engine_name = "deepspeed" if name.startswith("zero") else name
    engine = make_engine(engine_name, EngineSettings(torch.device("cpu"), "fp32", CLIP, deepspeed=config))
    engine.prepare(Classifier(), Optimizer(lr=LR), {})
    scale = 1.0 / (SAMPLES * dist.get_world_size())

    def step() -> None:
        engine.accumulate(batch, scale, last=True).weighted.sum().item()
        engine.step(LR)

    return step


def _bare_torch(shard: Callable[[nn.Module], nn.Module], arguments: dict[str, Any]) -> Step:
    torch.manual_seed(0)
    model = shard(BertForSequenceClassification(CONFIG)).train()
    optimizer = _adamw(model)

    def step() -> None:
        loss = model(**arguments).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    """In two groups, as scripts usually have it: matrices decay, biases and normalisation weights do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, fused=True)


def _ddp(_: Path, arguments: dict[str, Any]) -> Step:
    return _bare_torch(DistributedDataParallel, arguments)


def _fsdp(_: Path, arguments: dict[str, Any]) -> Step:
    def shard(model: Any) -> nn.Module:
        for layer in model.bert.encoder.layer:
            fully_shard(layer)
        fully_shard(model)
        return model  # type: ignore[no-any-return]

    return _bare_torch(shard, arguments)


def _zero(config: Path, arguments: dict[str, Any]) -> Step:
    deepspeed = _import_deepspeed(torch.device("cpu"))
    torch.manual_seed(0)
    model = BertForSequenceClassification(CONFIG).train()
    optimizer = _adamw(model)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=str(config), dist_init_required=False)[0]

    def step() -> None:
        loss = engine(**arguments).loss
        engine.backward(loss)
        engine.step()
        loss.item()

    return step


BARE: dict[str, Callable[[Path, dict[str, Any]], Step]] = {
    "ddp": _ddp,
    "fsdp": _fsdp,
    "zero1": _zero,
    "zero2": _zero,
    "zero3": _zero,
}

if __name__ == "__main__":
    main()
