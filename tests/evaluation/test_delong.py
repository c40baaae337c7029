"""Clustered DeLong against literal formulas, plain DeLong, a case worked by hand, and the patient bootstrap."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cxr.evaluation.bootstrap import rank, replicates
from cxr.evaluation.delong import (
    Components,
    compare,
    components,
    effective_patients,
    holm,
    jackknife_variance,
    logit_interval,
    mean,
    t_compare,
    t_interval,
    variance,
)

Images = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, scores, patients
PATIENTS = 60


def images(seed: int, decimals: int = 1) -> Images:
    """300 images of 59 patients in unequal numbers, labels and scores alike within a patient; scores tied."""
    rng = np.random.default_rng(seed)
    patients = rng.choice(PATIENTS - 1, size=300, p=rng.dirichlet(np.ones(PATIENTS - 1)))
    labels = (rng.random(300) < rng.beta(0.5, 1.5, PATIENTS)[patients]).astype(int)
    scores = rng.normal(size=PATIENTS)[patients] + rng.normal(size=300) + labels
    return labels, scores.round(decimals), patients


def placements(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Every positive against every negative image [m, n]: 1 above, 1/2 tied, 0 below."""
    apart = scores[labels == 1][:, None] - scores[labels == 0][None]
    return np.heaviside(apart, 0.5)


def plain(labels: np.ndarray, *models: np.ndarray) -> np.ndarray:
    """DeLong's covariance matrix of the models' AUROCs, by the definition."""
    won = [placements(labels, scores) for scores in models]
    positive = np.cov([one.mean(axis=1) for one in won], ddof=1).reshape(len(models), -1)
    negative = np.cov([one.mean(axis=0) for one in won], ddof=1).reshape(len(models), -1)
    return positive / (labels == 1).sum() + negative / (labels == 0).sum()


def literal(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> float:
    """Obuchowski's variance, sum by sum."""
    won, theta = placements(labels, scores), placements(labels, scores).mean()
    M, N = won.shape
    positive, negative = patients[labels == 1], patients[labels == 0]
    S10 = S01 = S11 = 0.0
    for patient in set(patients):
        a = sum(won[row].mean() - theta for row in range(M) if positive[row] == patient)
        b = sum(won[:, column].mean() - theta for column in range(N) if negative[column] == patient)
        S10, S01, S11 = S10 + a * a, S01 + b * b, S11 + a * b
    I10, I01, every = len(set(positive)), len(set(negative)), len(set(patients))
    S10 *= I10 / ((I10 - 1) * M)
    S01 *= I01 / ((I01 - 1) * N)
    S11 *= every / (every - 1)
    return float(S10 / M + S01 / N + 2 * S11 / (M * N))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_the_clustered_variance_is_obuchowskis(seed: int, decimals: int) -> None:
    labels, scores, patients = images(seed, decimals)
    found = components(labels, scores, patients, PATIENTS)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    assert variance(found) == pytest.approx(literal(labels, scores, patients), rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [8, 1])
def test_one_image_a_patient_is_delong_alone_and_paired(seed: int, decimals: int) -> None:
    labels, scores, _ = images(seed, decimals)
    rival = (scores + np.random.default_rng(seed).normal(size=300)).round(decimals)
    one, other = (components(labels, each, np.arange(300), 300) for each in (scores, rival))
    matrix = plain(labels, scores, rival)
    assert [variance(one), variance(other)] == pytest.approx(np.diag(matrix), rel=1e-10)
    found = compare(one, other)
    se = np.sqrt(matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1])
    assert found.difference == pytest.approx(roc_auc_score(labels, scores) - roc_auc_score(labels, rival))
    assert found.se == pytest.approx(se, rel=1e-10)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.difference) / se), rel=1e-8)
    assert compare(other, one)[1:] == found[1:]


def test_a_case_worked_by_hand_one_image_a_patient() -> None:
    # positives 3, 2 against negatives 2, 1, 0: 3 beats all three, 2 ties one and beats two
    # V10 = 1, 5/6; AUROC = 11/12; variance of V10 = (1/6)^2 / 2 = 1/72, over 2 positives: 1/144
    # V01 = 3/4 (of the negative 2), 1, 1; variance = 1/48, over 3 negatives: 1/144
    found = components(np.array([1, 1, 0, 0, 0]), np.array([3, 2, 2, 1, 0]), np.arange(5), 5)
    assert found.auroc == pytest.approx(11 / 12)
    assert variance(found) == pytest.approx(1 / 72)


def test_a_case_worked_by_hand_with_several_images_a_patient() -> None:
    # patient A: positives 3 and 2, negative 0; patient B: positive 1, negative 2
    # V10: 3 beats both (1), 2 ties one and beats one (3/4), 1 beats one (1/2); AUROC = 9/4 / 3 = 3/4
    # V01: negative 0 has all three above it (1), negative 2 one and a tie of three (1/2)
    # a_A = 7/4 - 2 * 3/4 = 1/4, a_B = 1/2 - 3/4 = -1/4; b_A = 1 - 3/4 = 1/4, b_B = -1/4
    # I10 = I01 = I = 2, M = 3, N = 2
    # S10 = 2/3 (1/16 + 1/16) = 1/12, S01 = 2/2 * 1/8 = 1/8, S11 = 2 * 1/8 = 1/4
    # variance = 1/36 + 1/16 + 2/4 / 6 = 25/144
    labels, scores = np.array([1, 1, 0, 1, 0]), np.array([3, 2, 0, 1, 2])
    found = components(labels, scores, np.array([0, 0, 0, 1, 1]), 2)
    assert found.auroc == pytest.approx(3 / 4)
    assert variance(found) == pytest.approx(25 / 144)
    # left out: a_A / (3 - 2) + b_A / (2 - 1) = 1/2; a_B / (3 - 1) + b_B / (2 - 1) = -3/8
    assert found.deleted == pytest.approx([1 / 2, -3 / 8])
    # effective positive patients (2 + 1)^2 / (4 + 1) = 9/5, negative ones 4/2
    assert found.freedom == pytest.approx(4 / 5)


def test_neither_patients_names_nor_monotone_scores_matter() -> None:
    labels, scores, patients = images(0)
    found = components(labels, scores, patients, PATIENTS)
    renamed = np.random.default_rng(1).permutation(PATIENTS + 40)[patients]
    order = np.random.default_rng(2).permutation(300)
    other = components(labels[order], np.exp(3 * scores)[order], renamed[order], PATIENTS + 40)
    assert other.auroc == found.auroc
    assert variance(other) == pytest.approx(variance(found), rel=1e-12)
    assert t_interval(other) == pytest.approx(t_interval(found), rel=1e-12)


def test_every_image_twice_tells_no_more_of_the_patients() -> None:
    labels, scores, patients = images(1)
    twice = [np.concatenate([one, one]) for one in (labels, scores, patients)]
    found = components(labels, scores, patients, PATIENTS)
    assert variance(components(*twice, PATIENTS)) == pytest.approx(variance(found), rel=1e-12)
    assert plain(twice[0], twice[1]).item() < 0.51 * plain(labels, scores).item()


@pytest.fixture(scope="module")
def medium() -> list[Images]:
    """Three classes of the same 3,000 images of 400 patients, who have all of them or none more often."""
    rng = np.random.default_rng(5)
    patients = rng.choice(400, size=3_000, p=rng.dirichlet(np.ones(400)))
    sick, effect = rng.random(400), rng.normal(size=400)
    drawn = []
    for rare in (8, 4, 2):
        labels = (rng.random(3_000) < sick[patients] ** rare).astype(int)
        drawn.append((labels, effect[patients] + rng.normal(size=3_000) + labels, patients))
    return drawn


def spread(classes: list[Images], statistic: Callable[[np.ndarray], np.ndarray]) -> float:
    ranked = [rank(*one, 400) for one in classes]
    one_each = {str(row): each.auroc for row, each in enumerate(ranked)}
    return float(statistic(replicates(one_each, 400, seed=0).to_numpy()).std(ddof=1))


def test_standard_errors_are_the_patient_bootstraps(medium: list[Images]) -> None:
    parts = [components(*one, 400) for one in medium]
    for row, part in enumerate(parts):
        expected = spread(medium, lambda values, row=row: values[:, row])
        assert np.sqrt(variance(part)) == pytest.approx(expected, rel=0.1)
        assert np.sqrt(jackknife_variance(part)) == pytest.approx(expected, rel=0.1)
    macro = mean(parts)
    assert macro.auroc == pytest.approx(np.mean([part.auroc for part in parts]))
    assert np.sqrt(variance(macro)) == pytest.approx(spread(medium, lambda all_: all_.mean(axis=1)), rel=0.1)
    independent = np.sqrt(sum(variance(part) for part in parts)) / 3
    assert np.sqrt(variance(macro)) > 1.1 * independent  # the classes share patients
    assert min(part.freedom for part in parts) < macro.freedom < sum(part.freedom for part in parts) + 1


def test_two_macro_averages_are_compared_paired(medium: list[Images]) -> None:
    rng = np.random.default_rng(6)
    rivals = [(labels, scores + rng.normal(size=3_000), patients) for labels, scores, patients in medium]
    one, other = (mean([components(*each, 400) for each in side]) for side in (medium, rivals))
    found = compare(one, other)
    expected = spread([*medium, *rivals], lambda all_: all_[:, :3].mean(axis=1) - all_[:, 3:].mean(axis=1))
    assert found.se == pytest.approx(expected, rel=0.1)
    assert found.se < np.sqrt(variance(one) + variance(other)) / 2
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.difference) / found.se))


def test_a_mean_of_one_class_is_that_class(medium: list[Images]) -> None:
    part = components(*medium[0], 400)
    assert variance(mean([part])) == variance(part)
    assert t_interval(mean([part])) == pytest.approx(t_interval(part))


def test_equal_rankings_have_p_1_exactly(medium: list[Images]) -> None:
    same = [(labels, np.arctan(scores), patients) for labels, scores, patients in medium]
    for one, other in zip(medium, same, strict=True):
        assert compare(components(*one, 400), components(*other, 400)) == (0.0, 0.0, 1.0)
        assert t_compare(components(*one, 400), components(*other, 400)) == (0.0, 0.0, 1.0)
    macros = [mean([components(*each, 400) for each in side]) for side in (medium, same)]
    assert compare(*macros) == t_compare(*macros) == (0.0, 0.0, 1.0)


def test_a_difference_without_variance_has_no_p() -> None:
    labels, patients = np.array([1, 1, 1, 0, 0, 0, 0]), np.array([0, 1, 1, 2, 2, 3, 4])
    perfect, blind = (components(labels, scores, patients, 5) for scores in (labels * 1.0, np.zeros(7)))
    assert variance(perfect) == variance(blind) == 0.0  # exactly: thirds and sevenths leave no rounding
    found = compare(perfect, blind)
    assert found.difference == 0.5
    assert np.isnan([found.se, found.p]).all()
    assert np.isnan(t_compare(perfect, blind).p)


def few(labels: list[int], patients: list[int]) -> Components:
    return components(np.array(labels), np.array([4.0, 1.0, 3.0, 2.0, 0.0]), np.array(patients), 5)


@pytest.mark.parametrize(
    "part",
    [
        few([1, 1, 0, 0, 0], [0, 0, 1, 2, 3]),  # one positive patient
        few([1, 1, 0, 0, 0], [0, 1, 2, 2, 2]),  # one negative patient
        few([0, 0, 0, 0, 0], [0, 1, 2, 3, 4]),
        few([1, 1, 1, 1, 1], [0, 1, 2, 3, 4]),
    ],
)
def test_too_few_patients_leave_no_interval(part: Components) -> None:
    assert np.isnan(logit_interval(part.auroc, variance(part))).all()
    assert np.isnan(t_interval(part)).all()
    assert np.isnan(compare(part, few([1, 0, 0, 0, 1], [0, 1, 2, 3, 4])).p)


def test_the_interval_is_normal_on_the_logit_scale() -> None:
    low, high = logit_interval(0.8, 0.05**2)
    half = 1.959964 * 0.05 / (0.8 * 0.2)
    assert np.log([low / (1 - low), high / (1 - high)]) == pytest.approx([np.log(4) - half, np.log(4) + half])
    assert logit_interval(0.8, 0.05**2, level=0.9)[0] > low
    for auroc, squared in ((1.0, 0.1), (0.0, 0.1), (0.8, 0.0), (0.8, -0.1), (np.nan, 0.1), (0.8, np.nan)):
        assert np.isnan(logit_interval(auroc, squared)).all()


def test_students_interval_is_wider_and_comes_to_the_normal_one(medium: list[Images]) -> None:
    small, large = components(*images(2), PATIENTS), components(*medium[2], 400)
    widths = [
        np.subtract(*t_interval(part)) / np.subtract(*logit_interval(part.auroc, variance(part)))
        for part in (small, large)
    ]
    assert widths[0] > widths[1] > 1
    factor = stats.t.ppf(0.975, small.freedom) / stats.norm.ppf(0.975)
    expected = logit_interval(small.auroc, jackknife_variance(small) * factor**2)
    assert t_interval(small) == pytest.approx(expected)


def test_students_comparison_is_more_careful_and_comes_to_the_normal_one(medium: list[Images]) -> None:
    ratios = []
    for (labels, scores, patients), count in ((images(2), PATIENTS), (medium[2], 400)):
        rival = scores + np.random.default_rng(0).normal(size=len(scores))
        one, other = (components(labels, each, patients, count) for each in (scores, rival))
        normal, careful = compare(one, other), t_compare(one, other)
        assert careful.difference == normal.difference
        assert careful.se > normal.se
        assert careful.p > normal.p
        assert careful.p == pytest.approx(2 * stats.t.sf(abs(careful.difference) / careful.se, one.freedom))
        ratios.append(careful.se / normal.se)
    assert ratios[0] > ratios[1]


def test_the_jackknife_is_that_of_leaving_out_patients() -> None:
    labels, scores, patients = images(3)
    found = components(labels, scores, patients, PATIENTS)
    without = [roc_auc_score(labels[patients != one], scores[patients != one]) for one in range(PATIENTS)]
    assert np.sqrt(jackknife_variance(found)) == pytest.approx(
        np.sqrt(((np.array(without) - found.auroc) ** 2).sum()), rel=0.05
    )  # to first order
    assert jackknife_variance(found) > variance(found)


def test_effective_patients_are_those_of_equal_weight() -> None:
    assert effective_patients(np.array([3, 3, 0, 3])) == 3.0
    assert effective_patients(np.array([8, 1, 1])) == pytest.approx(100 / 66)
    assert effective_patients(np.zeros(4)) == 0.0


def test_holm_by_hand() -> None:
    # ordered 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.5
    assert holm([0.03, 0.01, np.nan, 0.5, 0.02]) == pytest.approx([0.06, 0.04, np.nan, 0.5, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).tolist() == []
