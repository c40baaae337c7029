"""Numbers and names as people read them."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

NONE = "–"


def number(value: Any, digits: int = 3) -> str:
    """A number with so many decimals, whole numbers with commas, a dash for what is not defined."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and digits == 0):
        return f"{int(value):,}"
    return f"{value:,.{digits}f}" if isinstance(value, float) else spoken(value)


def percent(value: Any) -> str:
    """A share as percent."""
    return NONE if pd.isna(value) else f"{100 * float(value):.1f} %"


def interval(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    """A value with its 95 % interval, which few patients may not have."""
    if pd.isna(value):
        return NONE
    value, low, high = (round(float(one), digits) + 0.0 for one in (value, low, high))  # no -0.000
    ends = "" if pd.isna(low) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{ends}"


def spoken(name: object) -> str:
    """A name as people say it."""
    return str(name).replace("_", " ")


def listed(names: Iterable[object]) -> str:
    """Names joined by commas; `none` where there is none."""
    return ", ".join(map(spoken, names)) or "none"


def flagged(value: object) -> bool:
    """A truth value as tables hold it, read from CSV or from the run."""
    return str(value) in ("True", "true", "1", "1.0")


def columns(table: pd.DataFrame, wanted: Sequence[str]) -> bool:
    """Whether a table is there, has rows and all these columns: older runs may not."""
    return len(table) > 0 and set(wanted) <= set(table.columns)


def count(value: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"
