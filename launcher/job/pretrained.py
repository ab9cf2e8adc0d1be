"""Where the pretrained model comes from, found without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.job.schema import Model


@dataclass(frozen=True)
class Pretrained:
    """A place a model can be loaded from.

    kind: `folder` (Hugging Face folder), `hub`, `state_dict` (a file of weights), or `function`
    location: absolute path of the folder or file, the hub id, or `/path/file.py:function`
    config, tokenizer: folder or hub id of each
    """

    kind: Literal["folder", "hub", "state_dict", "function"]
    location: str
    config: str
    tokenizer: str


def find_pretrained(model: Model, folder: Path | None = None) -> Pretrained:
    """Resolve `model.pretrained`, relative to `folder`.

    Raises ModelError where it names nothing that exists, with the way out.
    """
    raise NotImplementedError
