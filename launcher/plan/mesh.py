"""How the processes of a run are arranged: the axes of its parallelism."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mesh:
    """Ranks along four axes; the last one varies fastest.

    replicate: copies of the model, each with samples of its own
    shard: ranks that share one copy's parameters, gradients or moments, each with samples of its own
    tensor: ranks that compute parts of the same layers for the same samples
    context: ranks that compute parts of the same texts
    """

    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    context: int = 1

    @property
    def size(self) -> int:
        """Ranks of all axes together."""
        return self.data_size * self.ranks_per_sample

    @property
    def data_size(self) -> int:
        """Number of parts into which a global batch is split."""
        return self.replicate * self.shard

    @property
    def ranks_per_sample(self) -> int:
        """Ranks that hold the same samples; they are neighbours."""
        return self.tensor * self.context

    def data_rank(self, rank: int) -> int:
        """The part of each global batch that a rank has."""
        return rank // self.ranks_per_sample

    def speaks_for_data(self, rank: int) -> bool:
        """Whether a rank is the first of those with the same samples, which reports their results."""
        return rank % self.ranks_per_sample == 0
