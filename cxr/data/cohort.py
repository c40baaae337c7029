"""NIH ChestX-ray14's metadata, lists and image folders -> one checked table.

The folder is in NIH's own layout: `Data_Entry_2017_v2020.csv` (or the first edition,
`Data_Entry_2017.csv`; plain or .gz), `train_val_list.txt`, `test_list.txt`, and the PNG files in
`images/` or `images_001/images/`, `images_002/images/` ... Everything wrong with a file is said here,
once, so that nothing downstream checks again.

Columns: image, patient_id, age_years, sex, view, follow_up, split (train_val | test), then one 0/1
column for each of the 15 classes, named as NIH names them.

Source: Wang et al., CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC
"""

import hashlib
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from cxr.errors import InputError, first_ten
from cxr.findings import CLASSES, NO_FINDING

EDITIONS = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")  # the newer one is taken where both are
LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
PHANTOM_NOTE = "PHANTOM.txt"  # its presence makes a folder's numbers say nothing about real X-rays

# SHA-256 of NIH's sorted image names, joined by newlines: 86,524 and 25,596 of them. A list in wide use
# bears the official file name and holds other images.
OFFICIAL_DIGESTS = {
    "train_val": "61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81",
    "test": "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc",
}

_COLUMNS = {
    "Image Index": "image",
    "Finding Labels": "labels",
    "Follow-up #": "follow_up",
    "Patient ID": "patient_id",
    "Patient Age": "age_years",
    "Patient Gender": "sex",
    "View Position": "view",
}
_UNITS_A_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "D": 365.25}
_OLDEST = 120.0  # years; the 2017 edition holds ages such as 411


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A checked table, the folder it came from, and what a reader of its numbers must know."""

    table: pd.DataFrame
    folder: Path
    edition: str
    phantom: bool
    missing_images: int = 0  # rows dropped because `images=present` found no file for them
    implausible_ages: int = 0  # ages over 120 years, set to missing

    @property
    def name(self) -> str:
        """The dataset's name in runs and versions."""
        return "phantom" if self.phantom else "nih"

    @property
    def scope(self) -> str:
        """What numbers on it can be compared with: phantom | sample | official."""
        if self.phantom:
            return "phantom"
        return "official" if is_official(self.table) else "sample"

    @property
    def metrics(self) -> dict[str, float]:
        """What was found wrong and dealt with, as counts."""
        return {
            "split/missing_images": self.missing_images,
            "split/implausible_ages": self.implausible_ages,
        }

    def describe(self) -> str:
        """One line on what this cohort is, for figures and run descriptions."""
        patients = self.table["patient_id"].nunique()
        size = f"{len(self.table):,} images of {patients:,} patients"
        if self.phantom:
            return f"Drawn phantom, not X-rays: {size}; its numbers say nothing about real X-rays"
        dropped = f"; {self.missing_images:,} without a file left out" if self.missing_images else ""
        whole = "" if self.scope == "official" else "A sample of "
        return f"{whole}NIH ChestX-ray14 ({self.edition}): {size}{dropped}"


def read(folder: Path, *, limit: int | None = None) -> Cohort:
    """Read and check a folder in NIH's layout; `limit` keeps the first N patients by number.

    Raises InputError naming file, rows and values for anything that is not as NIH publishes it.
    """
    if not folder.is_dir():
        raise InputError(
            f"data={folder}: there is no such folder. Expected `phantom` or a folder in NIH's layout: "
            f"{EDITIONS[0]}, {LISTS['train_val']}, {LISTS['test']} and images/."
        )
    metadata = _find_metadata(folder)
    table, implausible = _read_metadata(metadata)
    table["split"] = _official_splits(folder, table["image"], metadata)
    _refuse_shared_patients(table, folder)
    if limit is not None:
        kept = np.sort(table["patient_id"].unique())[:limit]
        table = table[table["patient_id"].isin(kept)]
    return Cohort(
        table=_ordered(table),
        folder=folder,
        edition=metadata.name,
        phantom=is_phantom(folder),
        implausible_ages=implausible,
    )


def is_phantom(folder: Path) -> bool:
    """Whether a folder holds drawings."""
    return (folder / PHANTOM_NOTE).exists()


def image_files(folder: Path) -> dict[str, Path]:
    """Every PNG of `images/` and `images_0xx/images/`, by file name."""
    places = [folder / "images", *sorted(folder.glob("images_*/images"))]
    found = [path for place in places if place.is_dir() for path in sorted(place.glob("*.png")) if path.is_file()]
    files = {path.name: path for path in found}
    if len(files) < len(found):
        twice = [path for path in found if files[path.name] is not path]
        raise InputError(f"{folder}: images of the same name in two folders: {first_ten(twice)}.")
    return files


def require_images(cohort: Cohort, policy: str) -> Cohort:
    """Hold the cohort against the files on disk: `all` refuses a missing one, `present` drops its row."""
    if policy == "skip":
        return cohort
    files = image_files(cohort.folder)
    found = cohort.table["image"].isin(files.keys())
    missing = cohort.table.loc[~found, "image"].tolist()
    if policy == "all" and missing:
        raise InputError(
            f"{len(missing):,} of {len(found):,} images are not in {cohort.folder}/images or "
            f"{cohort.folder}/images_*/images: {first_ten(missing)}. "
            "images=present keeps the rows whose file exists."
        )
    if not found.any():
        raise InputError(f"images=present: none of the {len(found):,} images is in {cohort.folder}/images.")
    return replace(cohort, table=cohort.table[found].reset_index(drop=True), missing_images=len(missing))


def digest(table: pd.DataFrame) -> str:
    """16 hexadecimal digits over every cell of a cohort table, in its order."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def is_official(table: pd.DataFrame) -> bool:
    """Whether a table's rows are exactly NIH's official lists, 86,524 train_val and 25,596 test images."""
    test = table["split"] == "test"
    parts = {"train_val": table.loc[~test, "image"], "test": table.loc[test, "image"]}
    return all(_names_digest(images) == OFFICIAL_DIGESTS[split] for split, images in parts.items())


def _names_digest(images: pd.Series) -> str:
    return hashlib.sha256("\n".join(sorted(images)).encode()).hexdigest()


def _find_metadata(folder: Path) -> Path:
    for name in EDITIONS:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    raise InputError(f"{folder}: no metadata file there. Expected {' or '.join(EDITIONS)}, plain or .gz.")


def _read_metadata(path: Path) -> tuple[pd.DataFrame, int]:
    """The seven columns that both editions share; the size and spacing headers are malformed in both."""
    try:
        # index_col=False: the 2017 edition ends its lines with a comma, its header splits into more names
        raw = pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ParserError, EmptyDataError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}).") from error
    absent = [name for name in _COLUMNS if name not in raw.columns]
    if absent:
        raise InputError(f"{path}: columns {absent} are missing; it has {list(raw.columns)[:8]}.")
    if raw.empty:
        raise InputError(f"{path}: has a header and no rows.")
    raw = raw[list(_COLUMNS)].rename(columns=_COLUMNS).apply(lambda column: column.str.strip())

    _refuse(raw, ~raw["image"].str.fullmatch(r"[^/\\]+\.png"), "image", path, "a PNG file name")
    _refuse(raw, raw["image"].duplicated(keep=False), "image", path, "each image once")
    for column in ("patient_id", "follow_up"):
        _refuse(raw, ~raw[column].str.fullmatch(r"\d{1,9}"), column, path, "a whole number")
    _refuse(raw, ~raw["sex"].isin(["M", "F"]), "sex", path, "M or F")
    _refuse(raw, ~raw["view"].isin(["PA", "AP"]), "view", path, "PA or AP")
    ages = raw["age_years"].str.extract(r"^(\d+)([YMD]?)$")
    _refuse(raw, ages[0].isna(), "age_years", path, "years such as 57, or 058Y, 011M, 001D")

    years = ages[0].astype(float) / ages[1].map(_UNITS_A_YEAR)
    table = raw[["image"]].copy()
    table["patient_id"] = raw["patient_id"].astype("int64")
    table["age_years"] = years.mask(years > _OLDEST)
    table["sex"], table["view"] = raw["sex"], raw["view"]
    table["follow_up"] = raw["follow_up"].astype("int64")
    labels = _labels(raw, path)
    return pd.concat([table, labels], axis=1), int((years > _OLDEST).sum())


def _labels(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    named = raw["labels"].str.split("|")
    known = set(CLASSES)
    _refuse(raw, ~named.map(known.issuperset), "labels", path, f"names of {', '.join(CLASSES)} joined by |")
    alone = named.map(lambda names: NO_FINDING not in names or len(names) == 1)
    _refuse(raw, ~alone, "labels", path, f"{NO_FINDING} alone or findings")
    columns = {name: named.map(lambda names, name=name: name in names).astype("uint8") for name in CLASSES}
    return pd.DataFrame(columns, index=raw.index)


def _refuse(raw: pd.DataFrame, bad: pd.Series, column: str, path: Path, expected: str) -> None:
    if bad.any():
        # +2: the header is line 1 of the file
        rows = [f"line {index + 2}: {value!r}" for index, value in raw.loc[bad, column].items()]
        raise InputError(f"{path}: {column} is not {expected} in {first_ten(rows)}.")


def _official_splits(folder: Path, images: pd.Series, metadata: Path) -> pd.Series:
    splits = pd.Series("", index=images.index, dtype=object)
    for split, name in LISTS.items():
        path = folder / name
        if not path.exists():
            raise InputError(f"{path} is missing: the official patient-wise split is read from it.")
        try:
            names = pd.Series(path.read_text(encoding="utf-8-sig").split(), dtype=object)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a list of image names ({error}).") from error
        if names.duplicated().any():
            raise InputError(f"{path}: named twice: {first_ten(names[names.duplicated()].tolist())}.")
        unknown = names[~names.isin(images)]
        if len(unknown):
            raise InputError(f"{path}: not in {metadata.name}: {first_ten(unknown.tolist())}.")
        listed = images.isin(names)
        both = images[listed & (splits != "")]
        if len(both):
            raise InputError(f"In both {' and '.join(LISTS.values())} of {folder}: {first_ten(both.tolist())}.")
        splits[listed] = split
    unlisted = images[splits == ""]
    if len(unlisted):
        raise InputError(f"In neither {' nor '.join(LISTS.values())} of {folder}: {first_ten(unlisted.tolist())}.")
    return splits


def _refuse_shared_patients(table: pd.DataFrame, folder: Path) -> None:
    sides = table.groupby("patient_id")["split"].nunique()
    shared = sides.index[sides > 1].tolist()
    if shared:
        raise InputError(
            f"{folder}: {len(shared):,} patients have images in both {LISTS['train_val']} and "
            f"{LISTS['test']}, so this is not NIH's patient-wise split: patients {first_ten(shared)}."
        )


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """One column order and one row order whatever the edition, so that equal content digests equally."""
    columns = ["image", "patient_id", "age_years", "sex", "view", "follow_up", "split", *CLASSES]
    return table[columns].sort_values("image", ignore_index=True)
