"""The maps themselves, on the active run: class averages, outcomes apart, single images by rule, the arrays."""

from collections.abc import Sequence

import mlflow
import numpy as np
import pandas as pd

from cxr import figures, tracking
from cxr.explain import classmaps, examples, pairs
from cxr.explain.classmaps import ClassMap
from cxr.explain.survey import Survey
from entrypoints.explained import Explained

_PANEL = "Images by rule: highest, median and lowest score. Colours are scaled image by image."
_OUTCOMES = (pairs.TRUE_POSITIVE, pairs.FALSE_NEGATIVE, pairs.FALSE_POSITIVE)


def log(subject: Explained, survey: Survey) -> None:
    """Log class averages with their counts, the paper's Figures 2 and 3, all findings, outcomes, and panels."""
    maps = survey.positives
    for finding, one in maps.items():
        mlflow.log_image(figures.overlay(one.mean_image, one.mean_relu), key=f"gradcam/{finding}")
    tracking.log_arrays(classmaps.arrays(maps), "maps.npz")
    tracking.log_frame(classmaps.summary(maps), "class_maps")
    subject.measured.update({f"explain/zero_maps/{name}": float(one.zero_maps) for name, one in maps.items()})
    scope = f"{subject.scope} Mean over all test positives at {subject.layer}, ReLU per image."
    by_auroc = sorted(maps, key=lambda name: -np.nan_to_num(subject.auroc[name], nan=-1.0))
    carried = [name for name in by_auroc if name in subject.carried]
    ranked = carried if len(carried) >= 3 else by_auroc  # few patients make the extremes by chance
    for place, words, names in (
        ("top3", "three highest AUROC", ranked[:3]),
        ("lowest3", "three lowest AUROC", ranked[-3:]),
    ):
        if names:
            rows = [_row(subject, name, maps[name]) for name in names]
            title = f"Class-averaged Grad-CAM, {words}"
            mlflow.log_figure(figures.class_maps(rows, title=title, subtitle=scope), f"gradcam_{place}.png")
            _panel(subject, subject.test, names, f"single images, {words}", f"gradcam_{place}_images.png")
    if maps:
        rows = [_row(subject, name, one) for name, one in maps.items()]
        title = "Class-averaged Grad-CAM, all findings"
        mlflow.log_figure(figures.class_grid(rows, title=title, subtitle=scope), "gradcam_all.png")
    if subject.thresholds and maps:
        _outcomes(subject, survey)
    if len(subject.boxes):
        boxed = [name for name in maps if (subject.boxes["finding"] == name).any()]
        there = pd.MultiIndex.from_frame(subject.boxes[["image", "finding"]])
        test = subject.test.copy()
        for name in boxed:  # only images whose box of this finding is known
            known = pd.MultiIndex.from_arrays([test["image"], [name] * len(test)]).isin(there)
            test[name] = test[name].where(known, 0)
        _panel(subject, test, boxed, "single images with boxes", "gradcam_boxed.png")


def _panel(subject: Explained, test: pd.DataFrame, names: Sequence[str], words: str, file: str) -> None:
    tiles = []
    for name in names:
        threshold = subject.thresholds.get(name, -float("inf"))
        for one in examples.explain(
            subject.network, subject.layer, subject.store, test, name, device=subject.device, threshold=threshold
        ):
            caption = f"{name}\n{one.rule}, p = {one.probability:.2f}"
            boxes = _boxes(subject, one.image, name)
            tiles.append(figures.Tile(one.pixels, one.map, caption, one.image, boxes))
    if tiles:
        note = f"outline: {subject.drawn_boxes}" if subject.drawn_boxes else ""
        subtitle = f"{subject.scope} {_PANEL}"
        figure = figures.panel(tiles, title=f"Grad-CAM of {words}", subtitle=subtitle, box_note=note)
        mlflow.log_figure(figure, file)


def _boxes(subject: Explained, image: str, finding: str) -> list[tuple[float, float, float, float]]:
    own = subject.boxes[(subject.boxes["image"] == image) & (subject.boxes["finding"] == finding)]
    geometry = subject.store.geometry(image) if len(own) else None
    corners = own[["x", "y", "width", "height"]].itertuples(index=False, name=None)
    return [geometry.to_square(tuple(map(float, box))) for box in corners] if geometry else []  # type: ignore[arg-type]


def _outcomes(subject: Explained, survey: Survey) -> None:
    rows, counts = [], []
    arrays: dict[str, np.ndarray] = {}
    for finding in survey.positives:
        by_outcome = survey.outcomes[finding]
        groups = {
            name: figures.Group(images=one.images, patients=one.patients, mean_image=one.mean_image,
                                mean_map=one.mean_relu)
            for name in _OUTCOMES if (one := by_outcome.get(name))
        }  # fmt: skip
        rows.append(figures.OutcomeRow(finding=finding, groups=groups))
        summary = classmaps.summary({name: by_outcome[name] for name in groups}).rename_axis("outcome")
        counts.append(summary.reset_index().assign(finding=finding))
        arrays |= classmaps.arrays({f"{finding}/{name}": by_outcome[name] for name in groups})
    tracking.log_arrays(arrays, "outcome_maps.npz")
    tracking.log_frame(pd.concat(counts).set_index("finding"), "outcomes")
    false = f"False positives: {pairs.FALSE_POSITIVES} a finding at most, drawn at random."
    subtitle = f"{subject.scope} By the threshold chosen on validation (Youden). {false}"
    title = "Found, missed and falsely alarmed: class-averaged Grad-CAM apart"
    mlflow.log_figure(figures.outcomes(rows, title=title, subtitle=subtitle), "gradcam_outcomes.png")


def _row(subject: Explained, finding: str, one: ClassMap) -> figures.ClassMapRow:
    auroc = subject.auroc[finding]
    return figures.ClassMapRow(
        finding=finding, auroc=None if np.isnan(auroc) else auroc, images=one.images, patients=one.patients,
        mean_image=one.mean_image, mean_map=one.mean_relu, sd_map=one.sd_relu, zero_maps=one.zero_maps,
    )  # fmt: skip
