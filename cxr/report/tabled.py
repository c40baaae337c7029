"""Tables of runs -> tables of the page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from cxr.report.blocks import Missing, Table, source
from cxr.report.records import Record
from cxr.report.words import NONE, columns, interval, number, spoken

Show = Callable[[Any], str]


def shown(
    record: Record, name: str, wanted: Mapping[str, tuple[str, Show]], *, caption: str, note: str = "",
    rows: pd.DataFrame | None = None,
) -> Table | Missing:  # fmt: skip
    """A run's table `name` with some columns: column -> (heading, how its values are written).

    `rows` are those of it that are shown. Columns that the run's table does not have are left out; without
    the first one the table counts as missing.
    """
    table = record.table(name) if rows is None else rows
    if not columns(table, [next(iter(wanted))]):
        why = "no row" if name in record.tables else f"this {record.stage} run left no {name}.csv"
        return Missing(what=caption.split(":")[0], why=why)
    kept = {column: way for column, way in wanted.items() if column in table.columns}
    if "note" in kept and table["note"].isna().all():
        kept.pop("note")
    cells = [[show(row[column]) for column, (_, show) in kept.items()] for row in table.to_dict("records")]
    heads = [head for head, _ in kept.values()]
    return Table(caption=caption, columns=heads, rows=cells, source=source(record, f"{name}.csv"), note=note)


def with_interval(table: pd.DataFrame, triples: Mapping[str, Sequence[str]], digits: int = 3) -> pd.DataFrame:
    """The table with, for each new column, value and interval of (value, low, high) as text."""
    known = {new: names for new, names in triples.items() if names[0] in table.columns}
    return table.assign(
        **{
            new: [
                interval(row[names[0]], row.get(names[1], float("nan")), row.get(names[2], float("nan")), digits)
                for row in table.to_dict("records")
            ]
            for new, names in known.items()
        }
    )


def three(value: Any) -> str:
    """Three decimals."""
    return number(value)


def whole(value: Any) -> str:
    """A whole number, which tables with missing cells hold as a float."""
    return NONE if pd.isna(value) else f"{float(value):,.0f}"


def words(value: Any) -> str:
    """Text as it is, empty where there is none."""
    return "" if value is None or pd.isna(value) else spoken(value)


def yes(value: Any) -> str:
    """`yes` where it is true, else nothing."""
    return "yes" if str(value) in ("True", "true", "1", "1.0") else ""
