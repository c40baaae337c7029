"""The table of AUROC with its intervals: scikit-learn's values, paired macros, one image a patient."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.evaluation import delong, intervals, metrics, ranked
from cxr.findings import CLASSES, FINDINGS
from tests.evaluation.drawn import drawn_scores

COUNT = 200


def test_values_are_scikit_learns_and_lie_within_their_intervals() -> None:
    scores = drawn_scores()
    table = intervals.table(scores, seed=1, count=COUNT)
    assert list(table.index) == [*CLASSES, "macro_14", "macro_15"]
    for name in CLASSES:
        row = table.loc[name]
        assert row["auroc"] == pytest.approx(roc_auc_score(scores[name], scores[f"logit_{name}"]), abs=1e-12)
        expected = average_precision_score(scores[name], scores[f"logit_{name}"])
        assert row["average_precision"] == pytest.approx(expected, abs=1e-12)
        assert row["auroc_delong"] == pytest.approx(row["auroc"], abs=1e-12)
        for measure in ("auroc", "auroc_delong", "average_precision"):
            assert row[f"{measure}_low"] < row[measure] < row[f"{measure}_high"]
        assert row["dropped"] == 0


def test_macros_are_means_and_narrower_than_their_classes() -> None:
    table = intervals.table(drawn_scores(), seed=1, count=COUNT)
    for macro, of in (("macro_14", FINDINGS), ("macro_15", CLASSES)):
        for measure in ("auroc", "auroc_delong", "average_precision", "auroc_one_image"):
            assert table.loc[macro, measure] == pytest.approx(table.loc[list(of), measure].mean())
        widths = table["auroc_high"] - table["auroc_low"]
        assert widths[macro] < widths[list(of)].min()


def test_effective_patients_count_unequal_ones_less_and_flag_few() -> None:
    scores = drawn_scores()
    table = intervals.table(scores, seed=1, count=COUNT)
    positive = scores.loc[scores["Edema"] == 1, "patient_id"].value_counts()
    expected = positive.sum() ** 2 / (positive**2).sum()
    assert table.loc["Edema", "effective_patients"] == pytest.approx(expected)
    assert expected < len(positive)
    assert table.loc["Edema", "few"] == (expected < ranked.FEW)
    assert bool(table.loc["macro_14", "few"]) == table.loc[list(FINDINGS), "few"].any()


def test_one_image_a_patient_is_what_it_says() -> None:
    scores = drawn_scores()
    kept = intervals.one_image(scores, seed=3)
    chosen = scores.loc[kept]
    assert sorted(chosen["patient_id"]) == sorted(scores["patient_id"].unique())
    assert not np.array_equal(kept, intervals.one_image(scores, seed=4))
    row = intervals.table(scores, seed=3, count=COUNT).loc["Mass"]
    assert row["auroc_one_image"] == pytest.approx(roc_auc_score(chosen["Mass"], chosen["logit_Mass"]), abs=1e-12)
    parts = delong.components(
        chosen["Mass"].to_numpy(), chosen["logit_Mass"].to_numpy(), np.arange(len(chosen)), len(chosen)
    )
    expected = delong.logit_interval(parts.auroc, delong.variance(parts))
    assert (row["auroc_one_image_low"], row["auroc_one_image_high"]) == pytest.approx(expected)


def test_the_order_of_rows_changes_nothing() -> None:
    scores = drawn_scores()
    shuffled = scores.sample(frac=1, random_state=2)
    one, other = (intervals.table(rows, seed=3, count=COUNT) for rows in (scores, shuffled))
    pd.testing.assert_frame_equal(one, other)


def test_scores_that_separate_have_no_interval() -> None:
    scores = drawn_scores()
    scores["logit_Edema"] = scores["Edema"] * 1.0
    row = intervals.table(scores, seed=1, count=COUNT).loc["Edema"]
    assert row["auroc"] == 1.0
    assert row[["auroc_low", "auroc_high", "auroc_delong_low", "auroc_t_low"]].isna().all()


def test_undefined_and_unknown_classes_have_nothing_and_macros_leave_them_out() -> None:
    scores = drawn_scores(known=tuple(name for name in CLASSES if name != "Hernia")).assign(Mass=0)
    table = intervals.table(scores, seed=1, count=COUNT)
    for name in ("Hernia", "Mass"):
        assert table.loc[name].drop("few").isna().all()
        assert table.loc[name, "few"]
    kept = list(metrics.macro(metrics.per_class(scores), FINDINGS).classes)
    assert len(kept) == 12
    assert table.loc["macro_14", "auroc"] == pytest.approx(table.loc[kept, "auroc"].mean())


def test_a_class_of_one_positive_patient_has_a_value_and_no_interval() -> None:
    scores = drawn_scores()
    scores["Edema"] = (scores["patient_id"] == 5).astype(int)
    row = intervals.table(scores, seed=1, count=COUNT).loc["Edema"]
    assert not np.isnan(row["auroc"])
    assert row[["auroc_low", "auroc_high", "auroc_delong_low", "auroc_delong_high"]].isna().all()
    assert row["dropped"] == pytest.approx(np.exp(-1), abs=0.15)  # that patient is not drawn
    assert row["few"]


def test_nothing_to_measure_gives_an_empty_table() -> None:
    table = intervals.table(drawn_scores(known=()), seed=1, count=COUNT)
    assert table.drop(columns="few").isna().all(axis=None)
    assert intervals.flat(table, "test") == {}


def test_metrics_are_named_by_measure_and_finding() -> None:
    table = intervals.table(drawn_scores(), seed=1, count=COUNT)
    named = intervals.flat(table, "test")
    assert named["test/auroc_low/Edema"] == table.loc["Edema", "auroc_low"]
    assert named["test/auroc_high/macro_14"] == table.loc["macro_14", "auroc_high"]
    assert {"test/auroc_delong_low/Mass", "test/auroc_one_image/Mass", "test/effective_patients/Mass"} <= set(
        named
    )
    assert not {"test/auroc/Edema", "test/average_precision/Edema"} & set(named)  # metrics.flat's
