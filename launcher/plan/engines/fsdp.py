"""A shard of each parameter, gradient and moment on each process."""

from __future__ import annotations

from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.memory import FLOAT32, Demand, Memory
from launcher.plan.mesh import Mesh
from launcher.plan.model_size import ModelSize


def _memory(need: Demand) -> Memory:
    weights, learning = (
        FLOAT32 * need.size.share(count, need.ranks) for count in (need.size.parameters, need.size.learning)
    )
    activations = need.activations(frees_copies=True, allocated_late=learning)
    return Memory(weights, learning, need.moments * learning, activations, _gathered(need.size, activations))


def _gathered(size: ModelSize, activations: int) -> int:
    """Bytes of gathered tensors: the modules outside the blocks, throughout, and the larger of two peaks.

    One peak is during the backward pass: two blocks, and the gradients of one being reduced. The other is at its end,
    when all activations are freed: the gradients of the modules outside, computed and being reduced.
    """
    outside, learning = FLOAT32 * size.outside, FLOAT32 * min(size.outside, size.learning)
    return outside + max(3 * FLOAT32 * size.block, 2 * learning - activations)


class Fsdp(EngineFacts):
    """Facts on `launcher/engines/fsdp.py`."""

    name = "fsdp"
    shardings = (Sharding("fsdp", {"name": "fsdp"}, _memory, "weights", may_keep_gradients=True),)
    chosen_by_auto = True
    gathers_in_precision = True

    def mesh(self, ranks: int) -> Mesh:
        """All ranks shard one copy."""
        return Mesh(shard=ranks)
