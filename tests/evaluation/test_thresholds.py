"""Thresholds against brute force over all of them, with ties, exact 90 percents and float32 logits."""

import json

import numpy as np
import pandas as pd
import pytest

from cxr.evaluation.thresholds import RULES, choose, from_dict, measured, table, to_dict
from cxr.findings import CLASSES


def scores(count: int, *, seed: int = 0, split: str = "val") -> pd.DataFrame:
    """Two images a patient, few distinct float32 logits; every class has both outcomes."""
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {"image": np.arange(count), "patient_id": np.arange(count) // 2, "split": split}
    columns |= {name: (rng.random(count) < 0.3).astype(np.uint8) for name in CLASSES}
    columns |= {
        f"logit_{name}": np.round(rng.normal(size=count) * 3 + columns[name]).astype(np.float32) / 3
        for name in CLASSES
    }
    return pd.DataFrame(columns)


def by_brute_force(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Every observed score and one above them all is tried, in whole numbers and from the definitions."""
    observed = sorted(set(logits.tolist()))
    above = float(np.nextafter(logits.max(), logits.dtype.type(np.inf)))
    hits = {t: int(((logits >= t) & (labels == 1)).sum()) for t in [*observed, above]}
    spared = {t: int(((logits < t) & (labels == 0)).sum()) for t in [*observed, above]}
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    best = max(hits[t] * negatives + spared[t] * positives for t in observed)
    return {
        "youden": max(t for t in observed if hits[t] * negatives + spared[t] * positives == best),
        "sensitivity_90": max(t for t in observed if 10 * hits[t] >= 9 * positives),
        "specificity_90": min(t for t in [*observed, above] if 10 * spared[t] >= 9 * negatives),
    }


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rules_equal_brute_force_with_ties(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(4, 80))
    labels = (rng.random(count) < rng.uniform(0.1, 0.9)).astype(np.uint8)
    labels[:2] = [0, 1]
    logits = (np.round(rng.normal(size=count) * rng.integers(1, 8) + labels) / 3).astype(dtype)
    assert choose(labels, logits) == by_brute_force(labels, logits)
    assert tuple(choose(labels, logits)) == RULES


@pytest.mark.parametrize("count", [10, 20, 30, 70, 110])
def test_ninety_percent_is_met_exactly(count: int) -> None:
    # 0.9 * 10 and its like come out above or below the whole number; nine in ten is enough, and wanted
    labels = np.repeat([1, 0], count)
    logits = np.concatenate([np.arange(count), np.arange(count) - 0.5])
    chosen = choose(labels, logits)
    assert ((logits >= chosen["sensitivity_90"]) & (labels == 1)).sum() * 10 == 9 * count
    assert ((logits < chosen["specificity_90"]) & (labels == 0)).sum() * 10 == 9 * count


def test_youden_takes_the_largest_of_equally_good_thresholds() -> None:
    labels, logits = np.array([1, 0, 1, 0]), np.array([4.0, 3.0, 2.0, 1.0])
    assert choose(labels, logits)["youden"] == 4.0  # 1/2 + 1 - 1 at 4, and 1 + 1/2 - 1 at 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_specificity_above_the_highest_score_calls_nobody_in_the_precision_of_the_logits(dtype: type) -> None:
    labels, logits = np.array([0, 0, 1, 1]), np.full(4, 0.1, dtype=dtype)
    chosen = choose(labels, logits)
    assert chosen["sensitivity_90"] == chosen["youden"] == float(dtype(0.1))
    assert not (logits >= chosen["specificity_90"]).any()  # numpy brings a Python float to float32 here
    assert chosen["specificity_90"] == pytest.approx(0.1, abs=1e-7)


@pytest.mark.parametrize("label", [0, 1])
def test_one_outcome_alone_has_no_threshold(label: int) -> None:
    with pytest.raises(ValueError, match="a threshold needs both"):
        choose(np.full(3, label), np.arange(3.0))


def test_table_reads_validation_only_and_names_what_few_patients_carry() -> None:
    drawn = scores(200).astype({"Hernia": np.float64})
    drawn["Mass"] = (np.arange(200) < 38).astype(np.uint8)  # 19 patients of two images
    drawn["Nodule"] = (np.arange(200) < 39).astype(np.uint8)  # 20
    drawn = drawn.assign(Hernia=np.nan, Edema=0, logit_Fibrosis=np.nan)
    found = table(pd.concat([drawn, scores(100, seed=1, split="test"), scores(100, seed=2, split="train")]))
    assert found.columns.tolist() == [*RULES, "positive_patients", "few"]
    assert found.index.tolist() == [n for n in CLASSES if n not in ("Hernia", "Edema", "Fibrosis")]
    assert found.loc[["Mass", "Nodule"], "positive_patients"].tolist() == [19, 20]
    assert found.loc[["Mass", "Nodule"], "few"].tolist() == [True, False]
    expected = choose(drawn["Effusion"].to_numpy(), drawn["logit_Effusion"].to_numpy())
    assert found.loc["Effusion", list(RULES)].to_dict() == expected


def test_table_without_validation_refuses() -> None:
    with pytest.raises(ValueError, match="split val"):
        table(scores(20, split="test"))


def test_thresholds_survive_json_exactly() -> None:
    found = table(scores(200))
    text = json.dumps(to_dict(found), allow_nan=False)
    pd.testing.assert_frame_equal(from_dict(json.loads(text)), found, check_exact=True)
    assert len(text) < 5000
    nothing = found.iloc[:0]
    pd.testing.assert_frame_equal(from_dict(json.loads(json.dumps(to_dict(nothing)))), nothing)


def test_measured_images_are_the_labelled_ones_and_a_hole_among_their_logits_is_refused() -> None:
    drawn = scores(10).astype({"Edema": np.float64})
    drawn.loc[:3, ["Edema", "logit_Edema"]] = np.nan
    known = measured(drawn, "Edema")
    assert (len(known), known["logit"].dtype, known["label"].dtype) == (6, np.float32, np.int64)
    assert known["patient_id"].tolist() == [2, 2, 3, 3, 4, 4]
    assert measured(drawn.assign(logit_Edema=np.nan), "Edema").empty
    drawn.loc[5, "logit_Edema"] = np.inf
    with pytest.raises(ValueError, match="logit_Edema: 1 of 6 labelled images"):
        measured(drawn, "Edema")
