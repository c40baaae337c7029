"""Grad-CAM overlays of predicted images: a folder of PNG files beside a table, whole or as it was before."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch.nn import functional
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.errors import InputError
from cxr.explain import gradcam
from cxr.figures.pictures import Tile, write
from cxr.findings import CLASSES, FINDINGS
from cxr.prediction import Batch

_NAME = re.compile(rf"\d{{6,}}_.*\.({'|'.join(FINDINGS)})\.png", re.DOTALL)


def folder_of(table: Path) -> Path:
    """Where the overlays of a table lie: `<its name>_maps`, beside it."""
    return table.with_name(f"{table.stem}_maps")


def left_by(table: Path) -> set[Path]:
    """The overlays beside a table, of a call that was killed, too: known by their place and by their names."""
    folder = folder_of(table)
    return _overlays(folder) | _overlays(_growing(folder))


class Overlays:
    """`<row of the table>_<file>.<Finding>.png` for each good file, of its highest finding.

    They are written into a folder of another name, and take the place of older ones at the end: what is
    interrupted leaves the older ones. Nothing else is ever removed. Raises InputError where a folder is there
    already: without `overwrite`, with anything in it that is not named as an overlay, or with one of the `inputs`
    in it.
    """

    def __init__(self, table: Path, *, overwrite: bool, inputs: Iterable[Path]) -> None:
        self.folder = folder = folder_of(table)
        self._growing = _growing(folder)
        if not os.path.lexists(folder):
            return
        if not overwrite:
            raise InputError(f"explain=true: {folder} is there already; overwrite=true replaces it.")
        if not folder.is_dir():
            raise InputError(f"explain=true: {folder} is no folder, and overlays would go there.")
        old = _overlays(folder)
        others = sorted(set(folder.iterdir()) - old)
        if old and not others:
            read = {os.path.realpath(path) for path in inputs if "\0" not in str(path)}
            others = sorted(path for path in old if os.path.realpath(path) in read)
        if others:
            raise InputError(
                f"explain=true: {folder} would be replaced, but {others[0].name} in it is no overlay, or is an "
                "input. Nothing was removed; name another output."
            )

    def __enter__(self) -> Self:
        shutil.rmtree(self._growing, ignore_errors=True)
        try:
            self._growing.mkdir()
        except OSError as error:
            raise _refused(self._growing, error) from error
        return self

    def add(self, network: ResNet, batch: Batch, learned: Sequence[str], device: torch.device, first: int) -> None:
        """The overlays of a batch, whose first row of the table is `first`; a long name's beginning is kept."""
        good = [row for row, reason in enumerate(batch.reasons) if not reason]
        if not good:
            return
        known = [number for number, name in enumerate(CLASSES) if name in FINDINGS and name in learned]
        highest = torch.tensor([known[int(np.argmax(batch.logits[row, known]))] for row in good])
        images = normalise(torch.from_numpy(batch.pixels[good]).to(device))
        maps = gradcam.maps_of(network, gradcam.default_layer(images.shape[-1]), images, highest).relu()
        large = functional.interpolate(maps[:, None], images.shape[-2:], mode="bilinear", align_corners=False)
        for place, row in enumerate(good):
            finding, name = CLASSES[highest[place]], Path(batch.names[row]).stem[:50]
            path = self._growing / f"{first + row + 1:06}_{name}.{finding}.png"
            try:
                write(path, Tile(batch.pixels[row], large[place, 0].numpy(), finding, batch.names[row]))
            except OSError as error:
                raise _refused(path, error) from error

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is not None:
            shutil.rmtree(self._growing, ignore_errors=True)
            return
        self.folder.mkdir(exist_ok=True)
        for path in _overlays(self.folder):
            path.unlink()
        for path in self._growing.iterdir():
            path.replace(self.folder / path.name)
        self._growing.rmdir()


def _growing(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.unfinished")


def _overlays(folder: Path) -> set[Path]:
    if not folder.is_dir():
        return set()
    return {path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()}


def _refused(path: Path, error: OSError) -> InputError:
    return InputError(f"explain=true: {path} cannot be written ({error.strerror or error}).")
