"""Calibration against scikit-learn, brute force, finite differences and simulated patients."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from cxr.evaluation.calibration import (
    COLUMNS,
    bins,
    brier,
    decomposition,
    ece,
    intercept,
    misstated,
    robust_error,
    table,
)
from cxr.evaluation.recalibration import platt, probability
from cxr.findings import CLASSES
from tests.evaluation.drawn import edema_scores as scores


def drawn(count: int, *, seed: int = 0, a: float = 0.0, b: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose log odds are a + b times the logits, which have ties."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(-1.5, 1.3, size=count), 2)
    return (rng.random(count) < probability(a + b * logits)).astype(np.int64), logits


# ---------------------------------------------------------------- bins, Brier score, expected calibration error


def test_bins_without_ties_hold_equally_many_in_the_order_of_the_scores() -> None:
    rng = np.random.default_rng(3)
    logits, labels = rng.permutation(np.linspace(-4, 4, 100)), rng.integers(0, 2, 100)
    found, order = bins(logits, labels, 15), np.argsort(logits)
    assert set(found["images"]) == {6, 7}
    assert (found["highest"].to_numpy()[:-1] < found["lowest"].to_numpy()[1:]).all()
    start = 0
    for row in found.itertuples():
        p, y = probability(logits)[order][start : start + row.images], labels[order][start : start + row.images]
        assert (row.lowest, row.highest, row.positives) == (p.min(), p.max(), y.sum())
        assert row.mean_probability == pytest.approx(p.mean())
        assert row.observed == pytest.approx(y.mean())
        start += row.images
    assert start == 100


@pytest.mark.parametrize("seed", range(5))
def test_bins_never_split_a_tie_and_lose_no_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = np.round(rng.normal(size=300) * 2) / 2, rng.integers(0, 2, 300)
    found = bins(logits, labels)
    assert (found["images"].sum(), found["positives"].sum()) == (300, labels.sum())
    for p in np.unique(probability(logits)):
        assert ((found["lowest"] <= p) & (p <= found["highest"])).sum() == 1


def test_equal_scores_make_one_bin_and_no_scores_none() -> None:
    (row,) = bins(np.zeros(40), np.arange(40) % 4 == 0).itertuples()
    assert (row.images, row.positives, row.mean_probability, row.observed) == (40, 10, 0.5, 0.25)
    assert bins(np.zeros(0), np.zeros(0)).empty


def test_brier_score_is_that_of_scikit_learn() -> None:
    labels, logits = drawn(400)
    assert brier(logits, labels) == pytest.approx(brier_score_loss(labels, probability(logits)), abs=1e-14)


def test_expected_calibration_error_equals_a_count_by_hand() -> None:
    labels, logits = drawn(300, b=0.3)
    logits = logits + np.linspace(0, 1e-6, 300)  # no ties: 15 bins of 20 images
    p, y = probability(logits)[np.argsort(logits)], labels[np.argsort(logits)]
    gaps = [abs(p[k : k + 20].mean() - y[k : k + 20].mean()) for k in range(0, 300, 20)]
    assert ece(logits, labels) == pytest.approx(np.mean(gaps), abs=1e-14)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("factor", [1.0, 0.0, 5.0, 700.0])
def test_brier_score_is_the_sum_of_its_parts(seed: int, factor: float) -> None:
    labels, logits = drawn(500, seed=seed)
    parts = decomposition(logits * factor, labels)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    assert parts["brier"] == pytest.approx(total, abs=1e-12)
    assert min(parts["reliability"], parts["resolution"], parts["uncertainty"]) >= 0


def test_within_bins_vanishes_where_bins_are_the_distinct_scores() -> None:
    labels, logits = np.array([0, 1, 0, 0, 1, 1]), np.array([-1.0, -1.0, -1.0, 2.0, 2.0, 2.0])
    parts = decomposition(logits, labels)
    assert parts["within_bins"] == pytest.approx(0, abs=1e-16)
    assert parts["resolution"] == pytest.approx((1 / 6) ** 2)  # 1/3 and 2/3 about 1/2
    p = probability(np.array([-1.0, 2.0]))
    assert parts["reliability"] == pytest.approx(((p[0] - 1 / 3) ** 2 + (p[1] - 2 / 3) ** 2) / 2)


# ---------------------------------------------------------------- intercept and slope


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 30.0), (0.01, -2.0), (400.0, 0.0)])
def test_slope_is_that_of_scikit_learn(seed: int, scale: float, shift: float) -> None:
    labels, logits = drawn(500, seed=seed, a=-0.5, b=0.7)
    theirs = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(logits[:, None], labels)
    found = platt(logits * scale + shift, labels)
    assert found is not None
    assert found[0] * scale == pytest.approx(theirs.coef_[0, 0], rel=1e-7)
    assert found[1] + found[0] * shift == pytest.approx(theirs.intercept_[0], rel=1e-7)


@pytest.mark.parametrize("a", [-3.0, 0.0, 4.0])
def test_intercept_makes_the_mean_probability_the_prevalence(a: float) -> None:
    labels, logits = drawn(500, a=a)
    found = intercept(logits, labels)
    assert found is not None
    assert probability(logits + found).mean() == pytest.approx(labels.mean(), abs=1e-12)
    assert found == pytest.approx(a, abs=0.6)
    assert intercept(logits, np.zeros(500)) is None
    assert intercept(logits, np.ones(500)) is None


def test_extreme_logits_neither_overflow_nor_warn() -> None:
    labels = np.array([1] * 48 + [0] * 52)
    logits = np.array([700.0] * 45 + [-700.0] * 50 + [700.0] * 5)
    row = table(scores(labels, logits)).loc["Edema"]
    # 45 of 50 at 700, 3 of 50 at -700
    assert row["slope"] == pytest.approx((np.log(45 / 5) - np.log(3 / 47)) / 1400)
    assert np.isfinite(row[["brier", "ece", "intercept", "slope_low", "slope_high"]].astype(float)).all()
    saturated = table(scores(np.tile(labels, 2), np.tile(np.sign(logits) * 1e30, 2))).loc["Edema"]
    assert np.isfinite(saturated["brier"])
    assert list(probability(np.array([-1e300, -700.0, 0.0, 700.0, 1e300]))[[0, 2, 3, 4]]) == [0, 0.5, 1, 1]
    # as many positives as scores of 700: any intercept from -660 to 660 is as good
    flat = table(scores(np.array([1] * 9 + [0] + [1] + [0] * 9), np.repeat([700.0, -700.0], 10))).loc["Edema"]
    assert np.isnan(flat["intercept"])
    assert flat["note"] == "all scores at 0 or 1: no intercept"


def test_robust_error_of_single_images_is_the_hc0_formula() -> None:
    labels, logits = drawn(300, seed=5)
    design = np.column_stack([np.ones(300), logits])
    found = platt(logits, labels)
    assert found is not None
    slope, level = found

    def score(beta: np.ndarray) -> np.ndarray:
        return np.asarray(design.T @ (labels - probability(design @ beta)))

    # the information by finite differences of the score, one coefficient at a time
    beta, step = np.array([level, slope]), 1e-5
    information = -np.column_stack([(score(beta + step * e) - score(beta - step * e)) / 2e-5 for e in np.eye(2)])
    residuals = labels - probability(design @ beta)
    meat = sum(r**2 * np.outer(x, x) for r, x in zip(residuals, design, strict=True))
    hc0 = np.linalg.inv(information) @ meat @ np.linalg.inv(information)
    ours = robust_error(design, labels, probability(design @ beta), np.arange(300))
    assert ours == pytest.approx(np.sqrt(hc0[1, 1] * 300 / 299), rel=1e-6)
    row = table(scores(labels, logits)).loc["Edema"]
    assert (row["slope_high"] - row["slope_low"]) / 2 == pytest.approx(1.959963984540054 * ours, rel=1e-9)
    assert (row["slope_high"] + row["slope_low"]) / 2 == pytest.approx(slope)


def test_copies_of_a_patients_image_teach_nothing() -> None:
    labels, logits = drawn(200, seed=6)
    once = table(scores(labels, logits)).loc["Edema"]
    names = np.array([f"patient {k}" for k in range(200)])
    fourfold = table(scores(np.repeat(labels, 4), np.repeat(logits, 4), np.repeat(names, 4))).loc["Edema"]
    same = [name for name in COLUMNS if name.startswith(("slope", "intercept"))]
    assert fourfold[same].tolist() == pytest.approx(once[same].tolist(), rel=1e-9)
    assert (fourfold["images"], fourfold["positive_patients"]) == (800, once["positive_patients"])


def test_intervals_cover_patients_whose_images_are_alike() -> None:
    """300 calibrated draws of 150 patients with 1 to 8 images, all of a patient with one label."""
    rng, covered = np.random.default_rng(7), np.zeros(2)
    for _ in range(300):
        own = rng.normal(-0.5, 1, size=150)
        sizes = rng.integers(1, 9, size=150)
        labels, logits = (np.repeat(v, sizes) for v in ((rng.random(150) < probability(own)).astype(int), own))
        patients, ones = np.repeat(np.arange(150), sizes), np.ones((len(labels), 1))
        level, line = intercept(logits, labels), platt(logits, labels)
        assert level is not None
        assert line is not None
        errors = (
            robust_error(ones, labels, probability(level + logits), patients),
            robust_error(np.c_[ones, logits], labels, probability(line[1] + line[0] * logits), patients),
        )
        covered += np.abs([level, line[0] - 1]) < 1.96 * np.array(errors)
    assert (covered / 300 > 0.90).all()  # 95 %, less what 150 patients and 300 draws leave to chance
    assert (covered / 300 < 0.99).all()


# ---------------------------------------------------------------- the table, and what it says of itself


def test_table_counts_and_says_why_something_is_undefined() -> None:
    labels, logits = drawn(300)
    found = table(scores(labels, logits, np.arange(300) // 3).assign(Mass=0.0, logit_Mass=logits, Hernia=labels))
    assert found.index.tolist() == list(CLASSES)
    assert found.columns.tolist() == list(COLUMNS)
    edema, mass = found.loc["Edema"], found.loc["Mass"]
    assert (edema["images"], edema["positives"], edema["note"]) == (300, labels.sum(), "")
    assert edema["positive_patients"] == labels.reshape(100, 3).any(axis=1).sum()
    assert edema["few"] == (edema["positive_patients"] < 30)  # hardly any patient has two
    assert edema["mean_probability"] == pytest.approx(probability(logits).mean())
    assert not edema.drop("note").isna().any()
    assert mass["note"] == "no positive image: no intercept, no slope"
    assert mass["brier"] == pytest.approx(np.mean(probability(logits) ** 2))
    assert mass[["intercept", "slope", "slope_low"]].isna().all()
    for name in ("Hernia", "Nodule"):  # no logits; neither labels nor logits
        assert found.loc[name, "note"] == "undefined: not labelled in this set, or unknown to the model"
        assert np.isnan(found.loc[name, "brier"])
        assert found.loc[name, "images"] == 0


@pytest.mark.parametrize(
    ("labels", "logits", "note"),
    [
        ([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0], "separated"),
        ([1, 1, 0, 0], [-2.0, -1.0, 1.0, 2.0], "separated"),
        ([0, 0, 1, 1], [-2.0, 1.0, 1.0, 2.0], "separated"),  # up to a tie
        ([0, 0, 1, 1], [-2.0, -2.0, -2.0, -2.0], "all scores are equal"),
    ],
)
def test_slope_without_a_finite_estimate_is_undefined_with_a_note(
    labels: list[int], logits: list[float], note: str
) -> None:
    row = table(scores(np.array(labels), np.array(logits))).loc["Edema"]
    assert row[["slope", "slope_low", "slope_high"]].isna().all()
    assert note in row["note"]
    assert np.isfinite(row["intercept"])


def test_one_patient_has_no_interval() -> None:
    labels, logits = drawn(50)
    row = table(scores(labels, logits, np.zeros(50))).loc["Edema"]
    assert np.isfinite([row["intercept"], row["slope"]]).all()
    assert row[["intercept_low", "slope_high"]].isna().all()
    assert row["note"] == "no intervals: 1 positive patients, 10 needed"


# ---------------------------------------------------------------- in words


def stated(**values: float) -> pd.DataFrame:
    fair = {
        "mean_probability": 0.021, "prevalence": 0.046, "slope": 1.0,
        "intercept_low": -0.1, "intercept_high": 0.1, "slope_low": 0.9, "slope_high": 1.1, "few": False,
    }  # fmt: skip
    return pd.DataFrame([fair | values, dict.fromkeys(fair, np.nan) | {"few": True}], index=["Edema", "Hernia"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"intercept_low": 0.5, "intercept_high": 1.1},
            "predicted 2.1 %, observed 4.6 % (risk understated 2.2 times)",
        ),
        (
            {"intercept_low": -0.5, "intercept_high": -0.1, "mean_probability": 0.0504},
            "predicted 5.0 %, observed 4.6 % (risk overstated 1.10 times)",
        ),
        (
            {"slope": 0.62, "slope_low": 0.5, "slope_high": 0.7},
            "predicted 2.1 %, observed 4.6 % (predictions too extreme, slope 0.62 where 1 is right)",
        ),
        (
            {"slope": 1.4, "slope_low": 1.2, "slope_high": 1.6, "intercept_low": 0.1, "prevalence": 0.5},
            "predicted 2.1 %, observed 50.0 % (risk understated 23.8 times; "
            "predictions too close together, slope 1.40 where 1 is right)",
        ),
        (
            {"intercept_low": 600.0, "intercept_high": 700.0, "mean_probability": 0.0, "prevalence": 0.002},
            "predicted below 0.01 %, observed 0.20 % (risk understated over 1,000 times)",
        ),
    ],
)
def test_a_misstated_finding_gets_its_sentence(values: dict[str, float], words: str) -> None:
    assert misstated(stated(**values)) == [f"Edema: {words}"]


def test_nothing_is_said_of_calibrated_or_undefined_findings() -> None:
    assert misstated(stated()) == []
    labels, logits = drawn(3000, seed=1)
    assert misstated(table(scores(labels, logits))) == []
    (sentence,) = misstated(table(scores(labels, logits - 1)))
    assert sentence.startswith("Edema: predicted ")
    assert "understated" in sentence
    (sentence,) = misstated(table(scores(labels, 3 * logits)))
    assert "too extreme" in sentence
