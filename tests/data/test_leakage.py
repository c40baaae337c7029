"""What splits share and how they differ: hand-counted on tiny tables, and NIH's known shift on the real ones."""

import numpy as np
import pandas as pd
import pytest

from cxr.data import leakage, nih
from cxr.data.split import carve
from cxr.findings import CLASSES


def table(*rows: tuple[str, object, str, float, str, str, str]) -> pd.DataFrame:
    """Rows of (image, patient, split, age, sex, view, findings joined by |)."""
    made = pd.DataFrame(
        [row[:6] for row in rows], columns=["image", "patient_id", "split", "age_years", "sex", "view"]
    )
    for name in CLASSES:
        made[name] = [float(name in row[6].split("|")) for row in rows]
    return made


HAND = table(
    ("a", 1, "train", 40, "M", "PA", "Mass"),
    ("b", 1, "train", 42, "M", "AP", "No Finding"),
    ("c", 2, "train", np.nan, "", "PA", "No Finding"),
    ("d", 3, "val", 50, "F", "PA", "Mass"),
    ("e", 4, "test", 60, "F", "AP", "Mass"),
    ("f", 4, "test", 62, "F", "AP", "Mass|Edema"),
    ("g", 4, "test", 64, "F", "", "No Finding"),
)


def test_every_measure_of_a_hand_counted_table() -> None:
    measures = leakage.report(HAND)
    assert measures.loc["images", ["train", "val", "test"]].tolist() == [3, 1, 3]
    assert measures.loc["patients", ["train", "val", "test"]].tolist() == [2, 1, 1]
    assert measures.loc["images_per_patient_mean", ["train", "val", "test"]].tolist() == [1.5, 1, 3]
    assert measures.loc["images_per_patient_most", "test"] == 3
    assert measures.loc["images_share_of_top_tenth", "train"] == pytest.approx(2 / 3)
    assert measures.loc["age_mean_years", ["train", "test"]].tolist() == [41, 62]
    assert measures.loc["male_share", ["train", "test"]].tolist() == [1, 0]  # of the known ones
    assert measures.loc["ap_view_share", ["train", "test"]].tolist() == pytest.approx([1 / 3, 1])
    assert measures.loc["prevalence/Mass", ["train", "val", "test"]].tolist() == pytest.approx([1 / 3, 1, 2 / 3])
    assert measures.loc["prevalence/Mass", "test_over_train"] == pytest.approx(2)
    assert np.isnan(measures.loc["prevalence/Edema", "test_over_train"])  # none in training
    assert measures.loc["patients_shared", "all"] == 0
    assert leakage.metrics(measures) == {"leakage/patients_shared": 0.0}


def test_patient_in_two_splits_is_counted() -> None:
    moved = HAND.assign(patient_id=[1, 1, 2, 2, 4, 4, 1])
    assert leakage.metrics(leakage.report(moved))["leakage/patients_shared"] == 2


def test_identical_pictures_count_across_splits_and_not_within_one() -> None:
    digests = ["p", "q", "q", "r", "p", "r", "s"]  # a = e, d = f; b = c lie both in train
    found = leakage.identical_images(HAND, digests)
    assert found[["group", "split", "image"]].to_numpy().tolist() == [
        [1, "test", "e"], [1, "train", "a"], [2, "test", "f"], [2, "val", "d"],
    ]  # fmt: skip
    assert leakage.metrics(leakage.report(HAND, found))["leakage/identical_images"] == 4


def test_no_identical_picture_is_said_as_zero() -> None:
    found = leakage.identical_images(HAND, list("abcdefg"))
    assert found.empty
    assert leakage.metrics(leakage.report(HAND, found))["leakage/identical_images"] == 0


def test_class_that_is_not_labelled_has_no_prevalence() -> None:
    measures = leakage.report(HAND.assign(Hernia=np.nan))
    assert measures.loc["prevalence/Hernia", ["train", "val", "test", "test_over_train"]].isna().all()


def test_nih_official_test_is_another_population_as_published(real_data: object) -> None:
    whole = nih.read(real_data / "nih")  # type: ignore[operator]
    measures = leakage.report(carve(whole.table, val_fraction=0.1, seed=123))
    assert measures.loc["patients_shared", "all"] == 0
    assert measures.loc["images_per_patient_mean", "test"] == pytest.approx(9.15, abs=0.005)
    assert measures.loc["images_per_patient_most", "test"] == 184
    assert measures.loc["images_share_of_top_tenth", "test"] == pytest.approx(0.56, abs=0.005)
    assert measures.loc["prevalence/Pneumothorax", "test"] == pytest.approx(0.1041, abs=5e-5)
    assert measures.loc["prevalence/Pneumothorax", "test_over_train"] == pytest.approx(3.4, abs=0.05)
    assert measures.loc["prevalence/No Finding", "test"] == pytest.approx(0.385, abs=5e-4)
