"""Planners with which `torch.distributed.checkpoint` saves and loads `FlatSlice`s."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import ReadItem

from launcher.engines.flat_slice import FlatSlice


class SavePlanner(DefaultSavePlanner):
    """Writes a contiguous range of elements box by box."""

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The tensor, or part of one, that `index` means."""
        held = self.state_dict[index.fqn]
        return held.part(index) if isinstance(held, FlatSlice) else super().lookup_object(index)


class LoadPlanner(DefaultLoadPlanner):
    """Reads into contiguous ranges of elements box by box."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Keep the state unchanged: torch's own planner replaces values that are not tensors by None."""
        self.state_dict = self.original_state_dict = state_dict
        self.mappings = {name: (name,) for name in state_dict}
        self.metadata, self.is_coordinator = metadata, is_coordinator

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        """Reject pickled values: adaptrun writes none, and torch's own planner would unpickle them."""
        raise ValueError(f"{read_item.dest_index.fqn} is not a tensor")

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The tensor, or part of one, that `index` means."""
        held = self.state_dict[index.fqn]
        return held.part(index) if isinstance(held, FlatSlice) else super().lookup_tensor(index)
