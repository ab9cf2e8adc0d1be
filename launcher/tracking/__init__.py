"""Figures of a run where people look for them: each tracker reads the run's events in a process of its own."""

from __future__ import annotations

from launcher.job.schema import Tracker as Settings
from launcher.tracking.base import Tracker


def make_tracker(settings: Settings) -> Tracker:
    """The tracker that the job names; the one place that knows them all. Raises ImportError where it is missing."""
    match settings.name:
        case "tensorboard":
            from launcher.tracking.tensorboard import TensorBoard

            return TensorBoard()
        case "wandb":
            from launcher.tracking.wandb import WeightsAndBiases

            return WeightsAndBiases()
        case "mlflow":
            from launcher.tracking.mlflow import MLflow

            return MLflow()
