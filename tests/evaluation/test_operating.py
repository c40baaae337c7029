"""Rates at thresholds: counted by hand, from validation's thresholds, and resampled by patient."""

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation import operating, thresholds
from cxr.findings import CLASSES


def scores(patients: int = 60, seed: int = 0) -> pd.DataFrame:
    """Four images a patient; one class labelled, the others unknown to the model."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(4 * patients)]})
    table["patient_id"] = np.repeat(np.arange(patients), 4)
    table["split"] = np.where(table["patient_id"] % 2 == 0, "val", "test")
    for name in CLASSES:
        table[name], table[f"logit_{name}"] = 0, np.nan
    table["Edema"] = (rng.random(len(table)) < 0.3).astype(int)
    table["logit_Edema"] = rng.normal(size=len(table)) + 1.5 * table["Edema"]
    return table


def test_rates_are_counted_on_test_at_the_thresholds_of_validation() -> None:
    table = scores()
    chosen = thresholds.table(table)
    test = table[table["split"] == "test"]
    measured = operating.table(test, chosen, seed=0, count=200).set_index("rule")
    assert list(measured.index) == list(thresholds.RULES)
    for rule, row in measured.iterrows():
        t = chosen.loc["Edema", rule]
        called, positive = test["logit_Edema"] >= t, test["Edema"] == 1
        assert row["threshold"] == t
        assert row["sensitivity"] == pytest.approx((called & positive).sum() / positive.sum())
        assert row["specificity"] == pytest.approx((~called & ~positive).sum() / (~positive).sum())
        assert row["ppv"] == pytest.approx((called & positive).sum() / called.sum())
        assert row["npv"] == pytest.approx((~called & ~positive).sum() / (~called).sum())
        assert row["sensitivity_low"] <= row["sensitivity"] <= row["sensitivity_high"]
        assert (row["positives"], row["negatives"]) == (positive.sum(), (~positive).sum())


def test_interval_is_about_that_of_independent_patients() -> None:
    table = scores(patients=800)
    test = table[table["split"] == "test"]
    row = operating.table(test, thresholds.table(table), seed=0).set_index("rule").loc["youden"]
    # images of a patient are independent here: the binomial error holds
    error = np.sqrt(row["sensitivity"] * (1 - row["sensitivity"]) / row["positives"])
    assert (row["sensitivity_high"] - row["sensitivity_low"]) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)


def test_a_rate_without_a_denominator_is_undefined() -> None:
    table = scores()
    chosen = thresholds.table(table).assign(youden=99.0)  # nothing is called
    test = table[table["split"] == "test"]
    row = operating.table(test, chosen, seed=0, count=50).set_index("rule").loc["youden"]
    assert row["sensitivity"] == 0.0
    assert row["specificity"] == 1.0
    assert np.isnan(row[["ppv", "ppv_low", "ppv_high"]].astype(float)).all()


def test_metrics_have_a_name_a_finding_and_a_rule() -> None:
    table = scores()
    measured = operating.table(table[table["split"] == "test"], thresholds.table(table), seed=0, count=50)
    named = operating.flat(measured, "test")
    assert named["test/sensitivity/youden/Edema"] == measured.loc[0, "sensitivity"]
    assert "test/specificity_low/sensitivity_90/Edema" in named
    assert "test/sensitivity_high/specificity_90/Edema" in named
    assert len(named) == 3 * 2 * 3


def test_no_class_gives_an_empty_table_with_its_columns() -> None:
    table = scores()
    empty = operating.table(table[table["split"] == "test"], thresholds.table(table).iloc[:0], seed=0)
    assert empty.empty
    assert {"finding", "rule", "sensitivity_low"} <= set(empty.columns)
    assert operating.flat(empty, "test") == {}
