"""What checkpoints and model folders hold of a module: its parameters and buffers under their own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from launcher.engines.base import LocalTensor


def saved_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that are saved, each tied one once."""
    once = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return ((name, tensor) for name, tensor in model.state_dict().items() if name in once)


def load_saved(model: nn.Module, state: Mapping[str, LocalTensor]) -> None:
    """Take over what `saved_tensors` gave, perhaps without what is frozen; a tied tensor has its first name alone."""
    model.load_state_dict(dict(state), strict=False)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    lacking = {name for name, _ in saved_tensors(model)} - frozen - set(state)
    assert not lacking, f"the saved state lacks {sorted(lacking)}"
