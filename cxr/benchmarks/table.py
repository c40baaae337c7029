"""What a benchmark reports: rows of (part, measure, value, unit), and ratios with the goal they were set."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured value; a ratio says in `against` what it was measured against, and may have a goal."""

    part: str  # decode | read | memory | train | start | explain | serving | bootstrap | coverage
    measure: str
    value: float
    unit: str
    against: str = ""
    goal: float | None = None


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table, in their order."""
    return pd.DataFrame([vars(row) for row in rows]).set_index("measure")


def metrics(rows: Iterable[Row]) -> dict[str, float]:
    """The same as a run carries them: `benchmark/decode/ours`."""
    return {f"benchmark/{row.part}/{_plain(row.measure)}": row.value for row in rows}


def machine() -> dict[str, str]:
    """What absolute figures are of: processor, cores, versions of what was measured against."""
    from importlib.metadata import PackageNotFoundError, version

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    known = {"processor": model or platform.processor() or platform.machine(), "cores": str(os.cpu_count())}
    for package in (
        "pillow",
        "torchvision",
        "opencv-python-headless",
        "imagecodecs",
        "scikit-learn",
        "numpy",
        "torch",
    ):
        try:
            known[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            known[f"version.{package}"] = "not installed: not measured"
    return known


def interleaved(
    candidates: Mapping[str, Callable[[Any], object]], inputs: Sequence[Any], rounds: int
) -> dict[str, float]:
    """Seconds that each candidate needs for all inputs: of each input the fastest of `rounds`, summed.

    Candidates take turns input by input, so that what disturbs the machine disturbs them alike, and the
    fastest of several tries is the one that was disturbed least.
    """
    seconds = dict.fromkeys(candidates, 0.0)
    for one in inputs:
        best = dict.fromkeys(candidates, float("inf"))
        for _ in range(rounds):
            for name, call in candidates.items():
                start = time.perf_counter()
                call(one)
                best[name] = min(best[name], time.perf_counter() - start)
        for name, value in best.items():
            seconds[name] += value
    return seconds


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")
