"""Validation scores -> the thresholds on a class's logit by which it is called positive.

They are chosen on validation and then stand: on test a rule's sensitivity or specificity is measured, not chosen,
and will differ from what the rule was named after.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxr.findings import CLASSES

RULES = ("youden", "sensitivity_90", "specificity_90")
MIN_PATIENTS = 20  # below it a sensitivity moves by 5 percent or more with one positive patient


def measured(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    """The images that a class is labelled in: columns label (0/1), logit (as precise as it was), patient_id.

    Empty where the set does not label the class or the model does not know it. ValueError for a logit that is
    infinite, or missing in some of the images only.
    """
    rows = scores.loc[scores[name].notna(), [name, f"logit_{name}", "patient_id"]]
    rows = rows.set_axis(["label", "logit", "patient_id"], axis=1)
    if rows["logit"].isna().all():
        rows = rows.iloc[:0]
    wrong = int((~np.isfinite(rows["logit"])).sum())
    if wrong:
        raise ValueError(f"logit_{name}: {wrong:,} of {len(rows):,} labelled images have no finite value")
    return rows.astype({"label": np.int64})


def choose(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Labels [n] 0/1 and logits [n] -> one threshold t a rule of `RULES`; a call is positive where logit >= t.

    youden: the observed score with the largest sensitivity + specificity - 1, and the largest such t on a tie
    (Youden, Cancer 1950). sensitivity_90: the largest t with a sensitivity of at least 0.90, which is a
    positive's score. specificity_90: the smallest observed score with a specificity of at least 0.90, or the
    next number above the highest score (in the precision of the logits) where no observed one has it.
    ValueError where an outcome is missing.
    """
    values, of_value = np.unique(logits, return_inverse=True)
    positive = np.bincount(of_value, weights=labels, minlength=len(values)).astype(np.int64)
    negative = np.bincount(of_value, weights=1 - labels.astype(np.int64), minlength=len(values)).astype(np.int64)
    positives, negatives = int(positive.sum()), int(negative.sum())
    if positives == 0 or negatives == 0:
        raise ValueError(f"{positives} positive and {negatives} negative images: a threshold needs both")
    values = values[::-1]
    called, falsely = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])  # at each threshold, highest first
    # in whole numbers, since 0.9 * 10 positives may come out above 9
    youden = values[np.argmax(called * negatives - falsely * positives)]  # argmax takes the first, the largest t
    sensitive = values[np.argmax(10 * called >= 9 * positives)]
    specific = np.flatnonzero(10 * (negatives - falsely) >= 9 * negatives)
    above = np.nextafter(values[0], values.dtype.type(np.inf))
    chosen = (youden, sensitive, values[specific[-1]] if len(specific) else above)
    return dict(zip(RULES, map(float, chosen), strict=True))


def table(scores: pd.DataFrame) -> pd.DataFrame:
    """The thresholds of every class that has both outcomes and logits in the val split of a scores table.

    Columns: the `RULES` (logits), positive_patients (of validation), few (fewer than 20 of them: a threshold
    that another handful of patients would move). ValueError without a validation row.
    """
    scores = scores[scores["split"] == "val"]
    if scores.empty:
        raise ValueError("no row of the scores table has the split val, on which thresholds are chosen")
    rows: dict[str, dict[str, float]] = {}
    for name in CLASSES:
        known = measured(scores, name)
        if known["label"].nunique() == 2:
            chosen = choose(known["label"].to_numpy(), known["logit"].to_numpy())
            rows[name] = chosen | {"positive_patients": known.loc[known["label"] == 1, "patient_id"].nunique()}
    return from_dict(rows)


def to_dict(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """A `table` as JSON takes it: {finding: {rule: logit, ..., "positive_patients": n}}, floats exact."""
    stored = table[[*RULES, "positive_patients"]]
    return {
        str(name): dict(zip(RULES, map(float, row[:-1]), strict=True)) | {"positive_patients": int(row[-1])}
        for name, *row in stored.itertuples()
    }


def from_dict(stored: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """The `table` that `to_dict` was given."""
    index = pd.Index(list(stored), name="finding", dtype="str")
    table = pd.DataFrame(list(stored.values()), index=index, columns=[*RULES, "positive_patients"])
    table = table.astype(dict.fromkeys(RULES, np.float64) | {"positive_patients": np.int64})
    return table.assign(few=table["positive_patients"] < MIN_PATIENTS)
