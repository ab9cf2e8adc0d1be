"""The same layer on the same features, trained by skada's nets of the methods that both sides have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skada.deep import CDAN, DAN, DANN, MCC, DeepCoral, SourceOnly
from skada.deep.modules import DomainClassifier
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from .top import Features

NETS: dict[str, Callable[..., Any]] = {
    "source only": SourceOnly,
    "coral": DeepCoral,
    "mmd": DAN,
    "dann": DANN,
    "cdan": CDAN,
    "mcc": MCC,
}
"""By the name that the method has in adaptrun; each with the settings that skada gives it, but `domain_classifier`."""

Labels = np.ndarray[Any, np.dtype[np.int64]]


class Top(nn.Module):
    """The model of `write_top`, fed with features [samples, width] in place of words."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        for parameter in self.model.bert.embeddings.parameters():
            parameter.requires_grad_(parameter.ndim == 1)
        self.features = nn.Identity()

    def forward(self, features: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Logits [samples, 2]."""
        pooled = self.model.bert(inputs_embeds=features[:, None]).pooler_output
        logits: Tensor = self.model.classifier(self.features(self.model.dropout(pooled)))
        return logits


def domain_classifier(width: int) -> nn.Module:
    """That of skada with a sigmoid at its end in place of a softmax over its one output, which says 1 of everything."""
    made = DomainClassifier(num_features=width)
    made.classifier[-1] = nn.Sigmoid()
    return made


def trained(
    method: str,
    folder: Path,
    source: tuple[Features, Labels],
    target: Features,
    *,
    epochs: int,
    batch: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> Callable[[Features], Labels]:
    """Fit one net; returns what predicts the labels of features."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"layer_name": "features"}
    if method in ("dann", "cdan"):
        width = source[0].shape[1]
        settings["domain_classifier"] = domain_classifier(width if method == "dann" else 2 * width)
    net = NETS[method](
        Top(folder),
        **settings,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=weight_decay,
        lr=lr,
        batch_size=batch,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
    )
    inputs = np.concatenate([source[0], target])
    labels = np.concatenate([source[1], np.full(len(target), -1)])
    domains = np.concatenate([np.ones(len(source[0]), dtype=int), np.full(len(target), -2)])
    net.fit(inputs, labels, domains)

    def predict(features: Features) -> Labels:
        found: Labels = net.predict(features, np.full(len(features), -2))
        return found

    return predict
