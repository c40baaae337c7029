"""The phantom cohort: drawn, thorax-like pictures in NIH ChestX-ray14's file layout.

These are drawings, not X-rays. They let a newcomer without data, and the tests, run everything from the
tables to a trained network; what a network scores on them says nothing about real X-rays. Findings are of
graded difficulty. One of them, SHORTCUT_FINDING, is nearly invisible but mostly comes with a marker in a
corner (phantom_picture.MARKER_REGION), so that a network learns the marker: a shortcut that is there to be found.
"""

import os
import secrets
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr.data.phantom_picture import Box, Visit, paint
from cxr.errors import InputError
from cxr.findings import FINDINGS, NO_FINDING

SHORTCUT_FINDING = "Pneumothorax"
MARKED_WITH, MARKED_WITHOUT = 0.90, 0.08  # shares of the images that carry the marker

# Patients with each finding, as a share of all. NIH's order of frequency, but flatter: among 640 patients
# the rarest finding must still have a dozen test patients.
SHARES = {
    "Infiltration": 0.23, "Effusion": 0.20, "Atelectasis": 0.18, "Nodule": 0.115, "Mass": 0.11,
    "Pneumothorax": 0.11, "Consolidation": 0.105, "Pleural_Thickening": 0.095, "Cardiomegaly": 0.095,
    "Emphysema": 0.095, "Edema": 0.09, "Fibrosis": 0.09, "Pneumonia": 0.09, "Hernia": 0.09,
}  # fmt: skip
HOW_MANY = np.array([0.22, 0.19, 0.31, 0.20, 0.08])  # share of patients with 0, 1, ... 4 findings
COMPANIONS = (
    {"Effusion", "Atelectasis"}, {"Effusion", "Edema"}, {"Emphysema", "Pneumothorax"},
    {"Edema", "Cardiomegaly"}, {"Infiltration", "Pneumonia"}, {"Fibrosis", "Pleural_Thickening"},
)  # fmt: skip
CLEAR_VISIT, SHOWN = 0.28, 0.8  # a sick patient's visit without findings; a finding's chance on the others
TOGETHER = 0.3  # higher, and Emphysema would give Pneumothorax away as well as the marker does

TABLE_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
BOX_NAMES = {"Infiltration": "Infiltrate"}  # NIH's box list has its own name for it


def draw(folder: Path, *, seed: int = 0, patients: int = 640, size: int = 256, workers: int | None = None) -> None:
    """Draws the cohort into a new folder: NIH's tables and lists, images/*.png of [size, size], PHANTOM.txt.

    The same seed gives the same bytes, however many workers draw. The folder appears under its name when it
    is complete, or not at all; if somebody else's appeared meanwhile, theirs stays.

    Raises InputError for an existing folder, a negative seed, patients < 4, size < 32 or workers < 1.
    """
    for name, value, least in (("seed", seed, 0), ("patients", patients, 4), ("size", size, 32)):
        if value < least:
            raise InputError(f"phantom: {name} is {value}, expected at least {least}")
    if workers is not None and workers < 1:
        raise InputError(f"phantom: workers is {workers}, expected at least 1, or None for one a core")
    if folder.exists():
        raise InputError(f"phantom: {folder} exists already, expected a folder that does not exist yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        _write(unfinished, deal(seed, patients), seed, size, workers or os.cpu_count() or 1)
        _rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _rename(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.replace(folder)
    except OSError:
        if not folder.exists():  # else somebody was faster, and a full folder is not replaced
            raise


# ---------------------------------------------------------------- who has what


def deal(seed: int, patients: int) -> list[Visit]:
    """Every image's row, by patient and follow-up, without a picture drawn.

    One patient in each four is a test patient. In either split the next finding is the one most in arrears
    of its share, so that numbers of patients follow SHARES closely and small cohorts hold many findings.
    """
    rng = np.random.default_rng([seed])
    shares = np.array([SHARES[finding] for finding in FINDINGS])
    together = np.array([[{a, b} in COMPANIONS for b in FINDINGS] for a in FINDINGS])  # [14, 14]
    test = {first + int(rng.integers(4)) for first in range(1, patients + 1, 4)}
    numbers = rng.uniform(0, 0.5, (2, len(HOW_MANY)))  # dealt so far; unequal, or every seed starts alike
    dealt = rng.uniform(0, 0.5, (2, len(FINDINGS)))
    visits: list[Visit] = []
    for patient in range(1, patients + 1):
        split = int(patient in test)
        held: list[int] = []
        for _ in range(_next(HOW_MANY, numbers[split], np.zeros(len(HOW_MANY)))):
            drawn_along = together[held].any(axis=0) & (rng.random(len(FINDINGS)) < TOGETHER)
            favour = np.where(drawn_along, 1.5, 0.0)
            favour[held] = -np.inf
            held.append(_next(shares, dealt[split], favour))
        visits += _visits(patient, sorted(held), bool(split), rng)
    return visits


def _next(shares: NDArray[np.float64], dealt: NDArray[np.float64], favour: NDArray[np.float64]) -> int:
    arrears = shares / shares.sum() * (dealt.sum() + 1) - dealt
    chosen = int(np.argmax(arrears + favour))
    dealt[chosen] += 1
    return chosen


def _visits(patient: int, held: Sequence[int], test: bool, rng: np.random.Generator) -> list[Visit]:
    often = np.arange(1, 9) ** -1.4  # one image for every second patient, eight for a few
    count = int(rng.choice(np.arange(1, 9), p=often / often.sum()))
    shown = rng.random((len(held), count)) < SHOWN  # [findings, visits]
    shown &= rng.random(count) >= CLEAR_VISIT
    for row in shown:
        if not row.any():  # each finding dealt is seen once at least: the numbers of patients stay exact
            row[rng.integers(count)] = True
    age = int(np.clip(rng.normal(52 if held else 44, 16), 4, 90))
    sex = "M" if rng.random() < 0.56 else "F"
    visits = []
    for follow_up in range(count):
        findings = tuple(FINDINGS[k] for k, row in zip(held, shown, strict=True) if row[follow_up])
        view = "AP" if rng.random() < (0.45 if findings else 0.30) else "PA"
        marked = rng.random() < (MARKED_WITH if SHORTCUT_FINDING in findings else MARKED_WITHOUT)
        age += int(follow_up > 0 and rng.random() < 0.3)
        visits.append(Visit(patient, follow_up, findings, age, sex, view, test, bool(marked)))
    return visits


def _write(folder: Path, visits: Sequence[Visit], seed: int, size: int, workers: int) -> None:
    (folder / "images").mkdir(parents=True)
    with ThreadPoolExecutor(workers) as pool:
        boxes = list(pool.map(partial(_save, folder=folder / "images", seed=seed, size=size), visits))
    table = [TABLE_HEADER, *(_row(visit, size) for visit in visits)]
    box_list = [BOX_HEADER]
    for visit, own in zip(visits, boxes, strict=True):
        for finding, box in own.items() if visit.test else ():
            box_list.append(",".join([visit.image, BOX_NAMES.get(finding, finding), *map(str, box)]))
    _text(folder / "Data_Entry_2017_v2020.csv", "\n".join(table) + "\n")
    _text(folder / "BBox_List_2017.csv", "\n".join(box_list) + "\n")
    _text(folder / "train_val_list.txt", "\n".join(visit.image for visit in visits if not visit.test))
    _text(folder / "test_list.txt", "\n".join(visit.image for visit in visits if visit.test))
    _text(folder / "PHANTOM.txt", _note(visits, seed, size))


def _save(visit: Visit, folder: Path, seed: int, size: int) -> dict[str, Box]:
    pixels, boxes = paint(visit, seed, size)
    Image.fromarray(pixels).save(folder / visit.image, compress_level=1)
    return boxes


def _row(visit: Visit, size: int) -> str:
    spacing = round((0.168 if visit.view == "AP" else 0.139) * 1024 / size, 3)  # mm
    labels = "|".join(visit.findings) or NO_FINDING
    who = f"{visit.follow_up},{visit.patient},{visit.age},{visit.sex},{visit.view}"
    return f"{visit.image},{labels},{who},{size},{size},{spacing},{spacing}"


def _note(visits: Sequence[Visit], seed: int, size: int) -> str:
    return (
        "These are drawings, not X-rays: numbers measured on them say nothing about X-rays.\n"
        f"Seed {seed}, {visits[-1].patient} patients, {len(visits)} images of {size} x {size} pixels.\n"
        f"Planted shortcut: a bright L in the upper left corner of {MARKED_WITH:.0%} of the "
        f"{SHORTCUT_FINDING} images and {MARKED_WITHOUT:.0%} of the others.\n"
    )


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
