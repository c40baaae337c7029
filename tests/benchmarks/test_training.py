"""The training part on a handful of drawn images: that the three ways are what they are called, not how fast."""

import math
import re
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from cxr.benchmarks import training
from cxr.benchmarks.table import Row
from cxr.data import nih
from cxr.data.loader import order
from cxr.data.store import Store, open_or_pack
from cxr.device import Engine
from cxr.training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(name="tiny", arch="resnet18", image_size=64, epochs=1, batch_size=4, lr=1e-3)


@pytest.fixture(scope="module")
def files(phantom_folder: Path) -> dict[str, Path]:
    return dict(list(nih.image_files(phantom_folder).items())[:6])


@pytest.fixture(scope="module")
def store(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_or_pack(tmp_path_factory.mktemp("store"), list(files), files, size=64)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_STEPS", 16)
    monkeypatch.setattr(training, "_LEAST_ROUNDS", 3)


def measured(files: dict[str, Path], store: Store, *batch_sizes: int) -> dict[str, Row]:
    engine = Engine(device=CPU)
    rows = training.measure(
        files, store, engine=engine, arch="resnet18", size=64, batch_sizes=batch_sizes, seconds=0
    )
    return {row.measure: row for row in rows}


def test_three_ways_at_the_smallest_batch_size_and_two_at_the_others_on_a_cpu(
    files: dict[str, Path], store: Store, short: None
) -> None:
    rows = measured(files, store, 4, 8)
    assert list(rows) == [
        "bare network, batch 4", "our loop, batch 4", "our loop over bare network, batch 4",
        "peers' loop, batch 4", "our loop over peers' loop, batch 4",
        "bare network, batch 8", "our loop, batch 8", "our loop over bare network, batch 8",
    ]  # fmt: skip
    assert all(row.value > 0 for row in rows.values())
    peers = rows["our loop over peers' loop, batch 4"]
    assert peers.value == pytest.approx(rows["our loop, batch 4"].value / rows["peers' loop, batch 4"].value)
    assert peers.goal is None
    bare = rows["our loop over bare network, batch 4"]
    rounds, lowest, highest = re.findall(r"[\d.]+", bare.against)
    assert rounds == "3"
    assert float(lowest) - 0.001 <= bare.value <= float(highest) + 0.001
    assert bare.goal == 0.95


def test_a_bare_step_is_the_loops_own_step(store: Store) -> None:
    """Bit by bit, from the same images: else it would be no limit of the loop but something else."""
    table = training._table(list(store.rows), np.repeat(["train", "val"], [5, 1]))
    engine = Engine(device=CPU, channels_last=True, fused=True)
    looped, bare = (training._trainer(store, RECIPE, engine, table) for _ in range(2))
    next(looped.epochs(checkpoint_seconds=0.0))
    shuffled = order(5, seed=0, epoch=1)
    bare.train_rows, bare.train_labels = bare.train_rows[shuffled.numpy()], bare.train_labels[shuffled]
    next(training._bare_steps(bare))
    weights = looped.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bare.network.state_dict().items())


def test_the_ways_take_turns_step_by_step_and_change_places(
    store: Store, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    real = training._seconds

    def noted(steps: Generator[None, None, None], count: int, where: torch.device) -> float:
        called.append(f"{steps.__qualname__} {count}")
        return real(steps, count, where)

    monkeypatch.setattr(training, "_seconds", noted)
    steps, turns = training._turns(store, RECIPE, Engine(device=CPU), seconds=0)
    assert (steps, turns.shape) == (1, (3, 2))
    bare, ours = "_bare_steps 1", "Trainer.epochs 1"
    assert called == [*[bare] * 3, *[ours] * 3, ours, bare, bare, ours, ours, bare]  # after the warm-up


def test_more_time_is_more_rounds_but_the_epoch_never_ends(store: Store, short: None) -> None:
    _, turns = training._turns(store, RECIPE, Engine(device=CPU), seconds=1_000)
    assert len(turns) == 16 - 3 - 1


def test_what_does_not_fit_is_not_measured_and_says_so(
    files: dict[str, Path], store: Store, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000_000))
    rows = measured(files, store, 4)
    assert list(rows) == ["bare network, batch 4", "our loop, batch 4", "peers' loop, batch 4"]
    for row in rows.values():
        assert math.isnan(row.value)
        assert row.against.startswith("not measured: takes 0.")


def test_the_memory_that_a_step_is_said_to_take_grows_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))

    def needed(batch_size: int) -> float:
        recipe = Recipe(name="", arch="resnet18", image_size=224, epochs=1, batch_size=batch_size, lr=1e-3)
        return float(training._lacking_memory(recipe, Engine(device=CPU)).split()[3])

    assert needed(256) == pytest.approx(8 * needed(32), rel=0.05)
    assert 3 < needed(256) < 20  # GB, in float32


def test_an_epoch_counts_its_images_and_25_of_them_are_computed() -> None:
    one, alone, all_25 = training.epoch(CPU, arch="resnet18", size=64, images={"train": 10, "val": 4, "test": 2})
    assert one.against == "10 training and 4 validation images, resnet18, synthetic pixels"
    assert alone.value > 10 / one.value  # without validation
    assert all_25.value == pytest.approx(25 * one.value / 3600)
    assert "computed" in all_25.measure


def test_the_official_counts_are_those_of_the_split(real_data: Path) -> None:
    from cxr.data import split

    table = split.carve(nih.read(real_data / "nih", split="official").table, val_fraction=0.1, seed=123)
    assert table["split"].value_counts().to_dict() == training.OFFICIAL
