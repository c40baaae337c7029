"""The patient bootstrap against scikit-learn on repeated images, ties and missing sides included."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.evaluation import bootstrap
from cxr.evaluation.bootstrap import interval, rank, rate, replicates

PATIENTS = 30


def images(seed: int, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores (rounded: tied) and patients of 200 images; the last patient has none."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(200) < 0.2).astype(int)
    scores = rng.normal(size=200) + labels
    return labels, scores if decimals is None else scores.round(decimals), rng.integers(0, PATIENTS - 1, 200)


@pytest.mark.parametrize("decimals", [None, 1, 0, -2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_replicate_equals_scikit_learn_on_repeated_images(decimals: int | None, seed: int) -> None:
    labels, scores, patients = images(seed, decimals)
    ranking = rank(labels, scores, patients, PATIENTS)
    drawn = np.random.default_rng(seed).multinomial(PATIENTS, np.full(PATIENTS, 1 / PATIENTS), size=20).T
    auroc, precision = ranking.auroc(drawn.astype(float)), ranking.average_precision(drawn.astype(float))
    for column, times in enumerate(drawn.T):
        rows = np.repeat(np.arange(200), times[patients])
        assert auroc[column] == pytest.approx(roc_auc_score(labels[rows], scores[rows]), abs=1e-12)
        expected = average_precision_score(labels[rows], scores[rows])
        assert precision[column] == pytest.approx(expected, abs=1e-12)


def test_everybody_once_is_the_plain_value() -> None:
    labels, scores, patients = images(3, 1)
    once = np.ones((PATIENTS, 1))
    assert rank(labels, scores, patients, PATIENTS).auroc(once)[0] == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )


@pytest.mark.parametrize("label", [0, 1])
def test_a_replicate_without_a_side_is_undefined(label: int) -> None:
    ranking = rank(np.array([1 - label, label]), np.array([0.3, 0.7]), np.array([0, 1]), 2)
    drawn = np.array([[0.0, 1.0], [2.0, 1.0]])  # the second patient twice; both once
    assert np.isnan(ranking.auroc(drawn)).tolist() == [True, False]
    assert np.isnan(ranking.average_precision(drawn)).tolist() == [True, False]


def test_a_class_without_positives_is_undefined_everywhere() -> None:
    ranking = rank(np.zeros(3), np.arange(3.0), np.arange(3), 3)
    assert np.isnan(ranking.auroc(np.ones((3, 2)))).all()
    assert np.isnan(ranking.average_precision(np.ones((3, 2)))).all()


def test_rates_count_images_of_drawn_patients() -> None:
    drawn = np.array([[1.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
    found = rate(np.array([1.0, 0.0]), np.array([2.0, 0.0]))(drawn)
    assert found.tolist() == pytest.approx([0.5, np.nan, 0.5], nan_ok=True)


def test_replicates_are_the_seeds_alone_and_shared_by_all_statistics() -> None:
    labels, scores, patients = images(4)
    one, other = (rank(labels, values, patients, PATIENTS).auroc for values in (scores, -scores))
    both = replicates({"one": one, "other": other}, PATIENTS, seed=7, count=120)
    assert len(both) == 120
    pd.testing.assert_frame_equal(both[["one"]], replicates({"one": one}, PATIENTS, seed=7, count=120))
    assert np.allclose(both["one"] + both["other"], 1.0, atol=1e-12)  # paired: mirrored in each replicate
    assert not replicates({"one": one}, PATIENTS, seed=8, count=120).equals(both[["one"]])


def test_patients_are_drawn_not_images() -> None:
    # two patients, each alike within: a replicate holds one of them or both, whatever their images' number
    labels, patients = np.array([1, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1])
    values = replicates({"auroc": rank(labels, labels * 1.0, patients, 2).auroc}, 2, seed=0, count=400)["auroc"]
    assert np.isnan(values).mean() == pytest.approx(0.5, abs=0.1)
    assert set(values.dropna()) == {1.0}


def test_standard_error_of_many_patients_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        patients = np.repeat(np.arange(150), 4)
        labels = np.repeat(rng.random(150) < 0.3, 4).astype(int)
        return labels, np.repeat(rng.normal(size=150), 4) + rng.normal(size=600) + labels, patients

    estimates = [roc_auc_score(*sample()[:2]) for _ in range(400)]
    labels, scores, patients = sample()
    values = replicates({"auroc": rank(labels, scores, patients, 150).auroc}, 150, seed=1)["auroc"]
    assert values.std() == pytest.approx(np.std(estimates), rel=0.2)


def test_interval_drops_and_counts_what_is_undefined() -> None:
    values = np.arange(1000.0)
    assert interval(values)[:2] == pytest.approx((24.975, 974.025))
    values[:50] = np.nan
    low, _, dropped = interval(values)
    assert low > 50
    assert dropped == pytest.approx(0.05)
    values[50] = np.nan
    assert np.isnan(interval(values)[:2]).all()
    assert interval(values).dropped == pytest.approx(0.051)


def test_memory_is_bounded_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def shape(drawn: np.ndarray) -> np.ndarray:
        sizes.append(drawn.shape[1])
        return drawn[0]

    replicates({"first": shape}, 5, seed=0, count=230)
    assert sorted(sizes) == [30, 50, 50, 50, 50]
    assert max(sizes) <= bootstrap._CHUNK
