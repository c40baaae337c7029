"""Reading other people's CSV files: every row keeps its line number, every problem is named with it."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, cast

import pandas as pd

from cxr.errors import InputError, first_ten


def find(folder: Path, *names: str) -> Path | None:
    """The first of these files that a folder holds, plain or as `.gz`."""
    places = [folder / f"{name}{ending}" for name in names for ending in ("", ".gz")]
    return next((place for place in places if place.is_file()), None)


def read_rows(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file, plain or `.gz`, as stripped text: a column a name in its header, the index is the line number.

    `columns` must be there, and only they are kept, whatever stands under a blank name; () keeps all. Blank
    cells behind the last name are passed over, and so are blank lines.
    Raises InputError for a file that is not readable CSV in UTF-8, for a column that is missing or comes twice,
    and for rows with too few or too many cells.
    """
    try:
        with open_text(path) as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            width, picked = _layout(path, header, columns)
            ragged, lines = [], []
            for cells in reader:
                if not any(cells):
                    continue
                # a lone comma at the end of each line, of the header or of the rows, says nothing
                if len(cells) < width or any(cells[len(header) if columns else width :]):
                    ragged.append(f"line {reader.line_num}: {len(cells)}")
                else:
                    lines.append((reader.line_num, *(cells[at].strip() for at in picked.values())))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}).") from error
    if ragged:
        raise InputError(f"{path}: rows have {width} cells, but not in {first_ten(ragged)}.")
    if not lines:
        raise InputError(f"{path}: has a header and no rows.")
    return pd.DataFrame(lines, columns=["line", *picked]).set_index("line")


def open_text(path: Path) -> TextIO:
    """A text file in UTF-8, plain or `.gz`, for reading; line ends as they are."""
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _layout(path: Path, header: list[str], columns: Sequence[str]) -> tuple[int, dict[str, int]]:
    """How many cells a row has at least, and where those that were asked for stand."""
    width = max((at for at, name in enumerate(header, 1) if name), default=0)
    wanted = list(columns or header[:width])
    absent = [name for name in wanted if name not in header]
    if absent or not wanted:
        raise InputError(f"{path}: columns {absent} are missing; it has {header[:8]}.")
    twice = sorted({name for name in wanted if header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: columns {twice} come twice.")
    return width, {name: header.index(name) for name in wanted}


def refuse(raw: pd.DataFrame, bad: pd.Series, column: str, path: Path, expected: str) -> None:
    """Raise one InputError that names file, line and value of every row where `bad` is True."""
    if bad.any():
        found = [f"line {line}: {value!r}" for line, value in raw.loc[bad, column].items()]
        raise InputError(f"{path}: {column} is not {expected} in {first_ten(found)}.")
