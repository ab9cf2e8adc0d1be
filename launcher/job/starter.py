"""`adaptrun init`: a commented job file to start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.errors import RequestError
from launcher.job.sections.tasks import find_family

HEAD = """\
# A job for adaptrun. Check it: adaptrun check {file}   See what would run: adaptrun plan {file}
name: my-domain                  # the run's folder is runs/my-domain-<time>
model:
  # an alias (minilm), a folder, a finished run, a hub id, a state dict, or file.py:function
  pretrained: {pretrained}
task: {task}
data:
  # paths are relative to this file; docs/guides/tasks.md says what each task reads
  train: {{source: {train}{columns}}}
  validation:                    # one set or several; the first decides
    validation: {{source: {validation}{columns}}}
train:
  epochs: 3
  global_batch_size: 32          # samples per optimizer step, whatever the number of processes
  micro_batch_size: auto         # affects memory and speed only, no result
"""
TAIL = """\
  precision: auto                # bf16 if the device supports it, else fp32
  optimizer: {{name: adamw, lr: 2.0e-5, weight_decay: 0.01}}
  schedule: {{name: cosine, warmup: 0.06}}
  # early_stopping: {{patience: 3}}
validation: {{every: epoch, metric: loss}}   # or {metrics}
checkpoint: {{keep: 2, result: best}}
launch: {{processes: auto}}        # one per GPU, or one per physical core
"""
LENGTH = "  max_length: 128                # tokens\n"


@dataclass(frozen=True)
class Starter:
    """What the starters of two tasks differ in.

    data: name of the training and the validation data, with `{}` for which
    columns: fields of a source; train: lines of the section `train`
    """

    pretrained: str
    data: str
    columns: str
    train: str = LENGTH


STARTERS = {
    "text-classification": Starter(
        "minilm",
        "{}.csv",
        ", text: text, label: label",
        LENGTH
        + "  # loss: {class_weights: balanced, label_smoothing: 0.1}\n"
        + "  # loss: {name: binary}        # several labels per text; in csv separated by commas\n",
    ),
    "text-regression": Starter(
        "minilm",
        "{}.csv",
        ", text: text, label: label",
        LENGTH + "  loss: {name: mean-squared}     # or huber\n",
    ),
    "token-classification": Starter("minilm", "{}.conll", ""),
    "causal-lm": Starter(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "{}.jsonl",
        ", messages: messages",
        "  max_length: 1024               # tokens; longer chats are truncated\n"
        + "  packing: true                  # several chats per row, without attention between them: "
        "changes no result\n",
    ),
    "masked-lm": Starter("minilm", "{}.csv", ", text: text", LENGTH + "  mask_share: 0.15\n"),
    "audio-classification": Starter(
        "facebook/wav2vec2-base",
        "sounds/{}",
        "",
        "  max_seconds: 5                 # every sound is cut or padded to this length\n",
    ),
    "image-classification": Starter(
        "google/vit-base-patch16-224-in21k",
        "images/{}",
        "",
        "  # augment: {flip: true, crop: 16}   # mirror half of the images; shift by up to this many pixels\n",
    ),
}


def write_starter(task: str, path: Path) -> None:
    """Write a starter job for `task`. Raises RequestError for an unknown task, and where a file is in the way."""
    if task not in STARTERS:
        raise RequestError(f"there is no task {task!r}; the tasks are {', '.join(STARTERS)}")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_text(task, path))
    except FileExistsError:
        raise RequestError(f"{path} exists already and is not overwritten; name another file with --output") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from None


def _text(task: str, path: Path) -> str:
    starter = STARTERS[task]
    metrics = ", ".join(find_family(task).metric_directions or ())
    head = HEAD.format(
        file=path,
        task=task,
        pretrained=starter.pretrained,
        columns=starter.columns,
        **{name: starter.data.format(name) for name in ("train", "validation")},
    )
    return head + starter.train + TAIL.format(metrics=metrics)
