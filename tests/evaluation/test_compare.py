"""Which model takes over: every branch of the decision, and the reason that it gives."""

import pytest

from cxr.evaluation.compare import Standing, takes_over


def standing(version: str, value: float | None = 0.8, *, scope: str = "official", split: str = "aa") -> Standing:
    return Standing(version=version, scope=scope, measured_on=split, val_macro_14=value)


@pytest.mark.parametrize("value", [0.3, None])
@pytest.mark.parametrize("scope", ["phantom", "sample", "official"])
def test_first_version_takes_an_empty_place(value: float | None, scope: str) -> None:
    assert takes_over(standing("1", value, scope=scope), None) == (True, "there was no champion")


def test_champion_stays_champion_whatever_its_value() -> None:
    assert takes_over(standing("3", None), standing("3", None)) == (True, "it is the champion already")


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
    assert takes_over(ours, theirs) == (expected, reason)


@pytest.mark.parametrize("scope", ["phantom", "sample", "official"])
def test_another_split_is_not_comparable(scope: str) -> None:
    better, reason = takes_over(standing("2", 0.99, scope=scope, split="bb"), standing("1", 0.5, scope=scope))
    assert not better
    assert reason == "its split differs from that of champion version 1: not comparable"


@pytest.mark.parametrize(("ours", "theirs"), [(None, 0.5), (None, None)])
def test_undefined_value_is_not_comparable(ours: float | None, theirs: float | None) -> None:
    better, reason = takes_over(standing("2", ours), standing("1", theirs))
    assert not better
    assert reason == "a validation macro_14 is undefined: not comparable"


@pytest.mark.parametrize(
    ("ours", "theirs", "expected", "words"),
    [
        (0.81, 0.80, True, "0.8100 is above 0.8000"),
        (0.79, 0.80, False, "0.7900 is not above 0.8000"),
        (0.80, 0.80, False, "0.8000 is not above 0.8000"),
        (0.0, 0.5, False, "0.0000 is not above 0.5000"),
    ],
)
def test_higher_validation_value_on_the_same_split_decides(
    ours: float, theirs: float, expected: bool, words: str
) -> None:
    better, reason = takes_over(standing("2", ours), standing("1", theirs))
    assert better is expected
    assert reason == f"its validation macro_14 {words} of champion version 1"


def test_a_champion_that_was_never_measured_gives_way_to_one_that_was() -> None:
    better, reason = takes_over(standing("2", 0.5), standing("1", None))
    assert better
    assert "champion version 1 was undefined" in reason
