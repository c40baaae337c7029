"""PadChest: Spanish reports under some 190 labels, of which a table says which are ours.

The labels form a tree, and a node's children are kinds of it. The tree decides here, except where a comment
says otherwise. 27 % of the reports were labelled by hand, the others by a network trained on those.

Sources: Bustos et al., Medical Image Analysis 2020, https://arxiv.org/abs/1901.07441; the tree:
https://github.com/auriml/Rx-thorax-automatic-captioning/blob/master/manual_review/trees_code.txt
"""

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.cohort import Cohort
from cxr.data.external.intake import NO_VIEW, NOTHING_SAID, OTHER_VIEW, check_keys, gather, sift, worded
from cxr.data.rows import read_rows, refuse
from cxr.errors import InputError, first_ten
from cxr.findings import FINDINGS, NO_FINDING

# Their label -> ours.
LABELS: dict[str, tuple[str, ...]] = {
    "atelectasis": ("Atelectasis",),
    "total atelectasis": ("Atelectasis",),
    "lobar atelectasis": ("Atelectasis",),
    "segmental atelectasis": ("Atelectasis",),
    "laminar atelectasis": ("Atelectasis",),
    "round atelectasis": ("Atelectasis",),
    "atelectasis basal": ("Atelectasis",),
    "cardiomegaly": ("Cardiomegaly",),
    "pleural effusion": ("Effusion",),
    "loculated pleural effusion": ("Effusion",),
    "loculated fissural effusion": ("Effusion",),
    "empyema": ("Effusion",),  # pus, in the tree a kind of pleural effusion
    "hemothorax": ("Effusion",),  # blood, likewise
    "hydropneumothorax": ("Effusion", "Pneumothorax"),  # below both in the tree
    # Judgement: NIH's Infiltration is the report's word "infiltrate", which the tree divides into patterns.
    "infiltrates": ("Infiltration",),
    "interstitial pattern": ("Infiltration",),
    "ground glass pattern": ("Infiltration",),
    "reticular interstitial pattern": ("Infiltration",),
    "reticulonodular interstitial pattern": ("Infiltration",),
    "miliary opacities": ("Infiltration",),
    "alveolar pattern": ("Infiltration",),
    # Judgement: in the tree these two are kinds of infiltrates too, but NIH keeps Consolidation apart.
    "consolidation": ("Consolidation",),
    "air bronchogram": ("Consolidation",),
    # Judgement: masses inside the chest; those of the breast and of soft tissue are not.
    "mass": ("Mass",),
    "pulmonary mass": ("Mass",),
    "pleural mass": ("Mass",),
    "mediastinal mass": ("Mass",),
    "nodule": ("Nodule",),
    "multiple nodules": ("Nodule",),
    "pneumonia": ("Pneumonia",),
    "atypical pneumonia": ("Pneumonia",),
    "viral pneumonia": ("Pneumonia",),
    "pneumothorax": ("Pneumothorax",),
    "pulmonary edema": ("Edema",),
    "emphysema": ("Emphysema",),
    "pulmonary fibrosis": ("Fibrosis",),
    "post radiotherapy changes": ("Fibrosis",),  # a kind of pulmonary fibrosis in the tree
    "asbestosis signs": ("Fibrosis",),  # likewise
    "pleural thickening": ("Pleural_Thickening",),
    "apical pleural thickening": ("Pleural_Thickening",),
    "calcified pleural thickening": ("Pleural_Thickening",),
    "hiatal hernia": ("Hernia",),  # the only hernia in the tree
    "normal": (NO_FINDING,),
}
ABSENT: tuple[str, ...] = ()  # all 15 are known

# Their labels that sound like ours and are not. A label that sounds like ours and stands in neither table is
# refused. The other labels (devices, bones, the aorta ...) count as none of ours; close ones among them are
# costophrenic angle blunting, bullas, COPD signs, fibrotic band, granuloma, pleural plaques and kerley lines.
NOT_OURS = (
    "pericardial effusion",
    "subcutaneous emphysema",  # air under the skin
    "pseudonodule",  # nipples and vessels seen end on
    "breast mass",
    "soft tissue mass",
)
_OURS_IN_WORDS = (
    r"atelecta|cardiomegaly|effusion|infiltrat|consolidation|\bmass|nodul|pneumonia|thorax|edema|emphysema"
    r"|fibrosis|pleural thickening|hernia"
)

# Labels about the report, not about the chest.
_EXCLUDE, _SUBOPTIMAL, _UNCHANGED = "exclude", "suboptimal study", "unchanged"

_VIEWS = {
    "PA": "PA",
    "AP": "AP",
    "AP_horizontal": "AP",
    "": "",
    **dict.fromkeys(("L", "COSTAL", "EXCLUDE"), "other"),
}
_SEXES = {"M": "M", "F": "F", "": "", "O": "", "U": "", "None": "", "nan": ""}  # DICOM also knows O, other
_COLUMNS = (
    *("ImageID", "ImageDir", "StudyDate_DICOM", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("Projection", "Labels"),
)


def read_padchest(path: Path) -> Cohort:
    """PadChest's PA and AP images from the folder that holds PADCHEST_*.csv and the folders 0, 1, 2 ...

    The set has no split of its own. Age is the year of the study minus the year of birth.
    """
    file = _find(path)
    raw = read_rows(file, _COLUMNS)
    refuse(raw, ~raw["ImageDir"].str.fullmatch(r"[0-9]+"), "ImageDir", file, "the number of a folder")
    refuse(raw, ~raw["ImageID"].str.fullmatch(r"[^/\\]+\.png"), "ImageID", file, "a PNG file name")
    codes, said = _parse(raw, file)
    table = raw.assign(
        image=raw["ImageDir"] + "/" + raw["ImageID"],
        patient_id=raw["PatientID"],
        age_years=_year(raw, "StudyDate_DICOM", r"(?:[0-9]{4})?", file)
        - _year(raw, "PatientBirth", r"(?:\.0*)?", file),
        sex=worded(raw, "PatientSex_DICOM", _SEXES, file),
        view=worded(raw, "Projection", _VIEWS, file),
        follow_up=float("nan"),
        split="",
        **_labels(codes, said),
    )

    def saying(label: str) -> pd.Series:
        return pd.Series(np.array([label in labels for labels in said])[codes], index=raw.index)

    silent = np.array([labels <= {_UNCHANGED} for labels in said])[codes]
    reasons = {
        OTHER_VIEW: table["view"] == "other",
        NO_VIEW: table["view"] == "",
        "excluded by the set": saying(_EXCLUDE),
        "suboptimal study": saying(_SUBOPTIMAL),
        NOTHING_SAID: pd.Series(silent, index=raw.index),
    }
    table, left_out = sift(table, reasons)
    check_keys(table, file)
    return gather([table], dataset="padchest", folder=path, edition=file.name, left_out=left_out)


def _find(folder: Path) -> Path:
    found = sorted(file for file in folder.glob("PADCHEST_*") if file.name.endswith((".csv", ".csv.gz")))
    if len(found) != 1:
        name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
        raise InputError(
            f"{folder}: one file such as {name}, plain or .gz, is expected there; found {first_ten(found)}."
        )
    return found[0]


def _year(raw: pd.DataFrame, column: str, rest: str, path: Path) -> pd.Series:
    """The year that a cell begins with; NaN where it is blank."""
    years = raw[column].str.extract(rf"^([0-9]{{4}}){rest}$")[0]
    refuse(raw, years.isna() & (raw[column] != ""), column, path, "a year or a date such as 20140915, or blank")
    return years.astype("float64")


def _parse(raw: pd.DataFrame, path: Path) -> tuple[np.ndarray, list[frozenset[str]]]:
    """Which distinct list each row has, and the lists."""
    codes, texts = pd.factorize(raw["Labels"])
    parsed = [_labels_in(text) for text in texts]
    bad = np.array([labels is None for labels in parsed])[codes]
    refuse(raw, pd.Series(bad, index=raw.index), "Labels", path, "a list such as ['nodule', 'normal'], or blank")
    said = [labels or frozenset() for labels in parsed]
    unknown = [sorted(label for label in labels if _sounds_like_ours(label)) for labels in said]
    strange = pd.Series(np.array([bool(labels) for labels in unknown])[codes], index=raw.index)
    refuse(raw, strange, "Labels", path, "in the set's vocabulary, as far as it sounds like ours,")
    return codes, said


def _labels_in(text: str) -> frozenset[str] | None:
    """The labels of one printed list, without stray spaces and empty names; None where it is no such list."""
    try:
        # a missing label is printed as nan, with quotes or without
        found = (
            ast.literal_eval(re.sub(r"(?<=[\[,])\s*nan\s*(?=[\],])", "''", text))
            if text not in ("", "nan")
            else []
        )
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        return None
    return frozenset(" ".join(label.split()) for label in found) - {"", "nan"}


def _sounds_like_ours(label: str) -> bool:
    return label not in LABELS and label not in NOT_OURS and re.search(_OURS_IN_WORDS, label, re.I) is not None


def _labels(codes: np.ndarray, said: list[frozenset[str]]) -> dict[str, np.ndarray]:
    """Our classes.

    A report that says `unchanged` leans on an earlier one: what it does not name may still be there, so that
    is NaN. No Finding is 1 for `normal`, 0 beside a finding of ours, and NaN where something else was found
    (a bent spine, a pacemaker): theirs is not normal, NIH would write No Finding.
    """
    ours = [{name for label in labels for name in LABELS.get(label, ())} for labels in said]
    values = np.array([[float(name in names) for name in FINDINGS] for names in ours]).reshape(-1, len(FINDINGS))
    normal = np.array([NO_FINDING in names for names in ours], dtype=bool)
    unchanged = np.array([_UNCHANGED in labels for labels in said], dtype=bool)
    found = (values == 1).any(axis=1)
    values[(unchanged & ~normal)[:, None] & (values == 0)] = np.nan
    no_finding = np.where(found, 0.0, np.where(normal, 1.0, np.nan))
    return {name: values[codes, at] for at, name in enumerate(FINDINGS)} | {NO_FINDING: no_finding[codes]}
