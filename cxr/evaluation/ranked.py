"""Ranked classes of a test set, and estimates from them: values, means and differences with their intervals.

Whatever is measured on a test set is computed in the same replicates of all its patients, also where it is a
statistic of a part of its images. So any two are paired: a patient with images in two subgroups is drawn into
both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxr.evaluation import delong
from cxr.evaluation.bootstrap import REPLICATES, Ranking, Statistic, interval, rank, replicates
from cxr.evaluation.metrics import MIN_PATIENTS

MACRO = "macro_14"
FEW = 30  # effective positive patients; with fewer, bootstrap and DeLong do not keep 95 % (benchmark, coverage)

# A sum of statistics, as their factors: {"a": 1/2, "b": 1/2} is a mean.
Sum = Mapping[str, float]


class Estimate(NamedTuple):
    """A value with its 95 % percentile interval, each NaN where undefined."""

    value: float
    low: float
    high: float

    def named(self, value: str, low: str, high: str) -> dict[str, float]:
        """The three as cells of a table's row."""
        return {value: self.value, low: self.low, high: self.high}


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimates:
    """Statistics of one test set, as it is and in its replicates."""

    place: Mapping[str, int]  # of each statistic among the columns
    values: np.ndarray  # [1 + replicates, statistics]; the first row is the test set as it is

    def of(self, weights: Sum) -> Estimate:
        """A sum of statistics, taken within each replicate; undefined where one of them was not computed."""
        return _estimate(self._sums(weights))

    def difference(self, one: Sum, other: Sum) -> Estimate:
        """one - other, paired; of two sums that are equal in every replicate exactly 0."""
        return _estimate(self._sums(one) - self._sums(other))

    def dropped(self, weights: Sum) -> float:
        """The share of replicates in which a sum of statistics is undefined."""
        return interval(self._sums(weights)[1:]).dropped

    def _sums(self, weights: Sum) -> np.ndarray:
        if not weights or not set(weights) <= set(self.place):
            return np.full(len(self.values), np.nan)
        columns = [self.place[name] for name in weights]
        sums: np.ndarray = self.values[:, columns] @ np.array(list(weights.values()))
        return sums


def _estimate(values: np.ndarray) -> Estimate:
    low, high, _ = interval(values[1:])
    return Estimate(float(values[0]), low, high)


def estimates(
    statistics: Mapping[str, Statistic], patients: int, *, seed: int, count: int = REPLICATES
) -> Estimates:
    """Compute statistics of so many patients once as they are and in `count` replicates."""
    once = np.ones((patients, 1))
    plain = np.array([float(statistic(once)[0]) for statistic in statistics.values()])
    drawn = replicates(statistics, patients, seed=seed, count=count).to_numpy()
    place = {name: column for column, name in enumerate(statistics)}
    return Estimates(place=place, values=np.vstack([plain, drawn]))


def mean(names: Sequence[str]) -> Sum:
    """The unweighted mean of statistics, such as a macro average; undefined for none."""
    return dict.fromkeys(names, 1 / max(len(names), 1))


def numbered(scores: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """A scores table whose patient_id counts its patients from 0, in the order of their ids, and their number."""
    ids, codes = np.unique(scores["patient_id"].to_numpy(), return_inverse=True)
    return scores.assign(patient_id=codes), len(ids)


def ranking(known: pd.DataFrame, patients: int) -> Ranking:
    """Rank the rows of a class, as `thresholds.measured` gives them of a numbered table."""
    return rank(*columns(known), patients)


def columns(known: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and patients [n] of the rows of a class."""
    return known["label"].to_numpy(), known["logit"].to_numpy(), known["patient_id"].to_numpy()


def sizes(known: pd.DataFrame) -> dict[str, int]:
    """images, patients, positives, positive_patients, negative_patients of the rows of a class."""
    labels, _, patients = columns(known)
    positive = labels == 1
    return {
        "images": len(known),
        "patients": len(np.unique(patients)),
        "positives": int(positive.sum()),
        "positive_patients": len(np.unique(patients[positive])),
        "negative_patients": len(np.unique(patients[~positive])),
    }


def effective_patients(known: pd.DataFrame) -> float:
    """The effective number of a class's positive patients, see `delong.effective_patients`."""
    return delong.effective_patients(known.loc[known["label"] == 1, "patient_id"].value_counts().to_numpy())


def few(known: pd.DataFrame) -> bool:
    """Whether so few patients are positive that intervals of a class do not keep their 95 %."""
    return effective_patients(known) < FEW


def too_few(known: pd.DataFrame) -> str:
    """Why the rows of a class carry no AUROC, such as `4 positive patients, 10 needed`; empty where they do."""
    if known.empty:
        return "not labelled here, or unknown to the model"
    size = sizes(known)
    side = "positive" if size["positive_patients"] <= size["negative_patients"] else "negative"
    few = size[f"{side}_patients"]
    return "" if few >= MIN_PATIENTS else f"{few} {side} patients, {MIN_PATIENTS} needed"


def macro_note(classes: Sequence[str], without: Sequence[str]) -> str:
    """The scope of a macro average, such as `mean of 13 (without Hernia)`."""
    if not classes:
        return "no finding can be measured"
    return f"mean of {len(classes)}" + (f" (without {', '.join(without)})" if without else "")
