"""The tensors of a module that checkpoints and model folders store: parameters and buffers under their own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from launcher.engines.base import LocalTensor


def saved_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The saved parameters and buffers, each tied one once."""
    once = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return ((name, tensor) for name, tensor in model.state_dict().items() if name in once)


def load_saved(model: nn.Module, state: Mapping[str, LocalTensor]) -> None:
    """Load what `saved_tensors` gave; frozen tensors may be missing, and a tied tensor has only its first name."""
    model.load_state_dict(dict(state), strict=False)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    lacking = {name for name, _ in saved_tensors(model)} - frozen - set(state)
    assert not lacking, f"the saved state lacks {sorted(lacking)}"
