"""A user's own images: one CSV file beside them.

    image,patient_id,age_years,sex,view,split,Effusion,Nodule
    ward3/0001.png,A-17,63,F,PA,test,1,0
    ward3/0002.png,A-18,,,,test,0,

| column | | says |
|---|---|---|
| image | required | path of the file, relative to the CSV's folder, with `/` |
| patient_id | required | any text; all images of a patient carry the same |
| age_years | optional | years, or blank |
| sex | optional | M, F or blank |
| view | optional | PA, AP or blank |
| follow_up | optional | whole number of the visit, or blank |
| split | optional | train_val or test, for every row; a patient is on one side |
| a class, as NIH names it | at least one | 1, 0, or blank where nothing is known |

Other columns are refused: a misspelt finding must not become one that the file says nothing of. The file's
name, without .csv, is the dataset's name.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.cohort import Cohort
from cxr.data.external.intake import check_keys, gather, numbers, worded, zeros_and_ones
from cxr.data.rows import read_rows, refuse
from cxr.errors import InputError
from cxr.findings import CLASSES, FINDINGS, NO_FINDING

REQUIRED = ("image", "patient_id")
OPTIONAL = ("age_years", "sex", "view", "follow_up", "split")

# Names that say what data is: figures and versions made of a user's file must not bear them.
RESERVED = ("phantom", "nih", "chexpert", "mimic-cxr-jpg", "padchest", "covid-chestxray", "csv")

_LABELS = {"1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "": np.nan}


def read_own_csv(path: Path) -> Cohort:
    """A user's CSV file in the columns above; `folder` is the one that it lies in."""
    name = name_of(path)
    raw = read_rows(path)
    classes = _classes(raw, path)
    raw = raw.reindex(columns=[*REQUIRED, *OPTIONAL, *classes], fill_value="")
    check_keys(raw, path)
    refuse(raw, ~raw["follow_up"].str.fullmatch(r"[0-9]{0,9}"), "follow_up", path, "a whole number or blank")
    if (raw["split"] != "").any():
        refuse(
            raw, ~raw["split"].isin(["train_val", "test"]), "split", path, "train_val or test, as in other rows,"
        )
    table = raw.assign(
        age_years=numbers(raw, "age_years", path, "years such as 57"),
        sex=worded(raw, "sex", {"M": "M", "F": "F", "": ""}, path),
        view=worded(raw, "view", {"PA": "PA", "AP": "AP", "": ""}, path),
        follow_up=numbers(raw, "follow_up", path, "a whole number"),
        **{column: zeros_and_ones(raw, column, path, _LABELS) for column in classes},
    )
    if NO_FINDING in classes:
        found = (table[[column for column in FINDINGS if column in classes]] == 1).any(axis=1)
        refuse(raw, found & (table[NO_FINDING] == 1), NO_FINDING, path, "0 or blank beside a finding")
    return gather([table], dataset=name, folder=path.parent, edition=path.name, left_out={})


def name_of(path: Path) -> str:
    """The dataset's name: it goes into runs, tags and file names."""
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not name.strip("."):
        raise InputError(f"{path}: the file's name names the dataset; letters, digits and _ . - are expected.")
    if name.lower() in RESERVED:
        raise InputError(f"{path}: the file's name names the dataset, and {name} means another. Rename the file.")
    return name


def _classes(raw: pd.DataFrame, path: Path) -> list[str]:
    known = (*REQUIRED, *OPTIONAL, *CLASSES)
    unknown = [column for column in raw.columns if column not in known]
    if unknown:
        raise InputError(f"{path}: columns {unknown} are not known. Known are: {', '.join(known)}.")
    absent = [column for column in REQUIRED if column not in raw.columns]
    if absent:
        raise InputError(f"{path}: columns {absent} are missing; it has {list(raw.columns)}.")
    classes = [name for name in CLASSES if name in raw.columns]
    if not classes:
        raise InputError(f"{path}: no column of a class. At least one is expected of {', '.join(CLASSES)}.")
    return classes
