"""Scores table -> whether predicted probabilities come true, per class.

Calibration in the large asks whether a class is predicted as often as it is there: intercept a of
logit P(y = 1) = a + z, right at 0. The slope asks whether predictions are spread as widely as the truth: b of
logit P(y = 1) = a' + b z, right at 1, below 1 for predictions that are too extreme (Cox, Biometrika 1958; Van
Calster et al., BMC Medicine 2019, https://doi.org/10.1186/s12916-019-1466-7). z is a logit of the model.
"""

from statistics import NormalDist

import numpy as np
import pandas as pd

from cxr.evaluation.ranked import few, too_few
from cxr.evaluation.recalibration import logistic, overlap, platt, probability
from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES

BINS = 15
COLUMNS = (
    "brier", "reliability", "resolution", "uncertainty", "within_bins", "ece",
    "intercept", "intercept_low", "intercept_high", "slope", "slope_low", "slope_high",
    "mean_probability", "prevalence", "images", "positives", "positive_patients", "few", "note",
)  # fmt: skip
_NORMAL = NormalDist().inv_cdf(0.975)


def bins(logits: np.ndarray, labels: np.ndarray, count: int = BINS) -> pd.DataFrame:
    """Logits [n] and labels [n] -> at most `count` bins of about equally many images, lowest scores first.

    Columns: mean_probability, observed (share of positives), images, positives, lowest and highest (predicted
    probabilities in the bin). Equal scores share a bin, the one that the middle of them falls into.
    """
    _, of_value, tied = np.unique(logits, return_inverse=True, return_counts=True)
    middle_twice = 2 * np.cumsum(tied) - tied
    bin_of_value = count * middle_twice // (2 * max(len(logits), 1))  # integers: rounding moves no image
    _, place, images = np.unique(bin_of_value[of_value], return_inverse=True, return_counts=True)
    p, positives = probability(logits), np.bincount(place, weights=labels, minlength=len(images))
    lowest, highest = np.full(len(images), np.inf), np.full(len(images), -np.inf)
    np.minimum.at(lowest, place, p)
    np.maximum.at(highest, place, p)
    return pd.DataFrame(
        {"mean_probability": np.bincount(place, weights=p, minlength=len(images)) / images,
         "observed": positives / images, "images": images, "positives": positives.astype(np.int64),
         "lowest": lowest, "highest": highest}
    )  # fmt: skip


def brier(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean squared difference between predicted probability and label, of logits [n] and labels [n]."""
    return float(np.mean((probability(logits) - labels) ** 2))


def ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: the mean over images of |mean_probability - observed| of their `bins`."""
    table = bins(logits, labels)
    return float((table["images"] * (table["mean_probability"] - table["observed"]).abs()).sum() / len(labels))


def decomposition(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Brier score = reliability - resolution + uncertainty + within_bins, over `bins` k with n_k of n images.

    f are probabilities, o labels, a bar is a mean. reliability = sum_k n_k (f_k_bar - o_k_bar)^2 / n,
    resolution = sum_k n_k (o_k_bar - o_bar)^2 / n, uncertainty = o_bar (1 - o_bar), and within_bins =
    sum_k sum_j [(f_kj - f_k_bar)^2 - 2 (f_kj - f_k_bar) (o_kj - o_k_bar)] / n: the variance within bins less
    twice the covariance, negative where scores still rank within a bin. The two are the further components of
    Stephenson et al., Weather and Forecasting 2008, https://doi.org/10.1175/2007WAF2006116.1.
    """
    table, order = bins(logits, labels), np.argsort(logits, kind="stable")
    share, base = table["images"] / len(labels), float(np.mean(labels))
    own = table.loc[np.repeat(table.index, table["images"])]  # [n, ...]: bins are runs of the sorted scores
    spread = probability(logits)[order] - own["mean_probability"].to_numpy()
    within = spread**2 - 2 * spread * (labels[order] - own["observed"].to_numpy())
    return {
        "brier": brier(logits, labels),
        "reliability": float((share * (table["mean_probability"] - table["observed"]) ** 2).sum()),
        "resolution": float((share * (table["observed"] - base) ** 2).sum()),
        "uncertainty": base * (1 - base),
        "within_bins": float(within.mean()),
    }


def intercept(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Calibration in the large, a of logit P(y = 1) = a + logit for [n] each; None where no finite a is best."""
    if labels.all() or not labels.any():
        return None
    found = logistic(np.ones((len(labels), 1)), labels, logits.astype(np.float64))
    return None if found is None else float(found[0])


def robust_error(design: np.ndarray, labels: np.ndarray, p: np.ndarray, patients: np.ndarray) -> float:
    """Standard error of the last coefficient of a logistic regression, with patients as the units drawn.

    V = I / (I - 1) A^-1 (sum_i u_i u_i^T) A^-1, of I patients with u_i = sum of x (y - p) over their images, and
    A = sum of x x^T p (1 - p) (Liang and Zeger, Biometrika 1986; the factor is a usual one for few clusters).
    design [n, k], the others [n]. NaN for a single patient; too narrow where few patients are positive.
    """
    codes, known = pd.factorize(patients)
    if len(known) < 2:
        return float("nan")
    sums = np.stack([np.bincount(codes, weights=column * (labels - p)) for column in design.T])  # [k, I]
    inverse = np.linalg.inv((design.T * (p * (1 - p))) @ design)
    variance = len(known) / (len(known) - 1) * (inverse @ sums @ sums.T @ inverse)
    return float(np.sqrt(variance[-1, -1]))


def table(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a class, in the order of the outputs, for the rows of a scores table that are labelled in it.

    Columns: brier, reliability, resolution, uncertainty, within_bins (see `decomposition`), ece, intercept and
    slope, each with _low and _high (95 %, normal, see `robust_error`), mean_probability, prevalence, images,
    positives, positive_patients, few (under 30 effective ones: intervals are too narrow), note (why something is
    NaN).
    """
    rows = [_one_class(measured(scores, name)) for name in CLASSES]
    return pd.DataFrame(rows, index=pd.Index(CLASSES, name="finding"), columns=list(COLUMNS))


def flat(calibration_table: pd.DataFrame, prefix: str, suffix: str = "") -> dict[str, float]:
    """What is defined, as metrics: `test/brier/Edema`, `test/ece/Edema`, `test/calibration_slope/Edema` ..."""
    names = {"brier": "brier", "ece": "ece", "intercept": "calibration_intercept", "slope": "calibration_slope"}
    return {
        f"{prefix}/{metric}{suffix}/{finding}": float(value)
        for column, metric in names.items()
        for finding, value in calibration_table[column].dropna().items()
    }


def misstated(calibration_table: pd.DataFrame) -> list[str]:
    """A sentence for each finding of a `table` whose intercept's interval excludes 0 or slope's excludes 1.

    Findings with few patients (`few`), whose intervals are too narrow for a verdict, are passed over.
    At 95 % and two intervals a finding, about one in ten well calibrated findings gets a sentence by chance.
    More do after a recalibration on a validation set that is smaller, whose own chance the intervals leave out.
    """
    sentences = []
    for name, row in calibration_table.iterrows():
        if row["few"]:
            continue
        predicted, observed = row["mean_probability"], row["prevalence"]
        parts = []
        if row["intercept_low"] > 0 or row["intercept_high"] < 0:
            under = observed > predicted
            times = (observed if under else predicted) / max(predicted if under else observed, 1e-9)
            shown = f"{times:.{2 if times < 2 else 1}f}" if times < 1000 else "over 1,000"
            parts.append(f"risk {'under' if under else 'over'}stated {shown} times")
        if row["slope_high"] < 1 or row["slope_low"] > 1:
            spread = (
                "higher ones do not go with more disease" if row["slope"] <= 0
                else "too extreme" if row["slope"] < 1
                else "too close together"
            )  # fmt: skip
            parts.append(f"predictions {spread}, slope {row['slope']:.2f} where 1 is right")
        if parts:
            sentences.append(
                f"{name}: predicted {_percent(predicted)}, observed {_percent(observed)} ({'; '.join(parts)})"
            )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.{1 if share >= 0.01 else 2}f} %" if share >= 0.0001 else "below 0.01 %"


def _one_class(known: pd.DataFrame) -> dict[str, float | str]:
    labels, logits, patients = (known[column].to_numpy() for column in ("label", "logit", "patient_id"))
    row: dict[str, float | str] = {
        "images": len(known),
        "positives": int(labels.sum()),
        "positive_patients": known.loc[known["label"] == 1, "patient_id"].nunique(),
        "few": few(known),
        "note": "",
    }
    if known.empty:
        return row | {"note": "undefined: not labelled in this set, or unknown to the model"}
    row |= decomposition(logits, labels) | {"ece": ece(logits, labels)}
    row |= {"mean_probability": float(probability(logits).mean()), "prevalence": float(labels.mean())}
    if row["positives"] in (0, len(known)):
        return row | {"note": f"no {'negative' if row['positives'] else 'positive'} image: no intercept, no slope"}
    notes, z, ones = [], logits.astype(np.float64), np.ones(len(known))
    level, line = intercept(z, labels), platt(z, labels)
    if level is None:
        notes.append("all scores at 0 or 1: no intercept")
    else:
        row |= _interval("intercept", level, robust_error(ones[:, None], labels, probability(level + z), patients))
    if line is None:
        notes.append(
            "no slope: the fit did not converge" if overlap(z, labels)
            else "all scores are equal: no slope" if np.ptp(z) == 0
            else "separated: a threshold parts the positives from the negatives, and the slope has no bound"
        )  # fmt: skip
    else:
        design, p = np.column_stack([ones, z - z.mean()]), probability(line[1] + line[0] * z)
        row |= _interval("slope", line[0], robust_error(design, labels, p, patients))
    if reason := too_few(known):
        notes.append(f"no intervals: {reason}")
        row |= dict.fromkeys(("intercept_low", "intercept_high", "slope_low", "slope_high"), np.nan)
    return row | {"note": "; ".join(notes)}


def _interval(name: str, value: float, error: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - _NORMAL * error, f"{name}_high": value + _NORMAL * error}
