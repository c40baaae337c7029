"""What an epoch computes: against a plain loop; its determinism, augmentation, schedule and average."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from cxr.data.jitter import Augment
from cxr.data.loader import Pixels
from cxr.device import Engine
from cxr.evaluation.predict import predict
from cxr.findings import CLASSES
from cxr.model import build
from cxr.training import loop
from cxr.training.loop import Trainer
from tests.training.trainers import (
    ALL_POSITIVE,
    CPU,
    ENOUGH,
    FAST,
    PLAIN,
    RICH,
    STORE,
    TRAIN_IMAGES,
    first,
    own_generator,
    reference,
    same,
    shuffled,
    small,
    trainer,
)


@pytest.mark.parametrize("engine", [PLAIN, replace(FAST, bfloat16=False)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_an_epoch_is_the_papers_algorithm_written_out(weight_decay: float, engine: Engine) -> None:
    network = small()
    expected = copy.deepcopy(network)
    losses = reference(expected, STORE, ENOUGH, seed=7, weight_decay=weight_decay)
    record = first(trainer(network, weight_decay=weight_decay, engine=engine))
    assert record.metrics["train/loss"] == pytest.approx(
        np.mean([loss for step in losses for loss in step]), rel=1e-6
    )
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


def validated(network: nn.Module) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits and labels [24, 15] of the validation images, and the loss, written out."""
    val = ENOUGH[ENOUGH["split"] == "val"]
    logits = predict(network, Pixels(STORE, CPU), STORE.rows_of(val["image"].tolist())).astype(np.float64)
    labels = val[list(CLASSES)].to_numpy()
    p = 1 / (1 + np.exp(-logits))
    return logits, labels, -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()


def test_the_records_validation_numbers_follow_from_the_network() -> None:
    network = small()
    record = first(trainer(network)).metrics
    logits, labels, loss = validated(network)
    assert record["val/loss"] == pytest.approx(loss, rel=1e-6)
    column = CLASSES.index("Effusion")
    assert record["val/auroc/Effusion"] == roc_auc_score(labels[:, column], logits[:, column])
    assert record["val/auroc/macro_14"] == record["val/auroc/Effusion"]  # the only class that is measurable
    assert record["val/macro_14_classes"] == 1


def test_batch_norm_learns_from_training_batches_only() -> None:
    network = small().eval()  # however it is handed over
    seen: list[tuple[bool, int]] = []
    network[1].register_forward_hook(lambda layer, images, _: seen.append((layer.training, len(images[0]))))
    for record in trainer(network, epochs=3).epochs():
        assert network[1].num_batches_tracked == 3 * record.number
    assert seen == [(True, 4), (True, 4), (True, 2), *[(False, 4)] * 6] * 3  # validation in batches of 4, too


def test_only_whole_batches_take_the_compiled_way() -> None:
    one = trainer(small())
    sizes: list[int] = []
    compiled = one.forward

    def forward(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return compiled(images)

    one.forward = forward
    first(one)
    assert sizes == [4, 4]  # and two images by the plain network


def test_validation_moves_nothing() -> None:
    network = small()
    one = trainer(network)
    list(one._train(1, math.inf))
    before = copy.deepcopy(network)
    one._validate(1)
    assert network.training
    assert same(network, before)


def test_every_training_image_is_seen_once_an_epoch_in_a_new_order() -> None:
    network = small()
    seen: list[list[float]] = []
    network.register_forward_pre_hook(
        lambda layer, images: seen.append(images[0].mean(dim=(1, 2, 3)).tolist()) if layer.training else None
    )
    list(trainer(network).epochs())
    one, other = ([mean for batch in seen[part] for mean in batch] for part in (slice(0, 3), slice(3, 6)))
    means = [(STORE.pixels[STORE.rows[name]].mean() / 255 - 0.5) / 0.25 for name in TRAIN_IMAGES]
    assert sorted(one) == pytest.approx(sorted(means), abs=1e-5)
    assert sorted(other) == pytest.approx(sorted(one), abs=1e-6)
    assert one != other
    for epoch, found in enumerate((one, other), start=1):
        assert found == pytest.approx([means[row] for row in shuffled(10, 7, epoch)], abs=1e-5)


def test_the_loss_falls_on_what_can_be_learnt() -> None:
    records = [record.metrics for record in trainer(lr=0.01, epochs=12).epochs()]
    assert records[-1]["train/loss"] < 0.8 * records[0]["train/loss"]


# ---------------------------------------------------------------- determinism


def test_the_same_seed_gives_the_same_resnet_and_another_seed_another() -> None:
    networks = [build("resnet18", seed=seed) for seed in (3, 3, 3)]
    runs = [
        [record.metrics["train/loss"] for record in trainer(network, seed=seed).epochs()]
        for network, seed in zip(networks, (3, 3, 4), strict=True)
    ]
    assert same(networks[0], networks[1])
    assert runs[0] == runs[1]
    assert not same(networks[0], networks[2])  # the same initial weights, another order of images
    assert runs[0] != runs[2]


def test_the_global_generator_does_not_matter() -> None:
    networks = [small(), small()]
    for number, network in enumerate(networks):
        torch.manual_seed(number)
        list(trainer(network).epochs())
    assert same(*networks)


# ---------------------------------------------------------------- augmentation


def test_every_image_is_moved_anew_as_seed_epoch_and_step_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []
    moved: list[torch.Tensor] = []
    draw, warp = loop.draw, loop.warp

    def spy(augment: Augment, count: int, generator: torch.Generator) -> torch.Tensor:
        drawn.append(draw(augment, count, generator))
        return drawn[-1]

    def spy_warp(pixels: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        moved.append(matrices)
        return warp(pixels, matrices)

    monkeypatch.setattr(loop, "draw", spy)
    monkeypatch.setattr(loop, "warp", spy_warp)
    for seed in (7, 7, 8):
        torch.manual_seed(len(drawn))
        list(trainer(seed=seed, table=ALL_POSITIVE, **RICH).epochs())
    assert [len(matrices) for matrices in drawn] == [4, 4, 2] * 6  # whole batches of training, none of validation
    assert all(torch.equal(one, other) for one, other in zip(drawn, moved, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(drawn[:6], drawn[6:12], strict=True))
    different = torch.cat([*drawn[:6], *drawn[12:]]).flatten(1)
    assert len(different.unique(dim=0)) == 2 * 2 * 10
    places = [(seed, epoch, step) for seed in (7, 7, 8) for epoch in (1, 2) for step in (0, 1, 2)]
    for place, found in zip(places, drawn, strict=True):
        assert torch.equal(found, draw(RICH["augment"], len(found), own_generator(*place)))
    drawn.clear()
    list(trainer().epochs())
    assert drawn == []  # the paper's recipe moves nothing


# ---------------------------------------------------------------- schedule and average


def at_each_step(one: Trainer, look: Callable[[], Any]) -> list[Any]:
    """What `look` gives right after each step of the optimiser; filled while training runs."""
    seen: list[Any] = []
    one.optimiser.register_step_post_hook(lambda *_: seen.append(look()))
    return seen


def test_the_optimiser_takes_each_step_at_the_rate_of_its_schedule() -> None:
    one = trainer(epochs=3, lr=0.02, warmup_epochs=1.0, final_lr=0.1)
    rates = at_each_step(one, lambda: [group["lr"] for group in one.optimiser.param_groups])
    records = list(one.epochs())
    rise = [0.02 * (0.01 + 0.99 * step / 3) for step in range(3)]
    fall = [0.02 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 6)) / 2) for step in range(6)]
    assert np.array(rates) == pytest.approx(np.array([*rise, *fall])[:, None], rel=1e-12)
    assert [record.metrics["train/lr"] for record in records] == [rates[step][0] for step in (2, 5, 8)]


def test_the_rate_that_is_set_is_the_one_that_moves_the_weights() -> None:
    """Adam's first step is the rate itself, whatever the gradient."""
    network = small()
    one = trainer(network, lr=0.02, warmup_epochs=1.0)
    before = network[5].weight.detach().clone()
    next(one.epochs(checkpoint_seconds=0))
    moved = (network[5].weight.detach() - before).abs().median()
    assert float(moved) == pytest.approx(0.02 * 0.01, rel=1e-3)


def test_the_average_is_what_is_validated_and_kept_as_the_best() -> None:
    network = small()
    one = trainer(network, ema=0.6, epochs=3, lr=0.01)
    after = at_each_step(one, lambda: copy.deepcopy(network.state_dict()))
    average: dict[str, torch.Tensor] = {}
    expected = small(seed=9)
    bests = []
    for record in one.epochs():
        for n, weights in enumerate(after[-3:], start=3 * (record.number - 1)):
            kept = min(0.6, (1 + n) / (10 + n)) if n else 0.0
            for name, tensor in weights.items():
                real = tensor.is_floating_point()
                average[name] = kept * average.get(name, 0) + (1 - kept) * tensor if real else tensor
        expected.load_state_dict(average)
        _, _, loss = validated(expected)
        assert record.metrics["val/loss"] == pytest.approx(loss, rel=1e-5)
        if record.is_best:
            bests.append({name: tensor.clone() for name, tensor in average.items()})
        state = one.checkpoint({})
        for name, tensor in bests[-1].items():
            torch.testing.assert_close(state.best[name], tensor, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(state.average[f"module.{name}"], average[name], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(network[5].weight, one.measured[5].weight, atol=1e-4)  # or it proves nothing
