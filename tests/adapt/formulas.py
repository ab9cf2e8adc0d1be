"""What a step of each method minimises, written out over the whole global batch in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.adapt.methods.language import MASKED
from launcher.models.tasks.masked_lm import hidden_words
from launcher.models.weights import loading
from tests.adapt.labels import IGNORE_INDEX, nearest_centres, surest
from tests.adapt.reference import Reference


def certainty(p: Tensor) -> Tensor:
    return 1 + torch.exp((p * p.log()).sum(-1))


def new_judge(r: Reference, classes: int = 1) -> dict[str, Tensor]:
    """A discriminator of one hidden layer, as the seed draws it; of several classes it starts as large as of one."""
    torch.manual_seed(r.seed)
    first, last = nn.Linear(classes * r.model.config.hidden_size, r.spec.hidden), nn.Linear(r.spec.hidden, 1)  # type: ignore[union-attr]
    parts = {f"layers.0.{name}": weight * classes**0.5 for name, weight in first.named_parameters()}
    return parts | {f"layers.2.{name}": weight for name, weight in last.named_parameters()}


def adversarial(r: Reference, seen: Tensor, weight: Tensor) -> Tensor:
    """The discriminator lowers its error D; whoever makes what it sees lowers task − λ·D. The value is task + D."""
    judge = [r.weights[f"parts.layers.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias")]

    def error(seen: Tensor, into: Tensor, into_bias: Tensor, out: Tensor, out_bias: Tensor) -> Tensor:
        scores = torch.relu(seen @ into.T + into_bias) @ out[0] + out_bias
        of_source = -(weight * F.logsigmoid(scores))[r.source].sum() / weight[r.source].sum()
        of_target = -(weight * F.logsigmoid(-scores))[r.target].sum() / weight[r.target].sum()
        return r.spec.weight * (of_source + of_target) / 2  # type: ignore[union-attr]

    strength = 2 / (1 + exp(-r.spec.gamma * r.step / r.feed.total_steps)) - 1  # type: ignore[union-attr]
    unlearned = error(seen, *(weight.detach() for weight in judge))
    return r.task_loss + error(seen.detach(), *judge) - strength * (unlearned - unlearned.detach())


def dann(r: Reference) -> Tensor:
    r.compute()
    return adversarial(r, r.features, torch.ones(len(r.sets), dtype=torch.float64))


def cdan(r: Reference) -> Tensor:
    r.compute()
    p = r.p.detach()
    joint = torch.stack([torch.outer(p[i], r.features[i]).flatten() for i in range(len(p))])
    return adversarial(r, joint, certainty(p))


def coral(r: Reference) -> Tensor:
    r.compute()

    def covariance(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(0)
        return centred.T @ centred / (len(rows) - 1)

    of_source, of_target = covariance(r.features[r.source]), covariance(r.features[r.target])
    likeness = 2 * (of_source * of_target).sum() / ((of_source**2).sum() + (of_target**2).sum())
    return r.task_loss + r.spec.weight * (1 - likeness)  # type: ignore[union-attr]


def mmd(r: Reference) -> Tensor:
    r.compute()
    x, y = r.features[r.source], r.features[r.target]
    both = torch.cat([x, y])
    total = len(both)
    mean = sum(((a - b) ** 2).sum() for a in both.detach() for b in both.detach()) / (total * (total - 1))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        apart = ((a.unsqueeze(1) - b.unsqueeze(0)) ** 2).sum(-1)
        return sum(torch.exp(-apart / (b * mean)) for b in (0.25, 0.5, 1.0, 2.0, 4.0)) / 5

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return r.task_loss + off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()


def mcc(r: Reference) -> Tensor:
    r.compute()
    y = (r.logits[r.target] / 2.5).softmax(-1)
    weight = certainty(y).detach()
    weight = len(y) * weight / weight.sum()
    classes = y.shape[1]
    between = torch.stack(
        [torch.stack([(weight * y[:, i] * y[:, j]).sum() for j in range(classes)]) for i in range(classes)]
    )
    shares = between / between.sum(1, keepdim=True)
    confusion = sum(shares[i, j] for i in range(classes) for j in range(classes) if i != j) / classes
    return r.task_loss + r.spec.weight * confusion  # type: ignore[union-attr]


def pretrained_words(r: Reference) -> dict[str, Tensor]:
    """The head that tells words, but for its output matrix, which is the model's own word embeddings."""
    torch.manual_seed(r.seed)
    config = loading.load_config(r.inputs.pretrained, r.job.model)
    assert config is not None
    language = loading.load_model(r.inputs.pretrained, r.job.model, MASKED, (), config).model
    return {f"head.cls.{name}": p for name, p in language.cls.named_parameters() if "decoder" not in name}


def words(r: Reference) -> Tensor:
    """The mean loss of all hidden words of the target; the task's loss is then computed too."""
    tokenizer, shown, told = r.task.processor, [], []
    for example, id_, is_target in zip(r.examples, r.ids, r.target.tolist(), strict=True):
        ids, asked = np.array(example["input_ids"]), np.full(len(example["input_ids"]), IGNORE_INDEX)
        if is_target:
            ids, asked = hidden_words(tokenizer, tokenizer.all_special_ids, ids, 0.15, (r.seed, r.step, id_))
        shown.append({**example, "input_ids": ids})
        told.append(torch.tensor(asked))
    r.compute(shown)
    places = [(row, place) for row, asked in enumerate(told) for place in np.flatnonzero(asked != IGNORE_INDEX)]
    head = {name.removeprefix("parts.head.cls.predictions."): weight for name, weight in r.weights.items()}
    errors = []
    for row, place in places:
        inner = F.gelu(head["transform.dense.weight"] @ r.hidden[row, place] + head["transform.dense.bias"])
        scale, shift = head["transform.LayerNorm.weight"], head["transform.LayerNorm.bias"]
        inner = (inner - inner.mean()) / (inner.var(correction=0) + 1e-12).sqrt() * scale + shift
        scores = r.weights["model.bert.embeddings.word_embeddings.weight"] @ inner + head["bias"]
        errors.append(scores.logsumexp(0) - scores[told[row][place]])
    return torch.stack(errors).mean()


def udalm(r: Reference) -> Tensor:
    language = words(r)
    (labelled,), target = r.inputs.train.sizes, len(r.inputs.target or ())
    share = labelled / (labelled + target)
    return share * r.task_loss + (1 - share) * language


def dapt(r: Reference) -> Tensor:
    """The 75 samples of the target in two steps, then the task."""
    if r.step < 2:
        assert r.target.all()
        return words(r)
    assert r.source.all()
    r.compute()
    return r.task_loss


SURE = 0.41


def self_training(r: Reference) -> Tensor:
    """From the second epoch on, with labels of its beginning; a target sample without a label counts as a zero."""
    r.compute()
    passed, within = r.epoch
    if not passed:
        return r.task_loss
    if not within:
        labels = r.memory["labels"] = surest(r.look()[1], SURE, balanced=True)
        assert len({*labels}) == 3, "some are sure, of two classes, and some are not"
        assert IGNORE_INDEX in labels
    told = [r.memory["labels"][id_] for id_ in r.target_ids]
    errors = [-logs[label] for logs, label in zip(r.logits[r.target].log_softmax(-1), told, strict=True) if label >= 0]
    return r.task_loss + 2.0 * torch.stack(errors).sum() / len(told)


def group_dro(r: Reference) -> Tensor:
    """Weights of the groups grow with the losses of all steps so far."""
    r.compute()
    means = torch.stack([r.losses[r.sets == group].mean() for group in (0, 1)])
    r.memory["sum"] = r.memory.get("sum", 0) + means.detach()
    q = torch.exp(0.5 * r.memory["sum"])
    return (q / q.sum() * means).sum()


def tent(r: Reference) -> Tensor:
    r.compute()
    mean = r.p.mean(0)
    return -(r.p * r.p.log()).sum(-1).mean() + r.spec.diversity * (mean * mean.log()).sum()  # type: ignore[union-attr]


def shot(r: Reference) -> Tensor:
    """With labels of each epoch's beginning."""
    r.compute()
    if not r.epoch[1]:
        features, p = r.look()
        r.memory["labels"] = nearest_centres(features.numpy(), p.numpy())
        assert len({*r.memory["labels"]}) > 1
    told = [r.memory["labels"][id_] for id_ in r.target_ids]
    mean = r.p.mean(0)
    information = -(r.p * r.p.log()).sum(-1).mean() + 0.5 * (mean * mean.log()).sum()
    errors = [-logs[label] for logs, label in zip(r.logits.log_softmax(-1), told, strict=True)]
    return information + 0.3 * torch.stack(errors).mean()


def nothing(r: Reference) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Case:
    """A method as it is checked.

    settings: of `adapt`, such that what the method adds to the task's gradient is not much less than that
    steps: of which each is checked; the first `before` of them learn the target's words alone
    parts: what the method adds to the model, before the first step
    is_trained: whether the model has a head that is sure of something
    rate: of plain SGD; what the weights change by tells the gradient to many digits
    factors: what the rate of some parameters is multiplied by, the longest beginning of a name first
    """

    formula: Callable[[Reference], Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 2
    parts: Callable[[Reference], dict[str, Tensor]] = nothing
    is_trained: bool = False
    rate: float = 1.0
    before: int = 0
    factors: dict[str, float] = field(default_factory=dict)

    @property
    def task_steps(self) -> int:
        return self.steps - self.before

    def rate_of(self, name: str) -> float:
        return self.rate * next((factor for start, factor in self.factors.items() if name.startswith(start)), 1.0)


REVERSED = {"hidden": 8, "gamma": 2.0, "weight": 10.0, "discriminator_lr_factor": 0.5}
"""λ is 0, 0.32 and 0.58 in three steps."""
RATES = {"parts.layers.0.weight": 0.5 * 256 / 32, "parts.": 0.5}
"""Of the discriminator; what it sees of 32 features learns as much faster as there are fewer of them than 256."""
CASES = {
    "dann": Case(dann, {**REVERSED, "weight": 30.0}, 3, new_judge, True, factors=RATES),
    "cdan": Case(cdan, REVERSED, 3, lambda r: new_judge(r, classes=3), True, factors=RATES),
    "coral": Case(coral, {"weight": 3.0}, is_trained=True, rate=0.02),
    "mmd": Case(mmd),
    "mcc": Case(mcc, {"weight": 300.0}, is_trained=True, rate=0.02),
    "udalm": Case(udalm, parts=pretrained_words),
    "dapt": Case(dapt, {"epochs": 1}, 4, pretrained_words, before=2),
    "self-training": Case(self_training, {"threshold": SURE, "weight": 2.0}, 4),
    "group-dro": Case(group_dro, {"step_size": 0.5}),
    "tent": Case(tent, {"diversity": 0.5, "lr_factor": 0.25}, rate=0.4, factors={"model.": 0.25}),
    "shot": Case(shot, {"diversity": 0.5, "pseudo_labels": 0.3}, 3),
}
"""The source has 70 samples and the target 75, so that in steps of 64 each second one is short and ends an epoch."""
