"""Which model takes over: every branch of the decision, and the reason that it gives."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation.promotion import (
    Decision,
    Difference,
    Standing,
    above_chance,
    by_scores,
    overruled,
    without_scores,
)


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


# ---------------------------------------------------------------- without a champion to beat


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.501, 0.9, True), (0.5, 0.9, False), (0.4, 0.9, False), (0.2, 0.4, False), (np.nan, np.nan, False)],
)
def test_a_place_without_a_fight_is_for_what_is_better_than_chance(
    low: float, high: float, expected: bool
) -> None:
    better, reason = above_chance(pd.Series({"auroc": 0.7, "auroc_low": low, "auroc_high": high}))
    assert better is expected
    if np.isnan(low):
        assert reason == "no finding has the 10 positive and 10 negative validation patients that a number needs"
    else:
        assert f"0.7000 (95 % of the patient bootstrap: {low:.4f} to {high:.4f})" in reason
        assert reason.endswith("is above chance" if expected else "is not clearly above chance (0.5)")


# ---------------------------------------------------------------- by hand

BETTER = Decision(
    promoted=True, reason="it is better", against="5", difference=Difference(value=0.1, low=0.05, high=0.15)
)
WORSE = replace(BETTER, promoted=False, reason="it is worse")


@pytest.mark.parametrize("decision", [BETTER, WORSE])
def test_auto_is_the_decision_itself(decision: Decision) -> None:
    assert overruled(decision, "auto", "7") == decision


@pytest.mark.parametrize(
    ("decision", "promote", "candidate", "promoted", "reason"),
    [
        (WORSE, "always", "7", True,
         "by hand (promote=always), in the place of version 5; auto would not make it champion: it is worse"),
        (WORSE, "always", "3", True,
         "by hand (promote=always), rolled back from version 5; auto would not make it champion: it is worse"),
        (WORSE, "always", "10", True,
         "by hand (promote=always), in the place of version 5; auto would not make it champion: it is worse"),
        (replace(WORSE, against=""), "always", "1", True,
         "by hand (promote=always); auto would not make it champion: it is worse"),
        (BETTER, "never", "7", False, "by hand (promote=never); auto would make it champion: it is better"),
        (WORSE, "never", "7", False, "by hand (promote=never); auto would not make it champion: it is worse"),
        (replace(BETTER, against="7"), "never", "7", True, "by hand (promote=never); it is better"),
        (replace(BETTER, against="7"), "always", "7", True, "by hand (promote=always); it is better"),
    ],
)  # fmt: skip
def test_a_person_overrules_it_and_what_it_said_stays_beside(
    decision: Decision, promote: str, candidate: str, promoted: bool, reason: str
) -> None:
    made = overruled(decision, promote, candidate)
    assert made == replace(decision, promoted=promoted, reason=reason)
