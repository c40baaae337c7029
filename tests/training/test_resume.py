"""Going on from any step bit by bit: what a checkpoint holds, and what an interrupt leaves."""

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cxr import checkpoint
from cxr.checkpoint import Checkpoint
from cxr.data.loader import Pixels
from cxr.device import Engine
from cxr.evaluation.predict import predict
from cxr.model import build
from cxr.training.loop import Trainer
from cxr.training.records import Epoch, Midway
from tests.training.trainers import (
    ALL_POSITIVE,
    CPU,
    ENOUGH,
    FAST,
    PLAIN,
    RICH,
    STORE,
    first,
    reference,
    same,
    small,
    stopped_clock,
    trainer,
)

ROOT = Path(__file__).parents[2]


def bits(value: Any) -> Any:
    """A value that is equal where every bit of what it holds is: tensors as bytes, floats in full."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, Mapping):
        return {name: bits(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    return repr(value)


def reached(state: Checkpoint) -> dict[str, Any]:
    """All that training has reached, bit by bit, but for what a clock decides."""
    parts = vars(state)
    history = [
        (record["epoch"], {name: value for name, value in record["metrics"].items() if "per_second" not in name})
        for record in parts["history"]
    ]
    running = {name: value for name, value in parts["running"].items() if name != "seconds"}
    return {name: bits(value) for name, value in (parts | {"history": history, "running": running}).items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Part by part: pytest would print every byte that differs."""
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert found[name] == part or pytest.fail(f"{name} differs")


def stopping_before_validation(network: nn.Module) -> list[bool]:
    """Interrupts each validation as it begins, as long as the list's value is True."""
    armed = [True]

    def stop(module: nn.Module, _: object) -> None:
        if armed[0] and not module.training:
            raise KeyboardInterrupt

    network.register_forward_pre_hook(stop)
    return armed


# ---------------------------------------------------------------- going on from any place


def to_every_place(make: Callable[..., Trainer], network: nn.Module) -> Iterator[Trainer]:
    """One trainer at every place where it can be interrupted: after each step, before validation and after."""
    armed = stopping_before_validation(network)
    one = make(network)
    events = one.epochs(checkpoint_seconds=0)
    while len(one.history) < one.recipe.epochs:
        armed[0] = True
        try:
            next(events)
        except KeyboardInterrupt:
            assert one.step == one.steps
            yield one
            armed[0] = False
            events = one.epochs(checkpoint_seconds=0)
            assert isinstance(next(events), Epoch)
        assert one.is_whole
        yield one


def assert_goes_on_from_every_place(
    make: Callable[..., Trainer], network: Callable[..., nn.Module], folder: Path
) -> None:
    whole = make(network(0))
    list(whole.epochs())
    expected = reached(whole.checkpoint({}))
    places = []
    for one in to_every_place(make, network(0)):
        state = one.checkpoint({})
        checkpoint.save(folder, state)
        found = checkpoint.newest(folder)
        places.append((found.checkpoint.epoch, found.checkpoint.step))
        other = make(network(1))  # its own random weights must have no part
        other.restore(found.checkpoint)
        assert_same(reached(other.checkpoint({})), reached(state))
        events = list(other.epochs())
        assert [event.number for event in events] == list(range(places[-1][0] + 1, one.recipe.epochs + 1))
        assert_same(reached(other.checkpoint({})), expected)
    assert_same(reached(state), expected)
    last = (one.recipe.epochs, 0)
    assert places == [*((e, s) for e in range(one.recipe.epochs) for s in range(one.steps + 1) if e or s), last]


@pytest.mark.parametrize("engine", [PLAIN, FAST])
@pytest.mark.parametrize("changes", [{}, RICH, RICH | {"lr": 0.05, "loss": "bce"}])
def test_training_goes_on_from_every_place_bit_by_bit(
    tmp_path: Path, changes: dict[str, Any], engine: Engine
) -> None:
    def make(network: nn.Module) -> Trainer:
        return trainer(network, table=ALL_POSITIVE, epochs=3, engine=engine, **changes)

    assert_goes_on_from_every_place(make, small, tmp_path)


@pytest.mark.parametrize(("engine", "changes"), [(PLAIN, {}), (FAST, RICH)])
def test_a_resnet_goes_on_from_every_place_bit_by_bit(
    tmp_path: Path, engine: Engine, changes: dict[str, Any]
) -> None:
    def make(network: nn.Module) -> Trainer:
        return trainer(network, table=ALL_POSITIVE, engine=engine, batch_size=5, **changes)

    assert_goes_on_from_every_place(make, lambda seed: build("resnet18", seed=seed), tmp_path)


def test_a_trainer_that_is_ended_after_every_single_step_comes_to_the_same(tmp_path: Path) -> None:
    def make(network: nn.Module) -> Trainer:
        return trainer(network, table=ALL_POSITIVE, epochs=3, **RICH)

    whole = make(small())
    list(whole.epochs())
    lives = 0
    while True:
        network = small(seed=lives)
        armed = stopping_before_validation(network)
        one = make(network if lives else small())
        if found := checkpoint.newest(tmp_path):
            one.restore(found.checkpoint)
            armed[0] = one.step < one.steps
        if len(one.history) == 3:
            break
        try:
            next(one.epochs(checkpoint_seconds=0))
        except KeyboardInterrupt:
            assert one.step == one.steps
        checkpoint.save(tmp_path, one.checkpoint({}))
        lives += 1
    assert lives == 3 * 4
    assert_same(reached(one.checkpoint({})), reached(whole.checkpoint({})))


def test_an_interrupted_epochs_speed_and_loss_count_all_its_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = stopped_clock(monkeypatch)

    def timed(seed: int = 0) -> nn.Module:
        """A training step takes 2 s, a batch of validation 100 s."""
        network = small(seed)

        def work(module: nn.Module, _: object) -> None:
            clock.now += 2.0 if module.training else 100.0

        network.register_forward_pre_hook(work)
        return network

    images = [loss for step in reference(small(), STORE, ENOUGH, seed=7) for loss in step]
    for stopped_at in (1, 2, 3):
        network = timed()
        armed = stopping_before_validation(network)
        one = trainer(network, epochs=1)
        events = one.epochs(checkpoint_seconds=0)
        for _ in range(min(stopped_at, 2)):
            assert isinstance(next(events), Midway)
            clock.now += 50.0  # writing it down
        if stopped_at == 3:
            with pytest.raises(KeyboardInterrupt):
                next(events)
        armed[0] = False
        assert one.step == stopped_at
        other = trainer(timed(seed=1), epochs=1)
        other.restore(one.checkpoint({}))
        clock.now += 1000.0  # nobody was at work
        record = first(other).metrics
        assert record["train/images_per_second"] == 10 / 6
        assert record["train/loss"] == pytest.approx(np.mean(images), rel=1e-6)


def test_a_trainer_that_has_come_to_its_end_gives_nothing_more() -> None:
    one = trainer()
    list(one.epochs())
    other = trainer(small(seed=3))
    other.restore(one.checkpoint({}))
    assert list(other.epochs()) == []
    assert same(other.network, one.network)


@pytest.mark.parametrize("fused", [False, True])
def test_a_checkpoint_of_another_machine_is_gone_on_from_with_this_ones_own_optimiser(
    tmp_path: Path, fused: bool
) -> None:
    before = trainer(engine=replace(PLAIN, fused=not fused), weight_decay=0.05)
    first(before)
    checkpoint.save(tmp_path, before.checkpoint({}))
    after = trainer(small(seed=1), engine=replace(PLAIN, fused=fused), weight_decay=0.05)
    after.restore(checkpoint.newest(tmp_path).checkpoint)
    assert [group["fused"] for group in after.optimiser.param_groups] == [fused]
    for one in (before, after):
        list(one.epochs())
    for name, tensor in before.network.state_dict().items():
        torch.testing.assert_close(after.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


# ---------------------------------------------------------------- what a checkpoint holds


def test_a_checkpoint_holds_the_state_after_the_last_record(tmp_path: Path) -> None:
    network = small()
    one = trainer(network)
    for record in one.epochs():
        state = one.checkpoint({"arch": "small", "scope": "phantom"})
        assert (state.epoch, state.step) == (record.number, 0)
        assert state.history == one.history
        assert state.metadata == {"arch": "small", "scope": "phantom"} | one.best()
        checkpoint.save(tmp_path, state)
    last = checkpoint.newest(tmp_path).checkpoint
    again = small(seed=9)
    again.load_state_dict(last.weights)
    assert same(again, network)
    assert {int(state["step"]) for state in last.optimiser["state"].values()} == {6}
    val = STORE.rows_of(ENOUGH.loc[ENOUGH["split"] == "val", "image"].tolist())
    pixels = Pixels(STORE, CPU)
    np.testing.assert_array_equal(predict(again, pixels, val), predict(network, pixels, val))


def test_a_saved_checkpoint_stays_as_it_was_while_training_goes_on(tmp_path: Path) -> None:
    network = small()
    one = trainer(network)
    events = one.epochs(checkpoint_seconds=0)
    next(events)
    state = one.checkpoint({})
    checkpoint.save(tmp_path, state)
    kept = copy.deepcopy(network.state_dict())
    next(events)
    for weights in (checkpoint.newest(tmp_path).checkpoint.weights, state.weights):
        assert bits(weights) == bits(kept)
    assert not torch.equal(kept["5.bias"], network.state_dict()["5.bias"])


def storages(weights: Mapping[str, torch.Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in weights.values()}


def test_weights_that_are_the_best_are_written_once_and_else_kept_apart(tmp_path: Path) -> None:
    one = trainer(table=ENOUGH, epochs=8, lr=0.02)  # goes up and down
    sizes: dict[bool, set[int]] = {True: set(), False: set()}
    best: Any = {}
    for event in one.epochs(checkpoint_seconds=0):
        state = one.checkpoint({})
        is_best = isinstance(event, Epoch) and event.is_best
        if is_best:
            best = bits(state.weights)
        assert bits(state.best) == best
        assert (storages(state.best) <= storages(state.weights)) == (is_best or not state.best)
        if state.best and isinstance(event, Epoch):
            sizes[is_best].add(checkpoint.save(tmp_path, state).stat().st_size)
        other = trainer(small(seed=3), epochs=8, lr=0.02)
        other.restore(state)
        assert other.best() == one.best()
    assert max(sizes[True]) < min(sizes[False])


def test_training_on_from_the_best_epoch_does_not_move_the_best_weights(tmp_path: Path) -> None:
    one = trainer()
    first(one)
    checkpoint.save(tmp_path, one.checkpoint({}))
    other = trainer(small(seed=3))
    other.restore(checkpoint.newest(tmp_path).checkpoint)
    before = bits(other.best_weights)
    next(other.epochs(checkpoint_seconds=0))
    assert bits(other.best_weights) == before
    assert bits(other.checkpoint({}).best) == before


# ---------------------------------------------------------------- interrupts


INTERRUPTED = """
import signal, sys
from pathlib import Path
from cxr import checkpoint, interrupt
from tests.training.trainers import small, trainer

number, in_training, forwards = int(sys.argv[2]), sys.argv[3] == "training", 0

def hit(module, *_):
    global forwards
    if module.training == in_training:
        forwards += 1
        if forwards == 2:
            signal.raise_signal(number)
            signal.raise_signal(number)  # as people do

interrupt.install(grace=200)
network = small()
network[1].register_forward_hook(hit)
one = trainer(network)
try:
    for event in one.epochs():
        pass
except KeyboardInterrupt:
    assert one.is_whole
    checkpoint.save(Path(sys.argv[1]), one.checkpoint({}))
    print(len(one.history), one.step)
"""


@pytest.mark.parametrize(
    ("number", "within", "place"), [(signal.SIGINT, "training", "0 2"), (signal.SIGTERM, "validation", "0 3")]
)
def test_a_signal_ends_training_after_the_step_and_it_goes_on_bit_by_bit(
    tmp_path: Path, number: signal.Signals, within: str, place: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tmp_path, str(int(number)), within],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True, text=True, check=False, timeout=200, start_new_session=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout.strip()) == (0, place), ended.stderr
    one = trainer(small(seed=9))
    one.restore(checkpoint.newest(tmp_path).checkpoint)
    assert f"{len(one.history)} {one.step}" == place
    list(one.epochs())
    whole = trainer()
    list(whole.epochs())
    assert_same(reached(one.checkpoint({})), reached(whole.checkpoint({})))
