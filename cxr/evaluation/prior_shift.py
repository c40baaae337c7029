"""What a different share of sick patients does to probabilities, and how much of it could be undone unlabelled.

Saerens, Latinne and Decaestecker (Neural Computation 2002, https://doi.org/10.1162/089976602753284446) estimate
a new set's prevalence from its scores alone, and shift the scores to it. That assumes a pure label shift: the
pictures of the sick look the same in both sets, and so do those of the others, only their shares differ. On NIH's
official test list that is probably false: its patients stayed longer and its views differ. The number is then an
estimate under an assumption, and may lie farther from the truth than the validation prevalence. It also assumes
probabilities that were calibrated to validation to begin with (see recalibration).
"""

import math

import numpy as np
import pandas as pd

from cxr.evaluation.calibration import brier, ece, intercept
from cxr.evaluation.ranked import few
from cxr.evaluation.recalibration import probability
from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES

EDGE = 1e-6  # a prevalence is kept this far from 0 and 1, where a shift of the log odds has no bound
COLUMNS = (
    "validation_prevalence", "test_prevalence", "em_prevalence", "ratio",
    "brier_as_is", "brier_em", "brier_oracle", "ece_as_is", "ece_em", "ece_oracle",
    "intercept_as_is", "intercept_em", "intercept_oracle", "few", "note",
)  # fmt: skip


def em(logits: np.ndarray, prior: float, *, tolerance: float = 1e-10, iterations: int = 10_000) -> float:
    """The prevalence of a set from its logits [n] alone, of a model calibrated to the prevalence `prior`.

    The fixed point of q = mean of the probabilities shifted from `prior` to q (their EM), begun at the prior;
    NaN where q still moves by more than `tolerance` after the last iteration. Held 1e-6 off 0 and 1,
    where it ends if no prevalence explains the scores, as happens with logits that are not calibrated to `prior`.
    ValueError for no logits, or a prior that is not between 0 and 1.
    """
    _check(prior)
    if len(logits) == 0:
        raise ValueError("no logits: a prevalence cannot be estimated from nothing")
    p, q = probability(logits), prior
    for _ in range(iterations):
        odds_ratio = q / (1 - q) * (1 - prior) / prior
        moved = float(np.clip(np.mean(p * odds_ratio / (1 + p * (odds_ratio - 1))), EDGE, 1 - EDGE))
        if abs(moved - q) < tolerance:
            return moved
        q = moved
    return float("nan")


def adjusted(logits: np.ndarray, prior: float, prevalence: float) -> np.ndarray:
    """Logits [n] moved by log-odds(prevalence) - log-odds(prior), in float64; ValueError for a share of 0 or 1."""
    _check(prior)
    _check(prevalence)
    shift = math.log(prevalence) - math.log1p(-prevalence) - math.log(prior) + math.log1p(-prior)
    return np.asarray(logits, dtype=np.float64) + shift


def table(validation: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Two scores tables -> one row a class: test probabilities as they are, and shifted in two ways.

    Columns: validation_prevalence, test_prevalence, em_prevalence (from the test scores alone), ratio (test /
    validation), then brier, ece and intercept (calibration in the large), each _as_is, _em (shifted to
    em_prevalence) and _oracle (shifted to the test prevalence, which nobody has in use: what a shift could give
    at best), few (under 30 effective positive test patients), note (why something is NaN). All of the images that
    are labelled in the class, in either table.
    """
    rows = [_one_class(measured(validation, name), measured(test, name)) for name in CLASSES]
    return pd.DataFrame(rows, index=pd.Index(CLASSES, name="finding"), columns=list(COLUMNS))


def flat(shift_table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """What is defined, as metrics: `test/prevalence_em/Edema`, `test/brier_em/Edema`, `test/brier_oracle/...`."""
    names = {"em_prevalence": "prevalence_em", "test_prevalence": "prevalence", "brier_em": "brier_em",
             "brier_oracle": "brier_oracle"}  # fmt: skip
    return {
        f"{prefix}/{metric}/{finding}": float(value)
        for column, metric in names.items()
        for finding, value in shift_table[column].dropna().items()
    }


def _check(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"prevalence {share}: expected a number between 0 and 1, both excluded")


def _one_class(validation: pd.DataFrame, test: pd.DataFrame) -> dict[str, float | str]:
    if validation.empty or test.empty:
        where = "validation" if validation.empty else "test"
        return {"note": f"undefined: not labelled in {where}, or unknown to the model"}
    labels, logits = test["label"].to_numpy(), test["logit"].to_numpy()
    prior, truth = float(validation["label"].mean()), float(labels.mean())
    row: dict[str, float | str] = {"validation_prevalence": prior, "test_prevalence": truth, "few": few(test)}
    row |= _measures("as_is", logits, labels)
    if not 0 < prior < 1:
        return row | {"note": "validation has one outcome only: no shift from its prevalence"}
    estimate, notes = em(logits, prior), []
    row |= {"ratio": truth / prior, "em_prevalence": estimate}
    if np.isnan(estimate):
        notes.append("EM did not converge")
    else:
        row |= _measures("em", adjusted(logits, prior, estimate), labels)
        if estimate in (EDGE, 1 - EDGE):
            notes.append("EM ran to the edge: no prevalence explains the scores")
    if 0 < truth < 1:
        row |= _measures("oracle", adjusted(logits, prior, truth), labels)
    else:
        notes.append("test has one outcome only: no intercept, no oracle")
    return row | {"note": "; ".join(notes)}


def _measures(name: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    level = intercept(logits, labels)
    return {
        f"brier_{name}": brier(logits, labels),
        f"ece_{name}": ece(logits, labels),
        f"intercept_{name}": float("nan") if level is None else level,
    }
