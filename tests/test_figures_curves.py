"""Curves, calibration, seeds and coverage: the values drawn are the values given."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cxr.figures import Curve, Reliability, coverage, precision_recall, reliability, roc, seeds
from cxr.findings import CLASSES
from tests.figures_drawn import intervals, marks, misplaced, rows, texts, title

LONG = "Enlarged $cardiomediastinum$ of any size, with a very long name"
EMPTY = np.empty(0)
UNDEFINED = Curve(fpr=EMPTY, tpr=EMPTY, precision=EMPTY, recall=EMPTY, auroc=np.nan, average_precision=np.nan,
                  prevalence=np.nan)  # fmt: skip


def curve(seed: int = 0, shift: float = 1.0) -> Curve:
    rng = np.random.default_rng(seed)
    labels = rng.random(300) < 0.2
    scores = rng.normal(size=300) + shift * labels
    fpr, tpr, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    return Curve(fpr=fpr, tpr=tpr, precision=precision, recall=recall, auroc=roc_auc_score(labels, scores),
                 average_precision=average_precision_score(labels, scores), prevalence=float(labels.mean()),
                 points={"90 % sensitivity": (float(fpr[20]), float(tpr[20]))})  # fmt: skip


def test_roc_panels_are_sorted_and_hold_the_curve_and_its_operating_point() -> None:
    curves = {"Mass": UNDEFINED, "Edema": curve(1, 0.3), LONG: curve(2, 2.0)}
    fig = roc(curves, subtitle="s")
    best, worse, none = fig.axes
    np.testing.assert_array_equal(best.lines[0].get_xydata(), np.c_[curves[LONG].fpr, curves[LONG].tpr])
    np.testing.assert_array_equal(worse.lines[0].get_ydata(), curves["Edema"].tpr)
    np.testing.assert_allclose(marks(worse, "D"), [curves["Edema"].points["90 % sensitivity"]])
    assert not none.lines
    assert {f"AUROC {curves['Edema'].auroc:.3f}", "undefined", "chance", "90 % sensitivity"} <= set(texts(fig))
    assert misplaced(fig) == []


@pytest.mark.parametrize("turned", [False, True])
def test_the_area_under_the_drawn_precision_is_the_average_precision(turned: bool) -> None:
    one = curve()
    if turned:
        one = replace(one, precision=one.precision[::-1], recall=one.recall[::-1])
    line = precision_recall({"Edema": one}, subtitle="s").axes[0].lines[0]
    assert line.get_drawstyle() == ("steps-pre" if turned else "steps-post")
    recall, precision = line.get_data() if turned else line.get_xydata()[::-1].T
    # a step has the height of its end at the higher recall: "pre" while recall rises, "post" while it falls
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(one.average_precision)


def test_precision_of_an_operating_point_follows_from_its_rates() -> None:
    one = curve()
    fpr, tpr = one.points["90 % sensitivity"]
    fig = precision_recall({"Edema": one, "Mass": UNDEFINED}, subtitle="s")
    ((recall, precision),) = marks(fig.axes[0], "D")
    assert recall == tpr
    assert precision == pytest.approx(tpr * one.prevalence / (tpr * one.prevalence + fpr * (1 - one.prevalence)))
    assert np.isclose(one.precision[np.isclose(one.recall, tpr)], precision).any()
    assert f"AP {one.average_precision:.3f}, chance {one.prevalence:.3f}" in texts(fig)
    assert misplaced(fig) == []


def test_curves_refuse_uneven_arrays_and_too_many_operating_points() -> None:
    with pytest.raises(AssertionError, match="fpr"):
        replace(curve(), fpr=np.zeros(3))
    with pytest.raises(AssertionError, match="operating points"):
        roc({"Edema": replace(curve(), points=dict.fromkeys("abcd", (0.1, 0.5)))}, subtitle="s")


def test_all_fifteen_panels_fit() -> None:
    for draw in (roc, precision_recall):
        fig = draw({name: curve(i) for i, name in enumerate(CLASSES)}, subtitle="s")
        assert len(fig.axes) == 15
        assert misplaced(fig) == []


# ---------------------------------------------------------------- calibration


def bins() -> pd.DataFrame:
    return pd.DataFrame({"mean_probability": [0.001, 0.004, np.nan, 0.02], "observed": [0.0, 0.006, np.nan, 0.03],
                         "images": [50, 50, 0, 10], "low": [0, 0.002, np.nan, 0.001],
                         "high": [0.01, 0.01, np.nan, 0.9]})  # fmt: skip


def test_reliability_draws_bins_in_square_limits_of_their_own() -> None:
    curves = {"Edema": Reliability(bins=bins(), intercept=-0.004, slope=0.9, ece=0.0123),
              "Mass": Reliability(bins=bins() * np.nan), LONG: Reliability(bins=bins() * 10)}  # fmt: skip
    fig = reliability(curves, subtitle="s")
    first, none, last = fig.axes
    np.testing.assert_allclose(first.collections[-1].get_offsets(), [(0.001, 0), (0.004, 0.006), (0.02, 0.03)])
    assert first.get_xlim() == first.get_ylim()
    assert 0.03 < first.get_xlim()[1] < 0.06  # the interval to 0.9 runs out of the panel
    assert last.get_xlim()[1] > 0.3
    assert not none.collections
    assert {"ECE 0.012\nslope 0.90, intercept 0.00", "undefined"} <= set(texts(fig))
    assert {"above the diagonal: risk understated", "below the diagonal: risk overstated"} <= set(texts(fig))
    assert misplaced(fig) == []


# ---------------------------------------------------------------- seeds


def seed_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    values = pd.DataFrame({"Edema": [0.8, 0.82, 0.84], LONG: [0.7, np.nan, np.nan], "Mass": [np.nan] * 3,
                           "macro_14": [0.74, 0.75, 0.76]})  # fmt: skip
    table = pd.DataFrame({"mean": values.mean(), "sd": values.std(ddof=1)})
    return table.assign(low=table["mean"] - 0.05, high=table["mean"] + 0.05), values


def test_seeds_draw_each_run_and_keep_the_two_uncertainties_apart() -> None:
    table, values = seed_tables()
    fig = seeds(table, values=values, subtitle="s")
    (ax,) = fig.axes
    assert rows(ax)[:2] == ["macro 14", "Edema"]
    assert [x for x, y in marks(ax, "o") if round(y) == 1] == [0.8, 0.82, 0.84]
    bands = {
        round(float(bar.get_y() + 0.34)): (bar.get_x(), bar.get_width())
        for bar in ax.patches
        if bar.get_zorder() == 1
    }
    assert bands == {0: pytest.approx((0.74, 0.02)), 1: pytest.approx((0.8, 0.04))}
    np.testing.assert_allclose(intervals(ax)[0], (0.26, 0.7, 0.8))
    assert title(fig) == "AUROC of 3 seeds: macro average 0.750, SD 0.0100"
    assert {"0.0200", "undefined", "mean ± SD between 3 seeds (the same test patients)"} <= set(texts(fig))
    assert misplaced(fig) == []


def test_one_seed_has_no_band_and_no_interval_where_none_is_given() -> None:
    table, values = seed_tables()
    fig = seeds(table.loc[["Edema"], ["mean", "sd"]] * [1, np.nan], values=values.iloc[:1], subtitle="s")
    assert title(fig) == "AUROC of 1 seed"
    assert not any("SD between" in text or "interval" in text for text in texts(fig))
    with pytest.raises(AssertionError, match="Hernia"):
        seeds(table.rename(index={"Mass": "Hernia"}), values=values, subtitle="s")


# ---------------------------------------------------------------- coverage


def coverage_table() -> pd.DataFrame:
    cells = [
        ("image-level $DeLong$", 12, 0.7),
        ("image-level $DeLong$", 50, 0.95),
        ("patient bootstrap", 12, 0.99),
    ]
    table = pd.DataFrame(cells, columns=["method", "positive_patients", "coverage"])
    return table.assign(repetitions=1000, mean_width=[0.2, 0.1, 0.3])


def test_coverage_has_a_panel_a_number_of_patients_with_wilsons_interval() -> None:
    fig = coverage(coverage_table(), subtitle="s")
    small, large = fig.axes
    np.testing.assert_allclose(marks(small, "D"), [(0.7, 0)])  # too low, as promised and too high differ in shape
    np.testing.assert_allclose(marks(large, "o"), [(0.95, 0)])
    np.testing.assert_allclose(marks(small, "s"), [(0.99, 1)])
    # statsmodels' proportion_confint(700, 1000, method="wilson")
    np.testing.assert_allclose(intervals(small)[0], (0, 0.6708, 0.7276), atol=2e-4)
    assert title(fig) == "Image-level $DeLong$ promises 95 % and holds 70 % with 12 positive patients"
    assert {"12 positive patients", "50 positive patients", "0.300", "not tried"} <= set(texts(fig))
    assert misplaced(fig) == []


def test_coverage_as_promised_and_untried() -> None:
    assert "within chance" in title(coverage(coverage_table().iloc[1:2], subtitle="s"))
    assert "Nothing was tried" in title(coverage(coverage_table().assign(coverage=np.nan), subtitle="s"))
