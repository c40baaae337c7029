"""The learning rate by hand: a fixed one to the bit, a line up, half a cosine down."""

import math

import numpy as np
import pytest

from cxr.training.schedule import WARMUP_FROM, learning_rate


def rates(at: np.ndarray, *, final: float = 0.0) -> np.ndarray:
    """The rates of a training of 12 epochs, 2 of them warm-up, with peak 0.004."""
    return np.array([learning_rate(p, peak=0.004, warmup_epochs=2, final=final, epochs=12) for p in at.tolist()])


@pytest.mark.parametrize("peak", [1e-3, 2e-3, 0.1, 1 / 3, 7e-5])
@pytest.mark.parametrize("epochs", [1, 4, 25])
def test_the_papers_rate_is_the_peak_at_every_step_to_the_bit(peak: float, epochs: int) -> None:
    for progress in np.linspace(0, epochs, 977).tolist():
        assert learning_rate(progress, peak=peak, warmup_epochs=0, final=1.0, epochs=epochs) == peak


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (0, 0.01), (0.5, 0.2575), (1, 0.505), (1.5, 0.7525), (2, 1.0),  # 0.01 + 0.99 progress / 2
        (4.5, (2 + math.sqrt(2)) / 4),  # a quarter of the cosine
        (7, 0.5), (9.5, (2 - math.sqrt(2)) / 4), (12, 0.0),
    ],
)  # fmt: skip
def test_by_hand(progress: float, share: float) -> None:
    assert rates(np.array([progress]))[0] == pytest.approx(0.004 * share, rel=1e-12, abs=1e-18)


def test_the_end_points() -> None:
    assert WARMUP_FROM > 0  # the first step moves something
    for final in (0.0, 0.01, 0.3, 1.0):
        first, peak, last = rates(np.array([0, 2, 12]), final=final)
        assert first == pytest.approx(0.004 * WARMUP_FROM)
        assert peak == pytest.approx(0.004)
        assert last == 0.004 * final


def test_it_rises_then_falls_and_never_jumps() -> None:
    at = np.linspace(0, 12, 1201)
    drawn = rates(at, final=0.05)
    steps = np.diff(drawn)
    assert (steps[:200] > 0).all()
    assert (steps[200:] < 0).all()
    assert np.abs(steps).max() < 0.004 * 0.006  # a two-hundredth of the way up is the steepest


def test_a_final_rate_of_1_is_fixed_after_the_warm_up() -> None:
    assert (rates(np.linspace(2, 12, 101), final=1.0) == 0.004).all()


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert learning_rate(0, peak=0.3, warmup_epochs=0, final=0.0, epochs=5) == 0.3
    assert learning_rate(2.5, peak=0.3, warmup_epochs=0, final=0.0, epochs=5) == pytest.approx(0.15)
