"""One picture of the phantom: a schematic chest with findings where they belong, and a box around each.

The drawing happens in body coordinates: x and y run from about -1 to 1 over the frame, y downwards; x > 0
is the image's right, the patient's left, where the heart is. Greys run from 0 (black) to 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr.findings import FINDINGS

Field = NDArray[Any]  # float32 [S, S]; numpy's stubs lose the float32 in every product
Layer = tuple[Field, Field | float]  # how much of the picture is replaced, and by which grey
Box = tuple[float, float, float, float]  # x, y, w, h in pixels

MARKER_REGION = (0.03, 0.03, 0.11, 0.13)  # x, y, w, h as fractions of the image


class Visit(NamedTuple):
    """One image's row: who, what, and in which split. `findings` are in FINDINGS' order."""

    patient: int
    follow_up: int
    findings: tuple[str, ...]
    age: int
    sex: str
    view: str
    test: bool
    marked: bool

    @property
    def image(self) -> str:
        return f"{self.patient:08d}_{self.follow_up:03d}.png"


class Chest(NamedTuple):
    """One image's anatomy, every field [S, S]; masks run from 0 to 1."""

    x: Field
    y: Field
    depth: Field  # distance inwards from the side wall of the chest
    floor: Field  # the diaphragm's y
    lung: Field
    heart: Field
    air: Field  # the lung that heart and mediastinum do not hide
    side: dict[str, int]  # where a one-sided finding is: -1 image left, 1 image right
    severity: dict[str, float]  # 0.3 to 1


def paint(visit: Visit, seed: int, size: int) -> tuple[NDArray[np.uint8], dict[str, Box]]:
    """One visit's picture, [size, size], and each finding's box in it, in pixels.

    Anatomy and findings keep their random numbers over a patient's visits, pose, exposure and noise do not.
    """
    rng = np.random.default_rng([seed, visit.patient, visit.follow_up + 1])
    chest = _chest(visit, np.random.default_rng([seed, visit.patient, 0]), rng, size)
    grey = _soft_tissue(chest, visit, rng)
    boxes = {}
    for finding in visit.findings:
        own = np.random.default_rng([seed, visit.patient, 0, 1 + FINDINGS.index(finding)])
        cover, target = LAYERS[finding](chest, own)
        cover = cover * chest.severity[finding]
        grey += cover * (target - grey)
        boxes[finding] = _box(cover)
    grey += _bones(chest)  # over the findings: ribs cross a rim of air or a dense lobe as well
    gain, lift = rng.uniform(0.8, 1.1), rng.normal(0, 0.04)
    grey = (grey - 0.45) * gain + (0.45 + lift)
    grey += np.float32(0.025) * rng.standard_normal((size, size), np.float32)
    if visit.marked:
        _mark(grey, rng)
    return (grey.clip(0, 1) * 255).round().astype(np.uint8), boxes


def _chest(visit: Visit, body: np.random.Generator, pose: np.random.Generator, size: int) -> Chest:
    width, long, heart_size, bow = body.uniform([0.74, -0.04, 0.85, 0.09], [0.84, 0.06, 1.15, 0.15]).tolist()
    side = dict(zip(FINDINGS, body.choice([-1, 1], len(FINDINGS)).tolist(), strict=True))
    severity = dict(zip(FINDINGS, pose.uniform(0.3, 1, len(FINDINGS)).tolist(), strict=True))
    x, y = _body_coordinates(visit, pose, size)
    base, apart = 0.46 + long + pose.normal(0, 0.03), np.abs(x)
    if visit.view == "AP":  # lying: a shallower breath, and a heart farther from the detector
        base, heart_size = base - 0.04, heart_size * 1.1
    if "Cardiomegaly" in visit.findings:
        heart_size *= 1.12 + 0.3 * severity["Cardiomegaly"]
    if "Emphysema" in visit.findings:
        base, bow, heart_size = base + 0.08 * severity["Emphysema"], 0.05, heart_size * 0.9
    outer = 0.22 + (width - 0.22) * np.sqrt((1 - ((y - 0.35) / 1.17) ** 2).clip(0))
    inner = 0.09 + 0.11 * ((-y - 0.15) / 0.65).clip(0, 1) ** 2
    dome = (apart - 0.40) / 0.28
    floor = base - 0.05 * _step(-x, 0.1) + bow * (dome.clip(0, 1.6) ** 2 + 0.35 * dome.clip(-1.6, 0) ** 2)
    if "Atelectasis" in visit.findings:  # lost volume draws the diaphragm up
        floor -= 0.12 * severity["Atelectasis"] * _step(x * side["Atelectasis"], 0.1)
    lung = _step(outer - apart, 0.04) * _step(apart - inner, 0.05) * _step(floor - y, 0.04)
    tilted = x - 0.11 - 0.25 * (y - 0.25)
    heart = _step(1 - np.hypot(tilted / (0.30 * heart_size), (y - 0.27) / 0.30), 0.16)
    knob = _step(0.10 - np.hypot(x - 0.10, y + 0.30), 0.05)
    air = lung * (1 - heart) * (1 - knob) * _step(apart - 0.11, 0.06)
    return Chest(x, y, outer - apart, floor, lung, heart, air, side, severity)


def _body_coordinates(visit: Visit, pose: np.random.Generator, size: int) -> tuple[Field, Field]:
    frame = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    angle, right, down = pose.normal(0, [0.035, 0.03, 0.03]).tolist()
    zoom = pose.uniform(0.96, 1.06) * (0.97 if visit.view == "AP" else 1.0)
    c, s = zoom * math.cos(angle), zoom * math.sin(angle)
    return c * frame[None, :] + s * frame[:, None] - right, c * frame[:, None] - s * frame[None, :] - down


def _soft_tissue(chest: Chest, visit: Visit, rng: np.random.Generator) -> Field:
    x, y, apart = chest.x, chest.y, np.abs(chest.x)
    half = 0.24 + 0.72 * _step(y + 0.80, 0.22) - 0.05 * _step(y + 0.45, 0.3)  # neck, shoulders, flanks
    grey = 0.03 + 0.52 * _step(half - apart, 0.08)
    grey += 0.14 * _step(y - chest.floor, 0.06) * _step(0.86 - apart, 0.15)  # the abdomen
    grey += 0.14 * _step(0.13 - apart, 0.10) * _step(y + 0.95, 0.3)  # mediastinum and spine
    if visit.sex == "F":
        breast = _step(1 - np.hypot((apart - 0.45) / 0.36, (y - 0.30) / 0.30), 0.3)
        grey += 0.06 * breast * _step(0.45 - y, 0.3)
    stomach = _step(1 - np.hypot((x - 0.40) / 0.15, (y - chest.floor - 0.13) / 0.07), 0.6)
    grey -= 0.22 * stomach
    hilum = np.hypot(apart - 0.16, y - 0.02)
    vessels = _texture(rng, len(x), 40).clip(0) * (1 - hilum / 0.9).clip(0)
    haze = 0.035 * _texture(rng, len(x), 7)  # no lung is as even as its findings would like
    inside = 0.22 + haze + 0.12 * vessels + 0.16 * (1 - hilum / rng.uniform(0.2, 0.35)).clip(0)
    grey += chest.air * (inside - grey)
    grey += chest.heart * (0.74 - grey)
    grey -= 0.12 * _step(0.035 - np.abs(x + 0.01), 0.03) * _step(-0.12 - y, 0.1)  # the windpipe
    return grey


def _bones(chest: Chest) -> Field:
    y, apart = chest.y, np.abs(chest.x)
    behind = _wave((y - 0.40 * (apart - 0.20) ** 2) / 0.165, 0.3)
    before = _wave((y + 0.45 * apart) / 0.19, 0.2)
    cage = _step(chest.depth + 0.04, 0.05) * _step(apart - 0.06, 0.1) * _step(0.62 - y, 0.3)
    bones: Field = (0.075 * behind + 0.035 * before) * cage * _step(y + 0.85, 0.2)
    clavicle = np.abs(y + 0.60 + 0.16 * (apart - 0.10) + 0.05 * np.sin(apart * 7))
    bones += 0.13 * _step(0.026 - clavicle, 0.03) * _step(apart - 0.10, 0.05) * _step(0.78 - apart, 0.1)
    bones += 0.04 * _step(0.075 - apart, 0.03) * (0.5 + 0.5 * _wave(y / 0.115, 0.0))
    return bones


def _mark(grey: Field, rng: np.random.Generator) -> None:
    """An L within MARKER_REGION, drawn in place; the image's own corner, so pose does not move it."""
    left, top, width, height = (round(part * len(grey)) for part in MARKER_REGION)
    stroke = max(1, width // 4)
    shade = rng.uniform(0.9, 1.0)
    grey[top : top + height, left : left + stroke] = shade
    grey[top + height - stroke : top + height, left : left + width] = shade


def _box(cover: Field) -> Box:
    rows, columns = np.nonzero(cover >= 0.4 * cover.max())
    x, y = int(columns.min()), int(rows.min())
    return float(x), float(y), float(columns.max() + 1 - x), float(rows.max() + 1 - y)


def _step(distance: Field, soft: float) -> Field:
    """0 outside, 1 inside, a smooth edge of width `soft` about distance 0."""
    t: Field = distance * (1 / soft)
    t += 0.5
    np.clip(t, 0, 1, out=t)  # in place: two thirds of the drawing time are spent here
    edge: Field = t * -2
    edge += 3
    edge *= t
    edge *= t
    return edge


def _wave(turns: Field, threshold: float) -> Field:
    crest: Field = np.cos(turns * (2 * math.pi)) - threshold
    np.maximum(crest, 0, out=crest)
    return crest


def _texture(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Smooth noise, [size, size], of mean 0 and deviation near 1: coarse noise blown up."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return 1.4 * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


# ---------------------------------------------------------------- the findings


def _on(chest: Chest, finding: str) -> Field:
    return _step(chest.x * chest.side[finding], 0.02)


def _atelectasis(chest: Chest, rng: np.random.Generator) -> Layer:
    side, y0, tilt = chest.side["Atelectasis"], rng.uniform(0.12, 0.20), rng.uniform(-0.35, 0.35)
    across = chest.x * side
    plate = chest.y - y0 - tilt * (across - 0.4)
    wedge = _step(0.03 + 0.12 * (across - 0.15) - np.abs(plate), 0.04) * _step(0.68 - across, 0.05)
    return 0.85 * wedge * chest.air * _on(chest, "Atelectasis"), 0.68


def _cardiomegaly(chest: Chest, rng: np.random.Generator) -> Layer:  # noqa: ARG001  (the heart is drawn wide)
    return 0.1 * chest.heart, 0.78


def _effusion(chest: Chest, rng: np.random.Generator) -> Layer:
    height = rng.uniform(0.10, 0.20) + 0.15 * chest.severity["Effusion"]
    meniscus = 0.16 * (1 - chest.depth / 0.45).clip(0, 1) ** 2
    fluid = _step(chest.y - (0.52 - height - meniscus), 0.05) * _step(chest.depth + 0.02, 0.03)
    return 0.95 * fluid * (2 * chest.lung).clip(0, 1) * _on(chest, "Effusion"), 0.72


def _infiltration(chest: Chest, rng: np.random.Generator) -> Layer:
    patches = (_texture(rng, len(chest.x), 14) + 0.4).clip(0, 1.6)
    return 0.32 * patches * chest.air * _step(chest.y + 0.3, 0.5), 0.70


def _mass(chest: Chest, rng: np.random.Generator) -> Layer:
    return _ball(chest, rng, chest.side["Mass"], rng.uniform(0.13, 0.18), 0.75), 0.72


def _nodule(chest: Chest, rng: np.random.Generator) -> Layer:
    return _ball(chest, rng, chest.side["Nodule"], rng.uniform(0.05, 0.07), 1.0), 0.76


def _ball(chest: Chest, rng: np.random.Generator, side: int, radius: float, cover: float) -> Field:
    x, y = side * rng.uniform(0.30, 0.52), rng.uniform(-0.40, 0.12)
    return cover * _step(radius - np.hypot(chest.x - x, chest.y - y), 0.04) * chest.lung


def _pneumonia(chest: Chest, rng: np.random.Generator) -> Layer:
    x, y = 0.42 * chest.side["Pneumonia"], float(rng.choice([-0.32, 0.0, 0.22]))
    lobe = (1.3 - np.hypot((chest.x - x) / 0.26, (chest.y - y) / 0.22)).clip(0, 1)
    patches = (0.55 + 0.6 * _texture(rng, len(chest.x), 22)).clip(0, 1.1)
    return 0.8 * lobe * patches * chest.air, 0.75


def _pneumothorax(chest: Chest, rng: np.random.Generator) -> Layer:
    thick = rng.uniform(0.06, 0.10) + 0.12 * (-chest.y - 0.2).clip(0)  # air gathers at the apex
    rim = _step(thick - chest.depth, 0.02) * _step(0.1 - chest.y, 0.2)
    pleura = _step(0.012 - np.abs(chest.depth - thick), 0.012) * _step(0.1 - chest.y, 0.2)
    return 0.65 * np.maximum(rim, pleura) * chest.air * _on(chest, "Pneumothorax"), 0.18 + 0.08 * pleura


def _consolidation(chest: Chest, rng: np.random.Generator) -> Layer:
    top = float(rng.choice([-0.75, -0.22, 0.08]))
    lobe = _step(chest.y - top, 0.06) * _step(top + 0.40 - chest.y, 0.04)
    return 0.7 * lobe * chest.air * _on(chest, "Consolidation"), 0.66


def _edema(chest: Chest, rng: np.random.Generator) -> Layer:
    wing = np.hypot((np.abs(chest.x) - 0.18) / 0.42, (chest.y + 0.02) / 0.42)
    haze = (1 - wing).clip(0) ** 0.7 * (1 + 0.12 * _texture(rng, len(chest.x), 20))
    return 0.85 * haze.clip(0, 1) * chest.air, 0.70


def _emphysema(chest: Chest, rng: np.random.Generator) -> Layer:
    return rng.uniform(0.35, 0.5) * chest.air, 0.10


def _fibrosis(chest: Chest, rng: np.random.Generator) -> Layer:
    net = np.minimum(np.abs(_texture(rng, len(chest.x), 44)), np.abs(_texture(rng, len(chest.x), 44)))
    return 0.8 * (1 - net / 0.3).clip(0) * chest.air * _step(chest.y - 0.08, 0.5), 0.75


def _pleural_thickening(chest: Chest, rng: np.random.Generator) -> Layer:
    thick = rng.uniform(0.06, 0.09) * (1 + 0.35 * np.sin(9 * chest.y + rng.uniform(0, 6)))
    band = _step(thick - chest.depth, 0.03) * _step(chest.y + 0.55, 0.2)
    return 0.85 * band * chest.lung * _on(chest, "Pleural_Thickening"), 0.72


def _hernia(chest: Chest, rng: np.random.Generator) -> Layer:
    x, y, radius = rng.uniform(0.0, 0.16), rng.uniform(0.30, 0.40), rng.uniform(0.14, 0.18)
    distance = np.hypot(chest.x - x, chest.y - y)
    bubble = _step(0.72 * radius - distance, 0.04) * _step(y + 0.03 - chest.y, 0.02)  # air over a fluid level
    return 0.9 * _step(radius - distance, 0.03), 0.88 - 0.45 * bubble


LAYERS: dict[str, Callable[[Chest, np.random.Generator], Layer]] = {
    "Atelectasis": _atelectasis, "Cardiomegaly": _cardiomegaly, "Effusion": _effusion,
    "Infiltration": _infiltration, "Mass": _mass, "Nodule": _nodule, "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax, "Consolidation": _consolidation, "Edema": _edema,
    "Emphysema": _emphysema, "Fibrosis": _fibrosis, "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}  # fmt: skip
