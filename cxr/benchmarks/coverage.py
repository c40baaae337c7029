"""How often a 95 % interval of an AUROC holds the truth, on drawn patients, when few of them are positive.

The drawn set is shaped as NIH's official test set: 2,797 patients, of whom a tenth hold over half of the images.
So many of them as a setting says have the finding, and every one of these has at least one positive image: the
number is fixed, since a reader looks up the row of the positive patients that his own set has. Patients with many
images have the finding more often, and a seventh of their images are positive: 3.6 a patient, in so unequal
numbers that their effective number is 0.4 of theirs, as for NIH's findings (0.3 to 0.6). Half of the variance of
a score is the patient's own; patients with the finding score higher on their negative images, too.

The truth is the population's image-weighted AUROC, in closed form: there is no Monte Carlo error in it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from cxr.benchmarks.table import Row
from cxr.data.packing import usable_cores
from cxr.evaluation import bootstrap, delong

PATIENTS = 2_797
POSITIVE_PATIENTS = (12, 50, 200)
REPLICATES = 1_000
_MOST_IMAGES = 184
_IMAGES = 4.3  # a patient has ceil(4.3 E^2) images, E exponential: 9.1 on average, as NIH's (9.15)
_POSITIVE = 0.1  # share of a positive patient's images, beside the first, that are positive, too
_PATIENT_SHIFT, _IMAGE_SHIFT = 0.4, 0.8  # of scores, in standard deviations: finding in the patient, in the image
_PATIENT_SHARE = 0.5  # of the scores' variance
_ALIKE = 0.7  # correlation of two models' scores of the same image
_AT_A_TIME = 25  # repetitions that share the patient bootstrap's draws, patients numbered anew in each
_NORMAL = float(special.ndtri(0.975))

_DIFFERENCE = "difference: "

Bounds = dict[str, tuple[float, float]]  # method -> interval, NaN where it gives none


class Drawn(NamedTuple):
    """A test set: labels [n], the scores of two equally good models [n, 2], patients [n]."""

    labels: np.ndarray
    scores: np.ndarray
    patients: np.ndarray


def measure(*, repetitions: int = 2_000, seed: int = 0) -> Iterator[Row]:
    """The coverage of each method at each number of positive patients, with its binomial standard error."""
    yield from rows(simulate(repetitions, seed))


def rows(table: pd.DataFrame) -> Iterator[Row]:
    """The rows of a table of `simulate`."""
    for one in table.to_dict("records"):
        yield Row(
            part="coverage", measure=f"{one['method']}, {one['positive_patients']} positive patients",
            value=one["coverage"], unit="share",
            against=f"0.95 +- {one['error']:.4f}, width {one['mean_width']:.3f}, given in {one['given']:.1%} "
            f"of {one['repetitions']:,}",
        )  # fmt: skip


def simulate(
    repetitions: int, seed: int = 0, *, positive_patients: tuple[int, ...] = POSITIVE_PATIENTS,
    patients: int = PATIENTS, replicates: int = REPLICATES,
) -> pd.DataFrame:  # fmt: skip
    """Draw so many test sets at each number of positive patients: a row a number and method.

    Columns: method, positive_patients, truth, coverage (share of the given intervals that hold the truth), error
    (its binomial standard error), mean_width, given (share of repetitions with an interval), repetitions. Methods
    named `difference` are of the difference of two equally good models: 1 - coverage is the type I error.
    """
    found = []
    for number, seeds in zip(
        positive_patients, np.random.SeedSequence(seed).spawn(len(positive_patients)), strict=True
    ):
        sizes = [min(_AT_A_TIME, repetitions - start) for start in range(0, repetitions, _AT_A_TIME)]
        some = partial(_some, positive=number, patients=patients, replicates=replicates)
        with ThreadPoolExecutor(usable_cores()) as pool:
            bounds = [one for part in pool.map(some, sizes, seeds.spawn(len(sizes))) for one in part]
        found += [_summary(method, number, patients, bounds) for method in bounds[0]]
    return pd.DataFrame(found)


def of_auroc(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of `simulate` that are of one model's AUROC, not of a difference."""
    return table[~table["method"].str.startswith(_DIFFERENCE)]


def truth(positive: int, patients: int) -> float:
    """P(score of a positive image > score of a negative one), images drawn from a population of such patients.

    Scores are normal with variance 1; negatives are a mixture of those of patients with and without the finding.
    A gamma(2) variable (patients with the finding) exceeds x with probability (1 + x) exp(-x).
    """
    exceeded = np.sqrt(np.arange(_MOST_IMAGES) / _IMAGES)  # images > j where E exceeds it
    images = np.exp(-exceeded).sum()
    negative = (1 - _POSITIVE) * (((1 + exceeded) * np.exp(-exceeded)).sum() - 1)
    share = positive * negative / (positive * negative + (patients - positive) * images)
    within, between = special.ndtr(np.array([_IMAGE_SHIFT, _IMAGE_SHIFT + _PATIENT_SHIFT]) / np.sqrt(2))
    return float(share * within + (1 - share) * between)


def draw(positive: int, patients: int, generator: np.random.Generator) -> Drawn:
    """A test set of so many patients, of whom `positive` have the finding."""
    size = np.concatenate([generator.gamma(2, size=positive), generator.exponential(size=patients - positive)])
    images = np.clip(np.ceil(_IMAGES * size**2), 1, _MOST_IMAGES).astype(np.int64)
    finding = np.arange(patients) < positive
    positives = finding * (1 + generator.binomial(images - 1, _POSITIVE))
    owner = np.repeat(np.arange(patients), images)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(images) - images, images)
    labels = (place < positives[owner]).astype(np.int64)
    patient = np.sqrt(_PATIENT_SHARE) * _pair(patients, generator) + _PATIENT_SHIFT * finding[:, None]
    image = np.sqrt(1 - _PATIENT_SHARE) * _pair(len(owner), generator) + _IMAGE_SHIFT * labels[:, None]
    return Drawn(labels, patient[owner] + image, generator.permutation(patients)[owner])


def intervals(drawn: Drawn, patients: int, weights: list[np.ndarray]) -> Bounds:
    """Every method's 95 % interval; `weights` are bootstrap draws [patients, replicates], in chunks."""
    labels, (scores, rival) = drawn.labels, drawn.scores.T
    image = delong.components(labels, scores, np.arange(len(labels)), len(labels))
    one, other = (delong.components(labels, each, drawn.patients, patients) for each in (scores, rival))
    ranking = bootstrap.rank(labels, scores, drawn.patients, patients)
    values = np.concatenate([ranking.auroc(chunk) for chunk in weights])
    compared, unsure = delong.compare(one, other), delong.t_compare(one, other)
    return {
        "imagewise DeLong": delong.logit_interval(image.auroc, delong.variance(image)),
        "clustered DeLong": delong.logit_interval(one.auroc, delong.variance(one)),
        "patient bootstrap": bootstrap.interval(values)[:2],
        "clustered DeLong, t": _t(one, delong.variance(one)),
        "patient jackknife, t": delong.t_interval(one),
        "patient bootstrap, t": _t(one, float(np.nanvar(values, ddof=1))),
        f"{_DIFFERENCE}clustered DeLong": _around(compared.difference, compared.se, _NORMAL),
        f"{_DIFFERENCE}patient jackknife, t": _around(unsure.difference, unsure.se, _quantile(one)),
    }


def _some(
    repetitions: int, source: np.random.SeedSequence, *, positive: int, patients: int, replicates: int
) -> list[Bounds]:
    generator = np.random.default_rng(source)
    draws = generator.multinomial(patients, np.full(patients, 1 / patients), size=replicates).T.astype(np.float64)
    chunks = [np.ascontiguousarray(draws[:, start : start + 50]) for start in range(0, replicates, 50)]
    return [intervals(draw(positive, patients, generator), patients, chunks) for _ in range(repetitions)]


def _summary(method: str, positive: int, patients: int, bounds: list[Bounds]) -> dict[str, object]:
    value = 0.0 if method.startswith(_DIFFERENCE) else truth(positive, patients)
    low, high = np.array([one[method] for one in bounds]).T
    given = ~np.isnan(low)
    number = int(given.sum())
    coverage = float(((low <= value) & (value <= high))[given].mean()) if number else np.nan
    return {
        "method": method,
        "positive_patients": positive,
        "truth": value,
        "coverage": coverage,
        "error": float(np.sqrt(coverage * (1 - coverage) / number)) if number else np.nan,
        "mean_width": float((high - low)[given].mean()) if number else np.nan,
        "given": number / len(bounds),
        "repetitions": len(bounds),
    }


def _pair(count: int, generator: np.random.Generator) -> np.ndarray:
    """Two standard normal columns [count, 2] that are alike."""
    common, own = generator.standard_normal((count, 1)), generator.standard_normal((count, 2))
    alike: np.ndarray = np.sqrt(_ALIKE) * common + np.sqrt(1 - _ALIKE) * own
    return alike


def _t(of: delong.Components, variance: float) -> tuple[float, float]:
    """On the logit scale with Student's t, as `delong.t_interval` has it."""
    factor = (_quantile(of) / _NORMAL) ** 2
    return delong.logit_interval(of.auroc, variance * factor)


def _quantile(of: delong.Components) -> float:
    return float(special.stdtrit(of.freedom, 0.975)) if of.freedom >= 1 else np.nan


def _around(middle: float, se: float, quantile: float) -> tuple[float, float]:
    return middle - quantile * se, middle + quantile * se
