"""The same job with the Hugging Face Trainer."""

from __future__ import annotations

import tempfile
from typing import Any

from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from benchmarks.loops.job import BF16, CLIP, GLOBAL_BATCH, LR, ON_GPU, WORLD, parts

model, tokenizer, texts, clock, output = parts()


class Tick(TrainerCallback):
    """Ends of steps, for the clock."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        clock.tick()


arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    per_device_train_batch_size=GLOBAL_BATCH // WORLD,
    max_steps=clock.steps,
    learning_rate=LR,
    max_grad_norm=CLIP,
    lr_scheduler_type="linear",
    optim="adamw_torch_fused",
    use_cpu=not ON_GPU,
    bf16=BF16,
    dataloader_drop_last=True,
    save_strategy="no",
    report_to=[],
    logging_steps=1,
    disable_tqdm=True,
)
collate = DataCollatorWithPadding(tokenizer)
Trainer(model, arguments, data_collator=collate, train_dataset=texts, callbacks=[Tick()]).train()
clock.report(output)
