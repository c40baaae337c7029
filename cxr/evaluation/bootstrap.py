"""Patient bootstrap: patients are drawn with replacement, all their images come along.

Images of one patient are alike, so resampling images would give intervals that are too narrow. A replicate is
a number for each patient, how often it was drawn; every statistic is computed from the same replicates, so that
differences and macro averages are paired. AUROC needs no sorting in a replicate: the order of the scores stays,
and only the patients' weights change (weighted ranks, two sparse products a class).

Source: C. A. Field, A. H. Welsh, Bootstrapping clustered data, J. R. Stat. Soc. B 69 (2007) 369-390.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from cxr.data.packing import usable_cores

REPLICATES = 1000
SEED = 0  # of a run's replicates: fixed, so that a run measured again gives the same ends
MAX_DROPPED = 0.05  # share of undefined replicates above which there is no interval
_CHUNK = 50  # replicates at a time and thread: 0.1 GB for 25,596 images

# How often each patient was drawn [patients, replicates], float64 -> one value a replicate, NaN where undefined.
Statistic = Callable[[np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """A 95 % percentile interval, NaN where too many replicates were undefined, and the share that was."""

    low: float
    high: float
    dropped: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """One class's images in the order of their scores, as counts of each patient's images between positives.

    Rows are the distinct scores that a positive image has, highest first, and a last row for what lies below all
    of them; columns are patients.
    """

    positive: sparse.csr_array  # images with this very score
    above: sparse.csr_array  # negative images between this score and the next higher one of the list
    tied: sparse.csr_array  # negative images with this very score

    def auroc(self, drawn: np.ndarray) -> np.ndarray:
        """Probability that a positive image scores above a negative one, ties counted half; [replicates]."""
        positive, above, tied = self._weights(drawn)
        total = above[-1] + tied[-1]
        above -= 0.5 * np.diff(tied, axis=0, prepend=0)
        with np.errstate(invalid="ignore"):  # 0 / 0 where a side is missing: undefined
            worse: np.ndarray = ((above + tied) * positive).sum(axis=0) / (positive.sum(axis=0) * total)
        return 1.0 - worse

    def average_precision(self, drawn: np.ndarray) -> np.ndarray:
        """Mean precision over the positives, as scikit-learn's `average_precision_score`; [replicates]."""
        positive, above, tied = self._weights(drawn)
        found = np.cumsum(positive, axis=0)
        with np.errstate(invalid="ignore"):
            precision = np.where(positive > 0, found / (found + above + tied), 0.0)
            mean: np.ndarray = (precision * positive).sum(axis=0) / found[-1]
        mean[above[-1] + tied[-1] == 0] = np.nan  # without negatives every ranking is perfect
        return mean

    def _weights(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight of the positives of each row, of negatives above it, and of ties down to and with it."""
        above = np.cumsum(self.above @ drawn, axis=0)
        tied = np.cumsum(self.tied @ drawn, axis=0) if self.tied.nnz else np.zeros_like(above)
        return self.positive @ drawn, above, tied


def rank(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, count: int) -> Ranking:
    """Order one class's images once for all replicates.

    labels [n] 0 or 1, scores [n] finite, patients [n] from 0 to `count` - 1.
    """
    assert len(labels) == len(scores) == len(patients), (len(labels), len(scores), len(patients))
    positive = labels == 1
    # place of each image among the positives' distinct scores, highest first
    levels = np.unique(scores[positive])
    place = len(levels) - np.searchsorted(levels, scores, side="right")
    level = np.minimum(place, max(len(levels) - 1, 0))
    tied = (levels[len(levels) - 1 - level] == scores) if len(levels) else np.zeros(len(scores), dtype=bool)

    def counted(rows: np.ndarray) -> sparse.csr_array:
        cells = (np.ones(int(rows.sum())), (place[rows], patients[rows]))
        return sparse.csr_array(cells, shape=(len(levels) + 1, count))

    return Ranking(positive=counted(positive), above=counted(~positive & ~tied), tied=counted(~positive & tied))


def rate(part: np.ndarray, whole: np.ndarray) -> Statistic:
    """A share such as sensitivity, from counts of each patient's images: part [patients] of whole [patients]."""

    def shares(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            values: np.ndarray = (part @ drawn) / (whole @ drawn)
        return values

    return shares


def replicates(
    statistics: Mapping[str, Statistic], patients: int, *, seed: int, count: int = REPLICATES
) -> pd.DataFrame:
    """Every statistic in the same `count` replicates of so many patients: a row each, a column a statistic.

    The replicates depend on `seed`, `patients` and `count` alone.
    """
    sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))

    def chunk(size: int, source: np.random.SeedSequence) -> np.ndarray:
        generator = np.random.default_rng(source)
        drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=size).T.astype(np.float64)
        drawn = np.ascontiguousarray(drawn)  # [patients, size]
        return np.array([statistic(drawn) for statistic in statistics.values()]).reshape(-1, size)

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(chunk, sizes, seeds))
    return pd.DataFrame(np.concatenate(parts, axis=1).T, columns=list(statistics))


def interval(values: np.ndarray | pd.Series) -> Interval:
    """The 95 % percentile interval of a statistic's replicates; none where over 5 % of them are undefined."""
    values = np.asarray(values, dtype=np.float64)
    kept = values[~np.isnan(values)]
    dropped = float(np.isnan(values).mean())
    if dropped > MAX_DROPPED or not len(kept):
        return Interval(np.nan, np.nan, dropped)
    low, high = np.quantile(kept, [0.025, 0.975])
    return Interval(float(low), float(high), dropped)
