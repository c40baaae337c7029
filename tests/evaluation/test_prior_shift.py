"""Prior shift: a simulated label shift is found from scores alone, and nothing moves without one."""

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation.prior_shift import COLUMNS, EDGE, adjusted, em, table
from cxr.evaluation.recalibration import probability
from cxr.findings import CLASSES


def drawn(count: int, prevalence: float, *, seed: int, prior: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a prevalence, and the exact logits at `prior`: x is N(1, 1) in the sick and N(-1, 1) in others."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < prevalence).astype(np.int64)
    x = rng.normal(size=count) + 2 * labels - 1
    return labels, 2 * x + np.log(prior / (1 - prior))


def scores(labels: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    count = len(labels)
    columns: dict[str, object] = {"image": np.arange(count), "patient_id": np.arange(count), "split": "test"}
    columns |= dict.fromkeys((*CLASSES, *(f"logit_{name}" for name in CLASSES)), np.nan)
    return pd.DataFrame(columns).assign(Edema=labels, logit_Edema=logits)


@pytest.mark.parametrize("prevalence", [0.02, 0.2, 0.45, 0.9])
def test_em_finds_the_prevalence_of_a_pure_label_shift(prevalence: float) -> None:
    count = 20_000
    _, logits = drawn(count, prevalence, seed=int(100 * prevalence))
    sampling = np.sqrt(prevalence * (1 - prevalence) / count)
    assert em(logits, 0.2) == pytest.approx(
        prevalence, abs=6 * sampling
    )  # labels unseen: some wider than with them


def test_em_is_the_most_likely_prevalence() -> None:
    _, logits = drawn(2000, 0.4, seed=1)
    # the density of a score is a mixture with weights q / prior and (1 - q) / (1 - prior) of its posteriors
    p, grid = probability(logits), np.linspace(0.3, 0.5, 4001)
    likelihood = [np.log(q / 0.2 * p + (1 - q) / 0.8 * (1 - p)).sum() for q in grid]
    assert em(logits, 0.2) == pytest.approx(grid[np.argmax(likelihood)], abs=1e-4)


def test_em_ends_where_the_shifted_scores_predict_their_own_prevalence() -> None:
    _, logits = drawn(3000, 0.6, seed=2)
    found = em(logits, 0.2)
    assert probability(adjusted(logits, 0.2, found)).mean() == pytest.approx(found, abs=1e-9)


def test_em_that_has_not_converged_is_undefined_and_an_end_is_held_off() -> None:
    _, logits = drawn(3000, 0.6, seed=2)
    assert np.isnan(em(logits, 0.2, iterations=3))
    assert em(np.full(10, -700.0), 0.5) == EDGE
    assert em(np.full(10, 700.0), 0.5) == 1 - EDGE
    assert em(np.array([700.0, -700.0, -700.0, -700.0]), 0.5) == pytest.approx(0.25)


def test_shares_of_nobody_and_everybody_are_refused() -> None:
    for wrong in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="expected a number between 0 and 1"):
            em(np.zeros(3), wrong)
        with pytest.raises(ValueError, match="expected a number between 0 and 1"):
            adjusted(np.zeros(3), 0.5, wrong)
    with pytest.raises(ValueError, match="no logits"):
        em(np.zeros(0), 0.5)


def test_adjusted_logits_follow_bayes() -> None:
    p = probability(adjusted(np.array([0.3], dtype=np.float32), 0.2, 0.5))
    odds = np.exp(np.float64(np.float32(0.3))) * (0.5 / 0.5) / (0.2 / 0.8)
    assert p[0] == pytest.approx(odds / (1 + odds), abs=1e-12)
    np.testing.assert_array_equal(adjusted(np.arange(3.0), 0.3, 0.3), np.arange(3.0))


def test_table_of_a_pure_label_shift_is_mended_by_em_and_at_best_by_the_truth() -> None:
    validation, test = scores(*drawn(20_000, 0.2, seed=3)), scores(*drawn(20_000, 0.5, seed=4))
    found = table(validation, test)
    assert found.index.tolist() == list(CLASSES)
    assert found.columns.tolist() == list(COLUMNS)
    row = found.loc["Edema"]
    assert row["note"] == ""
    assert row["ratio"] == row["test_prevalence"] / row["validation_prevalence"] == pytest.approx(2.5, rel=0.05)
    assert row["em_prevalence"] == pytest.approx(row["test_prevalence"], abs=0.02)
    assert row["brier_oracle"] < row["brier_as_is"] - 0.01
    assert row["brier_em"] == pytest.approx(row["brier_oracle"], abs=0.001)
    assert row["ece_oracle"] < 0.02 < row["ece_as_is"]
    assert row["ece_em"] < 0.02
    assert row["intercept_as_is"] == pytest.approx(np.log(0.5 / 0.5) - np.log(0.2 / 0.8), abs=0.1)
    assert abs(row["intercept_oracle"]) < 0.1
    assert abs(row["intercept_em"]) < 0.1


def test_nothing_moves_without_a_shift() -> None:
    row = table(scores(*drawn(20_000, 0.2, seed=5)), scores(*drawn(20_000, 0.2, seed=6))).loc["Edema"]
    assert row["ratio"] == pytest.approx(1, abs=0.05)
    assert row["em_prevalence"] == pytest.approx(0.2, abs=0.01)
    for measure in ("brier", "ece", "intercept"):
        as_is, em_, oracle = (row[f"{measure}_{way}"] for way in ("as_is", "em", "oracle"))
        assert (em_, oracle) == (pytest.approx(as_is, abs=0.05), pytest.approx(as_is, abs=0.05))
    assert row["brier_em"] == pytest.approx(row["brier_as_is"], abs=0.0005)


def test_table_says_what_it_could_not_do() -> None:
    labels, logits = drawn(200, 0.3, seed=7)
    some, none = scores(labels, logits), scores(np.zeros(200), logits)
    row = table(none, some).loc["Edema"]
    assert row["note"] == "validation has one outcome only: no shift from its prevalence"
    assert np.isnan(row["em_prevalence"])
    assert np.isfinite(row["brier_as_is"])
    row = table(some, none).loc["Edema"]
    assert row["note"] == "test has one outcome only: no intercept, no oracle"
    assert (row["ratio"], np.isnan(row["brier_oracle"]), np.isnan(row["intercept_em"])) == (0, True, True)
    assert np.isfinite([row["brier_em"], row["em_prevalence"]]).all()
    assert table(some, some.assign(logit_Edema=-700.0)).loc["Edema", "note"].startswith("EM ran to the edge")
    for first, second, where in (
        (some, some.assign(Edema=np.nan), "test"),
        (some.assign(Edema=np.nan), some, "val"),
    ):
        assert f"not labelled in {where}" in table(first, second).loc["Edema", "note"]
