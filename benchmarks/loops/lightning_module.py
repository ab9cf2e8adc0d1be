"""The same job as a LightningModule."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from benchmarks.loops.job import BF16, CLIP, GLOBAL_BATCH, LR, ON_GPU, WORLD, parts

model, tokenizer, texts, clock, output = parts()


class Classifier(lightning.LightningModule):
    """Training alone: there is nothing to validate on."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model.train()

    def training_step(self, batch: Any) -> Any:
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=LR, fused=True)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, clock.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        outputs["loss"].item()
        clock.tick()


loader = DataLoader(
    texts,
    batch_size=GLOBAL_BATCH // WORLD,
    shuffle=True,
    collate_fn=DataCollatorWithPadding(tokenizer),
    drop_last=True,
    pin_memory=ON_GPU,
)
lightning.Trainer(
    accelerator="gpu" if ON_GPU else "cpu",
    devices=WORLD,
    strategy="ddp" if WORLD > 1 else "auto",
    precision="bf16-mixed" if BF16 else "32-true",
    max_steps=clock.steps,
    gradient_clip_val=CLIP,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
).fit(Classifier(), loader)
clock.report(output)
