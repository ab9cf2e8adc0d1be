"""`adaptrun consolidate`: a model folder from a checkpoint, on a machine without GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.commands.evaluate import trusted_files
from launcher.errors import RequestError
from launcher.job.pretrained import ADAPTER_CONFIG, check_model_files, find_pretrained
from launcher.job.requests import ConsolidationRequest
from launcher.job.schema import Model
from launcher.supervise.requests import ask_ranks


def consolidate_checkpoint(
    checkpoint: Path, output: Path, dtype: str, skeleton: Path | None, prefix: str | None, trusted: Sequence[str]
) -> None:
    """Write the model folder and say what is in it. Raises RequestError and CheckpointError.

    trusted: files of the user's own whose code adapters, or their base, may name
    """
    if not checkpoint.is_dir():
        raise RequestError(f"there is no folder {checkpoint}; name a run, or one of its checkpoints")
    if output.exists():
        raise RequestError(f"{output} exists already; name a new folder, or remove this one")
    if skeleton is not None and not (skeleton / "config.json").is_file():
        raise RequestError(f"{skeleton} holds no config.json; give --like a model folder of the same architecture")
    trusted = trusted_files(trusted)
    if (checkpoint / ADAPTER_CONFIG).is_file():
        model = Model(pretrained=str(checkpoint), trust_code=trusted)
        check_model_files(find_pretrained(model), model)
    request = ConsolidationRequest(
        checkpoint=str(checkpoint.resolve()),
        output=str(output.resolve()),
        dtype=dtype,
        skeleton=None if skeleton is None else str(skeleton.resolve()),
        prefix=prefix,
        trusted=trusted,
    )
    done = ask_ranks(request)
    for note in done.notes:
        print(note)
    size = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    print(f"{output}: {done.tensors} tensors in {dtype}, {size / 2**20:.0f} MiB, read back and compared")
    if not (output / "config.json").is_file() and not (output / ADAPTER_CONFIG).is_file():
        print(
            "without config.json: the checkpoint does not record its model; --like FOLDER copies the config from there"
        )
