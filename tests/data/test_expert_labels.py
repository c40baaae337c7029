"""The radiologists' labels: both studies, their own spellings, and never a row that the cohort does not know."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.data import expert_labels, nih
from cxr.errors import InputError
from cxr.findings import FINDINGS

FOUR = "Image Index,Finding Labels,Patient ID,Fracture,Pneumothorax,Airspace opacity,Nodule or mass,Set Id"
ALL = (
    "Image ID,Patient ID,Abnormal,Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,"
    "Pneumothorax,Consolidation,Edema,Emphysema,Fibrosis,Pleural Thickening,Hernia,Other"
)
COHORT = pd.DataFrame({"image": ["a.png", "b.png"], "patient_id": [1, 2]})


def written(place: Path, *lines: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(lines) + "\n")


def folder_with_both(folder: Path) -> Path:
    written(folder / "four_findings_expert_labels/test_labels.csv", FOUR, "a.png,Mass,1,NO,YES,NO,YES,test")
    written(
        folder / "four_findings_expert_labels/validation_labels.csv", FOUR, "b.png,No Finding,2,YES,NO,,NO,val"
    )
    nothing = ",".join(["NO"] * 12)
    written(folder / "expert_labels/all_findings/test_labels.csv", ALL, f"a.png,1,YES,NO,{nothing},YES,NO")
    return folder


def test_two_studies_stand_as_rows_of_their_own(tmp_path: Path) -> None:
    labels = expert_labels.read(folder_with_both(tmp_path), COHORT)
    assert labels is not None
    assert labels[["study", "image", "patient_id"]].to_numpy().tolist() == [
        ["four_findings", "a.png", 1], ["four_findings", "b.png", 2], ["all_findings", "a.png", 1],
    ]  # fmt: skip
    assert list(labels.columns) == ["study", "image", "patient_id", *expert_labels.LABELS]
    four, other, everything = (row for _, row in labels.iterrows())
    assert (four["Pneumothorax"], four["Nodule or mass"], four["Fracture"]) == (1, 1, 0)
    assert np.isnan(other["Airspace opacity"])  # not adjudicated
    assert np.isnan(four["Atelectasis"])  # not asked in that study
    assert (everything["Abnormal"], everything["Hernia"], everything["Pleural_Thickening"]) == (1, 1, 0)
    assert np.isnan(everything["Fracture"])


def test_folder_without_expert_labels_has_none(tmp_path: Path) -> None:
    assert expert_labels.read(tmp_path, COHORT) is None
    assert expert_labels.read_readers(tmp_path, COHORT) is None


def test_images_outside_the_cohort_are_passed_over(tmp_path: Path) -> None:
    labels = expert_labels.read(folder_with_both(tmp_path), COHORT.iloc[1:])
    assert labels is not None
    assert labels["image"].tolist() == ["b.png"]


def test_hedging_reader_is_neither_yes_nor_no(tmp_path: Path) -> None:
    header = "Patient ID,Image ID,Reader ID,Fracture,Pneumothorax,Airspace opacity,Nodule/mass,Set ID"
    place = tmp_path / "four_findings/individual_readers.csv"
    written(place, header, "1,a.png,77,NO,HEDGE,NO,YES,test", "1,a.png,78,NO,YES,NO,NO,test")
    readers = expert_labels.read_readers(tmp_path, COHORT)
    assert readers is not None
    assert readers[["reader", "Pneumothorax", "Nodule or mass"]].to_numpy().tolist() == [
        ["77", 0.5, 1.0], ["78", 1.0, 0.0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.png,Mass,1,NO,MAYBE,NO,YES,test", "Pneumothorax is not YES or NO in line 2: 'MAYBE'"),
        ("a.png,Mass,1,NO,HEDGE,NO,YES,test", "Pneumothorax is not YES or NO in line 2: 'HEDGE'"),
        ("a.png,Mass,x,NO,NO,NO,YES,test", "patient_id is not a whole number in line 2: 'x'"),
        ("a.png,Mass,9,NO,NO,NO,YES,test", "differ in the patient of a.png"),
    ],
)
def test_what_is_not_as_published_is_refused(line: str, said: str, tmp_path: Path) -> None:
    written(tmp_path / "four_findings/test_labels.csv", FOUR, line)
    with pytest.raises(InputError) as caught:
        expert_labels.read(tmp_path, COHORT)
    assert said in str(caught.value)


def test_image_twice_and_missing_columns_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "four_findings/test_labels.csv"
    row = "a.png,Mass,1,NO,NO,NO,YES,test"
    written(place, FOUR, row, row)
    with pytest.raises(InputError, match="image is not each image once"):
        expert_labels.read(tmp_path, COHORT)
    written(place, "Image Index,Fracture", "a.png,NO")
    with pytest.raises(InputError, match=r"columns \['patient_id', 'Pneumothorax', .* are not there once"):
        expert_labels.read(tmp_path, COHORT)


def test_googles_labels_on_nih_have_their_published_counts(real_data: Path) -> None:
    table = nih.read(real_data / "nih").table
    labels = expert_labels.read(real_data / "nih", table)
    assert labels is not None
    joined = labels.merge(table[["image", "split"]], on="image")
    assert joined.groupby(["study", "split"]).size().to_dict() == {
        ("all_findings", "test"): 810, ("four_findings", "test"): 1_962, ("four_findings", "train_val"): 2_414,
    }  # fmt: skip
    whole = labels[labels["study"] == "all_findings"]
    assert whole[list(FINDINGS)].notna().all(axis=None)
    assert whole["Pneumothorax"].sum() == 136
    assert labels.loc[labels["study"] == "four_findings", "Pneumothorax"].sum() == 238
    readers = expert_labels.read_readers(real_data / "nih", table)
    assert readers is not None
    assert readers["study"].value_counts().to_dict() == {"four_findings": 13_081, "all_findings": 4_050}
    hedged = (readers[list(expert_labels.LABELS)] == 0.5).to_numpy().sum()
    assert hedged == 426
