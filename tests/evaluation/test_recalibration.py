"""Known maps come back, validation comes out calibrated, and what cannot be fitted is left alone."""

import json
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation import calibration
from cxr.evaluation.recalibration import (
    COLUMNS,
    MIN_PATIENTS,
    apply,
    fit,
    from_dict,
    overlap,
    platt,
    probability,
    temperature,
    to_dict,
)
from tests.evaluation.drawn import edema_scores as scores


def drawn(count: int, *, a: float = 0.0, b: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose log odds are a + b times the logits (float32)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, size=count).astype(np.float32)
    return (rng.random(count) < probability(a + b * logits)).astype(np.int64), logits


# ---------------------------------------------------------------- the maps


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (-1.0, 0.5), (1.5, 2.0)])
def test_platt_recovers_a_known_map(a: float, b: float) -> None:
    row = fit(scores(*drawn(20_000, a=a, b=b))).loc["Edema"]
    assert (row["platt_slope"], row["platt_intercept"]) == (
        pytest.approx(b, rel=0.06),
        pytest.approx(a, abs=0.1),
    )
    assert row["note"] == ""


@pytest.mark.parametrize("heat", [0.4, 1.0, 3.0])
def test_temperature_recovers_a_known_one(heat: float) -> None:
    assert fit(scores(*drawn(20_000, b=1 / heat))).loc["Edema", "temperature"] == pytest.approx(heat, rel=0.06)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_temperature_is_the_best_of_its_neighbours(scale: float) -> None:
    labels, logits = drawn(500, b=0.6)
    z = logits.astype(np.float64) * scale
    best = temperature(z, labels)
    assert best is not None

    def loss(heat: float) -> float:
        return float(np.logaddexp(0, (1 - 2 * labels) * z / heat).sum())

    assert loss(best) <= min(loss(best * 0.999), loss(best * 1.001))
    assert best == pytest.approx(scale * temperature(z / scale, labels), rel=1e-8)


def test_platt_calibrates_its_own_validation_and_keeps_the_order() -> None:
    validation = scores(*drawn(2000, a=-1, b=0.6))
    mapped = apply(validation, fit(validation), "platt")
    row = calibration.table(mapped).loc["Edema"]
    assert (row["intercept"], row["slope"]) == (pytest.approx(0, abs=1e-8), pytest.approx(1, abs=1e-8))
    assert row["mean_probability"] == pytest.approx(row["prevalence"], abs=1e-10)
    assert (mapped["logit_Edema"].rank() == validation["logit_Edema"].rank()).all()
    again = fit(mapped).loc["Edema"]
    assert (again["platt_slope"], again["platt_intercept"]) == (pytest.approx(1), pytest.approx(0, abs=1e-8))


@pytest.mark.parametrize(
    ("labels", "expected"), [([0, 0, 1, 1], False), ([0, 1, 0, 1], True), ([1, 0, 1, 0], True)]
)
def test_overlap_tells_whether_a_slope_is_finite(labels: list[int], expected: bool) -> None:
    assert overlap(np.arange(4.0), np.array(labels)) is expected
    assert not overlap(np.zeros(4), np.array(labels))
    assert not overlap(np.arange(4.0), np.ones(4))
    assert (platt(np.arange(4.0), np.array(labels)) is not None) is expected


# ---------------------------------------------------------------- what is not fitted


def test_too_few_positive_patients_are_named_and_images_do_not_count() -> None:
    assert MIN_PATIENTS == 20
    labels, logits = drawn(600, seed=2)
    for positive in (19, 20):
        patients = np.where(labels == 1, np.cumsum(labels) % positive, 1000 + np.arange(600))
        row = fit(scores(labels, logits, patients)).loc["Edema"]
        assert row["positive_patients"] == positive
        assert np.isfinite([row["platt_slope"], row["temperature"]]).all() == (positive == 20)
        few = "not fitted: 19 positive patients in validation, 20 needed"
        assert row["note"] == ("" if positive == 20 else few)


def test_maps_that_do_not_exist_or_would_turn_the_order_are_left_out_with_a_note() -> None:
    labels, logits = np.repeat([0, 1], 50), np.linspace(-1, 1, 100)
    parted = fit(scores(labels, logits)).loc["Edema"]
    assert parted[["platt_slope", "platt_intercept", "temperature"]].isna().all()
    assert parted["note"].startswith("no Platt map: a threshold parts the positives from the negatives")
    assert "no temperature: logit 0 parts" in parted["note"]
    shifted = fit(scores(labels, logits + 0.5)).loc["Edema"]  # parted, but not at 0: a temperature exists
    assert np.isnan(shifted["platt_slope"])
    assert np.isfinite(shifted["temperature"])
    upside_down = fit(scores(1 - drawn(1000)[0], drawn(1000)[1] + 1)).loc["Edema"]
    assert upside_down[["platt_slope", "platt_intercept", "temperature"]].isna().all()
    assert "no Platt map: its slope -" in upside_down["note"]
    assert "it would go to infinity" in upside_down["note"]
    assert fit(scores(np.ones(50), np.zeros(50))).loc["Edema", "note"] == "not fitted: no negative image"
    assert "all scores are equal" in fit(scores(labels, np.zeros(100))).loc["Edema", "note"]
    assert "unknown to the model" in fit(scores(labels, np.full(100, np.nan))).loc["Edema", "note"]


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_unfitted_findings_and_the_given_table_stay_as_they_were(method: Literal["platt", "temperature"]) -> None:
    labels, logits = drawn(500, a=-1, b=0.5)
    validation = scores(labels, logits).assign(Mass=np.arange(500) < 19, logit_Mass=logits)
    before = validation.copy()
    fitted = fit(validation)
    mapped = apply(validation, fitted, method)
    pd.testing.assert_frame_equal(validation, before)
    pd.testing.assert_frame_equal(mapped.drop(columns="logit_Edema"), before.drop(columns="logit_Edema"))
    row, z = fitted.loc["Edema"], logits.astype(np.float64)
    expected = row["platt_slope"] * z + row["platt_intercept"] if method == "platt" else z / row["temperature"]
    np.testing.assert_array_equal(mapped["logit_Edema"], expected)


def test_maps_survive_json_exactly() -> None:
    labels, logits = drawn(500)
    fitted = fit(scores(labels, logits).assign(Mass=np.arange(500) < 19, logit_Mass=logits))
    assert fitted.columns.tolist() == list(COLUMNS)
    back = from_dict(json.loads(json.dumps(to_dict(fitted), allow_nan=False)))
    pd.testing.assert_frame_equal(back, fitted, check_exact=True)
