"""The loop that one writes by hand: PyTorch, DistributedDataParallel where there are several processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from transformers import DataCollatorWithPadding

from benchmarks.loops.job import BF16, CLIP, DEVICE, GLOBAL_BATCH, LR, ON_GPU, WORLD, forever, parts

model, tokenizer, texts, clock, output = parts()
model.to(DEVICE)
sampler = None
if WORLD > 1:
    dist.init_process_group("nccl" if ON_GPU else "gloo")
    model = DistributedDataParallel(model)
    sampler = DistributedSampler(texts)
loader = DataLoader(
    texts,
    batch_size=GLOBAL_BATCH // WORLD,
    shuffle=sampler is None,
    sampler=sampler,
    collate_fn=DataCollatorWithPadding(tokenizer),
    drop_last=True,
    pin_memory=ON_GPU,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, clock.steps)
model.train()
for batch in forever(loader):
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=BF16):
        loss = model(**batch.to(DEVICE, non_blocking=True)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    loss.item()
    if clock.tick():
        break
clock.report(output)
