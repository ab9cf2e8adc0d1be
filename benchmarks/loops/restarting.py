"""The loop by hand, made to go on under `torchrun --max-restarts`: it saves now and then, and begins at the last save.

The store is prefixed with the count of the attempt: with the plain one, gloo often dials a rank of the attempt before.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from transformers import DataCollatorWithPadding

from benchmarks.loops.job import CLIP, FIRST, GLOBAL_BATCH, LR, WORLD, forever, parts

SAVE_EVERY = 5
model, tokenizer, texts, clock, output = parts()
saved, ticks = Path(sys.argv[4]) / "checkpoint.pt", output
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
dist.init_process_group("gloo", store=dist.PrefixStore(attempt, store), rank=int(os.environ["RANK"]), world_size=WORLD)
optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
step = 0
if saved.exists():
    held = torch.load(saved)
    model.load_state_dict(held["model"])
    optimizer.load_state_dict(held["optimizer"])
    step = held["step"]
parallel = DistributedDataParallel(model)
sampler = DistributedSampler(texts)
collate = DataCollatorWithPadding(tokenizer)
batches = forever(
    DataLoader(texts, batch_size=GLOBAL_BATCH // WORLD, sampler=sampler, collate_fn=collate, drop_last=True)
)
for _ in range(step):
    next(batches)  # to the sample where it stopped
parallel.train()
while step < clock.steps:
    loss = parallel(**next(batches)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    step += 1
    if FIRST:
        with ticks.open("a") as file:
            file.write(f"{step} {time.time()}\n")
    if step % SAVE_EVERY == 0 and FIRST:
        partial = saved.with_suffix(".partial")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
        partial.replace(saved)
