"""NIH ChestX-ray14 from a folder in NIH's own layout -> a cohort, and the boxes beside it.

The folder holds `Data_Entry_2017_v2020.csv` (or the first edition, `Data_Entry_2017.csv`; plain or .gz),
`train_val_list.txt`, `test_list.txt`, and the PNG files in `images/` or `images_001/images/` ... The phantom
is drawn in the same layout, with `PHANTOM.txt` beside it.

Source: Wang et al., CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC
"""

import hashlib
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.cohort import OLDEST, Cohort, digest, ordered
from cxr.data.rows import find, open_text, read_rows, refuse
from cxr.errors import InputError, first_ten
from cxr.findings import CLASSES, FINDINGS, NO_FINDING, SPELLINGS

METADATA = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")  # the newer one is taken where both are
LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
BOXES = "BBox_List_2017.csv"
PHANTOM_NOTE = "PHANTOM.txt"  # its presence makes a folder's numbers say nothing about real X-rays

# How the images are divided, and what numbers on the whole set are worth then.
SPLITS = ("official", "custom", "random-patient", "test")

# SHA-256 of NIH's sorted image names, joined by newlines: 86,524 and 25,596 of them. A list in wide use
# bears the official file name and holds other images.
LIST_SIZES = {"train_val": 86_524, "test": 25_596}
LIST_DIGESTS = {
    "train_val": "61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81",
    "test": "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc",
}
# Digests of the whole table without its split, by what NIH calls the edition. The file's name does not tell:
# copies of either edition go by both names.
EDITIONS = {"a60f1443029a1ee6": "2017", "3d00c87e8cc5693b": "v2020"}

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
# the header `Bbox [x,y,w,h]` splits into four names
_BOX_COLUMNS = {"Image Index": "image", "Finding Label": "finding", "Bbox [x": "x", "y": "y", "w": "width",
                "h]": "height"}  # fmt: skip


def read(folder: Path, *, split: str = "official") -> Cohort:
    """Read and check a folder in NIH's layout.

    `split`: `official` takes NIH's two lists and refuses others under their names; `custom` takes the lists
    as they are; with `random-patient` and `test` the lists are not read and the column is left empty.
    Raises InputError naming file, lines and values for anything that is not as NIH publishes it.
    """
    if not folder.is_dir():
        raise InputError(
            f"data={folder}: there is no such folder. Expected `phantom`, a folder in NIH's layout "
            f"({METADATA[0]}, {LISTS['train_val']}, {LISTS['test']} and images/), or another set as KIND:FOLDER."
        )
    metadata = find(folder, *METADATA)
    if metadata is None:
        raise InputError(f"{folder}: no metadata file there. Expected {' or '.join(METADATA)}, plain or .gz.")
    table, flags = _read_metadata(metadata)
    phantom = is_phantom(folder)
    edition = "drawn" if phantom else _edition(table)
    if split in ("official", "custom"):
        table["split"] = _lists(folder, table["image"], metadata, official=split == "official" and not phantom)
        _refuse_shared_patients(table, folder)
    return Cohort(
        table=table,
        folder=folder,
        dataset="phantom" if phantom else "nih",
        edition=edition,
        scope="phantom" if phantom else _scope(split, edition),
        flags=flags,
    )


def is_phantom(folder: Path) -> bool:
    """Whether a folder holds drawings."""
    return (folder / PHANTOM_NOTE).exists()


def is_official_test(names: pd.Series) -> bool:
    """Whether these are all images of NIH's official test list, and no others."""
    return _list_digest(names) == LIST_DIGESTS["test"]


def image_files(folder: Path) -> dict[str, Path]:
    """Every PNG of `images/` and `images_0xx/images/`, by file name."""
    places = [folder / "images", *sorted(folder.glob("images_*/images"))]
    found = [path for place in places if place.is_dir() for path in sorted(place.glob("*.png")) if path.is_file()]
    files = {path.name: path for path in found}
    if len(files) < len(found):
        twice = [path for path in found if files[path.name] is not path]
        raise InputError(f"{folder}: images of the same name in two folders: {first_ten(twice)}.")
    return files


def read_boxes(folder: Path) -> pd.DataFrame | None:
    """NIH's hand-drawn boxes, None where the folder has no list of them.

    Columns: image, finding, x, y, width, height: pixels of the image file, x and y of the upper left corner.
    Source: Wang et al., CVPR 2017, section 3.3: 984 boxes on 880 images of 8 findings, by one radiologist.
    """
    path = find(folder, BOXES)
    if path is None:
        return None
    raw = read_rows(path, list(_BOX_COLUMNS)).rename(columns=_BOX_COLUMNS)
    raw["finding"] = raw["finding"].replace(SPELLINGS)
    refuse(raw, ~raw["finding"].isin(FINDINGS), "finding", path, f"one of {', '.join(FINDINGS)}")
    for name in ("x", "y", "width", "height"):
        number = pd.to_numeric(raw[name], errors="coerce")
        wrong = ~(np.isfinite(number) & (number > 0 if name in ("width", "height") else number >= 0))
        refuse(raw, wrong, name, path, "a number of pixels")
        raw[name] = number
    return raw.reset_index(drop=True)


def _scope(split: str, edition: str) -> str:
    if edition not in EDITIONS.values() or split in ("custom", "test"):
        return "custom"
    return split


def _edition(table: pd.DataFrame) -> str:
    content = digest(table.drop(columns="split"))
    return EDITIONS.get(content, "unknown edition")


def _read_metadata(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The seven columns that both editions share; the headers of size and spacing are broken in both."""
    raw = read_rows(path, list(_COLUMNS)).rename(columns=_COLUMNS)
    refuse(raw, ~raw["image"].str.fullmatch(r"[^/\\\x00-\x1f]+\.png"), "image", path, "a PNG file name")
    refuse(raw, raw["image"].duplicated(keep=False), "image", path, "each image once")
    for column in ("patient_id", "follow_up"):
        refuse(raw, ~raw[column].str.fullmatch(r"[0-9]{1,9}"), column, path, "a whole number")
    number = raw["image"].str.extract(r"^([0-9]{8})_[0-9]{3}\.png$")[0]  # as NIH names its files
    other = number.notna() & (pd.to_numeric(number) != pd.to_numeric(raw["patient_id"]))
    refuse(raw.assign(patient_id=raw["patient_id"] + " of " + raw["image"]), other, "patient_id", path,
           "the number in the image's name")  # fmt: skip
    refuse(raw, ~raw["sex"].isin(["M", "F"]), "sex", path, "M or F")
    refuse(raw, ~raw["view"].isin(["PA", "AP"]), "view", path, "PA or AP")
    ages = raw["age_years"].str.extract(r"^([0-9]+)([YMD]?)$")
    refuse(raw, ages[0].isna(), "age_years", path, "years such as 57, or 058Y, 011M, 001D")

    years = ages[0].astype(float) / ages[1].map(_UNITS_A_YEAR)
    table = raw[["image", "sex", "view"]].assign(
        patient_id=raw["patient_id"].astype("int64"),
        follow_up=raw["follow_up"].astype("int64"),
        age_years=years.mask(years > OLDEST),
        split="",
        **_labels(raw, path),
    )
    table = ordered(table)
    # the number in the file's name counts images; `Follow-up #` counts visits, and is the one that is kept
    in_name = pd.to_numeric(table["image"].str.extract(r"_([0-9]+)\.png$")[0])
    flags = pd.DataFrame(
        {
            "implausible_ages": table["age_years"].isna(),  # no age is missing in NIH's files
            "follow_up_differs_from_name": in_name.notna() & (in_name != table["follow_up"]),
        }
    )
    return table, flags


def _labels(raw: pd.DataFrame, path: Path) -> dict[str, np.ndarray]:
    codes, texts = pd.factorize(raw["labels"])  # some 800 combinations stand in 112,120 rows
    named = [[SPELLINGS.get(name, name) for name in text.split("|")] for text in texts]

    def rows(wrong: list[bool]) -> pd.Series:
        return pd.Series(np.array(wrong)[codes], index=raw.index)

    known = set(CLASSES)
    expected = f"names of {', '.join(CLASSES)} joined by |"
    refuse(raw, rows([not known.issuperset(names) for names in named]), "labels", path, expected)
    alone = [NO_FINDING in names and len(names) > 1 for names in named]
    refuse(raw, rows(alone), "labels", path, f"{NO_FINDING} alone or findings")
    refuse(raw, rows([len(set(names)) < len(names) for names in named]), "labels", path, "each finding once")
    return {name: np.array([name in names for names in named], dtype=np.uint8)[codes] for name in CLASSES}


def _lists(folder: Path, images: pd.Series, metadata: Path, *, official: bool) -> pd.Series:
    """Which list each image stands in."""
    splits = pd.Series("", index=images.index, dtype=object)
    for split, name in LISTS.items():
        path = find(folder, name) or folder / name
        names = _read_list(path)
        if official:
            _refuse_unofficial(path, split, names)
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


def _read_list(path: Path) -> pd.Series:
    if not path.is_file():
        raise InputError(f"{path} is missing: the official patient-wise split is read from it.")
    try:
        with open_text(path) as file:
            lines = [line.strip() for line in file]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of image names ({error}).") from error
    wrong = [f"line {at}: {line!r}" for at, line in enumerate(lines, 1) if len(line.split()) > 1]
    if wrong:
        raise InputError(f"{path}: not one image name a line in {first_ten(wrong)}.")
    names = pd.Series([line for line in lines if line], dtype=object)
    if names.duplicated().any():
        raise InputError(f"{path}: named twice: {first_ten(names[names.duplicated()].tolist())}.")
    return names


def _list_digest(names: pd.Series) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _refuse_unofficial(path: Path, split: str, names: pd.Series) -> None:
    found = _list_digest(names)
    if found != LIST_DIGESTS[split]:
        raise InputError(
            f"{path}: this is not NIH's official list. It names {len(names):,} images (digest {found[:16]}), "
            f"NIH's names {LIST_SIZES[split]:,} (digest {LIST_DIGESTS[split][:16]}). Other lists go by the same "
            "name, and numbers on them do not compare. Take NIH's list, or split=custom to use this one all the "
            "same; where only a part of the images is on the disk, take NIH's lists and images=present."
        )


def _refuse_shared_patients(table: pd.DataFrame, folder: Path) -> None:
    sides = table.groupby("patient_id")["split"].nunique()
    shared = sides.index[sides > 1].tolist()
    if shared:
        raise InputError(
            f"{folder}: {len(shared):,} patients have images in both {LISTS['train_val']} and "
            f"{LISTS['test']}, so this is not a patient-wise split: patients {first_ten(shared)}. "
            "split=random-patient makes one."
        )
