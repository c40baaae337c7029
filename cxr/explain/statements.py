"""What was measured on a finding's maps, in sentences, and what does not follow from it.

A map is easily believed (the paper's section 6.4). So each run says of every finding what its maps were held
against, with the numbers, and what they leave open.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxr.explain.classmaps import ClassMap

_REGIONS = {
    "corners": "the corners are",
    "border": "the border is",
    "outside_thorax": "all outside the thorax is",
}
DOES_NOT_FOLLOW = (
    "**What does not follow.** A map inside a box shows where the network's evidence lies, not that it is the "
    "evidence a radiologist uses. A mean map hides how single maps differ. No alarm means that no fall above 0.02 "
    "was shown when these regions were masked: with few patients little can be shown, and a shortcut may lie "
    "elsewhere: tubes, devices, the view. And maps that pass every test here say nothing about other images, "
    "other trainings or a clinic."
)


def of_finding(
    finding: str, one: ClassMap, *, located: pd.DataFrame, differences: pd.DataFrame, effects: pd.DataFrame
) -> str:
    """What is known of a finding's maps; each table may be empty.

    `located`, `differences`: `localisation.table` and `localisation.differences`; `effects`: `shortcuts.effects`.
    """
    parts = [f"{_count(one.images, 'image')} of {_count(one.patients, 'patient')} mapped"]
    if one.zero_maps == one.images:
        parts[0] += ", all of them zero: they point nowhere, which counts as a miss"
    elif one.zero_maps:
        parts[0] += f", {one.zero_maps:,} of the maps zero"
    parts += [*_located(finding, located, differences), *_masked(finding, effects)]
    return f"**{_spoken(finding)}**: {'. '.join(parts)}."


def _located(finding: str, table: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    own = _rows(table, finding=finding, stratum="all", measure="pointing")
    hit = _rows(own, method="gradcam")
    if hit.empty:
        return ["No boxes, so where the maps point was not measured"]
    row = hit.iloc[0]
    said = (
        f"Of {_count(int(row['images']), 'boxed image')} of {_count(int(row['patients']), 'patient')} the map's "
        f"maximum lies in the box in {row['value']:.0%}{_interval(row)}"
    )
    others = own[own["method"] != "gradcam"].sort_values("value", ascending=False, kind="stable")
    best = others.iloc[0]
    against = _rows(differences, finding=finding, stratum="all", measure="pointing", baseline=best["method"])
    verdict = _verdict(against.iloc[0]) if len(against) else ""
    return [f"{said}; the best baseline ({BASELINES[best['method']]}) in {best['value']:.0%}{verdict}"]


BASELINES = {
    "shuffled": "the map shuffled",
    "centre": "the image's centre",
    "class_mean": "other patients' mean map",
}


def _verdict(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return ", too few patients to tell them apart"
    if row["low"] > 0:
        return ", so the map adds to it"
    return ", so the map is worse" if row["high"] < 0 else ", which is not told apart from it"


def _masked(finding: str, effects: pd.DataFrame) -> list[str]:
    own = _rows(effects, finding=finding)
    known = own[own["drop"].notna()] if len(own) else own
    if known.empty:
        return [] if own.empty else ["Too few patients to say what masking does to its AUROC"]
    alarms = known[known["alarm"].astype(bool)]
    if len(alarms):
        told = "; ".join(
            f"by {row['drop']:.3f}{_interval(row, '.3f')} when {_region(row['region'])} masked"
            for _, row in alarms.iterrows()
        )
        few = ", of few patients: the interval is too narrow" if alarms["few"].any() else ""
        return [f"SHORTCUT ALARM: its AUROC falls {told}{few}. What lies there is part of what it lives off"]
    worst = known.sort_values("drop", ascending=False).iloc[0]
    what = f"{'falls' if worst['drop'] > 0 else 'rises'} by {abs(worst['drop']):.3f}"
    bound = f"; a fall of up to {max(known['high'].max(), 0):.3f} is not excluded"
    return [f"No alarm: at worst its AUROC {what}, when {_region(worst['region'])} masked{bound}"]


def _region(name: str) -> str:
    return _REGIONS.get(name, f"the {_spoken(name)} corner is")


def _rows(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    for name, value in values.items():
        if table.empty:
            return table
        table = table[table[name] == value]
    return table


def _interval(row: "Mapping[str, float] | pd.Series", form: str = ".0%") -> str:
    if np.isnan(row["low"]):
        return ""
    return f" (95 % {row['low']:{form}} to {row['high']:{form}})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _spoken(name: object) -> str:
    return str(name).replace("_", " ")
