"""Curves pass through what their thresholds count."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc

from cxr.evaluation import metrics
from cxr.evaluation.curves import curves, operating_point


def rows(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = (rng.random(100) < 0.3).astype(int)
    return pd.DataFrame(
        {"label": label, "logit": (rng.normal(size=100) + label).round(1), "patient_id": range(100)}
    )


def test_the_area_under_the_roc_curve_is_auroc() -> None:
    known = rows()
    found = curves(known)
    assert auc(found.fpr, found.tpr) == pytest.approx(metrics.roc_auc_score(known["label"], known["logit"]))
    assert len(found.precision) == len(found.recall)


def test_an_operating_point_lies_on_the_curve() -> None:
    known = rows()
    fpr, tpr = operating_point(known, 0.5)
    found = curves(known)
    assert np.interp(fpr, found.fpr, found.tpr) == pytest.approx(tpr, abs=0.05)
    called = known["logit"] >= 0.5
    assert tpr == (called & (known["label"] == 1)).sum() / (known["label"] == 1).sum()


def test_one_outcome_has_no_curve() -> None:
    assert [len(values) for values in curves(rows().assign(label=0))] == [0, 0, 0, 0]
