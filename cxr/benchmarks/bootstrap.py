"""The patient bootstrap: ours, and the loop that most public code runs, over images drawn in NIH's proportions.

The loop repeats the images of the drawn patients and calls scikit-learn's `roc_auc_score` for each class and
replicate. A few of its replicates are timed, in turns with all of ours, and the rest is computed from them: a
replicate costs what the one before it cost.
"""

import statistics
import time
import tracemalloc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cxr.benchmarks.table import Row
from cxr.data.packing import usable_cores
from cxr.evaluation import bootstrap
from cxr.findings import CLASSES, FINDINGS

# NIH's official test set: positive images of each class, in the order of CLASSES
POSITIVES = (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86, 9861)
IMAGES, PATIENTS = 25_596, 2_797
_LOOPED = 5  # replicates of the loop that are timed
_AGREED = 1e-12


class Drawn(NamedTuple):
    """Labels and scores [images, 15] and each image's patient [images], from 0 to `total` - 1."""

    labels: np.ndarray
    scores: np.ndarray
    patients: np.ndarray
    total: int  # patients


def measure(*, scale: float = 1.0, replicates: int = bootstrap.REPLICATES) -> Iterator[Row]:
    """Seconds of both ways and their ratio, ours over all cores and the loop on one; the memory that ours takes.

    `scale` shrinks the set. Both ways must agree, or an assertion fails.
    """
    drawn = draw(scale, np.random.default_rng(0))
    few, times = _with_draws(drawn)
    ours, looped, apart = [], [], 0.0
    for column in range(_LOOPED):
        start = time.perf_counter()
        values = loop(drawn, times[:, column])
        looped.append(time.perf_counter() - start)
        apart = max(apart, float(np.abs(values - few.iloc[column].to_numpy()).max()))
        start = time.perf_counter()
        fast(drawn, replicates)
        ours.append(time.perf_counter() - start)
    assert apart <= _AGREED, apart
    seconds, whole = statistics.median(ours), statistics.median(looped) * replicates
    label = f"{replicates:,} replicates, {len(CLASSES)} classes, {len(drawn.patients):,} images"
    cores = usable_cores()
    yield Row(part="bootstrap", measure=f"scikit-learn's loop, {label}", value=whole, unit="s",
              against=f"{_LOOPED} replicates timed, the rest computed; one core")  # fmt: skip
    yield Row(part="bootstrap", measure=f"ours, {label}", value=seconds, unit="s", against=f"{cores} cores")
    yield Row(
        part="bootstrap", measure="ours over scikit-learn's loop", value=whole / seconds, unit="ratio",
        against=f"the loop on one core, ours on {cores}; values within {apart:.0e}", goal=40.0,
    )  # fmt: skip
    yield Row(
        part="bootstrap", measure="memory of ours, at its highest", value=_peak(drawn, replicates), unit="MiB"
    )


def draw(scale: float, generator: np.random.Generator) -> Drawn:
    """Images in the proportions of NIH's official test set, positives and scores alike within a patient.

    A tenth of the patients hold over half of the images. Scores have float32's precision, as a network's.
    """
    count, images = round(PATIENTS * scale), round(IMAGES * scale)
    size = generator.exponential(size=count) ** 2
    patients = np.repeat(np.arange(count), 1 + generator.multinomial(images - count, size / size.sum()))
    labels = np.zeros((images, len(CLASSES)), dtype=np.int64)
    for column, positives in enumerate(POSITIVES):
        often = generator.gamma(0.3, size=count)[patients] + 1e-3  # a few patients have most of a finding's images
        rows = generator.choice(images, max(2, round(positives * scale)), replace=False, p=often / often.sum())
        labels[rows, column] = 1
    effect = generator.normal(size=(count, len(CLASSES)))[patients]
    scores = (effect + generator.normal(size=labels.shape) + labels).astype(np.float32)
    return Drawn(labels, scores.astype(np.float64), patients, count)


def fast(drawn: Drawn, replicates: int, seed: int = 0) -> pd.DataFrame:
    """Ours, whole: the order of the scores, all replicates, and the macro average over the 14 findings."""
    values = bootstrap.replicates(_statistics(drawn), drawn.total, seed=seed, count=replicates)
    return values.assign(macro_14=values[list(FINDINGS)].mean(axis=1))


def loop(drawn: Drawn, times: np.ndarray) -> np.ndarray:
    """A replicate by scikit-learn: every class, and the macro average; [16].

    `times` [patients] is how often each is drawn.
    """
    rows = np.repeat(np.arange(len(drawn.patients)), times.astype(np.int64)[drawn.patients])
    values = [roc_auc_score(drawn.labels[rows, at], drawn.scores[rows, at]) for at in range(len(CLASSES))]
    return np.array([*values, np.mean(values[: len(FINDINGS)])])


def _statistics(drawn: Drawn) -> dict[str, bootstrap.Statistic]:
    return {
        name: bootstrap.rank(drawn.labels[:, at], drawn.scores[:, at], drawn.patients, drawn.total).auroc
        for at, name in enumerate(CLASSES)
    }


def _with_draws(drawn: Drawn) -> tuple[pd.DataFrame, np.ndarray]:
    """A few replicates of ours, and how often each patient was drawn in them [patients, replicates]."""
    seen: list[np.ndarray] = []

    def watch(times: np.ndarray) -> np.ndarray:
        seen.append(times)
        first: np.ndarray = times[0]
        return first

    values = bootstrap.replicates(_statistics(drawn) | {"": watch}, drawn.total, seed=0, count=_LOOPED)
    values = values[list(CLASSES)]
    return values.assign(macro_14=values[list(FINDINGS)].mean(axis=1)), np.concatenate(seen, axis=1)


def _peak(drawn: Drawn, replicates: int) -> float:
    """MiB that ours allocates beside the images, at its highest."""
    tracemalloc.start()
    try:
        fast(drawn, replicates)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
