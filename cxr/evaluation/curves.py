"""ROC and precision-recall curves of one class."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve


class Curves(NamedTuple):
    """scikit-learn's arrays: fpr and tpr [k], precision and recall [m]."""

    fpr: np.ndarray
    tpr: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def curves(known: pd.DataFrame) -> Curves:
    """The curves of a class's rows (`thresholds.measured`); empty arrays where an outcome is missing."""
    if known["label"].nunique() < 2:
        return Curves(*[np.empty(0)] * 4)
    fpr, tpr, _ = roc_curve(known["label"], known["logit"])
    precision, recall, _ = precision_recall_curve(known["label"], known["logit"], drop_intermediate=True)
    return Curves(fpr, tpr, precision, recall)


def operating_point(known: pd.DataFrame, threshold: float) -> tuple[float, float]:
    """False and true positive rate of calling a class's rows positive from a threshold on."""
    called, positive = known["logit"].astype(np.float64) >= threshold, known["label"] == 1
    return float(called[~positive].mean()), float(called[positive].mean())
