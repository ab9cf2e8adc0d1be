"""`adaptrun init`: a commented job file to start from."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import RequestError

STARTERS = {
    "text-classification": """\
# A job for adaptrun. Check it: adaptrun check {file}   See what would run: adaptrun plan {file}
name: my-domain                  # the run's folder is runs/my-domain-<time>
model:
  pretrained: minilm             # an alias, a folder, a finished run, a hub id, a state dict, or file.py:function
task: text-classification
data:
  # csv, tsv, jsonl, parquet, a folder saved by `datasets`, or a hub id; paths are relative to this file
  train: {{source: train.csv, text: text, label: label}}
  validation:                    # one set or several; the first decides
    validation: {{source: validation.csv, text: text, label: label}}
train:
  epochs: 3
  global_batch_size: 32          # samples an optimizer step, on any number of processes
  micro_batch_size: auto         # memory and speed alone: it changes no result
  max_length: 128                # tokens
  precision: auto                # bf16 where the device has it, else fp32
  optimizer: {{name: adamw, lr: 2.0e-5, weight_decay: 0.01}}
  schedule: {{name: cosine, warmup: 0.06}}
  # loss: {{class_weights: balanced, label_smoothing: 0.1}}
  # early_stopping: {{patience: 3}}
validation: {{every: epoch, metric: loss}}
checkpoint: {{keep: 2, result: best}}
launch: {{processes: auto}}        # one a GPU, or one a physical core
""",
}


def write_starter(task: str, path: Path) -> None:
    """Write a starter job for `task`. Raises RequestError for an unknown task, and where a file is in the way."""
    if task not in STARTERS:
        raise RequestError(f"there is no task {task!r}; the tasks are {', '.join(STARTERS)}")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTERS[task].format(file=path))
    except FileExistsError:
        raise RequestError(f"{path} exists and is left as it is; name another file with --output") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from None
