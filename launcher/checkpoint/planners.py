"""How `torch.distributed.checkpoint` goes about a flat state whose values may be `FlatSlice`s."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import ReadItem

from launcher.engines.flat_slice import FlatSlice


class SavePlanner(DefaultSavePlanner):
    """Writes a run of elements box by box."""

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The tensor, or part of one, that `index` means."""
        held = self.state_dict[index.fqn]
        return held.part(index) if isinstance(held, FlatSlice) else super().lookup_object(index)


class LoadPlanner(DefaultLoadPlanner):
    """Reads into runs of elements box by box."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the state as it is: torch's own, looking for meta tensors, makes None of what is no tensor."""
        self.state_dict = self.original_state_dict = state_dict
        self.mappings = {name: (name,) for name in state_dict}
        self.metadata, self.is_coordinator = metadata, is_coordinator

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        """No value of ours is a pickle; torch's own would run it."""
        raise ValueError(f"{read_item.dest_index.fqn} is no tensor")

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The tensor, or part of one, that `index` means."""
        held = self.state_dict[index.fqn]
        return held.part(index) if isinstance(held, FlatSlice) else super().lookup_tensor(index)
