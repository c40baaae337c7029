"""What training tells of itself: one record an epoch, moments between steps, and which epoch is the best."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from torch import nn

from cxr.findings import FINDINGS
from cxr.training.records import BY_LOSS, BY_MACRO, Epoch, Midway, best, best_epoch
from tests.training.trainers import ENOUGH, FEW, first, small, stopped_clock, trainer


@pytest.mark.parametrize("epochs", [1, 3])
def test_there_is_one_record_an_epoch_counted_from_1(epochs: int) -> None:
    one = trainer(epochs=epochs)
    records = list(one.epochs())
    assert [record.number for record in records] == list(range(1, epochs + 1))
    assert one.history == [
        {"epoch": record.number, "time_ms": record.time_ms, "metrics": record.metrics} for record in records
    ]


def test_a_record_is_yielded_before_the_next_epoch_starts() -> None:
    network = small()
    for record in trainer(network).epochs():
        assert network[1].num_batches_tracked == 3 * record.number


def test_a_record_holds_numbers_under_the_names_that_runs_show() -> None:
    record = first(trainer()).metrics
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
    assert Epoch(number=3, time_ms=0, metrics=metrics, is_best=True).line(25) == (
        "epoch 3 of 25: train/loss 0.5123, val/loss 0.25, val/auroc/macro_14 0.7 (mean of 2 findings); best so far"
    )
    assert (
        Epoch(number=4, time_ms=0, metrics={"val/loss": 1.0}, is_best=False).line(4) == "epoch 4 of 4: val/loss 1"
    )


def test_midways_are_between_the_steps_of_an_epoch_and_as_rare_as_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = stopped_clock(monkeypatch)
    network = small()

    def a_second_a_batch(*_: object) -> None:
        clock.now += 1.0

    network.register_forward_pre_hook(a_second_a_batch)
    one = trainer(network, batch_size=2)  # five steps an epoch
    midway = []
    for event in one.epochs(1.5):
        clock.now += 100.0  # what is done with an event brings the next one no nearer
        if isinstance(event, Midway):
            midway.append((event.epoch, event.step))
    assert midway == [(1, 2), (1, 4), (2, 2), (2, 4)]
    assert [type(event) for event in one.epochs(0)] == []
    one = trainer(network, batch_size=2)
    assert [type(event) for event in one.epochs()] == [Epoch, Epoch]  # not asked for: none


# ---------------------------------------------------------------- the best epoch


def test_macro_auroc_decides_where_validation_can_measure_a_finding() -> None:
    assert trainer(table=ENOUGH).criterion == "val/auroc/macro_14"
    assert trainer(table=FEW).criterion == "val/loss"


def test_no_finding_alone_does_not_make_a_macro_over_findings() -> None:
    healthy = ENOUGH.rename(columns={"Effusion": "No Finding", "No Finding": "Effusion"})[[*ENOUGH.columns]]
    one = trainer(table=healthy)
    assert one.criterion == "val/loss"
    record = first(one).metrics
    assert "val/auroc/macro_14" not in record
    assert "val/auroc/macro_15" in record


def test_the_macro_is_over_findings_that_the_definition_names() -> None:
    two = ENOUGH.copy()
    two["Hernia"] = two["Mass"] = two["Effusion"]
    two.loc[two["split"] == "val", "Mass"] = 0
    assert "Mass" in FINDINGS
    record = first(trainer(table=two)).metrics
    expected = (record["val/auroc/Effusion"] + record["val/auroc/Hernia"]) / 2
    assert record["val/auroc/macro_14"] == pytest.approx(expected, abs=1e-12)
    assert record["val/macro_14_classes"] == 2


@pytest.mark.parametrize(("table", "better"), [(ENOUGH, max), (FEW, min)])
def test_an_epoch_is_best_when_none_before_it_was_as_good(
    table: pd.DataFrame, better: Callable[..., float]
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
        macro = one.history[best - 1]["metrics"].get("val/auroc/macro_14")
        assert one.best() == {
            "best_by": one.criterion,
            "best_epoch": str(best),
            "val_macro_14": "" if macro is None else f"{macro:.6f}",
            "val_macro_14_classes": f"{one.history[best - 1]['metrics']['val/macro_14_classes']:.0f}",
        }
    assert flags[0] is True
    assert False in flags


def test_of_equal_epochs_the_first_is_best() -> None:
    one = trainer(epochs=3, lr=0.0)
    for layer in one.network:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    assert [record.is_best for record in one.epochs()] == [True, False, False]


RISING = [0.2, 0.5, 0.5, 0.4]


@pytest.mark.parametrize(("criterion", "expected"), [(BY_MACRO, [0, 1, 2, 2, 2]), (BY_LOSS, [0, 1, 1, 1, 1])])
def test_the_best_epoch_of_a_history(criterion: str, expected: list[int]) -> None:
    history = [{"metrics": {BY_MACRO: value, BY_LOSS: value}} for value in RISING]
    assert [best_epoch(history[:epochs], criterion) for epochs in range(5)] == expected


def test_the_best_epochs_tags_come_from_its_own_record() -> None:
    assert best([], BY_MACRO) == {}
    history: list[dict[str, Any]] = [
        {"metrics": {BY_MACRO: value, BY_LOSS: 1 - value, "val/macro_14_classes": number}}
        for number, value in enumerate(RISING, start=1)
    ]
    told = {"best_epoch": "2", "val_macro_14": "0.500000", "val_macro_14_classes": "2"}
    assert best(history, BY_MACRO) == told | {"best_by": "val/auroc/macro_14"}
    assert best(history, BY_LOSS) == told | {"best_by": "val/loss"}
    unmeasured = [{"metrics": {BY_LOSS: 0.3, "val/macro_14_classes": 0}}]
    told = {"best_epoch": "1", "val_macro_14": "", "val_macro_14_classes": "0"}
    assert best(unmeasured, BY_LOSS) == told | {"best_by": "val/loss"}
