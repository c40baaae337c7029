"""Image files -> probabilities, a row a file, in memory that does not grow with their number."""

import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from cxr.data import dicom, image
from cxr.data.augment import normalise
from cxr.errors import InputError
from cxr.evaluation import recalibration
from cxr.findings import CLASSES

ENDINGS = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
FORMATS = (".csv", ".parquet")
_BATCH = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Some files, in their order: what the network says of them, or why it says nothing."""

    names: list[str]
    pixels: np.ndarray  # [N, S, S] uint8; black where the file is broken
    logits: np.ndarray  # [N, 15] float64; NaN where the file is broken
    reasons: list[str]  # empty where all is well


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What is made of logits: classes that the model has learned, maps that calibrate, thresholds that call."""

    learned: Sequence[str]
    maps: pd.DataFrame | None = None  # of recalibration.fit
    thresholds: pd.Series | None = None  # a class's logit


def find(source: Path, leave_out: Collection[Path] = ()) -> tuple[Path, list[str]]:
    """The folder that names are relative to, and the names, sorted: of a folder, a .txt list, or one file.

    A folder is searched with all below it, but for the files `leave_out`, for the usual endings and for DICOM
    files without one or named by their UID. Raises InputError where there is nothing.
    """
    if source.is_dir():
        names = sorted(
            found.relative_to(source).as_posix()
            for found in source.rglob("*")
            if found not in leave_out and _is_wanted(found)
        )
        if not names:
            raise InputError(f"input={source}: no file there ends in {', '.join(ENDINGS)} or is DICOM.")
        return source, names
    if not source.is_file():
        raise InputError(f"input={source}: no such file or folder.")
    if source.suffix.lower() != ".txt":
        return source.parent, [source.name]
    try:
        names = [line for line in source.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"input={source}: not a list of files, a path a line ({error}).") from error
    if not names:
        raise InputError(f"input={source}: the list is empty.")
    return source.parent, names


def predict(
    network: nn.Module, folder: Path, names: Sequence[str], *, size: int, device: torch.device
) -> Iterator[Batch]:
    """The network's logits of all files, some at a time; the next are decoded while it computes.

    Broken files are rows with a reason. `network` is in eval mode on the device; `size` is its images' side.
    """
    parts = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
    # Pillow and pydicom let go of the interpreter lock: as fast as processes, and nothing to start (CONTRIBUTING)
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:

        def begin(part: Sequence[str]) -> list[Future[np.ndarray | str]]:
            return [pool.submit(_decode, folder / name, size) for name in part]

        waiting = [begin(part) for part in parts[:1]]
        for part, following in zip(parts, chain(parts[1:], [None]), strict=True):
            decoded = [future.result() for future in waiting.pop(0)]
            if following is not None:
                waiting.append(begin(following))
            yield _computed(network, list(part), decoded, device)


def table(batch: Batch, meaning: Meaning) -> pd.DataFrame:
    """A batch as rows: image, a probability a class, `<class>_positive` where there are thresholds, reason.

    Probabilities are sigmoids of the logits, after the class's map where there is one. A class that the model has
    not learned, and every class of a broken file, is NaN; a call is then missing, too.
    """
    scores = pd.DataFrame(batch.logits, columns=[f"logit_{name}" for name in CLASSES])
    scores.loc[:, [f"logit_{name}" for name in CLASSES if name not in meaning.learned]] = np.nan
    mapped = scores if meaning.maps is None else recalibration.apply(scores, meaning.maps, "platt")
    rows = pd.DataFrame({"image": [_written(name) for name in batch.names]})
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        for name in CLASSES:
            rows[name] = recalibration.probability(mapped[f"logit_{name}"].to_numpy())
    if meaning.thresholds is not None:
        for finding, threshold in meaning.thresholds.items():
            logits = scores[f"logit_{finding}"]
            rows[f"{finding}_positive"] = (logits >= threshold).astype("Int8").mask(logits.isna())
    return rows.assign(reason=[_written(reason) for reason in batch.reasons])


class Output:
    """A table that grows on the disk, under another name until it is whole. Raises InputError where it may not."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        if path.suffix not in FORMATS:
            raise InputError(f"output={path}: expected a name that ends in {' or '.join(FORMATS)}.")
        if not path.parent.is_dir():
            raise InputError(f"output={path}: there is no folder {path.parent}.")
        if path.is_dir():
            raise InputError(f"output={path}: a folder of that name is there; expected a file's name.")
        if path.exists() and not overwrite:
            raise InputError(f"output={path}: it is there already; overwrite=true replaces it.")
        self.path = path
        self._growing = path.with_name(f".{path.name}.unfinished")
        self._parquet: pq.ParquetWriter | None = None
        self._begun = False

    def __enter__(self) -> Self:
        self._growing.unlink(missing_ok=True)
        return self

    def add(self, rows: pd.DataFrame) -> None:
        """Append rows, all of the same columns. Raises InputError where the disk does not take them."""
        try:
            if self.path.suffix == ".csv":
                rows.to_csv(self._growing, mode="a", index=False, header=not self._begun)
            else:
                part = pa.Table.from_pandas(rows, preserve_index=False)
                self._parquet = self._parquet or pq.ParquetWriter(self._growing, part.schema)
                self._parquet.write_table(part)
        except OSError as error:
            raise InputError(f"output={self.path}: cannot be written ({error.strerror or error}).") from error
        self._begun = True

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self._parquet:
            self._parquet.close()
        if kind is not None:
            self._growing.unlink(missing_ok=True)
            return
        with self._growing.open("rb") as file:
            os.fsync(file.fileno())
        self._growing.replace(self.path)


def _written(name: str) -> str:
    """A name that is no UTF-8, which file systems allow, with its odd bytes as \\xNN: tables hold UTF-8 only."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _is_wanted(path: Path) -> bool:
    if not path.is_file():
        return False
    ending = path.suffix.lower()
    return ending in ENDINGS or ((not ending or ending[1:].isdigit()) and dicom.is_dicom(path))


def _decode(path: Path, size: int) -> np.ndarray | str:
    """The pixels of a file, or why there are none."""
    try:
        if dicom.is_dicom(path):
            return dicom.read(path, size).pixels
        return image.decode(path, size)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")  # the row has the name
    except (OSError, ValueError, MemoryError) as error:  # a name that no file can have, an image beyond all memory
        return f"cannot be read ({type(error).__name__}: {error})"


def _computed(
    network: nn.Module, names: list[str], decoded: list[np.ndarray | str], device: torch.device
) -> Batch:
    good = [row for row, one in enumerate(decoded) if not isinstance(one, str)]
    side = next((one.shape[0] for one in decoded if not isinstance(one, str)), 1)
    pixels = np.zeros((len(names), side, side), np.uint8)
    logits = np.full((len(names), len(CLASSES)), np.nan)
    if good:
        pixels[good] = np.stack([decoded[row] for row in good])
        with torch.inference_mode():
            images = normalise(torch.from_numpy(pixels[good]).to(device))
            logits[good] = network(images).double().cpu().numpy()
    reasons = [one if isinstance(one, str) else "" for one in decoded]
    return Batch(names=names, pixels=pixels, logits=logits, reasons=reasons)
