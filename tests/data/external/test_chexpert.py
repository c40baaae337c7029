"""CheXpert and MIMIC-CXR-JPG: views, splits, uncertain and blank labels, and what is wrong in their files."""

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from cxr.data import external
from cxr.data.cohort import Cohort
from cxr.errors import InputError

LABELS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{LABELS}"
NONE = "," * 13
PREFIX = "CheXpert-v1.0-small"


def row(
    image: str = "train/patient00001/study1/view1_frontal.jpg",
    about: str = "Female,68,Frontal,AP",
    labels: str = NONE,
    prefix: str = f"{PREFIX}/",
) -> str:
    return f"{prefix}{image},{about},{labels}"


def chexpert(folder: Path, **files: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def read(folder: Path, **options: str) -> Cohort:
    return external.read("chexpert", folder, **options)


def refusal(kind: str, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        external.read(kind, folder)
    return str(caught.value)


def test_every_cell_is_where_it_belongs(tmp_path: Path) -> None:
    rows = [
        row(labels="1.0,,,,,,,,,0.0,,,,1.0"),
        row("train/patient00002/study3/view1_frontal.jpg", "Male,90,Frontal,PA", "0.0,,-1.0,,,1.0,,,,,1.0,,,"),
        row("train/patient00003/study2/view1_frontal.jpg", "Unknown,0,Frontal,", ",,1.0,,,,,,,,,,,"),
    ]
    valid = row("valid/patient64541/study1/view1_frontal.jpg", "Male,73,Frontal,AP", "0.0," * 13 + "1.0")
    cohort = read(chexpert(tmp_path, train=rows, valid=[valid]))
    table = cohort.table
    assert table["image"].tolist() == [
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study3/view1_frontal.jpg",
        "train/patient00003/study2/view1_frontal.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
    ]
    assert table["patient_id"].tolist() == ["patient00001", "patient00002", "patient00003", "patient64541"]
    assert table["follow_up"].tolist() == [1, 3, 2, 1]
    assert table["sex"].tolist() == ["F", "M", "", "M"]
    assert table["view"].tolist() == ["AP", "PA", "", "AP"]
    assert table["split"].tolist() == ["train_val", "train_val", "train_val", "test"]
    np.testing.assert_array_equal(table["age_years"], [68, 90, np.nan, 73])
    assert cohort.flags["implausible_ages"].tolist() == [False, False, True, False]
    assert table["No Finding"].tolist() == [1, 0, 0, 0]
    assert table["Effusion"].tolist() == [0, 1, 0, 0]
    assert table["Edema"].tolist() == [0, 1, 0, 0]
    assert table["Cardiomegaly"].tolist() == [0, 0, 1, 0]
    assert cohort.edition == f"{PREFIX}: train.csv, valid.csv; uncertain = zeros"


def test_uncertain_is_zero_or_one_and_blank_is_zero(tmp_path: Path) -> None:
    chexpert(tmp_path, train=[row(labels=",,-1.0,,,-1,1,,,,,,,")])
    zeros, ones = (read(tmp_path, uncertain=how).table.loc[0] for how in ("zeros", "ones"))
    known = ["Cardiomegaly", "Edema", "Consolidation", "Pneumonia"]
    assert zeros[known].tolist() == [0, 0, 1, 0]
    assert ones[known].tolist() == [1, 1, 1, 0]


def test_only_frontal_images_come_in(tmp_path: Path) -> None:
    rows = [
        row(),
        row("train/patient00001/study1/view2_lateral.jpg", "Female,68,Lateral,"),
        row("train/patient00001/study2/view1_frontal.jpg", "Female,68,Frontal,LL"),
        row("train/patient00001/study3/view1_frontal.jpg", "Female,68,Frontal,RL"),
    ]
    cohort = read(chexpert(tmp_path, train=rows))
    assert cohort.table["image"].tolist() == ["train/patient00001/study1/view1_frontal.jpg"]
    assert cohort.left_out == {"lateral or other view": 3}


@pytest.mark.parametrize("given", [PREFIX, "."])
@pytest.mark.parametrize("prefix", [f"{PREFIX}/", "CheXpert-v1.0/", ""])
def test_the_folder_or_the_one_around_it_may_be_given(tmp_path: Path, given: str, prefix: str) -> None:
    folder = chexpert(tmp_path / PREFIX, train=[row(prefix=prefix)])
    image = folder / "train/patient00001/study1/view1_frontal.jpg"
    image.parent.mkdir(parents=True)
    image.touch()
    cohort = read(tmp_path / given)
    assert (cohort.folder / cohort.table.loc[0, "image"]).is_file()


def test_two_copies_beside_each_other_are_not_chosen_from(tmp_path: Path) -> None:
    for version in ("CheXpert-v1.0", PREFIX):
        chexpert(tmp_path / version, train=[row()])
    assert "more than one folder" in refusal("chexpert", tmp_path)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (row("/train/patient00001/study1/view1_frontal.jpg", prefix=""), "Path is not a path such as"),
        (row("../train/patient00001/study1/view1_frontal.jpg", prefix=""), "Path is not a path such as"),
        (row("train/../../secret/view1_frontal.jpg"), "Path is not a path such as"),
        (row("train/patient00001/study1/../../x.jpg"), "Path is not a path such as"),
        (row(about="Woman,68,Frontal,AP"), "Sex is not one of Male, Female, Unknown, blank in line 3: 'Woman'"),
        (row(about="Female,old,Frontal,AP"), "Age is not years such as 57, or blank in line 3: 'old'"),
        (row(about="Female,68,Oblique,AP"), "Frontal/Lateral is not one of Frontal, Lateral in line 3: 'Oblique'"),
        (row(about="Female,68,Frontal,PP"), "AP/PA is not one of AP, PA, blank, LL, RL in line 3: 'PP'"),
        (row(labels="2.0" + NONE), "No Finding is not one of 1.0, 0.0, -1.0, 1, 0, -1, blank in line 3: '2.0'"),
        (
            row("train/patient00009/study1/view1_frontal.jpg"),
            "image is not named once in line 2: 'train/patient00009",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_value(tmp_path: Path, spoilt: str, message: str) -> None:
    sound = row("train/patient00009/study1/view1_frontal.jpg")
    refused = refusal("chexpert", chexpert(tmp_path, train=[sound, spoilt]))
    assert refused.startswith(f"{tmp_path}/train.csv: ")
    assert message in refused


def test_an_age_beyond_all_is_unknown_and_flagged(tmp_path: Path) -> None:
    cohort = read(chexpert(tmp_path, train=[row(about="Female,121,Frontal,AP")]))
    assert cohort.table["age_years"].isna().all()
    assert cohort.flags["implausible_ages"].tolist() == [True]


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    valid = row("valid/patient00001/study1/view1_frontal.jpg")
    refused = refusal("chexpert", chexpert(tmp_path, train=[row()], valid=[valid]))
    assert "patients with images in both train_val and test: patient00001" in refused


def test_an_image_in_two_files_is_refused(tmp_path: Path) -> None:
    assert "images in two of the files" in refusal("chexpert", chexpert(tmp_path, train=[row()], valid=[row()]))


def test_a_file_of_lateral_images_only_leaves_nothing(tmp_path: Path) -> None:
    chexpert(tmp_path, valid=[row("valid/patient1/study1/view2_lateral.jpg", "Male,5,Lateral,")])
    assert "no usable row" in refusal("chexpert", tmp_path)


# ---------------------------------------------------------------- MIMIC-CXR-JPG

MIMIC_LABELS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)


@dataclass
class Mimic:
    """Three files in MIMIC-CXR-JPG's format, sound until a test spoils one of them."""

    metadata: list[str] = field(
        default_factory=lambda: [
            "02aa804e-bde0afdd,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506",
            "174413ec-4ec4c1f7,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506",
            "2a2277a9-b0ded155,10000764,57375967,CHEST (PORTABLE AP),AP,3056,2544,21321015",
            "68b5c4b1-227d0485,10000898,50771383,,,3056,2544,21880321",
            "fffabebf-74fd3a1f,10000898,50771384,,PA LLD,3056,2544,21880321",
            "4c3c1335-0fce9b11,10000935,51178377,,AP,3056,2544,21870827",
        ]
    )
    chexpert: list[str] = field(
        default_factory=lambda: [
            "10000032,50414267,,,,,,,,,1.0,,,,,",
            "10000764,57375967,,,1.0,,,,,,,-1.0,,-1.0,0.0,",
            "10000898,50771383,,,,,,,,,1.0,,,,,",
            "10000898,50771384,,,,,,,,,1.0,,,,,",
        ]
    )
    split: list[str] = field(
        default_factory=lambda: [
            "02aa804e-bde0afdd,50414267,10000032,train",
            "174413ec-4ec4c1f7,50414267,10000032,train",
            "2a2277a9-b0ded155,57375967,10000764,test",
            "68b5c4b1-227d0485,50771383,10000898,validate",
            "fffabebf-74fd3a1f,50771384,10000898,validate",
            "4c3c1335-0fce9b11,51178377,10000935,validate",
        ]
    )

    def write(self, folder: Path, version: str = "2.0.0") -> Path:
        headers = {
            "metadata": "dicom_id,subject_id,study_id,Performed,ViewPosition,Rows,Columns,StudyDate",
            "chexpert": f"subject_id,study_id,{MIMIC_LABELS}",
            "split": "dicom_id,study_id,subject_id,split",
        }
        for part, header in headers.items():
            text = "\n".join([header, *getattr(self, part)]) + "\n"
            (folder / f"mimic-cxr-{version}-{part}.csv.gz").write_bytes(gzip.compress(text.encode()))
        return folder


@pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
def test_three_files_become_one_table(tmp_path: Path, version: str) -> None:
    cohort = external.read("mimic-cxr-jpg", Mimic().write(tmp_path, version))
    table = cohort.table
    assert table["image"].tolist() == [
        "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg",
        "files/p10/p10000764/s57375967/2a2277a9-b0ded155.jpg",
    ]
    assert table["patient_id"].tolist() == ["10000032", "10000764"]
    assert table["view"].tolist() == ["PA", "AP"]
    assert table["split"].tolist() == ["train_val", "test"]
    assert table["sex"].tolist() == ["", ""]
    assert table[["age_years", "follow_up"]].isna().all(axis=None)
    assert table["No Finding"].tolist() == [1, 0]
    assert table["Consolidation"].tolist() == [0, 1]
    assert table["Effusion"].tolist() == [0, 0]
    assert cohort.left_out == {"lateral or other view": 2, "view not stated": 1, "study without labels": 1}
    assert cohort.edition == f"mimic-cxr-{version}-chexpert.csv.gz; uncertain = zeros"
    ones = external.read("mimic-cxr-jpg", tmp_path, uncertain="ones").table
    assert ones["Effusion"].tolist() == ones["Pneumonia"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("metadata", ",10000032,", ",../10032,", "subject_id is not a number of 8 digits in line 2: '../10032'"),
        ("metadata", "02aa804e-bde0afdd", "../../x", "dicom_id is not hexadecimal in line 2: '../../x'"),
        ("metadata", ",PA,", ",XX,", "ViewPosition is not one of PA, AP, blank, LATERAL"),
        ("metadata", "174413ec-4ec4c1f7", "aaaaaaaa", "dicom_id is not in mimic-cxr-2.0.0-split.csv.gz in line 3"),
        ("metadata", "174413ec-4ec4c1f7", "02aa804e-bde0afdd", "image is not named once in line 2"),
        ("chexpert", "-1.0", "x", "Pleural Effusion is not one of 1.0, 0.0, -1.0"),
        ("chexpert", "10000898,50771383", "10000032,50414267", "study_id is not named once in line 2"),
        ("split", "test", "exam", "split is not one of train, validate, test in line 4: 'exam'"),
        ("split", "174413ec-4ec4c1f7", "02aa804e-bde0afdd", "dicom_id is not named once in line 2"),
        ("split", "57375967,10000764,test", "57375967,10000764,train", None),
    ],
)
def test_what_is_wrong_in_mimic_is_named(
    tmp_path: Path, part: str, old: str, new: str, message: str | None
) -> None:
    files = Mimic()
    setattr(files, part, [line.replace(old, new) for line in getattr(files, part)])
    files.write(tmp_path)
    if message is None:
        assert set(external.read("mimic-cxr-jpg", tmp_path).table["split"]) == {"train_val"}
    else:
        assert message in refusal("mimic-cxr-jpg", tmp_path)


def test_a_mimic_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    files = Mimic()
    files.metadata[1] = files.metadata[1].replace("LATERAL", "AP")
    files.split[1] = files.split[1].replace("train", "test")
    assert "both train_val and test: 10000032" in refusal("mimic-cxr-jpg", files.write(tmp_path))


def test_radiologists_labels_of_release_2_1_0_beside_the_files_change_nothing(tmp_path: Path) -> None:
    Mimic().write(tmp_path)
    (tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id\n1\n")
    assert external.read("mimic-cxr-jpg", tmp_path).edition == "mimic-cxr-2.0.0-chexpert.csv.gz; uncertain = zeros"
