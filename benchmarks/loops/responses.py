"""Prompts with ragged responses: the material, the truth by hand, and the Hugging Face Trainer over them.

torchrun … -m benchmarks.loops.responses FOLDER OUTPUT      the Trainer; losses and gradient norms of its steps
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch

BATCH, MICRO_BATCH, SAMPLES, SEED, LR, IGNORE_INDEX = 16, 4, 33, 0, 0.1, -100


def write_material(folder: Path) -> None:
    """A Llama of random weights, its tokenizer, and the rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "nrst"]
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=len(vocabulary), pad_token_id=0, eos_token_id=2, bos_token_id=None, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    draw = random.Random(0)
    with (folder / "train.jsonl").open("w") as file:
        for _ in range(SAMPLES):
            texts = [" ".join(draw.choices(words, k=draw.randint(1, longest))) for longest in (20, 12)]
            file.write(json.dumps(dict(zip(("prompt", "response"), texts, strict=True))) + "\n")


def rows(folder: Path) -> list[dict[str, list[int]]]:
    """Token ids and labels of each row, in the order that the steps take them."""
    from transformers import AutoTokenizer

    from launcher.worker.data.order import SampleOrder

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    found = []
    for line in (folder / "train.jsonl").read_text().splitlines():
        prompt, response = (tokenizer(text)["input_ids"] for text in json.loads(line).values())
        response = [*response, tokenizer.eos_token_id]
        found.append({"input_ids": prompt + response, "labels": [IGNORE_INDEX] * len(prompt) + response})
    order = SampleOrder(SAMPLES, BATCH, SEED)
    return [found[i] for step in range(order.steps_per_epoch) for i in order.batch(step)]


def collate(some: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Right-padded."""
    longest = max(len(row["input_ids"]) for row in some)
    fills = {"input_ids": 0, "labels": IGNORE_INDEX}
    batch = {
        name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in some])
        for name, fill in fills.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in some])
    return batch | {"attention_mask": (torch.arange(longest) < lengths[:, None]).long()}


def truth(folder: Path) -> list[tuple[float, float]]:
    """A plain loop over whole global batches."""
    from transformers import AutoModelForCausalLM

    model, samples = AutoModelForCausalLM.from_pretrained(folder / "model").train(), rows(folder)
    found = []
    for first in range(0, SAMPLES, BATCH):
        loss = model(**collate(samples[first : first + BATCH])).loss
        loss.backward()
        found.append((loss.item(), torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= LR * parameter.grad
                parameter.grad = None
    return found


def main() -> None:
    """Train with the Trainer, in the same order of samples."""
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    world = int(os.environ["WORLD_SIZE"])

    class InOrder(Trainer):
        """Takes the samples as they come."""

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=BATCH // MICRO_BATCH // world,
        num_train_epochs=1,
        learning_rate=LR,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=1e9,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    trainer = InOrder(model, arguments, data_collator=collate, train_dataset=rows(folder))
    trainer.train()
    steps = [(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "grad_norm" in log]
    if os.environ["RANK"] == "0":
        output.write_text(json.dumps(steps))


if __name__ == "__main__":
    main()
