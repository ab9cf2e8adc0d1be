"""One rank of a ZeRO-3 run of about 1 GB of weights at random: takes a step, saves as DeepSpeed and as torch do.

torchrun --nproc-per-node 2 -m benchmarks.loops.zero_checkpoint DEEPSPEED_FOLDER DCP_FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import BertConfig, BertModel

from launcher.checkpoint.planners import SavePlanner
from launcher.engines.base import EngineSettings
from launcher.engines.deepspeed import DeepSpeedEngine
from launcher.job.sections.training import Optimizer
from launcher.models.parts.batch import Batch, Losses

CONFIG = BertConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=18, num_attention_heads=16)
ZERO_3 = """{"train_micro_batch_size_per_gpu": 1,
"zero_optimization": {"stage": 3, "sub_group_size": 50000000}, "zero_allow_untested_optimizer": true}"""


class Squares(nn.Module):
    """A model with a loss, whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.model = BertModel(CONFIG, add_pooling_layer=False)

    def forward(self, batch: Batch) -> Losses:
        """The mean square of what comes out."""
        out = self.model(batch.inputs["input_ids"]).last_hidden_state.square().mean((1, 2))
        return Losses(out, out.detach())


def main() -> None:
    """Train a step, save twice."""
    for_deepspeed, for_torch = sys.argv[1:]
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(ZERO_3)
        file.flush()
        engine = DeepSpeedEngine(EngineSettings(torch.device("cpu"), "fp32", None, deepspeed=Path(file.name)))
        engine.prepare(Squares(), Optimizer(), {})
    one = torch.ones(1)
    engine.accumulate(Batch({"input_ids": torch.ones(1, 4, dtype=torch.int64)}, one, one, one, 4), 1.0, last=True)
    engine.step(1e-5)
    engine._engine.save_checkpoint(for_deepspeed)
    weights = {name.removeprefix("model."): held for name, held in engine.state()["model"].items()}
    save({f"model.{name}": held for name, held in weights.items()}, checkpoint_id=for_torch, planner=SavePlanner())


if __name__ == "__main__":
    main()
