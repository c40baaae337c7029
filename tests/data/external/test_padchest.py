"""PadChest: printed lists with all their oddities, which label is whose, and rows that say nothing."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.data import external
from cxr.data.cohort import Cohort
from cxr.data.external import padchest
from cxr.errors import InputError
from cxr.findings import CLASSES, FINDINGS

NAME = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = (
    *("", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Report", "MethodLabel", "Labels"),
)
SOUND = {
    "ImageDir": "12",
    "StudyDate_DICOM": "20140915",
    "PatientID": "839860488694292331637988235681460987",
    "PatientBirth": "1930.0",
    "PatientSex_DICOM": "M",
    "Projection": "PA",
    "Report": "aumento de densidad , sin cambios .",
    "Labels": "['normal']",
}


def write(folder: Path, *rows: dict[str, str]) -> Path:
    with (folder / NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for at, row in enumerate(rows):
            writer.writerow({"": at, "ImageID": f"{at}.png"} | SOUND | row)
    return folder


def read(folder: Path, *rows: dict[str, str]) -> Cohort:
    return external.read("padchest", write(folder, *rows))


def labels(folder: Path, *printed: str) -> pd.DataFrame:
    return read(folder, *({"Labels": text} for text in printed)).table


def refusal(folder: Path, **row: str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, {}, row)
    return str(caught.value)


def test_every_cell_is_where_it_belongs(tmp_path: Path) -> None:
    second = {
        "ImageDir": "0",
        "PatientBirth": "",
        "PatientSex_DICOM": "",
        "Projection": "AP_horizontal",
        "Labels": "['pleural effusion']",
    }
    cohort = read(tmp_path, {}, second)
    table = cohort.table.set_index("image")
    assert list(table.index) == ["0/1.png", "12/0.png"]
    assert table["patient_id"].tolist() == ["839860488694292331637988235681460987"] * 2  # beyond 64 bits
    np.testing.assert_array_equal(table["age_years"], [np.nan, 84])
    assert table["sex"].tolist() == ["", "M"]
    assert table["view"].tolist() == ["AP", "PA"]
    assert table["split"].tolist() == ["", ""]
    assert table["follow_up"].isna().all()
    assert table["Effusion"].tolist() == [1, 0]
    assert table["No Finding"].tolist() == [0, 1]
    assert cohort.edition == NAME


@pytest.mark.parametrize(("label", "ours"), padchest.LABELS.items())
def test_each_label_makes_its_classes_and_no_other(tmp_path: Path, label: str, ours: tuple[str, ...]) -> None:
    row = labels(tmp_path, f"['{label}']").loc[0, list(CLASSES)]
    assert set(row.index[row == 1]) == set(ours)
    assert (row == 0).sum() == len(CLASSES) - len(ours)


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("['infiltrates', ' pneumonia']", {"Infiltration", "Pneumonia"}),
        ("['  pulmonary   mass ', '', 'nan', 'kyphosis']", {"Mass"}),
        ("['nodule', nan]", {"Nodule"}),
        ("[nan , 'nodule']", {"Nodule"}),
        ('["emphysema", "emphysema"]', {"Emphysema"}),
        ("['normal', 'hiatal hernia']", {"Hernia"}),  # normal but for a hernia is not No Finding
    ],
)
def test_oddly_printed_lists_are_read(tmp_path: Path, printed: str, found: set[str]) -> None:
    row = labels(tmp_path, printed).loc[0, list(CLASSES)]
    assert set(row.index[row == 1]) == found
    assert set(row.index[row == 0]) == set(CLASSES) - found


def test_look_alikes_are_none_of_ours(tmp_path: Path) -> None:
    table = labels(tmp_path, str([*padchest.NOT_OURS, "COPD signs", "bullas", "pleural plaques", "fibrotic band"]))
    assert (table[list(FINDINGS)] == 0).all(axis=None)
    assert table["No Finding"].isna().all()  # NIH would write No Finding, PadChest does not write normal


def test_what_an_unchanged_report_does_not_name_is_unknown(tmp_path: Path) -> None:
    table = labels(tmp_path, "['unchanged', 'cardiomegaly']", "['unchanged', 'normal']")
    assert table.loc[0, "Cardiomegaly"] == 1
    assert table.loc[0, "No Finding"] == 0
    assert table.loc[0, list(FINDINGS)].isna().sum() == len(FINDINGS) - 1
    assert (table.loc[1, list(FINDINGS)] == 0).all()
    assert table.loc[1, "No Finding"] == 1


def test_rows_that_do_not_come_in_are_counted_by_reason(tmp_path: Path) -> None:
    cohort = read(
        tmp_path,
        {},
        *({"Projection": view} for view in ("L", "COSTAL", "EXCLUDE", "")),
        *({"Labels": f"['{label}', 'nodule']"} for label in ("exclude", "suboptimal study")),
        *({"Labels": text} for text in ("", "nan", "[]", "['']", "['nan']", "[nan]", "['unchanged', '']")),
    )
    assert cohort.table["image"].tolist() == ["12/0.png"]
    assert cohort.left_out == {
        "lateral or other view": 3,
        "view not stated": 1,
        "excluded by the set": 1,
        "suboptimal study": 1,
        "nothing said of our classes": 7,
    }


def test_ages_that_cannot_be_are_unknown_and_flagged(tmp_path: Path) -> None:
    cohort = read(tmp_path, *({"PatientBirth": birth} for birth in ("1893", "1894", "2014", "2015.0")))
    np.testing.assert_array_equal(cohort.table["age_years"], [np.nan, 120, 0, np.nan])
    assert cohort.flags["implausible_ages"].tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    "printed",
    [
        "['nodule'",
        "nodule",
        "('nodule',)",
        "{'nodule': 1}",
        "[1]",
        "[['nodule']]",
        "__import__('os').system('true')",
        "['a' for _ in '']",
    ],
)
def test_what_is_no_list_of_names_is_refused_and_never_run(tmp_path: Path, printed: str) -> None:
    assert (
        f"{NAME}: Labels is not a list such as ['nodule', 'normal'], or blank in line 3: {printed!r}"
        in refusal(tmp_path, Labels=printed)
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Labels": "['pneumonias']"}, "Labels is not in the set's vocabulary"),
        ({"Labels": "['Nodule']"}, "Labels is not in the set's vocabulary"),
        (
            {"Projection": "PP"},
            "Projection is not one of PA, AP, AP_horizontal, blank, L, COSTAL, EXCLUDE in line 3",
        ),
        ({"PatientSex_DICOM": "W"}, "PatientSex_DICOM is not one of M, F"),
        ({"PatientBirth": "30"}, "PatientBirth is not a year"),
        ({"StudyDate_DICOM": "15/09/2014"}, "StudyDate_DICOM is not a year or a date such as 20140915"),
        ({"ImageDir": ".."}, "ImageDir is not the number of a folder in line 3: '..'"),
        ({"ImageID": "../x.png"}, "ImageID is not a PNG file name in line 3: '../x.png'"),
        ({"ImageID": "0.png"}, "image is not named once in line 2: '12/0.png', line 3: '12/0.png'"),
        ({"PatientID": ""}, "patient_id is not given in line 3: ''"),
        ({"PatientID": "8.3986048869429E+35"}, "patient_id is not a whole id"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_value(tmp_path: Path, row: dict[str, str], message: str) -> None:
    refused = refusal(tmp_path, **row)
    assert refused.startswith(f"{tmp_path}/{NAME}: ")
    assert message in refused


def test_any_single_file_of_the_set_is_taken_and_two_are_not(tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / NAME).rename(tmp_path / "PADCHEST_part.csv")
    assert external.read("padchest", tmp_path).edition == "PADCHEST_part.csv"
    (tmp_path / "PADCHEST_more.csv").touch()
    with pytest.raises(InputError, match=r"one file such as .* found .*more\.csv, .*part\.csv"):
        external.read("padchest", tmp_path)
