"""Which model takes over: every branch of the decision, and the reason that it gives."""

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation.promotion import Standing, by_scores, without_scores


def standing(version: str, value: float | None = 0.8, *, scope: str = "official", split: str = "aa") -> Standing:
    return Standing(version=version, scope=scope, measured_on=split, val_macro_14=value)


def settled(candidate: Standing, champion: Standing) -> tuple[bool, str]:
    decision = without_scores(candidate, champion)
    assert decision is not None
    return decision


@pytest.mark.parametrize("value", [0.3, None])
@pytest.mark.parametrize("scope", ["phantom", "sample", "official"])
def test_first_version_takes_an_empty_place(value: float | None, scope: str) -> None:
    assert without_scores(standing("1", value, scope=scope), None) == (True, "there was no champion")


def test_champion_stays_champion_whatever_its_value() -> None:
    assert without_scores(standing("3", None), standing("3", None)) == (True, "it is the champion already")


@pytest.mark.parametrize(
    ("candidate", "champion", "expected"),
    [
        ("official", "sample", True),
        ("official", "phantom", True),
        ("sample", "phantom", True),
        ("sample", "official", False),
        ("phantom", "official", False),
        ("phantom", "sample", False),
    ],
)
def test_better_data_wins_over_any_value_and_never_the_reverse(
    candidate: str, champion: str, expected: bool
) -> None:
    ours = standing("2", 0.5 if expected else 0.99, scope=candidate, split="bb")
    theirs = standing("1", 0.99 if expected else 0.5, scope=champion)
    reason = f"it was trained on {candidate} data, the champion on {champion} data"
    assert without_scores(ours, theirs) == (expected, reason)


@pytest.mark.parametrize("scope", ["phantom", "sample", "official"])
def test_another_split_is_not_comparable(scope: str) -> None:
    better, reason = settled(standing("2", 0.99, scope=scope, split="bb"), standing("1", 0.5, scope=scope))
    assert not better
    assert reason == "its split differs from that of champion version 1: not comparable"


@pytest.mark.parametrize(("ours", "theirs"), [(None, 0.5), (None, None)])
def test_undefined_value_is_not_comparable(ours: float | None, theirs: float | None) -> None:
    better, reason = settled(standing("2", ours), standing("1", theirs))
    assert not better
    assert reason.endswith("their validation macro_14 cannot be compared")


def macro(difference: float, low: float, high: float) -> pd.Series:
    return pd.Series(
        {"first": 0.8 + difference, "second": 0.8, "difference": difference, "difference_low": low,
         "difference_high": high}
    )  # fmt: skip


def test_the_same_split_leaves_it_to_the_scores() -> None:
    assert without_scores(standing("2", 0.99), standing("1", 0.5)) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.002, 0.018, True), (-0.001, 0.021, False), (0.0, 0.02, False), (0.0, 0.0, False)],
)
def test_only_a_lower_bound_above_0_moves_the_champion(low: float, high: float, expected: bool) -> None:
    better, reason = by_scores(standing("1"), macro(0.01, low, high))
    assert better is expected
    words = f"its validation macro_14 0.8100 differs by +0.0100 (95 % of the patient bootstrap: {low:+.4f} to "
    assert reason.startswith(f"{words}{high:+.4f}) from 0.8000 of champion version 1")
    assert reason.endswith(", which is not clearly above 0") is not expected


def test_without_an_interval_nothing_moves() -> None:
    better, reason = by_scores(standing("1"), macro(0.3, np.nan, np.nan))
    assert not better
    assert "no interval, too few patients" in reason


def test_a_champion_that_was_never_measured_gives_way_to_one_that_was() -> None:
    better, reason = settled(standing("2", 0.5), standing("1", None))
    assert better
    assert "champion version 1 was undefined" in reason
