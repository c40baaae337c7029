"""The cohort: one checked table, whatever set it came from, and what a reader of its numbers must know.

Columns, in this order: image (the file's name, or its path inside the folder), patient_id, age_years (NaN
where unknown), sex (M | F | empty), view (PA | AP | empty), follow_up (NaN where unknown), split (train_val |
test), then one column for each of the 15 classes, named as NIH names them: 1, 0, or NaN where the set says
nothing about that class. Rows are sorted by image, so that equal content digests equally.

Everything wrong with a set's files is said by its reader, once: nothing downstream checks again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.errors import InputError, first_ten
from cxr.findings import CLASSES

ABOUT = ("age_years", "sex", "view", "follow_up")  # patient and picture, beside labels
COLUMNS = ("image", "patient_id", *ABOUT, "split", *CLASSES)

# What numbers on a cohort can be compared with.
SCOPES = (
    "phantom",  # drawings
    "sample",  # a part of NIH's images, split by the official lists
    "custom",  # NIH's images with lists or labels that are not NIH's
    "random-patient",  # NIH's images, split by patient at random
    "external",  # another set than NIH's
    "official",  # all of NIH's images, its lists and its labels
)
NIH_IMAGES = 112_120  # in the whole set
OLDEST = 120.0  # years; NIH's 2017 edition holds ages such as 411


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A checked table, the folder it came from, and what was found and dealt with on the way."""

    table: pd.DataFrame
    folder: Path
    dataset: str  # nih | phantom | chexpert | mimic-cxr-jpg | padchest | covid-chestxray | a user's CSV's name
    edition: str  # which version of the set's tables
    scope: str
    left_out: Mapping[str, int] = field(default_factory=dict)  # why rows did not come in -> how many
    # per row of the table, True where something was found and dealt with: counted after rows are left out
    flags: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def is_phantom(self) -> bool:
        """Whether these are drawings."""
        return self.scope == "phantom"

    @property
    def metrics(self) -> dict[str, float]:
        """What was found and dealt with, as counts."""
        left_out = {f"split/left_out/{reason.replace(' ', '_')}": n for reason, n in self.left_out.items()}
        return {**left_out, **{f"split/{name}": int(rows.sum()) for name, rows in self.flags.items()}}

    def describe(self) -> str:
        """One line on what this cohort is, for figures and run descriptions."""
        size = f"{len(self.table):,} images of {self.table['patient_id'].nunique():,} patients"
        out = "".join(f"; {count:,} left out: {reason}" for reason, count in self.left_out.items() if count)
        if self.scope == "phantom":
            return f"Drawn phantom, not X-rays: {size}; its numbers say nothing about real X-rays"
        if self.scope == "external":
            return f"{self.dataset} ({self.edition}): {size}{out}"
        kinds = {
            "sample": "A sample of ",
            "custom": "Not as NIH publishes it: ",
            "random-patient": "Split at random: ",
        }
        if self.scope == "random-patient" and len(self.table) < NIH_IMAGES:
            kinds["random-patient"] += "a sample of "
        return f"{kinds.get(self.scope, '')}NIH ChestX-ray14 ({self.edition}): {size}{out}"

    def keep(self, rows: pd.Series, reason: str = "") -> "Cohort":
        """The cohort with the rows where `rows` is True; the others are counted under `reason`, if one is given.

        A part of NIH's official set is a sample of it.
        """
        left_out = dict(self.left_out)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + int((~rows).sum())
        return replace(
            self,
            table=self.table[rows].reset_index(drop=True),
            scope="sample" if self.scope == "official" and not rows.all() else self.scope,
            flags=self.flags[rows.to_numpy()].reset_index(drop=True) if len(self.flags.columns) else self.flags,
            left_out=left_out,
        )


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """One column order and one row order, whatever file the rows came from."""
    return table[list(COLUMNS)].sort_values("image", ignore_index=True)


def limited(cohort: Cohort, patients: int | None) -> Cohort:
    """The first N patients, by number or name; None keeps all."""
    if patients is None:
        return cohort
    kept = np.sort(cohort.table["patient_id"].unique())[:patients]
    return cohort.keep(cohort.table["patient_id"].isin(kept))


def require_images(cohort: Cohort, policy: str, files: Mapping[str, Path]) -> Cohort:
    """Hold the cohort against the files on disk: `all` refuses a missing one, `present` leaves its row out."""
    found = cohort.table["image"].isin(files.keys())
    missing = cohort.table.loc[~found, "image"].tolist()
    if policy == "all" and missing:
        raise InputError(
            f"{len(missing):,} of {len(found):,} images are not in {cohort.folder}: {first_ten(missing)}. "
            "images=present keeps the rows whose file exists."
        )
    if not found.any():
        raise InputError(f"images=present: none of the {len(found):,} images is in {cohort.folder}.")
    return cohort.keep(found, "no file")


def digest(table: pd.DataFrame) -> str:
    """16 hexadecimal digits over every cell of a cohort table, in its order."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def patient_digest(dataset: str, patient: object) -> str:
    """16 hexadecimal digits of SHA-256 over `dataset:patient_id`.

    They tell whether a model has seen a patient, without the patient's number leaving with the model.
    """
    return hashlib.sha256(f"{dataset}:{patient}".encode()).hexdigest()[:16]
