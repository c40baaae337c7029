"""Validation scores -> a map of each class's logits under which its probabilities come true, and its use.

Two maps a class, both by maximum likelihood on the labelled images and without Platt's smoothed targets, so that
validation itself comes out with intercept 0 and slope 1: Platt's logit -> slope * logit + intercept (Platt 1999),
and logit -> logit / temperature (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599, here one a class).
Neither changes the order of a class's scores. A temperature pulls towards 0.5 and cannot move a prevalence.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES

MIN_PATIENTS = 20  # positive ones in validation; a map from fewer follows those few patients
COLUMNS = ("platt_slope", "platt_intercept", "temperature", "positive_patients", "note")


def probability(logits: np.ndarray) -> np.ndarray:
    """The logistic function in float64; logits of +-700 and beyond neither overflow nor warn."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64))))


def fit(validation_scores: pd.DataFrame) -> pd.DataFrame:
    """One row a class: platt_slope, platt_intercept, temperature, positive_patients, note.

    What is not fitted is NaN, and note says why: fewer than 20 positive patients; positives and negatives that a
    threshold parts, where no finite map is best; a Platt slope that is not above 0, which would turn the order of
    the scores; a temperature without end.
    """
    rows = [_one_class(measured(validation_scores, name)) for name in CLASSES]
    return from_dict(dict(zip(CLASSES, rows, strict=True)))


def apply(scores: pd.DataFrame, fitted: pd.DataFrame, method: Literal["platt", "temperature"]) -> pd.DataFrame:
    """A copy of a scores table with the logits of fitted classes mapped (then float64), others as they were."""
    mapped = scores.copy()
    for name, row in fitted.iterrows():
        z = scores[f"logit_{name}"].astype(np.float64)
        if method == "platt" and np.isfinite(row["platt_slope"]):
            mapped[f"logit_{name}"] = row["platt_slope"] * z + row["platt_intercept"]
        elif method == "temperature" and np.isfinite(row["temperature"]):
            mapped[f"logit_{name}"] = z / row["temperature"]
    return mapped


def to_dict(fitted: pd.DataFrame) -> dict[str, dict[str, float | str | None]]:
    """A `fit` as JSON takes it: {finding: {column: value}}, floats exact and NaN as None."""
    rows = fitted.astype(object).where(fitted.notna(), None)
    return {str(name): {column: rows.loc[name, column] for column in COLUMNS} for name in rows.index}


def from_dict(stored: Mapping[str, Mapping[str, float | str | None]]) -> pd.DataFrame:
    """The `fit` that `to_dict` was given."""
    index = pd.Index(list(stored), name="finding", dtype="str")
    table = pd.DataFrame(list(stored.values()), index=index, columns=list(COLUMNS))
    maps = dict.fromkeys(COLUMNS[:3], np.float64)
    return table.astype({**maps, "positive_patients": np.int64, "note": "str"})


def overlap(logits: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a slope has a finite estimate: no threshold on logits [n] parts positives from negatives.

    Albert and Anderson, Biometrika 1984, for one variable; False also for one outcome, or one score for all.
    """
    sides = logits[labels == 1], logits[labels == 0]
    if min(len(side) for side in sides) == 0:
        return False
    return bool(sides[0].min() < sides[1].max() and sides[1].min() < sides[0].max())


def platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    """Slope b and intercept a of logit P(label = 1) = a + b logit, for [n] each; None where there is none."""
    if not overlap(logits, labels):
        return None
    z = logits.astype(np.float64)
    center, spread = float(z.mean()), float(z.std())
    found = logistic(np.column_stack([np.ones(len(z)), (z - center) / spread]), labels)
    if found is None:
        return None
    slope = float(found[1]) / spread
    return slope, float(found[0]) - slope * center


def temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """T of logit P(label = 1) = logit / T, above 0, for [n] each; infinite where no T improves on 0.5 for all.

    None where zero parts positives from negatives, and T would go to 0.
    """
    z = logits.astype(np.float64)
    if np.sum((labels - 0.5) * z) <= 0:  # the likelihood falls, or is flat, from 1 / T = 0 onwards
        return float("inf")
    if ((labels == 1) == (z > 0))[z != 0].all():
        return None
    size = float(np.sqrt(np.mean(z**2)))
    found = logistic(z[:, None] / size, labels)
    return None if found is None else size / float(found[0])


def logistic(design: np.ndarray, labels: np.ndarray, offset: np.ndarray | float = 0.0) -> np.ndarray | None:
    """Maximum-likelihood coefficients [k] of labels [n] on design [n, k], whose columns are of size 1 or so.

    None where Newton's method does not converge, or where the likelihood is flat at its top.
    """

    def loss(coefficients: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(0.0, (1 - 2 * labels) * (design @ coefficients + offset))))

    coefficients = np.zeros(design.shape[1])
    ridge = 1e-12 * len(labels) * np.eye(design.shape[1])  # in the step only: the solution stays where it is
    for _ in range(500):
        p = probability(design @ coefficients + offset)
        information = (design.T * (p * (1 - p))) @ design
        step = np.linalg.solve(information + ridge, design.T @ (labels - p))
        step *= min(1.0, 10.0 / max(float(np.abs(step).max()), 1e-300))  # no leap out of a saturated stretch
        limit = loss(coefficients) * (1 + 1e-12)
        while loss(coefficients + step) > limit and np.abs(step).max() > 1e-12:
            step = step / 2
        coefficients = coefficients + step
        if np.abs(step).max() < 1e-10:
            return coefficients if np.linalg.eigvalsh(information)[0] > 1e-8 else None
    return None


def _one_class(known: pd.DataFrame) -> dict[str, float | str | None]:
    labels, logits = known["label"].to_numpy(), known["logit"].to_numpy()
    patients = known.loc[known["label"] == 1, "patient_id"].nunique()
    row: dict[str, float | str | None] = dict.fromkeys(COLUMNS) | {"positive_patients": patients}
    if known.empty:
        return row | {"note": "not fitted: not labelled in this set, or unknown to the model"}
    if patients < MIN_PATIENTS:
        return row | {"note": f"not fitted: {patients} positive patients in validation, {MIN_PATIENTS} needed"}
    if labels.all():
        return row | {"note": "not fitted: no negative image"}
    notes = []
    line, heat = platt(logits, labels), temperature(logits, labels)
    if line is None:
        notes.append("no Platt map: a threshold parts the positives from the negatives, or all scores are equal")
    elif line[0] <= 0:
        notes.append(f"no Platt map: its slope {line[0]:.3g} would turn the order of the scores")
    else:
        row |= {"platt_slope": line[0], "platt_intercept": line[1]}
    if heat is None:
        notes.append("no temperature: logit 0 parts the positives from the negatives, and it would go to 0")
    elif np.isinf(heat):
        notes.append(
            "no temperature: it would go to infinity, for no scale of the logits beats 0.5 for every image"
        )
    else:
        row |= {"temperature": heat}
    return row | {"note": "; ".join(notes)}
