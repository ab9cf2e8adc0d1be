"""The same with the Hugging Face Trainer: it saves now and then, and resumes from its last checkpoint."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from benchmarks.loops.job import CLIP, FIRST, GLOBAL_BATCH, LR, WORLD, parts

SAVE_EVERY = 5
model, tokenizer, texts, clock, ticks = parts()
folder = Path(sys.argv[4]) / "trainer"


class Tick(TrainerCallback):
    """Notes the end of each step."""

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        if FIRST:
            with ticks.open("a") as file:
                file.write(f"{state.global_step} {time.time()}\n")


arguments = TrainingArguments(
    output_dir=str(folder),
    per_device_train_batch_size=GLOBAL_BATCH // WORLD,
    max_steps=clock.steps,
    learning_rate=LR,
    max_grad_norm=CLIP,
    optim="adamw_torch_fused",
    use_cpu=True,
    dataloader_drop_last=True,
    save_strategy="steps",
    save_steps=SAVE_EVERY,
    save_total_limit=2,
    report_to=[],
    disable_tqdm=True,
)
collate = DataCollatorWithPadding(tokenizer)
trainer = Trainer(model, arguments, data_collator=collate, train_dataset=texts, callbacks=[Tick()])
trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
