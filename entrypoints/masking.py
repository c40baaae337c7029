"""Shortcuts, on the active run: what each AUROC loses when a region of the test images is masked."""

import time
from collections.abc import Sequence

import mlflow
import numpy as np
import pandas as pd

from cxr import figures, tracking
from cxr.explain import shortcuts
from entrypoints.explained import Explained

SHOWN = ("corners", "border", "outside_thorax")  # the other regions are single corners


def log(subject: Explained, regions: Sequence[str], *, most: int) -> pd.DataFrame:
    """Mask each region in at most so many test images (`shortcuts.effects`), log what it does; the effects."""
    test = _whole_patients(subject.test, most, subject.seed)
    rows = subject.store.rows_of(test["image"].tolist())
    fill = shortcuts.mean_picture(subject.store, rows)
    start = time.perf_counter()
    masked = shortcuts.masked_logits(subject.network, subject.store, rows, regions, fill, device=subject.device)
    a_pass = (time.perf_counter() - start) / max(len(rows) * len(regions), 1)
    subject.measured["explain/seconds/forward"] = a_pass * (len(subject.test) + subject.val_images)
    effects = shortcuts.effects(test, masked)
    tracking.log_frame(effects.set_index("finding"), "masking")
    subject.measured.update(shortcuts.flat(effects))
    shown = effects[effects["region"].isin(SHOWN)]
    if shown["drop"].notna().any():
        subtitle = (
            f"{subject.scope} {len(test):,} images; the region is replaced by the mean picture in all of them."
        )
        mlflow.log_figure(figures.masking(shown, subtitle=subtitle), "masking.png")
    return effects


def _whole_patients(test: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """All images of patients drawn at random, at most so many images in all."""
    if len(test) <= most:
        return test
    patients = np.random.default_rng([seed, 2]).permutation(np.unique(test["patient_id"]))
    counts = test["patient_id"].value_counts().reindex(patients).to_numpy()
    kept = patients[np.cumsum(counts) <= most]
    return test[test["patient_id"].isin(kept)].reset_index(drop=True)


def line(effects: pd.DataFrame) -> str:
    """What masking found, in a sentence or two."""
    alarms = effects[effects["alarm"].astype(bool)]
    known = effects.loc[effects["drop"].notna(), "finding"].nunique()
    if len(alarms):
        told = [
            f"{row['finding']} ({row['region'].replace('_', ' ')}: AUROC lower by {row['drop']:.3f}, 95 % "
            f"{row['low']:.3f} to {row['high']:.3f}{', few patients: too narrow' if row['few'] else ''})"
            for row in alarms.to_dict("records")
        ]
        return f"**Shortcut alarm**: {'; '.join(told)}. What lies there is part of what ranks these."
    return (
        f"No shortcut alarm in {known} findings: for none is a fall of AUROC above {shortcuts.ALARM:g} shown. "
        "With few patients little can be shown; the intervals say what is not excluded."
        if known
        else "Masking says nothing here: no finding has 10 positive and 10 negative patients."
    )
