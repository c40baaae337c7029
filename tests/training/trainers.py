"""Tiny trainers on drawn images, and the paper's training written out in plain steps to hold them against."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cxr.data.jitter import Augment
from cxr.data.store import Store
from cxr.device import Engine
from cxr.findings import CLASSES
from cxr.training import loop
from cxr.training.loop import Trainer
from cxr.training.recipe import Recipe
from cxr.training.records import Epoch

CPU = torch.device("cpu")
PLAIN = Engine(device=CPU)
FAST = Engine(device=CPU, bfloat16=True, channels_last=True, fused=True)  # as on a CPU with bfloat16 units
RECIPE = Recipe(name="tiny", arch="resnet18", image_size=64, epochs=2, batch_size=4, lr=1e-3)
# everything that a recipe can ask for
RICH: dict[str, Any] = {
    "augment": Augment(degrees=10, scale=0.1, shift=0.1, flip=0.5), "ema": 0.9, "weight_decay": 0.05,
    "warmup_epochs": 0.5, "final_lr": 0.1, "loss": "pos_weight",
}  # fmt: skip
PARTS = {"train": 10, "val": 24, "test": 3}  # 10 images in batches of 4: the last holds 2


def cohort(*, effusion: int) -> pd.DataFrame:
    """37 images of as many patients; the first `effusion` validation patients carry Effusion."""
    rng = np.random.default_rng(5)
    parts = [part for part, images in PARTS.items() for _ in range(images)]
    table = pd.DataFrame({"image": [f"{row:02d}.png" for row in range(len(parts))], "split": parts})
    table["patient_id"] = np.arange(len(parts)) + 100
    labels = (rng.random((len(parts), len(CLASSES))) < 0.2).astype(np.uint8)
    table = pd.concat([table, pd.DataFrame(labels, columns=list(CLASSES))], axis=1)
    val = table.index[table["split"] == "val"]
    table.loc[val, list(CLASSES)] = 0
    table.loc[val[:effusion], "Effusion"] = 1
    return table.sample(frac=1, random_state=1)  # rows in no order, and an index that is not 0, 1, 2 ...


FEW, ENOUGH = cohort(effusion=9), cohort(effusion=10)  # 10 patients a side make a class measurable
# with it every class has a positive among the training images, as pos_weight needs it
ALL_POSITIVE = ENOUGH.copy()
ALL_POSITIVE.loc[ALL_POSITIVE.index[ALL_POSITIVE["split"] == "train"][0], list(CLASSES)] = 1
TRAIN_IMAGES = ENOUGH.loc[ENOUGH["split"] == "train", "image"].tolist()


def drawn_store() -> Store:
    """Drawn noise, a brighter half for Effusion; rows in another order than the tables'."""
    names = sorted(ENOUGH["image"], reverse=True)
    pixels = np.random.default_rng(0).integers(0, 120, (len(names), 64, 64)).astype(np.uint8)
    effusion = dict(zip(ENOUGH["image"], ENOUGH["Effusion"], strict=True))
    for row, name in enumerate(names):
        pixels[row, 32:] += np.uint8(100 * effusion[name])
    return Store(pixels, {name: row for row, name in enumerate(names)})


STORE = drawn_store()


def small(seed: int = 0) -> nn.Module:
    """A convolution, BatchNorm and one layer: everything the loop must handle, in a millisecond."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Linear(64, 15),
        )  # fmt: skip


def trainer(
    network: nn.Module | None = None,
    *,
    table: pd.DataFrame = ENOUGH,
    seed: int = 7,
    engine: Engine = PLAIN,
    **changes: object,
) -> Trainer:
    """A trainer of the tiny recipe with `changes`, by default of a `small` network on 10 images."""
    recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
    return Trainer(small() if network is None else network, recipe, STORE, table, engine=engine, seed=seed)


def first(one: Trainer) -> Epoch:
    event = next(one.epochs())
    assert isinstance(event, Epoch)
    return event


def same(one: nn.Module, other: nn.Module) -> bool:
    there = other.state_dict()
    return all(torch.equal(tensor, there[name]) for name, tensor in one.state_dict().items())


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The loop's clock; it goes where the test sets its `now`."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock.now, time=lambda: 0.0))
    return clock


# ---------------------------------------------------------------- what is expected, written out


def own_generator(seed: int, *numbers: int) -> torch.Generator:
    """The generator of an epoch, or of an epoch's step: 63 of the 64 bits that a seed sequence gives."""
    bits = np.random.SeedSequence(seed, spawn_key=numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(bits[0]) // 2)


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=own_generator(seed, epoch)).tolist()


def images_of(epoch: int, step: int) -> str:
    """The four training images of a step's batch, as messages list them."""
    order = shuffled(len(TRAIN_IMAGES), 7, epoch)
    return ", ".join(TRAIN_IMAGES[row] for row in order[4 * step - 4 : 4 * step])


def reference(
    network: nn.Module, store: Store, table: pd.DataFrame, *,
    seed: int, epochs: int = 1, batch_size: int = 4, lr: float = 1e-3, weight_decay: float = 0.0,
) -> list[list[float]]:  # fmt: skip
    """The paper's Algorithm 1 written out: a per-image loss and Adam's own equations; each step's losses."""
    train = table[table["split"] == "train"].reset_index(drop=True)
    parameters = list(network.parameters())
    first = [torch.zeros_like(parameter) for parameter in parameters]
    second = [torch.zeros_like(parameter) for parameter in parameters]
    network.train()
    losses: list[list[float]] = []
    for epoch in range(1, epochs + 1):
        order = shuffled(len(train), seed, epoch)
        for start in range(0, len(order), batch_size):
            rows = train.iloc[order[start : start + batch_size]]
            pixels = np.stack([store.pixels[store.rows[name]] for name in rows["image"]]).astype(np.float32)
            images = torch.from_numpy((pixels / 255 - 0.5) / 0.25)[:, None].repeat(1, 3, 1, 1)
            labels = torch.tensor(rows[list(CLASSES)].to_numpy(dtype=np.float32))
            p = torch.sigmoid(network(images))
            loss = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean(dim=1)  # [B]
            losses.append(loss.tolist())
            gradients = torch.autograd.grad(loss.mean(), parameters)
            number = len(losses)
            with torch.no_grad():
                for parameter, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
                    m.mul_(0.9).add_(0.1 * gradient)
                    v.mul_(0.999).add_(0.001 * gradient**2)
                    parameter *= 1 - lr * weight_decay
                    parameter -= lr * (m / (1 - 0.9**number)) / ((v / (1 - 0.999**number)).sqrt() + 1e-8)
    return losses
