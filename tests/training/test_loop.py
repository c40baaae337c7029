"""The training loop against a plain one, its records, its choice of the best epoch and its determinism."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from cxr import checkpoint
from cxr.data.store import Store
from cxr.evaluation.predict import predict
from cxr.findings import CLASSES, FINDINGS
from cxr.model import build
from cxr.training.loop import Epoch, Trainer
from cxr.training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(name="tiny", arch="resnet18", image_size=64, epochs=2, batch_size=4, lr=1e-3)
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


@pytest.fixture(scope="module")
def store() -> Store:
    """Drawn noise, a brighter half for Effusion; rows in another order than the tables'."""
    names = sorted(ENOUGH["image"], reverse=True)
    pixels = np.random.default_rng(0).integers(0, 120, (len(names), 64, 64)).astype(np.uint8)
    effusion = dict(zip(ENOUGH["image"], ENOUGH["Effusion"], strict=True))
    for row, name in enumerate(names):
        pixels[row, 32:] += np.uint8(100 * effusion[name])
    return Store(pixels, {name: row for row, name in enumerate(names)})


def small(seed: int = 0) -> nn.Module:
    """A convolution, BatchNorm and one layer: everything the loop must handle, in a millisecond."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Linear(64, 15),
        )  # fmt: skip


@pytest.fixture
def trainer(store: Store) -> Callable[..., Trainer]:
    def make(
        network: nn.Module | None = None, table: pd.DataFrame = ENOUGH, seed: int = 7, **changes: object
    ) -> Trainer:
        recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
        return Trainer(small() if network is None else network, recipe, store, table, device=CPU, seed=seed)

    return make


def same(one: nn.Module, other: nn.Module) -> bool:
    there = other.state_dict()
    return all(torch.equal(tensor, there[name]) for name, tensor in one.state_dict().items())


# ---------------------------------------------------------------- what one epoch computes


def reference_epoch(network: nn.Module, store: Store, table: pd.DataFrame, *, seed: int) -> float:
    """One epoch of the paper's Algorithm 1, written out: a per-image loss and Adam's own equations."""
    train = table[table["split"] == "train"].reset_index(drop=True)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    parameters = list(network.parameters())
    first = [torch.zeros_like(parameter) for parameter in parameters]
    second = [torch.zeros_like(parameter) for parameter in parameters]
    network.train()
    losses = []
    for number, start in enumerate(range(0, len(order), 4), start=1):
        rows = train.iloc[order[start : start + 4]]
        pixels = np.stack([store.pixels[store.rows[name]] for name in rows["image"]]).astype(np.float32)
        images = torch.from_numpy((pixels / 255 - 0.5) / 0.25)[:, None].repeat(1, 3, 1, 1)
        labels = torch.tensor(rows[list(CLASSES)].to_numpy(dtype=np.float32))
        p = torch.sigmoid(network(images))
        loss = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean(dim=1)  # [B]
        losses += loss.tolist()
        gradients = torch.autograd.grad(loss.mean(), parameters)
        with torch.no_grad():
            for parameter, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient**2)
                parameter -= 1e-3 * (m / (1 - 0.9**number)) / ((v / (1 - 0.999**number)).sqrt() + 1e-8)
    return float(np.mean(losses))


def test_an_epoch_is_the_papers_algorithm_written_out(store: Store, trainer: Callable[..., Trainer]) -> None:
    network = small()
    expected = copy.deepcopy(network)
    loss = reference_epoch(expected, store, ENOUGH, seed=7)
    record = next(trainer(network).epochs())
    assert record.metrics["train/loss"] == pytest.approx(loss, rel=1e-6)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


def test_the_records_validation_numbers_follow_from_the_network(
    store: Store, trainer: Callable[..., Trainer]
) -> None:
    network = small()
    record = next(trainer(network).epochs()).metrics
    val = ENOUGH[ENOUGH["split"] == "val"]
    logits = predict(network, store, store.rows_of(val["image"].tolist()), device=CPU).astype(np.float64)
    labels = val[list(CLASSES)].to_numpy()
    p = 1 / (1 + np.exp(-logits))
    loss = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert record["val/loss"] == pytest.approx(loss, rel=1e-6)
    column = CLASSES.index("Effusion")
    assert record["val/auroc/Effusion"] == roc_auc_score(labels[:, column], logits[:, column])
    assert record["val/auroc/macro_14"] == record["val/auroc/Effusion"]  # the only class that is measurable
    assert record["val/macro_14_classes"] == 1


def test_batch_norm_learns_from_training_batches_only(trainer: Callable[..., Trainer]) -> None:
    network = small().eval()  # however it is handed over
    seen: list[tuple[bool, int]] = []
    network[1].register_forward_hook(lambda layer, images, _: seen.append((layer.training, len(images[0]))))
    for record in trainer(network, epochs=3).epochs():
        assert network[1].num_batches_tracked == 3 * record.number
    assert seen == [(True, 4), (True, 4), (True, 2), (False, 24)] * 3


def test_validation_moves_nothing(trainer: Callable[..., Trainer]) -> None:
    network = small()
    one = trainer(network)
    one._train_epoch(1)
    before = copy.deepcopy(network)
    one._validate()
    assert same(network, before)


def test_every_training_image_is_seen_once_an_epoch_in_a_new_order(
    store: Store, trainer: Callable[..., Trainer]
) -> None:
    network = small()
    seen: list[list[float]] = []
    network.register_forward_pre_hook(
        lambda layer, images: seen.append(images[0].mean(dim=(1, 2, 3)).tolist()) if layer.training else None
    )
    list(trainer(network).epochs())
    first, second = ([mean for batch in seen[part] for mean in batch] for part in (slice(0, 3), slice(3, 6)))
    train = ENOUGH.loc[ENOUGH["split"] == "train", "image"]
    means = [(store.pixels[store.rows[name]].mean() / 255 - 0.5) / 0.25 for name in train]
    assert sorted(first) == pytest.approx(sorted(means), abs=1e-5)
    assert sorted(second) == pytest.approx(sorted(first), abs=1e-6)
    assert first != second


def test_the_loss_falls_on_what_can_be_learnt(trainer: Callable[..., Trainer]) -> None:
    records = [record.metrics for record in trainer(lr=0.01, epochs=12).epochs()]
    assert records[-1]["train/loss"] < 0.8 * records[0]["train/loss"]


# ---------------------------------------------------------------- determinism


def test_the_same_seed_gives_the_same_resnet_and_another_seed_another(trainer: Callable[..., Trainer]) -> None:
    networks = [build("resnet18", seed=seed) for seed in (3, 3, 3)]
    runs = [
        [record.metrics["train/loss"] for record in trainer(network, seed=seed).epochs()]
        for network, seed in zip(networks, (3, 3, 4), strict=True)
    ]
    assert same(networks[0], networks[1])
    assert runs[0] == runs[1]
    assert not same(networks[0], networks[2])  # the same initial weights, another order of images
    assert runs[0] != runs[2]


def test_the_global_generator_does_not_matter(trainer: Callable[..., Trainer]) -> None:
    networks = [small(), small()]
    for number, network in enumerate(networks):
        torch.manual_seed(number)
        list(trainer(network).epochs())
    assert same(*networks)


# ---------------------------------------------------------------- records


@pytest.mark.parametrize("epochs", [1, 3])
def test_there_is_one_record_an_epoch_counted_from_1(trainer: Callable[..., Trainer], epochs: int) -> None:
    one = trainer(epochs=epochs)
    records = list(one.epochs())
    assert [record.number for record in records] == list(range(1, epochs + 1))
    assert one.history == [record.metrics for record in records]


def test_a_record_is_yielded_before_the_next_epoch_starts(trainer: Callable[..., Trainer]) -> None:
    network = small()
    for record in trainer(network).epochs():
        assert network[1].num_batches_tracked == 3 * record.number


def test_a_record_holds_numbers_under_the_names_that_runs_show(trainer: Callable[..., Trainer]) -> None:
    record = next(trainer().epochs()).metrics
    assert set(record) == {
        "train/loss", "train/lr", "train/images_per_second", "val/loss", "val/auroc/Effusion",
        "val/average_precision/Effusion", "val/auroc/macro_14", "val/auroc/macro_15",
        "val/macro_14_classes", "val/macro_15_classes",
    }  # fmt: skip
    assert all(math.isfinite(value) for value in record.values())
    assert record["train/lr"] == 1e-3
    assert record["train/images_per_second"] > 0


def test_the_line_names_what_is_known() -> None:
    metrics = {
        "train/loss": 0.51234, "val/loss": 0.25, "val/auroc/macro_14": 0.7, "val/macro_14_classes": 2,
        "val/auroc/Mass": 0.9,
    }  # fmt: skip
    assert Epoch(number=3, metrics=metrics, is_best=True).line == (
        "epoch 3: train/loss 0.5123, val/loss 0.25, val/auroc/macro_14 0.7 (mean of 2 findings); best so far"
    )
    assert Epoch(number=4, metrics={"val/loss": 1.0}, is_best=False).line == "epoch 4: val/loss 1"


# ---------------------------------------------------------------- the best epoch


def test_macro_auroc_decides_where_validation_can_measure_a_finding(trainer: Callable[..., Trainer]) -> None:
    assert trainer(table=ENOUGH).criterion == "val/auroc/macro_14"
    assert trainer(table=FEW).criterion == "val/loss"


def test_no_finding_alone_does_not_make_a_macro_over_findings(trainer: Callable[..., Trainer]) -> None:
    healthy = ENOUGH.rename(columns={"Effusion": "No Finding", "No Finding": "Effusion"})[[*ENOUGH.columns]]
    one = trainer(table=healthy)
    assert one.criterion == "val/loss"
    record = next(one.epochs()).metrics
    assert "val/auroc/macro_14" not in record
    assert "val/auroc/macro_15" in record


@pytest.mark.parametrize(("table", "better"), [(ENOUGH, max), (FEW, min)])
def test_an_epoch_is_best_when_none_before_it_was_as_good(
    trainer: Callable[..., Trainer], table: pd.DataFrame, better: Callable[..., float]
) -> None:
    one = trainer(table=table, epochs=8, lr=0.02)  # a step size at which the epochs go up and down
    values: list[float] = []
    flags = []
    for record in one.epochs():
        value = record.metrics[one.criterion]
        assert record.is_best == (not values or (better([*values, value]) == value and value not in values))
        values.append(value)
        flags.append(record.is_best)
        best = values.index(better(values)) + 1
        macro = one.history[best - 1].get("val/auroc/macro_14")
        assert one.best() == {
            "best_by": one.criterion,
            "best_epoch": str(best),
            "val_macro_14": "" if macro is None else f"{macro:.6f}",
            "val_macro_14_classes": f"{one.history[best - 1]['val/macro_14_classes']:.0f}",
        }
    assert flags[0] is True
    assert False in flags


def test_of_equal_epochs_the_first_is_best(trainer: Callable[..., Trainer]) -> None:
    one = trainer(epochs=3)
    one.optimiser.param_groups[0]["lr"] = 0.0
    for layer in one.network:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    assert [record.is_best for record in one.epochs()] == [True, False, False]


def test_the_macro_is_over_findings_that_the_definition_names(trainer: Callable[..., Trainer]) -> None:
    two = ENOUGH.copy()
    two["Hernia"] = two["Mass"] = two["Effusion"]
    two.loc[two["split"] == "val", "Mass"] = 0
    assert "Mass" in FINDINGS
    record = next(trainer(table=two).epochs()).metrics
    expected = (record["val/auroc/Effusion"] + record["val/auroc/Hernia"]) / 2
    assert record["val/auroc/macro_14"] == pytest.approx(expected, abs=1e-12)
    assert record["val/macro_14_classes"] == 2


# ---------------------------------------------------------------- when it goes wrong


def poisoned(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        network[5].bias[0] = value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training_and_names_the_epoch(
    trainer: Callable[..., Trainer], value: float
) -> None:
    network = small()
    one = trainer(network)
    records = one.epochs()
    next(records)
    poisoned(network, value)
    with pytest.raises(FloatingPointError, match=r"step 3 of epoch 2\. A smaller lr"):
        next(records)
    assert len(one.history) == 1


@pytest.mark.parametrize("batch_size", [4, 32])  # with 32, the only step's own loss is still finite
def test_a_far_too_large_step_size_ends_training(trainer: Callable[..., Trainer], batch_size: int) -> None:
    one = trainer(lr=1e30, batch_size=batch_size)
    with pytest.raises(FloatingPointError, match="epoch 1"):
        next(one.epochs())
    assert one.history == []


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_holds_the_state_after_the_last_record(
    store: Store, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    network = small()
    one = trainer(network)
    for record in one.epochs():
        state = one.checkpoint({"arch": "small", "scope": "phantom"})
        assert state.epoch == record.number
        assert state.history == one.history
        assert state.metadata == {"arch": "small", "scope": "phantom"} | one.best()
        assert torch.equal(state.generators["order"], one.order.get_state())
        checkpoint.save(tmp_path / f"{record.number}.pt", state)
    last = checkpoint.load(tmp_path / "2.pt")
    again = small(seed=9)
    again.load_state_dict(last.weights)
    assert same(again, network)
    assert {int(state["step"]) for state in last.optimiser["state"].values()} == {6}
    val = store.rows_of(ENOUGH.loc[ENOUGH["split"] == "val", "image"].tolist())
    logits = predict(again.to(memory_format=torch.channels_last), store, val, device=CPU)
    np.testing.assert_array_equal(logits, predict(network, store, val, device=CPU))


def test_a_saved_checkpoint_stays_as_it_was_while_training_goes_on(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    network = small()
    records = trainer(network).epochs()
    next(records)
    one = trainer(network)
    next(one.epochs())
    checkpoint.save(tmp_path / "first.pt", one.checkpoint({}))
    kept = copy.deepcopy(network.state_dict())
    next(records)
    back = checkpoint.load(tmp_path / "first.pt").weights
    assert all(torch.equal(back[name], kept[name]) for name in kept)
    assert not torch.equal(back["5.bias"], network.state_dict()["5.bias"])
