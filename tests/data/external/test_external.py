"""Other sets: whatever the set, the table has one shape, and everything that is wrong is said where it is read."""

import gzip
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cxr.data import external
from cxr.data.cohort import COLUMNS, digest
from cxr.data.external import chexpert, covid_chestxray, own_csv, padchest
from cxr.errors import InputError
from cxr.findings import CLASSES, FINDINGS

CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices\n"
)
MIMIC = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices\n"
)
# One sound row or two of each kind, and which classes are known there.
FILES = {
    "chexpert": {
        "train.csv": (
            f"{CHEXPERT}CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,"
            "Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0\n"
        ),
    },
    "mimic-cxr-jpg": {
        "mimic-cxr-2.0.0-metadata.csv": "dicom_id,subject_id,study_id,ViewPosition\n02aa,10000032,50414267,PA\n",
        "mimic-cxr-2.0.0-chexpert.csv": f"subject_id,study_id,{MIMIC}10000032,50414267,,,,,,,,,1.0,,,,,\n",
        "mimic-cxr-2.0.0-split.csv": "dicom_id,study_id,subject_id,split\n02aa,50414267,10000032,test\n",
    },
    "padchest": {
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": (
            ",ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels\n"
            "0,a.png,3,20140915,839860488694292331637988235681460987,1930.0,M,PA,\"['normal']\"\n"
        ),
    },
    "covid-chestxray": {
        "metadata.csv": (
            "patientid,sex,age,offset,finding,view,modality,folder,filename\n"
            "2,M,65,0,COVID-19,PA,X-ray,images,a.jpg\n"
        ),
    },
    "csv": {"ward.csv": "image,patient_id,Effusion,No Finding\nx/a.png,A-1,1,0\n"},
}
ABSENT = {
    "chexpert": chexpert.ABSENT,
    "mimic-cxr-jpg": chexpert.ABSENT,
    "padchest": padchest.ABSENT,
    "covid-chestxray": covid_chestxray.ABSENT,
    "csv": tuple(name for name in CLASSES if name not in ("Effusion", "No Finding")),
}
KINDS = tuple(external.READERS)


def written(folder: Path, kind: str) -> Path:
    """What is given to the reader."""
    folder.mkdir(exist_ok=True)
    for name, text in FILES[kind].items():
        (folder / name).write_text(text)
    return folder / "ward.csv" if kind == "csv" else folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_gives_the_same_table(tmp_path: Path, kind: str) -> None:
    cohort = external.read(kind, written(tmp_path, kind))
    table = cohort.table
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 1
    assert cohort.scope == "external"
    assert cohort.dataset == ("ward" if kind == "csv" else kind)
    assert any(name in cohort.edition for name in FILES[kind])
    assert cohort.folder == tmp_path
    assert list(cohort.flags.columns) == ["implausible_ages"]
    assert cohort.flags["implausible_ages"].dtype == bool
    assert len(cohort.flags) == len(table)
    for name in ("image", "patient_id", "sex", "view", "split"):
        assert isinstance(table.loc[0, name], str)
    for name in CLASSES:
        assert table[name].dtype == np.float64
        assert table[name].isin([0.0, 1.0]).sum() == (name not in ABSENT[kind])
        assert table[name].isna().all() == (name in ABSENT[kind])
    assert digest(table) == digest(external.read(kind, written(tmp_path, kind)).table)


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_files_are_the_same_files(tmp_path: Path, kind: str) -> None:
    plain = external.read(kind, written(tmp_path / "plain", kind))
    packed = tmp_path / "packed"
    packed.mkdir()
    for name, text in FILES[kind].items():
        (packed / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    given = packed / "ward.csv.gz" if kind == "csv" else packed
    assert digest(external.read(kind, given).table) == digest(plain.table)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_archive_is_named(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    name = next(iter(FILES[kind]))
    (tmp_path / name).unlink()
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(FILES[kind][name].encode())[:-12])
    with pytest.raises(InputError, match=r"cannot be read as CSV"):
        external.read(kind, Path(f"{path}.gz") if kind == "csv" else path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_is_named(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    name, text = next(iter(FILES[kind].items()))
    header, rest = text.split("\n", 1)
    gone = [column for column in header.split(",") if column][1]
    (tmp_path / name).write_text(header.replace(gone, "Other", 1) + "\n" + rest)
    with pytest.raises(InputError, match=rf"{name}: columns .*({gone}|Other)"):
        external.read(kind, path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ["one,cell\n", ",".join("x" * 40) + "\n"])
def test_a_row_of_too_few_or_too_many_cells_is_named_by_its_line(tmp_path: Path, kind: str, row: str) -> None:
    path = written(tmp_path, kind)
    name, text = next(iter(FILES[kind].items()))
    (tmp_path / name).write_text(text + "\n\n" + row)
    line = text.count("\n") + 3
    with pytest.raises(InputError, match=rf"{name}: rows have \d+ cells, but not in line {line}: "):
        external.read(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_does_not_exist_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"nowhere: there is no such (folder|file)"):
        external.read(kind, tmp_path / "nowhere")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "csv"])
def test_an_empty_folder_says_what_is_expected(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"train\.csv|metadata\.csv|PADCHEST_|mimic-cxr-2\.0\.0"):
        external.read(kind, tmp_path)


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"vindr: not a kind of data\. Known are chexpert, mimic-cxr-jpg, padchest"
    ):
        external.read("vindr", tmp_path)


def test_uncertain_is_refused_where_it_is_misspelt_or_would_change_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="uncertain=ignore: expected zeros or ones"):
        external.read("chexpert", written(tmp_path, "chexpert"), uncertain="ignore")
    with pytest.raises(InputError, match="padchest has no uncertain labels"):
        external.read("padchest", written(tmp_path, "padchest"), uncertain="ones")


@pytest.mark.parametrize("module", [chexpert, padchest, covid_chestxray])
def test_each_mapping_names_our_classes_and_covers_all_of_them(module: ModuleType) -> None:
    targets = list(module.LABELS.values()) if isinstance(module.LABELS, dict) else list(module.LABELS)
    known = {name for target in targets for name in ([target] if isinstance(target, str) else target)}
    assert known <= set(CLASSES)
    assert known | set(module.ABSENT) == set(CLASSES)
    assert not known & set(module.ABSENT)


def test_chexpert_labels_are_all_decided_on() -> None:
    theirs = set(MIMIC.strip().split(","))
    assert theirs == set(CHEXPERT.strip().split(",")[5:])
    assert set(chexpert.LABELS) | set(chexpert.UNUSED) == theirs
    assert not set(chexpert.LABELS) & set(chexpert.UNUSED)


def test_every_set_name_is_reserved() -> None:
    assert {"phantom", "nih", *external.READERS} == set(own_csv.RESERVED)


def test_real_covid_files(real_data: Path) -> None:
    cohort = external.read("covid-chestxray", real_data / "external/covid-chestxray")
    table = cohort.table
    assert len(table) == 46
    assert table["patient_id"].nunique() == 31
    assert {"331a", "331b"} <= set(table["patient_id"])
    assert table["view"].value_counts().to_dict() == {"PA": 44, "AP": 2}
    assert table["Pneumonia"].value_counts().to_dict() == {1.0: 42, 0.0: 3}
    assert table["No Finding"].value_counts().to_dict() == {0.0: 43, 1.0: 3}
    assert table.loc[table["Pneumonia"].isna(), "image"].tolist() == ["images/ARDSSevere.png"]
    assert table[list(FINDINGS)].drop(columns="Pneumonia").isna().all(axis=None)
    assert all((cohort.folder / image).is_file() for image in table["image"])
    assert sum(cohort.left_out.values()) == 0
    assert not cohort.flags.any(axis=None)
