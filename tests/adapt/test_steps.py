"""A step of every method is that of its formula over the whole global batch, on every engine and in every split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.adapt.domain_loss import Discriminator
from launcher.adapt.language import MASKED, LanguageHead
from launcher.job.methods import WITH_TARGET
from launcher.job.reading import load_job
from launcher.models import loading
from launcher.models.masked_lm import hidden_words
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.run.starts import Start
from launcher.worker.feeding import Feed
from launcher.worker.materials import load_model, open_materials
from launcher.worker.session import Session
from launcher.worker.world import World
from tests.adapt.domains import data_of, lay_out, make_material, weights
from tests.adapt.runs import losses, train
from tests.worlds import Worlds

RATE = 100.0
"""One large step of plain SGD: what the weights change by tells the gradient to many digits."""
BATCH = 64
WAYS = [("single", 1, 7), ("ddp", 4, 16), ("fsdp", 2, 20)]
MORE_WAYS = [("single", 1, 64), ("zero2", 2, 20), ("zero3", 2, 20)]
"""Engine, world, micro-batch."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_material(tmp_path_factory.mktemp("domains"))


class Whole:
    """The whole global batch of step 0 through the model in float64, with everything a formula needs."""

    def __init__(self, run: RunFolder) -> None:
        job = load_job(run.job_file)
        session = Session(job, run.plan(), run, World(), EventLog(None), Start())
        materials = open_materials(session)
        self.task, self.spec, self.seed = materials.task, job.adapt, job.train.seed
        self.loaded = load_model(session, materials, in_parts=False)
        self.model = self.loaded.model.double()
        self.pretrained, self.job = materials.pretrained, job
        self.before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        feed = Feed(job, self.task, materials.train, materials.target, None)
        self.sizes = materials.train.sizes, 0 if materials.target is None else len(materials.target)
        places = feed.samples(0)
        self.sets = torch.from_numpy(feed.sets(places))
        self.source, self.target = self.sets >= 0, self.sets == -1
        self.ids = feed.pool.found(places)[1].tolist()
        self.examples = feed.pool[places]
        self.labels = torch.tensor([int(example.get("label", 0)) for example in self.examples])

    def compute(self, examples: Any = None) -> None:
        """Features, logits and the task's loss of each sample, with gradient."""
        inputs = self.task.padded(examples or self.examples)  # type: ignore[attr-defined]
        body = self.model.bert(**inputs)
        self.hidden, self.features = body.last_hidden_state, body.pooler_output
        self.logits = self.model.classifier(self.features)
        self.losses = F.cross_entropy(self.logits, self.labels, reduction="none")
        self.p = self.logits.softmax(-1)

    @property
    def task_loss(self) -> Tensor:
        return self.losses[self.source].mean()


def certainty(p: Tensor) -> Tensor:
    return 1 + torch.exp((p * p.log()).sum(-1))


def adversarial(whole: Whole, seen: Tensor, weight: Tensor) -> Tensor:
    """At the first step gradients are reversed by nothing, so that the discriminator alone learns from its loss."""
    torch.manual_seed(whole.seed)
    judge = Discriminator(seen.shape[1], whole.spec.hidden).double()  # type: ignore[union-attr]
    scores = judge(seen.detach()).double()
    errors = F.binary_cross_entropy_with_logits(scores, whole.source.double(), reduction="none") * weight
    means = [errors[mine].sum() / weight[mine].sum() for mine in (whole.source, whole.target)]
    return whole.task_loss + (means[0] + means[1]) / 2


def dann(whole: Whole) -> Tensor:
    whole.compute()
    return adversarial(whole, whole.features, torch.ones(len(whole.sets), dtype=torch.float64))


def cdan(whole: Whole) -> Tensor:
    whole.compute()
    p = whole.p.detach()
    joint = torch.stack([torch.outer(p[i], whole.features[i]).flatten() for i in range(len(p))])
    return adversarial(whole, joint, certainty(p))


def coral(whole: Whole) -> Tensor:
    whole.compute()

    def covariance(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(0)
        return centred.T @ centred / (len(rows) - 1)

    difference = covariance(whole.features[whole.source]) - covariance(whole.features[whole.target])
    return whole.task_loss + 3.0 * (difference**2).sum() / (4 * whole.features.shape[1] ** 2)


def mmd(whole: Whole) -> Tensor:
    whole.compute()
    x, y = whole.features[whole.source], whole.features[whole.target]
    both = torch.cat([x, y])
    total = len(both)
    mean = sum(((a - b) ** 2).sum() for a in both.detach() for b in both.detach()) / (total * (total - 1))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        apart = ((a.unsqueeze(1) - b.unsqueeze(0)) ** 2).sum(-1)
        return sum(torch.exp(-apart / (b * mean)) for b in (0.25, 0.5, 1.0, 2.0, 4.0)) / 5

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return whole.task_loss + off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()


def mcc(whole: Whole) -> Tensor:
    whole.compute()
    y = (whole.logits[whole.target] / 2.5).softmax(-1)
    weight = certainty(y).detach()
    weight = len(y) * weight / weight.sum()
    classes = y.shape[1]
    between = torch.stack(
        [torch.stack([(weight * y[:, i] * y[:, j]).sum() for j in range(classes)]) for i in range(classes)]
    )
    shares = between / between.sum(1, keepdim=True)
    return whole.task_loss + sum(shares[i, j] for i in range(classes) for j in range(classes) if i != j) / classes


def udalm(whole: Whole) -> Tensor:
    tokenizer, shown, told = whole.task.processor, [], []
    for example, id_, is_target in zip(whole.examples, whole.ids, whole.target.tolist(), strict=True):
        ids, asked = np.array(example["input_ids"]), np.full(len(example["input_ids"]), -100)
        if is_target:
            ids, asked = hidden_words(tokenizer, tokenizer.all_special_ids, ids, 0.15, (whole.seed, 0, id_))
        shown.append({**example, "input_ids": ids})
        told.append(torch.tensor(asked))
    whole.compute(shown)
    torch.manual_seed(whole.seed)
    config = loading.load_config(whole.pretrained, whole.job.model)
    assert config is not None
    language = loading.load_model(whole.pretrained, whole.job.model, MASKED, (), config).model
    head = LanguageHead(language, whole.model.bert).double()
    every = [(row, place) for row, asked in enumerate(told) for place in torch.nonzero(asked != -100)[:, 0].tolist()]
    scores = [head(whole.hidden[row, place].unsqueeze(0)).double()[0] for row, place in every]
    errors = [F.cross_entropy(score, told[row][place]) for score, (row, place) in zip(scores, every, strict=True)]
    (labelled,), target = whole.sizes
    share = labelled / (labelled + target)
    return share * whole.task_loss + (1 - share) * torch.stack(errors).mean()


def group_dro(whole: Whole) -> Tensor:
    whole.compute()
    means = torch.stack([whole.losses[whole.sets == group].mean() for group in (0, 1)])
    q = torch.exp(0.5 * means.detach())
    return (q / q.sum() * means).sum()


def tent(whole: Whole) -> Tensor:
    whole.compute()
    return -(whole.p * whole.p.log()).sum(-1).mean()


def shot(whole: Whole) -> Tensor:
    whole.compute()
    mean = whole.p.mean(0)
    return -(whole.p * whole.p.log()).sum(-1).mean() + 0.5 * (mean * mean.log()).sum()


FORMULAS: dict[str, tuple[Callable[[Whole], Tensor], dict[str, Any]]] = {
    "dann": (dann, {"hidden": 8}),
    "cdan": (cdan, {"hidden": 8}),
    "coral": (coral, {"weight": 3.0}),
    "mmd": (mmd, {}),
    "mcc": (mcc, {}),
    "udalm": (udalm, {}),
    "group-dro": (group_dro, {"step_size": 0.5}),
    "tent": (tent, {}),
    "shot": (shot, {"pseudo_labels": 0.0, "diversity": 0.5}),
}


@pytest.mark.parametrize(
    "way",
    [*WAYS, *(pytest.param(way, marks=pytest.mark.slow) for way in MORE_WAYS)],
    ids=lambda way: "-".join(map(str, way)),
)
@pytest.mark.parametrize("method", FORMULAS)
def test_a_step_is_that_of_the_formula(
    method: str, way: tuple[str, int, int], material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    engine, world, micro = way
    formula, settings = FORMULAS[method]
    plain = {"name": "sgd", "lr": RATE, "momentum": 0.0, "weight_decay": 0.0}
    step = {"max_steps": 1, "global_batch_size": BATCH, "clip_norm": None, "optimizer": plain}
    adapt = {"method": method, **settings}
    run = lay_out(tmp_path, material, engine, world, adapt, micro=micro, train=step, **data_of(method, material))
    worlds.run(world, train, [(str(run.path), None)], timeout=240)
    whole = Whole(run)
    loss = formula(whole)
    loss.backward()
    assert losses(run)[0] == pytest.approx(float(loss.detach()), rel=1e-6)
    after, learned = weights(run), 0
    gradients = {name: p.grad for name, p in whole.model.named_parameters() if p.grad is not None}
    size = float(torch.stack([g.norm() for g in gradients.values()]).norm())
    for name, before in whole.before.items():
        if (method == "tent" and "LayerNorm" not in name) or (method == "shot" and name.startswith("classifier")):
            assert np.array_equal(after[name], before.float().numpy()), f"{name} is frozen"
            continue
        found = (before - torch.from_numpy(after[name]).double()) / RATE
        expected = gradients.get(name, torch.zeros_like(before))
        assert float((found - expected).norm()) <= 1e-5 * size, name
        learned += 1
    assert learned > 5


def test_every_method_has_a_formula_or_a_test_of_its_own() -> None:
    assert {*WITH_TARGET, "group-dro"} - set(FORMULAS) == {"dapt", "self-training"}
