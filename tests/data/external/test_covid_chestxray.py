"""covid-chestxray-dataset: both vocabularies, views and modalities, and what is wrong in its file."""

from pathlib import Path

import numpy as np
import pytest

from cxr.data import external
from cxr.data.cohort import Cohort
from cxr.errors import InputError

# The later layout of the file: more columns, and a comma at the end of each line.
HEADER = (
    "patientid,offset,sex,age,finding,RT_PCR_positive,survival,view,modality,date,folder,filename,clinical_notes,"
)


def row(
    name: str = "a.jpg",
    finding: str = "COVID-19",
    view: str = "PA",
    modality: str = "X-ray",
    about: str = "2,0,M,65",
    folder: str = "images",
) -> str:
    return f'{about},"{finding}",Y,,{view},{modality},2020,{folder},{name},"two lines,\nof notes",'


def read(folder: Path, *rows: str) -> Cohort:
    (folder / "metadata.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return external.read("covid-chestxray", folder)


def refusal(folder: Path, *rows: str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, *rows)
    return str(caught.value)


@pytest.mark.parametrize(
    ("finding", "pneumonia", "healthy"),
    [
        ("COVID-19", 1, 0),
        ("Pneumonia/Viral/COVID-19", 1, 0),
        ("COVID-19, ARDS", 1, 0),
        ("Pneumonia", 1, 0),
        ("Pneumonia/Viral/Herpes ", 1, 0),
        ("Pneumonia/Viral/Influenza/H1N1", 1, 0),
        ("Pneumonia/Bacterial/E.Coli", 1, 0),
        ("Pneumonia/Bacterial/Staphylococcus/MRSA", 1, 0),
        ("Pneumonia/Fungal/Pneumocystis", 1, 0),
        ("Pneumonia/Aspiration", 1, 0),
        ("Pneumonia/Lipoid", 1, 0),
        ("Pneumocystis", 1, 0),
        ("Streptococcus", 1, 0),
        ("SARS", 1, 0),
        ("Swine-Origin Influenza A (H1N1) Viral Pneumonia", 1, 0),
        ("ARDS", np.nan, 0),
        ("Tuberculosis", np.nan, 0),
        ("Unusual Interstitial Pneumonia", np.nan, 0),
        ("No Finding", 0, 1),
        ("No finding", 0, 1),
    ],
)
def test_both_vocabularies_are_read(tmp_path: Path, finding: str, pneumonia: float, healthy: float) -> None:
    table = read(tmp_path, row(finding=finding)).table
    np.testing.assert_array_equal(table[["Pneumonia", "No Finding"]].to_numpy(), [[pneumonia, healthy]])


def test_every_cell_is_where_it_belongs(tmp_path: Path) -> None:
    table = read(tmp_path, row(about="331a,-27,F,39.5"), row("b.png", view="AP Supine", about="9,,,")).table
    assert table["image"].tolist() == ["images/a.jpg", "images/b.png"]
    assert table["patient_id"].tolist() == ["331a", "9"]
    assert table["sex"].tolist() == ["F", ""]
    np.testing.assert_array_equal(table["age_years"], [39.5, np.nan])
    assert table["view"].tolist() == ["PA", "AP"]
    assert table["split"].tolist() == ["", ""]
    assert table["follow_up"].isna().all()


def test_only_frontal_x_rays_with_a_diagnosis_come_in(tmp_path: Path) -> None:
    views = ("PA", "AP", "AP Supine", "AP semi erect", "AP erect", "AP Erect", "L", "")
    cohort = read(
        tmp_path,
        *(row(f"{at}.png", view=view) for at, view in enumerate(views)),
        row("ct.jpg", view="Axial", modality="CT"),
        row("ct.jpg", view="Coronal", modality="CT", folder="volumes"),
        *(row(f"{finding}.jpg", finding=finding) for finding in ("", "todo", "Unknown")),
    )
    assert cohort.table["view"].tolist() == ["PA"] + ["AP"] * 5
    assert cohort.left_out == {
        "not an X-ray": 2,
        "lateral or other view": 1,
        "view not stated": 1,
        "nothing said of our classes": 3,
    }


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (
            row("b.jpg", finding="Pneumonia/Viral/COVID-20"),
            "finding is not made of words that the set is known to use",
        ),
        (row("b.jpg", finding="No Finding, ARDS"), "finding is not No Finding alone or a disease"),
        (row("b.jpg", view="PX"), "view is not one of pa, ap"),
        (row("b.jpg", about="2,0,X,65"), "sex is not one of M, F, blank in line 5: 'X'"),
        (row("b.jpg", about="2,0,M,adult"), "age is not years such as 57, or blank in line 5: 'adult'"),
        (row("b.jpg", about=",0,M,65"), "patient_id is not given in line 5: ''"),
        (row("a.jpg"), "image is not named once in line 3: 'images/a.jpg', line 5: 'images/a.jpg'"),
        (row("../b.jpg"), "image is not a path inside the folder, with / in line 5: 'images/../b.jpg'"),
        (row("b.jpg", folder="/etc"), "image is not a path inside the folder, with / in line 5: '/etc/b.jpg'"),
        (row("b.jpg", folder=""), "image is not a path inside the folder, with / in line 5: '/b.jpg'"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_value(tmp_path: Path, spoilt: str, message: str) -> None:
    refused = refusal(tmp_path, row(), spoilt)  # each row takes two lines and is named by its last
    assert refused.startswith(f"{tmp_path}/metadata.csv: ")
    assert message in refused


def test_an_age_beyond_all_is_unknown_and_flagged(tmp_path: Path) -> None:
    cohort = read(tmp_path, row(about="2,0,M,121"))
    assert cohort.table["age_years"].isna().all()
    assert cohort.flags["implausible_ages"].tolist() == [True]
