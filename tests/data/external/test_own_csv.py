"""A user's own CSV: what its columns may hold, and everything that is refused."""

from pathlib import Path

import numpy as np
import pytest

from cxr.data import external
from cxr.data.cohort import Cohort
from cxr.data.external import own_csv
from cxr.errors import InputError
from cxr.findings import CLASSES

HEADER = "image,patient_id,age_years,sex,view,follow_up,split,Effusion,Nodule,No Finding"


def read(folder: Path, *lines: str, name: str = "ward.csv") -> Cohort:
    (folder / name).write_text("\n".join(lines) + "\n")
    return external.read("csv", folder / name)


def refusal(folder: Path, *lines: str, name: str = "ward.csv") -> str:
    with pytest.raises(InputError) as caught:
        read(folder, *lines, name=name)
    return str(caught.value)


def test_every_cell_is_where_it_belongs(tmp_path: Path) -> None:
    cohort = read(
        tmp_path,
        HEADER,
        "ward 3/0002.png,B 7,63.5,F,PA,2,test,1,0,0",
        "",
        "0001.jpg,12345678901234567890123,,,,,train_val,,1.0,",
    )
    table = cohort.table
    assert table["image"].tolist() == ["0001.jpg", "ward 3/0002.png"]
    assert table["patient_id"].tolist() == ["12345678901234567890123", "B 7"]
    np.testing.assert_array_equal(table["age_years"], [np.nan, 63.5])
    assert table["sex"].tolist() == ["", "F"]
    assert table["view"].tolist() == ["", "PA"]
    np.testing.assert_array_equal(table["follow_up"], [np.nan, 2])
    assert table["split"].tolist() == ["train_val", "test"]
    np.testing.assert_array_equal(table["Effusion"], [np.nan, 1])
    np.testing.assert_array_equal(table["Nodule"], [1, 0])
    assert cohort.dataset == "ward"
    assert cohort.edition == "ward.csv"
    assert cohort.folder == tmp_path


def test_three_columns_are_enough(tmp_path: Path) -> None:
    table = read(tmp_path, "patient_id,Hernia,image", "1,0,a.png").table
    assert table.loc[0, "Hernia"] == 0
    assert table[[name for name in CLASSES if name != "Hernia"]].isna().all(axis=None)
    assert table.loc[0, ["sex", "view", "split"]].tolist() == ["", "", ""]
    assert table[["age_years", "follow_up"]].isna().all(axis=None)


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    lines = [line.strip() for line in (own_csv.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(read(tmp_path, *lines).table) == 2


@pytest.mark.parametrize("column", ["Efusion", "effusion", "Pleural Thickening", "Age", ""])
def test_an_unknown_column_is_refused_with_the_known_ones(tmp_path: Path, column: str) -> None:
    refused = refusal(tmp_path, f"image,patient_id,{column},Nodule", "a.png,1,1,1")
    assert f"columns ['{column}'] are not known. Known are: image, patient_id, age_years, sex, view" in refused
    assert "Pleural_Thickening" in refused


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,Nodule", "columns ['patient_id'] are missing"),
        ("patient_id,Nodule", "columns ['image'] are missing"),
        ("image,patient_id", "no column of a class. At least one is expected of Atelectasis"),
        ("image,patient_id,Nodule,Nodule", "columns ['Nodule'] come twice"),
    ],
)
def test_columns_that_are_missing_or_come_twice_are_named(tmp_path: Path, header: str, message: str) -> None:
    assert message in refusal(tmp_path, header, ",".join("1" for _ in header.split(",")))


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("/etc/a.png,2,,,,,test,1,0,0", "image is not a path inside the folder, with / in line 4: '/etc/a.png'"),
        ("../a.png,2,,,,,test,1,0,0", "image is not a path inside the folder, with / in line 4: '../a.png'"),
        ("x/../../a.png,2,,,,,test,1,0,0", "image is not a path inside the folder"),
        ("./b.png,2,,,,,test,1,0,0", "image is not a path inside the folder"),
        ("x//b.png,2,,,,,test,1,0,0", "image is not a path inside the folder"),
        (r"x\b.png,2,,,,,test,1,0,0", "image is not a path inside the folder"),
        ("C:/b.png,2,,,,,test,1,0,0", "image is not a path inside the folder"),
        (",2,,,,,test,1,0,0", "image is not a path inside the folder"),
        ("a.png,2,,,,,test,1,0,0", "image is not named once in line 2: 'a.png', line 4: 'a.png'"),
        ("b.png,,,,,,test,1,0,0", "patient_id is not given in line 4: ''"),
        ("b.png,1.2E+22,,,,,test,1,0,0", "patient_id is not a whole id"),
        ("b.png,2,-3,,,,test,1,0,0", "age_years is not years such as 57, or blank in line 4: '-3'"),
        ("b.png,2,nan,,,,test,1,0,0", "age_years is not years such as 57, or blank in line 4: 'nan'"),
        ("b.png,2,,female,,,test,1,0,0", "sex is not one of M, F, blank in line 4: 'female'"),
        ("b.png,2,,,L,,test,1,0,0", "view is not one of PA, AP, blank in line 4: 'L'"),
        ("b.png,2,,,,1.5,test,1,0,0", "follow_up is not a whole number or blank in line 4: '1.5'"),
        ("b.png,2,,,,,valid,1,0,0", "split is not train_val or test, as in other rows, in line 4: 'valid'"),
        ("b.png,2,,,,,,1,0,0", "split is not train_val or test, as in other rows, in line 4: ''"),
        ("b.png,2,,,,,test,yes,0,0", "Effusion is not one of 1, 0, 1.0, 0.0, blank in line 4: 'yes'"),
        ("b.png,2,,,,,test,-1,0,0", "Effusion is not one of 1, 0, 1.0, 0.0, blank in line 4: '-1'"),
        ("b.png,2,,,,,test,0,1,1", "No Finding is not 0 or blank beside a finding in line 4: '1'"),
        ("b.png,1,,,,,train_val,1,0,0", "patients with images in both train_val and test: 1"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_value(tmp_path: Path, spoilt: str, message: str) -> None:
    refused = refusal(tmp_path, HEADER, "a.png,1,,,,,test,1,0,0", "", spoilt)
    assert refused.startswith(str(tmp_path))
    assert message in refused


@pytest.mark.parametrize("name", ["phantom.csv", "Phantom.csv", "nih.csv", "chexpert.csv", "csv.csv"])
def test_a_name_that_means_other_data_is_refused(tmp_path: Path, name: str) -> None:
    assert "means another. Rename the file" in refusal(tmp_path, "image,patient_id,Mass", "a.png,1,1", name=name)


@pytest.mark.parametrize("name", ["my ward.csv", "ward:3.csv", "käfig.csv", ".csv", "..csv"])
def test_a_name_that_cannot_name_a_dataset_is_refused(tmp_path: Path, name: str) -> None:
    refused = refusal(tmp_path, "image,patient_id,Mass", "a.png,1,1", name=name)
    assert "letters, digits and _ . - are expected" in refused


def test_an_age_beyond_all_is_unknown_and_flagged(tmp_path: Path) -> None:
    cohort = read(tmp_path, "image,patient_id,age_years,Mass", "b.png,1,121,1", "a.png,2,120,1")
    np.testing.assert_array_equal(cohort.table["age_years"], [120, np.nan])
    assert cohort.flags["implausible_ages"].tolist() == [False, True]
