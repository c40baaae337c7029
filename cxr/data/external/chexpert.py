"""CheXpert and MIMIC-CXR-JPG: two sets that one labeller read out of reports, in one vocabulary of 14.

A report makes a label 1 (positive), 0 (negative), -1 (uncertain) or leaves it blank (not mentioned). Blank is
taken as 0, as in Table 1 of Irvin et al., where all that is neither positive nor uncertain counts as negative.
Uncertain is 0 with `uncertain="zeros"` (their U-Zeros) and 1 with "ones" (U-Ones): section 3.1. CheXpert's
valid.csv and test.csv are radiologists' readings and hold no -1.

Sources: Irvin et al., AAAI 2019, https://arxiv.org/abs/1901.07031; Johnson et al., 2019,
https://arxiv.org/abs/1901.07042 and https://physionet.org/content/mimic-cxr-jpg/2.1.0/
"""

from collections import Counter
from pathlib import Path

import pandas as pd

from cxr.data.cohort import Cohort
from cxr.data.external.intake import NO_VIEW, OTHER_VIEW, check_keys, gather, numbers, sift, worded, zeros_and_ones
from cxr.data.rows import find, read_rows, refuse
from cxr.errors import InputError, first_ten

# Their label -> ours.
LABELS = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Pleural Effusion": "Effusion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    # Theirs: none of their other labels but Support Devices is positive or uncertain. NIH's: none of NIH's 14.
    # So a broken rib alone is No Finding in NIH and not here; an AUROC of this class carries that difference.
    "No Finding": "No Finding",
}
# Their labels that are none of ours.
UNUSED = (
    "Enlarged Cardiomediastinum",  # the mediastinum too; the heart alone is Cardiomegaly
    "Lung Opacity",  # parent of Consolidation, Edema, Pneumonia, Atelectasis and Lung Lesion
    "Lung Lesion",  # Mass and Nodule in one, with cavities and tumours: neither of ours
    "Pleural Other",  # thickening, but also plaques, fibrothorax and scars
    "Fracture",
    "Support Devices",
)
# Ours that they say nothing of. Infiltration is not theirs: their labeller counts an infiltrate as Lung Opacity.
ABSENT = ("Infiltration", "Mass", "Nodule", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia")

_UNCERTAIN = {"zeros": 0.0, "ones": 1.0}

_CHEXPERT_SPLITS = {"train.csv": "train_val", "valid.csv": "test", "test.csv": "test"}
_CHEXPERT_PATH = (
    r"(?:(?P<version>CheXpert-[^/\\]+)/)?"  # before it stands the folder that they were packed in
    r"(?P<image>(?:train|valid|test)/(?P<patient_id>patient[0-9]+)/study(?P<study>[0-9]+)/[^/\\]+\.jpg)"
)
_SEXES = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
# LL and RL stand beside 17 images that are called frontal: one of the two columns is wrong, so they stay out.
_FRONTAL = {"AP": "AP", "PA": "PA", "": "", "LL": "other", "RL": "other"}

# All views of the set; a patient on the side (LLD, RLD) or tilted (AXIAL) is not a chest film as NIH has them.
_MIMIC_OTHERS = (
    *("LATERAL", "LL", "XTABLE LATERAL", "LAO", "RAO", "LPO", "RPO", "SWIMMERS", "L5 S1"),
    *("AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD"),
)
_MIMIC_VIEWS = {"PA": "PA", "AP": "AP", "": "", **dict.fromkeys(_MIMIC_OTHERS, "other")}
_MIMIC_SPLITS = {"train": "train_val", "validate": "train_val", "test": "test"}
_MIMIC_VERSIONS = ("2.1.0", "2.0.0")  # release 2.1.0 still names these three files 2.0.0


def read_chexpert(path: Path, *, uncertain: str = "zeros") -> Cohort:
    """CheXpert's frontal images, from its folder or the folder around it; resolution as unpacked.

    train.csv becomes train_val, valid.csv and test.csv become test; one of them is enough. follow_up is the
    number of the study. Age 0 stands where none was recorded and becomes NaN.
    """
    folder = chexpert_folder(path)
    files = [file for name in _CHEXPERT_SPLITS if (file := find(folder, name))]
    read = [_read_chexpert(file, uncertain) for file in files]
    left_out: Counter[str] = Counter()
    for _, _, left in read:
        left_out.update(left)
    version = next((version for _, version, _ in read if version), folder.name)
    return gather(
        [table for table, _, _ in read],
        dataset="chexpert",
        folder=folder,
        edition=f"{version}: {', '.join(file.name for file in files)}; uncertain = {uncertain}",
        left_out={reason: left_out[reason] for reason in (OTHER_VIEW,)},
        youngest=1.0,
    )


def chexpert_folder(path: Path) -> Path:
    """The folder with the CSV files: `path` or one of its folders."""
    inner = sorted(folder for folder in path.glob("CheXpert*") if folder.is_dir())
    found = [folder for folder in (path, *inner) if any(find(folder, name) for name in _CHEXPERT_SPLITS)]
    if not found:
        raise InputError(f"{path}: none of {', '.join(_CHEXPERT_SPLITS)} is there or in {path}/CheXpert*.")
    if len(found) > 1:
        raise InputError(f"{path}: CSV files in more than one folder, name one of them: {first_ten(found)}.")
    return found[0]


def _read_chexpert(path: Path, uncertain: str) -> tuple[pd.DataFrame, str, dict[str, int]]:
    """One CSV file: its table, the version in its paths, and what was left out."""
    raw = read_rows(path, ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS])
    parts = raw["Path"].str.extract(f"^{_CHEXPERT_PATH}$")
    expected = "a path such as CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    refuse(raw, parts["image"].isna(), "Path", path, expected)
    version = next(iter(parts["version"].dropna()), "")
    plane = worded(raw, "Frontal/Lateral", {"Frontal": "frontal", "Lateral": "other"}, path)
    view = worded(raw, "AP/PA", _FRONTAL, path)
    sex = worded(raw, "Sex", _SEXES, path)
    table = raw.assign(
        **parts[["image", "patient_id"]],
        age_years=numbers(raw, "Age", path, "years such as 57"),
        sex=sex,
        view=view,
        follow_up=parts["study"].astype("float64"),
        split=_CHEXPERT_SPLITS[path.name.removesuffix(".gz")],
        **_labels(raw, path, uncertain),
    )
    check_keys(table, path)
    table, left_out = sift(table, {OTHER_VIEW: (plane == "other") | (view == "other")})
    return table, version, left_out


def read_mimic(path: Path, *, uncertain: str = "zeros") -> Cohort:
    """MIMIC-CXR-JPG's PA and AP images from the folder that holds its CSV files and `files/`.

    train and validate become train_val. The labels are the CheXpert labeller's, one row a study. Age, sex and
    the number of the visit are not in these files.
    """
    metadata, labels_file, split_file = (_mimic_file(path, part) for part in ("metadata", "chexpert", "split"))
    raw = read_rows(metadata, ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    _check_mimic_ids(raw, metadata)
    refuse(raw, ~raw["dicom_id"].str.fullmatch(r"[0-9a-f]+(-[0-9a-f]+)*"), "dicom_id", metadata, "hexadecimal")
    study = _study(raw)
    table = raw.assign(
        image=study + "/" + raw["dicom_id"] + ".jpg",
        patient_id=raw["subject_id"],
        age_years=float("nan"),
        sex="",
        view=worded(raw, "ViewPosition", _MIMIC_VIEWS, metadata),
        follow_up=float("nan"),
        split=raw["dicom_id"].map(_mimic_splits(split_file)),
    )
    check_keys(table, metadata)
    refuse(table, table["split"].isna(), "dicom_id", metadata, f"in {split_file.name}")
    labels = _mimic_labels(labels_file, uncertain)
    reasons = {
        OTHER_VIEW: table["view"] == "other",
        NO_VIEW: table["view"] == "",
        "study without labels": ~study.isin(labels.index),  # 8 of 227,835 studies
    }
    table, left_out = sift(table, reasons)
    known = labels.reindex(study[table.index]).set_axis(table.index)
    return gather(
        [table.assign(**known)],
        dataset="mimic-cxr-jpg",
        folder=path,
        edition=f"{labels_file.name}; uncertain = {uncertain}",
        left_out=left_out,
    )


def _mimic_file(folder: Path, part: str) -> Path:
    names = [f"mimic-cxr-{version}-{part}.csv" for version in _MIMIC_VERSIONS]
    path = find(folder, *names)
    if path is None:
        raise InputError(f"{folder}: neither {' nor '.join(names)} is there, plain or .gz.")
    return path


def _check_mimic_ids(raw: pd.DataFrame, path: Path) -> None:
    for column in ("subject_id", "study_id"):
        refuse(raw, ~raw[column].str.fullmatch(r"[0-9]{8}"), column, path, "a number of 8 digits")


def _study(raw: pd.DataFrame) -> pd.Series:
    """Where a study's images are: its key in every file."""
    subject = raw["subject_id"]
    return "files/p" + subject.str[:2] + "/p" + subject + "/s" + raw["study_id"]


def _mimic_splits(path: Path) -> pd.Series:
    """train_val or test, by dicom_id."""
    raw = read_rows(path, ["dicom_id", "split"])
    refuse(raw, raw["dicom_id"].duplicated(keep=False), "dicom_id", path, "named once")
    return worded(raw, "split", _MIMIC_SPLITS, path).set_axis(raw["dicom_id"])


def _mimic_labels(path: Path, uncertain: str) -> pd.DataFrame:
    """Our classes, by study."""
    raw = read_rows(path, ["subject_id", "study_id", *LABELS])
    _check_mimic_ids(raw, path)
    refuse(raw, raw["study_id"].duplicated(keep=False), "study_id", path, "named once")
    return pd.DataFrame(_labels(raw, path, uncertain)).set_axis(_study(raw))


def _labels(raw: pd.DataFrame, path: Path, uncertain: str) -> dict[str, pd.Series]:
    doubt = _UNCERTAIN[uncertain]
    values = {"1.0": 1.0, "0.0": 0.0, "-1.0": doubt, "1": 1.0, "0": 0.0, "-1": doubt, "": 0.0}
    return {ours: zeros_and_ones(raw, theirs, path, values) for theirs, ours in LABELS.items()}
