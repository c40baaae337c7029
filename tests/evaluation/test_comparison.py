"""Paired comparison: same images or refused, differences and p values against the parts they are made of."""

import numpy as np
import pandas as pd
import pytest

from cxr.errors import InputError
from cxr.evaluation import comparison, delong, metrics
from cxr.findings import CLASSES, FINDINGS
from tests.evaluation.drawn import drawn_scores

COUNT = 200
NAMES = ("models:/m/1", "models:/m/2")


def other(scores: pd.DataFrame, *, worse: float, seed: int = 9) -> pd.DataFrame:
    """A second model's scores of the same images, with noise, in another order."""
    rng = np.random.default_rng(seed)
    noisy = {f"logit_{n}": scores[f"logit_{n}"] + worse * rng.normal(size=len(scores)) for n in CLASSES}
    return scores.assign(**noisy).sample(frac=1, random_state=1)


def test_identical_models_do_not_differ() -> None:
    scores = drawn_scores()
    table = comparison.table(scores, scores.sample(frac=1, random_state=1), seed=0, count=COUNT)
    assert (table["difference"] == 0).all()
    assert (table[["difference_low", "difference_high"]] == 0).all(axis=None)
    assert (table["p"] == 1).all()
    assert (table.loc[list(FINDINGS), "p_holm"] == 1).all()


def test_differences_are_first_minus_second_whatever_the_order_of_rows() -> None:
    scores = drawn_scores(strength=2.0)
    worse = other(scores, worse=4.0)
    table = comparison.table(scores, worse, seed=0, count=COUNT)
    first, second = metrics.per_class(scores)["auroc"], metrics.per_class(worse)["auroc"]
    for name in CLASSES:
        assert table.loc[name, "first"] == pytest.approx(first[name], abs=1e-12)
        assert table.loc[name, "second"] == pytest.approx(second[name], abs=1e-12)
        assert table.loc[name, "difference"] == pytest.approx(first[name] - second[name], abs=1e-12)
    macro = table.loc["macro_14"]
    assert macro["difference"] == pytest.approx(table.loc[list(FINDINGS), "difference"].mean())
    assert macro["difference_low"] > 0
    assert macro["p"] < 1e-6
    mirrored = comparison.table(worse, scores, seed=0, count=COUNT)
    assert mirrored.loc["macro_14", "difference"] == pytest.approx(-macro["difference"])
    assert mirrored.loc["macro_14", "p"] == pytest.approx(macro["p"])


def test_p_is_the_paired_clustered_one_and_holm_is_over_the_findings() -> None:
    scores = drawn_scores()
    noisy = other(scores, worse=1.0)
    table = comparison.table(scores, noisy, seed=0, count=COUNT)
    aligned = noisy.set_index("image").loc[scores["image"]]
    parts = [
        delong.components(scores["Mass"].to_numpy(), logits, scores["patient_id"].to_numpy(), 80)
        for logits in (scores["logit_Mass"].to_numpy(), aligned["logit_Mass"].to_numpy())
    ]
    assert table.loc["Mass", "p"] == pytest.approx(delong.t_compare(*parts).p)
    assert table.loc["Mass", "p_normal"] == pytest.approx(delong.compare(*parts).p)
    findings = table.loc[list(FINDINGS)]
    assert findings["p_holm"].to_numpy() == pytest.approx(delong.holm(findings["p"].to_numpy()))
    assert table.loc[["No Finding", "macro_14", "macro_15"], "p_holm"].isna().all()


def test_pairing_makes_the_interval_narrower_than_two_apart() -> None:
    scores = drawn_scores(patients=200)
    near = other(scores, worse=0.1)
    far = other(scores, worse=4.0)
    widths = [
        (table["difference_high"] - table["difference_low"])["Edema"]
        for table in (comparison.table(scores, one, seed=0, count=COUNT) for one in (near, far))
    ]
    assert widths[0] < 0.5 * widths[1]


def test_classes_that_one_does_not_know_are_left_out_of_the_macro() -> None:
    scores = drawn_scores()
    second = other(scores, worse=1.0).assign(logit_Hernia=np.nan)
    table = comparison.table(scores, second, seed=0, count=COUNT)
    assert pd.isna(table.loc["Hernia", "difference"])
    assert table.loc["macro_14", "note"] == "mean of 13 (without 1 that the set or the model does not know)"
    kept = [name for name in FINDINGS if name != "Hernia"]
    assert table.loc["macro_14", "difference"] == pytest.approx(table.loc[kept, "difference"].mean())


def test_other_images_labels_or_patients_are_refused() -> None:
    scores = drawn_scores()
    comparison.refuse_unpaired(scores, scores.sample(frac=1, random_state=0), NAMES)
    unlabelled = scores.assign(Mass=np.nan)
    comparison.refuse_unpaired(unlabelled, unlabelled, NAMES)
    for second, words in (
        (scores.iloc[1:], "1 of .* of models:/m/1 are missing in the other: 00000.png"),
        (scores.assign(Mass=1 - scores["Mass"]), "other labels or patients for"),
        (scores.assign(patient_id=0), "other labels or patients for"),
    ):
        with pytest.raises(InputError, match=words):
            comparison.refuse_unpaired(scores, second, NAMES)


def test_nothing_shared_is_said() -> None:
    scores = drawn_scores()
    table = comparison.table(scores, drawn_scores(known=()), seed=0, count=COUNT)
    assert table["difference"].isna().all()
    assert comparison.flat(table, "compare") == {}
    assert "no class can carry it" in comparison.line(table, "macro_14", NAMES)


def test_metrics_and_the_line() -> None:
    scores = drawn_scores()
    table = comparison.table(scores, other(scores, worse=1.0), seed=0, count=COUNT)
    named = comparison.flat(table, "compare")
    assert named["compare/auroc_difference/Edema"] == table.loc["Edema", "difference"]
    assert {"compare/p_holm/Edema", "compare/auroc_difference_low/macro_14", "compare/p/macro_14"} <= set(named)
    assert "compare/p_holm/macro_14" not in named
    line = comparison.line(table, "macro_14", NAMES)
    assert line.startswith(f"macro AUROC {table.loc['macro_14', 'first']:.4f} (models:/m/1) - ")
    assert line.endswith("mean of all 14")
