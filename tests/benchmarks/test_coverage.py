"""The coverage simulation: its population against the stated facts and truth, and a few repetitions."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr.benchmarks import coverage


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return coverage.simulate(30, seed=3, positive_patients=(6, 20), patients=200, replicates=100)


def test_patients_have_as_many_images_and_positives_as_nihs() -> None:
    drawn = coverage.draw(6_000, 84_000, np.random.default_rng(0))
    images = np.bincount(drawn.patients)
    positive = np.bincount(drawn.patients, drawn.labels)
    assert images.mean() == pytest.approx(9.15, rel=0.2)  # NIH's 2,797 include those with the finding
    assert images.max() == 184
    assert np.sort(images)[-9_000:].sum() / images.sum() == pytest.approx(0.56, abs=0.05)
    assert (positive > 0).sum() == 6_000
    assert positive[positive > 0].mean() == pytest.approx(3.6, abs=0.2)
    assert positive.sum() ** 2 / (positive**2).sum() / 6_000 == pytest.approx(0.43, abs=0.05)


@pytest.mark.parametrize("share", [0.07, 0.6])
def test_the_truth_is_that_of_a_large_draw(share: float) -> None:
    patients = 60_000
    positive = round(share * patients)
    drawn = coverage.draw(positive, patients, np.random.default_rng(1))
    for scores in drawn.scores.T:  # two equally good models
        found = roc_auc_score(drawn.labels, scores)
        assert found == pytest.approx(coverage.truth(positive, patients), abs=0.01)


def test_scores_are_alike_within_a_patient_and_between_models() -> None:
    labels, scores, patients = coverage.draw(0, 20_000, np.random.default_rng(2))
    assert labels.sum() == 0
    assert scores.var(axis=0) == pytest.approx([1, 1], abs=0.05)
    assert np.corrcoef(scores.T)[0, 1] == pytest.approx(0.7, abs=0.03)
    first, last = (pd.Series(patients).drop_duplicates(keep=keep).index for keep in ("first", "last"))
    pairs = pd.DataFrame({"patient": patients[first], "one": scores[first, 0]}).merge(
        pd.DataFrame({"patient": patients[last], "other": scores[last, 0], "place": last}), on="patient"
    )
    several = pairs[np.bincount(patients)[pairs["patient"]] > 1]
    assert several[["one", "other"]].corr().iloc[0, 1] == pytest.approx(0.5, abs=0.03)


def test_every_method_has_a_row_at_every_number(table: pd.DataFrame) -> None:
    assert table.groupby("positive_patients")["method"].nunique().tolist() == [8, 8]
    assert set(table["repetitions"]) == {30}
    wide = table.pivot_table(index="method", columns="positive_patients", values="mean_width")
    assert (wide[6] > wide[20]).all()
    assert wide.loc["patient jackknife, t", 6] > wide.loc["clustered DeLong", 6]
    cells = table[table["coverage"].between(0.01, 0.99)].iloc[0]
    number = cells["given"] * 30
    assert cells["error"] == pytest.approx(np.sqrt(cells["coverage"] * (1 - cells["coverage"]) / number))
    assert coverage.of_auroc(table)["method"].nunique() == 6


def test_the_seed_alone_decides(table: pd.DataFrame) -> None:
    again = coverage.simulate(30, seed=3, positive_patients=(6, 20), patients=200, replicates=100)
    pd.testing.assert_frame_equal(again, table)


def test_rows_say_what_the_table_says(table: pd.DataFrame) -> None:
    rows = list(coverage.rows(table))
    assert [row.value for row in rows] == pytest.approx(table["coverage"].tolist(), nan_ok=True)
    assert rows[0].measure == "imagewise DeLong, 6 positive patients"
    assert "of 30" in rows[0].against


def test_where_no_interval_is_given_coverage_is_unknown() -> None:
    table = coverage.simulate(2, positive_patients=(1,), patients=50, replicates=20).set_index("method")
    assert table.loc["patient jackknife, t", "given"] == 0
    assert np.isnan(table.loc["patient jackknife, t", "coverage"])
