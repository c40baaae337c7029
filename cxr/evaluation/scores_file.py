"""Scores that somebody else published, or a run of ours left -> the scores table.

A file (.csv, .csv.gz or .parquet) with a column `image` or `Image Index`, then `prob_<class>` or `logit_<class>`
for the classes that were scored, and optionally `split` with `val` and `test`. Labels, patients and the rest come
from the cohort, never from the file; its other columns are passed over.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit

from cxr.data.rows import read_rows
from cxr.errors import InputError, first_ten
from cxr.findings import CLASSES, SPELLINGS

SPLITS = ("val", "test")
ENDINGS = (".csv", ".csv.gz", ".parquet")
_IMAGE = ("image", "Image Index")
_KINDS = ("prob_", "logit_")
_FARTHEST = 1e6  # logits beyond it are no logits


def read(path: Path, cohort: pd.DataFrame) -> pd.DataFrame:
    """The scores table (see `predict`) of the images in the file, in its order; no `split` column: all test.

    Logits are float64, NaN for a class that the file has no column for, or an empty one; attrs["certain"] counts
    the probabilities of exactly 0 or 1. Raises InputError for a
    file that is not readable, for a value that is no probability or logit, for an image that comes twice or is not
    in the cohort, and for a patient in both parts.
    """
    raw = _read(path)
    image = _only(
        path, [name for name in _IMAGE if name in raw], "a column image or Image Index", list(raw.columns)
    )
    columns = _columns(path, raw)
    _refuse(path, raw[raw[image].duplicated(keep=False)], image, "images come twice")
    places = pd.Series(np.arange(len(cohort)), index=cohort["image"]).reindex(raw[image])
    _refuse(path, raw[places.isna().to_numpy()], image, f"images are not among the cohort's {len(cohort):,}")
    known = cohort.iloc[places.to_numpy(dtype=np.int64)][["image", "patient_id", *CLASSES]]
    known = known.reset_index(drop=True)
    scores = {f"logit_{name}": _logits(path, raw, columns.get(name), image) for name in CLASSES}
    known.insert(2, "split", _split(path, raw, image))
    both = known.groupby("patient_id")["split"].nunique()
    if (both > 1).any():
        raise InputError(
            f"{path}: {(both > 1).sum():,} patients have images in val and in test: "
            f"{first_ten(both.index[both > 1].tolist())}. Expected each in one of them."
        )
    table = pd.concat([known, pd.DataFrame(scores)], axis=1)
    table.attrs["certain"] = sum(_certain(raw[column]) for column in columns.values())
    return table


def _read(path: Path) -> pd.DataFrame:
    if path.is_dir():
        raise InputError(f"scores={path}: that is a folder; expected a file that ends in {', '.join(ENDINGS)}.")
    if not path.is_file():
        raise InputError(f"scores={path}: there is no such file.")
    if path.stat().st_size == 0:
        raise InputError(f"scores={path}: the file is empty.")
    if path.name.endswith((".csv", ".csv.gz")):
        return read_rows(path)
    if path.suffix != ".parquet":
        raise InputError(f"scores={path}: expected a file that ends in {', '.join(ENDINGS)}.")
    try:
        raw = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from error
    if raw.empty:
        raise InputError(f"{path}: it has no rows.")
    return raw.reset_index(drop=raw.index.name not in _IMAGE)


def _columns(path: Path, raw: pd.DataFrame) -> dict[str, str]:
    """Class -> its column. A name behind prob_ or logit_ that is no class is taken for a typing error."""
    found: dict[str, list[str]] = {}
    strangers = []
    for column in map(str, raw.columns):
        kind = next((kind for kind in _KINDS if column.lower().startswith(kind)), None)
        if kind is None:
            continue
        name = column[len(kind) :]
        name = SPELLINGS.get(name, name)
        found.setdefault(name, []).append(column)
        if name not in CLASSES:
            strangers.append(column)
    if strangers:
        raise InputError(f"{path}: columns {strangers} name no class. Known are {', '.join(CLASSES)}.")
    if not found:
        expected = ", ".join(f"{kind}{CLASSES[0]}" for kind in _KINDS)
        raise InputError(f"{path}: no column of scores, such as {expected}; it has {list(raw.columns)[:8]}.")
    return {name: _only(path, columns, f"one column for {name}") for name, columns in found.items()}


def _only(path: Path, names: list[str], expected: str, there: list[str] | None = None) -> str:
    if len(names) != 1:
        raise InputError(f"{path}: expected {expected}, found {names or there or 'none'}.")
    return names[0]


def _logits(path: Path, raw: pd.DataFrame, column: str | None, image: str) -> np.ndarray:
    # a table that a run of ours left has an empty column for a class that was not scored
    if column is None or raw[column].replace("", np.nan).isna().all():
        return np.full(len(raw), np.nan)
    values = pd.to_numeric(raw[column], errors="coerce").to_numpy(dtype=np.float64)
    if column.lower().startswith("prob_"):
        _refuse(path, raw[~((values >= 0) & (values <= 1))], column, "values are no probability", by=image)
        values = logit(np.clip(values, *_ends(values)))
    far = ~(np.abs(values) <= _FARTHEST)
    _refuse(path, raw[far], column, f"values are no number from {-_FARTHEST:,.0f} to {_FARTHEST:,.0f}", by=image)
    return values


def _certain(column: pd.Series) -> int:
    if not str(column.name).lower().startswith("prob_"):
        return 0
    return int(pd.to_numeric(column, errors="coerce").isin([0, 1]).sum())


def _ends(probabilities: np.ndarray) -> tuple[float, float]:
    """What a published 0 and 1 are taken for, since they have no logit: half of the smallest distance there is.

    A file that was rounded to three decimals holds 0 for anything below 0.0005; so it is taken for that much.
    """
    ends = []
    for distance in (probabilities, 1 - probabilities):
        ends.append(float(distance[distance > 0].min(initial=1.0)) / 2)
    return min(ends[0], 0.5), max(1 - ends[1], 0.5)


def _split(path: Path, raw: pd.DataFrame, image: str) -> np.ndarray:
    if "split" not in raw:
        return np.full(len(raw), "test", dtype=object)
    _refuse(path, raw[~raw["split"].isin(SPLITS)], "split", f"values are none of {', '.join(SPLITS)}", by=image)
    if not (raw["split"] == "test").any():
        raise InputError(f"{path}: no row has split=test: there is nothing to evaluate.")
    return raw["split"].to_numpy(dtype=object)


def _refuse(path: Path, bad: pd.DataFrame, column: str, what: str, *, by: str = "") -> None:
    """Raise one InputError that counts the bad rows and names the first of them."""
    if len(bad):
        found = [f"{row[by]}: {row[column]!r}" if by else f"{row[column]}" for _, row in bad.head(10).iterrows()]
        more = ", ..." if len(bad) > len(found) else ""
        raise InputError(f"{path}: {column}: {len(bad):,} {what}: {', '.join(found)}{more}.")
