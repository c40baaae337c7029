"""Google's radiologist labels on a part of NIH's images: a table of their own, never mixed with NIH's.

Two studies, so that one image may have two opinions on one finding:
four_findings: Majkowska et al., Radiology 2019 (https://doi.org/10.1148/radiol.2019191293), adjudicated by
three radiologists, 1,962 official test and 2,414 train_val images; all_findings: Nabulsi et al., Scientific
Reports 2021 (https://arxiv.org/abs/2010.11375), majority of three, 810 official test images.

The files are looked for in the data folder and its `expert_labels/`, in `four_findings/` and `all_findings/`
or under the names with `_expert_labels` behind them, as they are distributed.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.rows import find, read_rows, refuse
from cxr.errors import InputError, first_ten
from cxr.findings import FINDINGS, SPELLINGS

STUDIES = {"four_findings": ("test_labels.csv", "validation_labels.csv"), "all_findings": ("test_labels.csv",)}
READERS = {"four_findings": "individual_readers.csv", "all_findings": "test_individual_readers.csv"}
# Not NIH's findings; `Airspace opacity` and `Nodule or mass` are wider than any of them.
OTHERS = ("Fracture", "Airspace opacity", "Nodule or mass", "Abnormal", "Other")
LABELS = (*FINDINGS, *OTHERS)
ASKED = {
    "four_findings": ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"),
    "all_findings": ("Abnormal", *FINDINGS, "Other"),
}

_NAMES = SPELLINGS | {"Image ID": "image", "Image Index": "image", "Patient ID": "patient_id",
                      "Nodule/mass": "Nodule or mass", "Reader ID": "reader"}  # fmt: skip
# `Abnormal` is YES / NO in one file and 1 / 0 in the other; only a single reader may HEDGE
_VALUES = {"YES": 1.0, "1": 1.0, "NO": 0.0, "0": 0.0, "": np.nan}
_READERS_VALUES = _VALUES | {"HEDGE": 0.5}


def read(folder: Path, cohort: pd.DataFrame) -> pd.DataFrame | None:
    """The final labels, one row an image and study; None where the folder has none.

    Columns: study, image, patient_id, then `LABELS`: 1 present, 0 absent, NaN not asked in that study. Rows of
    images that are not in the cohort are passed over. Raises InputError for a file that is not as published,
    or whose patient numbers are not the cohort's.
    """
    return _read(folder, cohort, STUDIES)


def read_readers(folder: Path, cohort: pd.DataFrame) -> pd.DataFrame | None:
    """What each radiologist said, one row an image, study and reader: as `read`, with a column `reader`.

    0.5 is a reader's HEDGE: uncertain whether present or absent.
    """
    return _read(folder, cohort, {study: (name,) for study, name in READERS.items()})


def _read(folder: Path, cohort: pd.DataFrame, files: dict[str, tuple[str, ...]]) -> pd.DataFrame | None:
    tables = [
        _read_file(path, study)
        for study, names in files.items()
        for name in names
        if (path := _find(folder, study, name)) is not None
    ]
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    columns = [name for name in ("study", "image", "patient_id", "reader") if name in table]
    table = table.reindex(columns=[*columns, *LABELS])
    known = table.merge(cohort[["image", "patient_id"]], on="image", suffixes=("", "_of_cohort"))
    other = known.loc[known["patient_id"] != known["patient_id_of_cohort"], "image"].tolist()
    if other:
        raise InputError(f"{folder}: expert labels and metadata differ in the patient of {first_ten(other)}.")
    return known.drop(columns="patient_id_of_cohort")


def _find(folder: Path, study: str, name: str) -> Path | None:
    places = [root / f"{study}{ending}" for root in (folder, folder / "expert_labels")
              for ending in ("", "_expert_labels")]  # fmt: skip
    return next((path for place in places if (path := find(place, name)) is not None), None)


def _read_file(path: Path, study: str) -> pd.DataFrame:
    raw = read_rows(path)
    raw = raw.rename(columns={name: _NAMES.get(name, name) for name in raw.columns})
    needed = ["image", "patient_id", *ASKED[study]]
    absent = [name for name in needed if list(raw.columns).count(name) != 1]
    if absent:
        raise InputError(f"{path}: columns {absent} are not there once; it has {list(raw.columns)}.")
    refuse(raw, ~raw["patient_id"].str.fullmatch(r"[0-9]{1,9}"), "patient_id", path, "a whole number")
    by_reader = "reader" in raw
    if not by_reader:  # one reader's opinion of one image may stand twice
        refuse(raw, raw["image"].duplicated(keep=False), "image", path, "each image once")
    values = _READERS_VALUES if by_reader else _VALUES
    for name in ASKED[study]:
        refuse(raw, ~raw[name].isin(values), name, path, "YES or NO")
        raw[name] = raw[name].map(values)
    kept = [*needed, *(["reader"] if by_reader else [])]
    return raw[kept].astype({"patient_id": "int64"}).assign(study=study)
