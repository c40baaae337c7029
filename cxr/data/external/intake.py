"""What the readers of other sets share: leaving rows out, checking the rest, and one cohort at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.cohort import COLUMNS, OLDEST, Cohort, ordered
from cxr.data.rows import refuse
from cxr.errors import InputError, first_ten
from cxr.findings import CLASSES

OTHER_VIEW = "lateral or other view"
NO_VIEW = "view not stated"
NOTHING_SAID = "nothing said of our classes"

# Spreadsheets and pandas write long numbers so, and all patients whose numbers begin alike become one.
_ROUNDED = r"[0-9]+(\.[0-9]+)?[eE]\+[0-9]+"


def sift(raw: pd.DataFrame, reasons: Mapping[str, pd.Series]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows that no reason leaves out, and how many each reason does; a row counts for its first reason."""
    kept = pd.Series(True, index=raw.index)
    left_out = {}
    for reason, rows in reasons.items():
        left_out[reason] = int((kept & rows).sum())
        kept &= ~rows
    return raw[kept], left_out


def worded(raw: pd.DataFrame, column: str, words: Mapping[str, str], path: Path) -> pd.Series:
    """A column in our words; a cell that is none of theirs is refused."""
    said = ", ".join(word or "blank" for word in words)
    refuse(raw, ~raw[column].isin(list(words)), column, path, f"one of {said}")
    return raw[column].map(dict(words))


def numbers(raw: pd.DataFrame, column: str, path: Path, expected: str) -> pd.Series:
    """A column as numbers of at least 0, NaN where it is blank."""
    cells = raw[column]
    refuse(raw, ~cells.str.fullmatch(r"([0-9]+(\.[0-9]*)?)?"), column, path, f"{expected}, or blank")
    return pd.to_numeric(cells.mask(cells == "")).astype("float64")


def zeros_and_ones(raw: pd.DataFrame, column: str, path: Path, values: Mapping[str, float]) -> pd.Series:
    """A label column: 1.0, 0.0 or NaN, by what each spelling is worth."""
    spelled = ", ".join(spelling or "blank" for spelling in values)
    refuse(raw, ~raw[column].isin(list(values)), column, path, f"one of {spelled}")
    return raw[column].map(dict(values)).astype("float64")


def check_keys(raw: pd.DataFrame, path: Path) -> None:
    """Refuse images that leave the folder or come twice, and patients that cannot be told apart."""
    images, patients = raw["image"], raw["patient_id"]
    inside = images.str.fullmatch(r"[^/\\]+(/[^/\\]+)*") & ~images.str.contains(r"(?:^|/)\.{1,2}(?:/|$)|^\w:")
    refuse(raw, ~inside, "image", path, "a path inside the folder, with /")
    for column in ("image", "patient_id"):  # an open quote swallows the rows up to the next one
        refuse(raw, raw[column].str.contains(r"[\x00-\x1f\x7f\u200b-\u200f\ufeff]"), column, path, "plain text")
    refuse(raw, images.duplicated(keep=False), "image", path, "named once")
    refuse(raw, patients == "", "patient_id", path, "given")
    refuse(raw, patients.str.fullmatch(_ROUNDED), "patient_id", path, "a whole id, but rounded by other software,")


def gather(
    tables: Sequence[pd.DataFrame],
    *,
    dataset: str,
    folder: Path,
    edition: str,
    left_out: Mapping[str, int],
    youngest: float = 0.0,
) -> Cohort:
    """One external cohort of what was read; classes that no table has are NaN throughout.

    Ages under `youngest` or over OLDEST years become NaN and are flagged as `implausible_ages`.
    Raises InputError where nothing is left, or where an image comes twice or a patient is on both sides.
    """
    table = pd.concat(tables, ignore_index=True)
    if table.empty:
        raise InputError(f"{folder}: no usable row in {edition}. Left out: {dict(left_out)}.")
    if not table.reindex(columns=list(CLASSES)).notna().any(axis=None):
        raise InputError(f"{folder}: no image is labelled in any of our classes in {edition}.")
    twice = table.loc[table["image"].duplicated(), "image"].tolist()
    if twice:
        raise InputError(f"{folder}: images in two of the files {edition}: {first_ten(twice)}.")
    sides = table.groupby("patient_id")["split"].nunique()
    shared = sides.index[sides > 1].tolist()
    if shared:
        raise InputError(f"{folder}: patients with images in both train_val and test: {first_ten(shared)}.")
    absent = {name: np.nan for name in CLASSES if name not in table}
    years = table["age_years"]
    implausible = (years < youngest) | (years > OLDEST)
    table = table.assign(**absent, age_years=years.mask(implausible), implausible_ages=implausible)
    table = table.sort_values("image", ignore_index=True)
    assert set(COLUMNS) < set(table.columns)
    return Cohort(
        table=ordered(table),
        folder=folder,
        dataset=dataset,
        edition=edition,
        scope="external",
        left_out=dict(left_out),
        flags=table[["implausible_ages"]],
    )
