"""Where data comes from: what `data` names on this machine, and the cohort that lies there."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from cxr.data import cohort, external, nih, phantom, store
from cxr.data import split as splits
from cxr.data.external import own_csv
from cxr.errors import InputError
from entrypoints.options import Common

_PHANTOM_BYTES = 100_000_000  # about 70 MB are drawn


def how_to_split(common: Common) -> str:
    """`split=auto` resolved: NIH's official lists (the phantom's own), and nothing but test images of another set,
    since a model from elsewhere is measured there."""
    if common.split != "auto":
        return common.split
    return "official" if data_place(common.data, common.store)[0] == "nih" else "test"


def read_cohort(common: Common, how: str) -> tuple[cohort.Cohort, str]:
    """The cohort that `data` names, and the digest of its image files (empty where none was looked for).

    Its rows are divided into train_val and test as `how` says: official, random-patient, custom, or test (all).
    """
    kind, place = data_place(common.data, common.store)
    if kind == "nih":
        read = nih.read(place, split=how)
        if common.uncertain != "zeros":
            raise InputError(f"uncertain={common.uncertain}: the labels in {place} have no uncertain ones.")
    else:
        read = external.read(kind, place, uncertain=common.uncertain)
        if how == "custom" or (how == "official" and (read.table["split"] == "").any()):
            raise InputError(
                f"split={how}: {read.dataset} has no such lists. Expected random-patient, to divide its patients "
                "at random, or test, to take every image as a test image."
            )
    if how == "test":
        read = replace(read, table=read.table.assign(split="test"))
    if how == "random-patient":
        read = replace(read, table=splits.random_patients(read.table, seed=common.seed))
    read = cohort.limited(read, common.limit)
    if common.images == "skip":
        return read, ""
    files = image_files(read.folder, read.table["image"].tolist(), read.scope)
    read = cohort.require_images(read, common.images, files)
    return read, store.images_digest(read.table["image"].tolist(), files)


def data_place(data: str, store_folder: Path) -> tuple[str, Path]:
    """What kind of set `data` names, and where it is; the phantom is drawn first where this machine has none."""
    if data in ("auto", "phantom"):
        return "nih", phantom_folder(store_folder)
    kind, colon, path = data.partition(":")
    if colon and kind not in external.READERS and not Path(data).exists():
        raise InputError(f"data={data}: {kind} is not a kind of data. Known are {', '.join(external.READERS)}.")
    if not colon and Path(data).suffix == ".csv":
        raise InputError(f"data={data}: for a CSV file of your own give data=csv:{data}.")
    if not colon or kind not in external.READERS:
        kind, path = "nih", data
    return kind, Path(path).expanduser().absolute()


def dataset_name(kind: str, place: Path) -> str:
    """The name that a cohort read from there bears."""
    if kind == "nih":
        return "phantom" if nih.is_phantom(place) else "nih"
    return own_csv.name_of(place) if kind == "csv" else kind


def image_files(folder: Path, names: Sequence[str], scope: str) -> dict[str, Path]:
    """Image name -> file, for those that are there: by NIH's layout, or as paths inside another set's folder."""
    if scope != "external":
        return nih.image_files(folder)
    return {name: folder / name for name in names if (folder / name).is_file()}


def phantom_folder(root: Path) -> Path:
    """The drawn cohort in a cache folder, drawn now if it is not there; other drawing code, other folder."""
    place = root / phantom_version()
    if not place.is_dir():
        click.echo(f"drawing the phantom cohort into {place}")
        store.make_root(root, _PHANTOM_BYTES)
        phantom.draw(place)
    with contextlib.suppress(OSError):
        os.utime(place / nih.PHANTOM_NOTE)  # when it was last used
    return place


def phantom_version() -> str:
    """The drawn cohort's folder name, by the code that draws it."""
    code = b"".join(path.read_bytes() for path in sorted(Path(phantom.__file__).parent.glob("phantom*.py")))
    return f"phantom-{hashlib.sha256(code).hexdigest()[:8]}"
