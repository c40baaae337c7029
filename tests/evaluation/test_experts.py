"""The radiologists' labels: agreement by hand, AUROCs by scikit-learn on the shared images, and real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr.data import expert_labels, nih
from cxr.evaluation.experts import COLUMNS, flat, measure
from cxr.findings import CLASSES, FINDINGS, NO_FINDING

COUNT = 100  # replicates
LOGITS = [f"logit_{name}" for name in CLASSES]


def drawn(count: int = 240, *, seed: int = 0) -> pd.DataFrame:
    """Test rows, two images a patient, every class in a third of the images."""
    rng = np.random.default_rng(seed)
    labels = {name: (rng.random(count) < 0.33).astype(np.uint8) for name in CLASSES}
    logits = {f"logit_{name}": (rng.normal(size=count) + labels[name]).astype(np.float32) for name in CLASSES}
    rows = {"image": [f"{row}.png" for row in range(count)], "patient_id": np.arange(count) // 2, "split": "test"}
    return pd.DataFrame({**rows, **labels, **logits})


def opinions(test: pd.DataFrame, study: str = "all_findings", **given: object) -> pd.DataFrame:
    """Expert labels of the images of `test`: none but those given."""
    table = test[["image", "patient_id"]].assign(study=study, **dict.fromkeys(expert_labels.LABELS, np.nan))
    return table[["study", "image", "patient_id", *expert_labels.LABELS]].assign(**given)


def flipped(labels: pd.Series, share: float, seed: int = 1) -> np.ndarray:
    other = np.random.default_rng(seed).random(len(labels)) < share
    return np.where(other, 1 - labels, labels).astype(float)


def test_counts_and_agreement_equal_a_hand_count() -> None:
    test = drawn(48)  # 24 patients
    test["Edema"] = np.uint8([1] * 24 + [0] * 24)  # patients 0 to 11
    seen = np.array([0.0] * 4 + [1] * 20 + [1] * 2 + [0] * 22)  # 2 of those patients not, one other
    row = measure(test, opinions(test, Edema=seen), seed=0, count=COUNT).iloc[0]
    assert (row["study"], row["finding"], row["images"], row["patients"]) == ("all_findings", "Edema", 48, 24)
    assert (row["expert_positives"], row["expert_positive_patients"], row["text_positives"]) == (22, 11, 24)
    assert row["agreement"] == pytest.approx(42 / 48)
    assert row["sensitivity"] == pytest.approx(20 / 22)
    assert row["ppv"] == pytest.approx(20 / 24)


def test_both_aurocs_are_on_the_images_that_both_have() -> None:
    test = drawn()
    opinion = opinions(test, Mass=flipped(test["Mass"], 0.2)).iloc[40:]
    opinion.iloc[::7, opinion.columns.get_loc("Mass")] = np.nan
    table = measure(test, opinion, seed=0, count=COUNT)
    assert table["finding"].tolist() == ["Mass"]
    assert tuple(table.columns) == COLUMNS
    row, both = table.iloc[0], test.merge(opinion[["image", "Mass"]].dropna(), on="image")
    assert row["images"] == len(both)
    assert row["auroc_expert"] == pytest.approx(roc_auc_score(both["Mass_y"], both["logit_Mass"]), abs=1e-12)
    assert row["auroc_text"] == pytest.approx(roc_auc_score(both["Mass_x"], both["logit_Mass"]), abs=1e-12)
    assert row["difference"] == pytest.approx(row["auroc_expert"] - row["auroc_text"])
    for name in ("auroc_expert", "auroc_text", "difference"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["note"] == ""


def test_equal_labels_differ_in_no_replicate() -> None:
    test = drawn()
    row = measure(test, opinions(test, Mass=test["Mass"].astype(float)), seed=0, count=COUNT).iloc[0]
    assert (row["agreement"], row["sensitivity"], row["ppv"]) == (1, 1, 1)
    assert row[["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_only_findings_of_nih_are_compared_and_abnormal_turned_with_no_finding() -> None:
    test = drawn()
    healthy = flipped(test[NO_FINDING], 0.1)
    others = dict.fromkeys(("Fracture", "Airspace opacity", "Nodule or mass", "Other"), 1.0)
    table = measure(test, opinions(test, Abnormal=1 - healthy, **others), seed=0, count=COUNT)
    assert table["finding"].tolist() == [NO_FINDING]
    row = table.iloc[0]
    assert row["expert_positives"] == healthy.sum()
    assert row["auroc_expert"] == pytest.approx(roc_auc_score(healthy, test[f"logit_{NO_FINDING}"]))
    assert row["note"] == "the radiologists' label is not Abnormal"


def test_studies_stand_apart() -> None:
    test = drawn()
    four = opinions(test, "four_findings", Pneumothorax=flipped(test["Pneumothorax"], 0.1))
    everything = opinions(test, Pneumothorax=flipped(test["Pneumothorax"], 0.4)).iloc[:200]
    table = measure(test, pd.concat([everything, four]), seed=0, count=COUNT).set_index("study")
    assert table.index.tolist() == ["four_findings", "all_findings"]
    assert table["images"].tolist() == [240, 200]
    assert table.loc["four_findings", "agreement"] > 0.8 > table.loc["all_findings", "agreement"]


def test_too_few_patients_leave_numbers_undefined_and_say_whose() -> None:
    test = drawn()
    seen = np.zeros(len(test))
    seen[:8] = 1  # 4 patients
    row = measure(test, opinions(test, Mass=seen), seed=0, count=COUNT).iloc[0]
    assert row["note"] == "expert: 4 positive patients, 10 needed"
    assert row[["sensitivity", "auroc_expert", "auroc_expert_low", "difference"]].isna().all()
    assert row[["agreement", "ppv", "auroc_text", "auroc_text_low"]].notna().all()


def test_a_class_without_scores_is_compared_by_labels_alone() -> None:
    test = drawn().assign(logit_Mass=np.nan)
    row = measure(test, opinions(test, Mass=flipped(test["Mass"], 0.2)), seed=0, count=COUNT).iloc[0]
    assert row["agreement"] == pytest.approx(0.8, abs=0.1)
    assert np.isnan(row["auroc_expert"])
    assert "unknown to the model" in row["note"]


def test_without_a_shared_image_there_is_no_row() -> None:
    test = drawn()
    opinion = opinions(test.assign(image="another" + test["image"]), Mass=1.0)
    table = measure(test, opinion, seed=0, count=COUNT)
    assert (len(table), tuple(table.columns)) == (0, COLUMNS)
    assert flat(table) == {}


def test_metrics_are_what_is_defined() -> None:
    test = drawn()
    table = measure(test, opinions(test, Mass=flipped(test["Mass"], 0.2), Edema=0.0), seed=0, count=COUNT)
    metrics = flat(table, "test")
    assert {name for name in metrics if name.endswith("/Mass")} == {
        f"test/expert/all_findings/{name}/Mass"
        for name in ("auroc", "auroc_text", "auroc_difference", "agreement")
    }
    mass = table.set_index("finding").loc["Mass"]
    assert metrics["test/expert/all_findings/auroc/Mass"] == mass["auroc_expert"]
    assert {name for name in metrics if name.endswith("/Edema")} == {
        f"test/expert/all_findings/{name}/Edema" for name in ("auroc_text", "agreement")
    }


def test_real_text_labels_miss_half_of_the_pneumothoraces_that_radiologists_see(real_data: Path) -> None:
    cohort = nih.read(real_data / "nih").table
    expert = expert_labels.read(real_data / "nih", cohort)
    assert expert is not None
    probabilities = pd.read_csv(real_data / "predictions/jrzech/preds.csv.gz").set_index("Image Index")
    logits = np.log(probabilities / (1 - probabilities)).rename(
        columns=lambda name: name.replace("prob_", "logit_")
    )
    scores = cohort.merge(logits, left_on="image", right_index=True).assign(**{f"logit_{NO_FINDING}": np.nan})
    table = measure(scores, expert, seed=0, count=COUNT).set_index(["study", "finding"])
    assert list(table.loc["all_findings"].index) == list(CLASSES)
    four = table.loc[("four_findings", "Pneumothorax")]
    assert (four["images"], four["patients"], four["expert_positives"], four["text_positives"]) == (
        935,
        353,
        46,
        57,
    )
    assert (four["agreement"], four["sensitivity"], four["ppv"]) == pytest.approx((0.937, 0.478, 0.386), abs=1e-3)
    everything = table.loc["all_findings"]
    assert set(everything["images"]) == {188}
    known = everything.loc[list(FINDINGS), "auroc_expert"].dropna()
    assert len(known) == 9
    assert known.min() > 0.7  # radiologists bear the scores out
