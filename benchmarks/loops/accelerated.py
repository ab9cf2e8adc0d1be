"""The same loop with accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from benchmarks.loops.job import BF16, CLIP, GLOBAL_BATCH, LR, ON_GPU, WORLD, forever, parts

accelerator = Accelerator(cpu=not ON_GPU, mixed_precision="bf16" if BF16 else "no")
model, tokenizer, texts, clock, output = parts()
loader = DataLoader(
    texts,
    batch_size=GLOBAL_BATCH // WORLD,
    shuffle=True,
    collate_fn=DataCollatorWithPadding(tokenizer),
    drop_last=True,
    pin_memory=ON_GPU,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, clock.steps)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
model.train()
for batch in forever(loader):
    loss = model(**batch).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    loss.item()
    if clock.tick():
        break
clock.report(output)
