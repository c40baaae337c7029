"""Sensitivity, specificity and predictive values on test, at thresholds that validation chose."""

import numpy as np
import pandas as pd

from cxr.evaluation.bootstrap import REPLICATES, Statistic, rate
from cxr.evaluation.ranked import estimates, numbered
from cxr.evaluation.thresholds import RULES, measured

RATES = ("sensitivity", "specificity", "ppv", "npv")


def table(test: pd.DataFrame, thresholds: pd.DataFrame, *, seed: int, count: int = REPLICATES) -> pd.DataFrame:
    """A row a class and rule, of the test rows of a scores table and a `thresholds.table`.

    Columns: finding, rule, threshold (logit), then each of `RATES` with _low and _high (95 % patient bootstrap;
    NaN where it has no denominator, and no interval where that is so in over 5 % of the replicates), positives,
    negatives, few (as the thresholds say: chosen on fewer than 20 positive validation patients).
    """
    test, patients = numbered(test)
    rows: list[dict[str, object]] = []
    statistics: dict[str, Statistic] = {}
    for name, chosen in thresholds.iterrows():
        known = measured(test, str(name))
        if known.empty:
            continue
        positive, logits = known["label"].to_numpy() == 1, known["logit"].to_numpy(dtype=np.float64)
        for rule in RULES:
            for measure, part, whole in _shares(logits >= chosen[rule], positive):
                of_patient = [
                    np.bincount(known["patient_id"], weights=images, minlength=patients)
                    for images in (part, whole)
                ]
                statistics[f"{name}/{rule}/{measure}"] = rate(*of_patient)
            rows.append({"finding": name, "rule": rule, "threshold": chosen[rule], "few": chosen["few"],
                         "positives": int(positive.sum()), "negatives": int((~positive).sum())})  # fmt: skip
    values = estimates(statistics, patients, seed=seed, count=count)
    for row in rows:
        for measure in RATES:
            estimate = values.of({f"{row['finding']}/{row['rule']}/{measure}": 1.0})
            row |= estimate.named(measure, f"{measure}_low", f"{measure}_high")
    rates = [f"{name}{end}" for name in RATES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["finding", "rule", "threshold", *rates, "positives", "negatives", "few"])


def flat(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Metrics as runs carry them: `test/sensitivity/youden/Edema`, `test/sensitivity_low/youden/Edema` ..."""
    return {
        f"{prefix}/{measure}{end}/{row['rule']}/{row['finding']}": float(row[f"{measure}{end}"])
        for row in table.to_dict("records")
        for measure in ("sensitivity", "specificity")
        for end in ("", "_low", "_high")
        if not np.isnan(row[f"{measure}{end}"])
    }


def _shares(called: np.ndarray, positive: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each rate's images [n] and the images that it is a share of."""
    return [
        ("sensitivity", called & positive, positive),
        ("specificity", ~called & ~positive, ~positive),
        ("ppv", called & positive, called),
        ("npv", ~called & ~positive, ~called),
    ]
