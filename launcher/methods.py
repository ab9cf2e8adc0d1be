"""What an own method of adapting is made of (docs/extending/method.md): `from launcher.methods import Method, …`."""

from launcher.adapt.methods.method import (
    FILLER,
    TARGET,
    BatchObservations,
    ForwardOutputs,
    Method,
    ModelDims,
    StepBatch,
    StepInfo,
    TargetInference,
)

__all__ = [
    "FILLER",
    "TARGET",
    "BatchObservations",
    "ForwardOutputs",
    "Method",
    "ModelDims",
    "StepBatch",
    "StepInfo",
    "TargetInference",
]
