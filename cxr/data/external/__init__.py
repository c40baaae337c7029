"""Other sets than NIH's -> the same checked table, so that a model can be evaluated out of distribution.

Each set has a reader and a table that says which label of theirs is which of ours. A class that a set says
nothing of is NaN throughout, and no number is computed for it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from cxr.data.cohort import Cohort
from cxr.data.external.chexpert import chexpert_folder, read_chexpert, read_mimic
from cxr.data.external.covid_chestxray import read_covid_chestxray
from cxr.data.external.own_csv import read_own_csv
from cxr.data.external.padchest import read_padchest
from cxr.errors import InputError

READERS: Mapping[str, Callable[..., Cohort]] = {
    "chexpert": read_chexpert,
    "mimic-cxr-jpg": read_mimic,
    "padchest": read_padchest,
    "covid-chestxray": read_covid_chestxray,
    "csv": read_own_csv,
}
WITH_UNCERTAIN = ("chexpert", "mimic-cxr-jpg")  # the readers that take `uncertain`
UNCERTAIN = ("zeros", "ones")


def image_folder(kind: str, path: Path) -> Path:
    """The folder that image names are relative to, for what a user gave as the set's place."""
    if kind == "chexpert" and path.is_dir():
        return chexpert_folder(path)
    return path.parent if kind == "csv" else path


def read(kind: str, path: Path, *, uncertain: str = "zeros") -> Cohort:
    """Read and check another set: the folder it was unpacked to, or for `csv` the file.

    `uncertain`: what a label that the report leaves open is worth, `zeros` or `ones` (U-Zeros and U-Ones of
    Irvin et al., 2019, https://arxiv.org/abs/1901.07031). Where a set has a split of its own, `split` follows
    it, else it is empty: the caller decides.
    Raises InputError naming file, lines and values for anything that is not as the set is published.
    """
    if kind not in READERS:
        raise InputError(f"{kind}: not a kind of data. Known are {', '.join(READERS)}.")
    if uncertain not in UNCERTAIN:
        raise InputError(f"uncertain={uncertain}: expected {' or '.join(UNCERTAIN)}.")
    if kind == "csv" and not path.is_file():
        raise InputError(f"{path}: there is no such file. csv expects a CSV file beside its images.")
    if kind != "csv" and not path.is_dir():
        raise InputError(f"{path}: there is no such folder. {kind} expects the one that the set was unpacked to.")
    if kind in WITH_UNCERTAIN:
        return READERS[kind](path, uncertain=uncertain)
    if uncertain != "zeros":
        raise InputError(f"uncertain={uncertain}: {kind} has no uncertain labels, so it would change nothing.")
    return READERS[kind](path)
