"""Test scores by sex, age, view, visit and number of images: how well a model ranks and calls in each group.

Groups and contrasts are fixed beforehand, and are not adjusted for one another: an AP image is of a sicker patient
than a PA one. There are 160 contrasts, of three measures each; at 95 % one in twenty excludes zero by chance, so
that a single one is a question, not a finding. FPR of `No Finding` is the underdiagnosis rate of Seyyed-Kalantari
et al., Nature Medicine 2021 (https://doi.org/10.1038/s41591-021-01595-0).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.evaluation import ranked
from cxr.evaluation.bootstrap import REPLICATES, Statistic, rate
from cxr.evaluation.ranked import MACRO, Estimates, Sum
from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES, FINDINGS, NO_FINDING

LEVELS: dict[str, tuple[str, ...]] = {
    "sex": ("F", "M"),
    "age": ("0-17", "18-39", "40-59", "60-79", "80+"),  # years
    "view": ("PA", "AP"),
    "visit": ("first", "later"),  # the lowest number in the set, NIH's 0, and above
    "images": ("1", "2-5", "6-20", "21+"),  # how many images of the patient are in this test set
}
# Every other level is contrasted with this one: the commonest, the earliest, or the one without repetition.
REFERENCE = {"sex": "M", "age": "40-59", "view": "PA", "visit": "first", "images": "1"}
RULE = "youden"  # of `thresholds.RULES`
MEASURES = ("auroc", "tpr", "fpr")
_Macros = Mapping[tuple[str, str], tuple[str, ...]]  # the findings of macro_14 by attribute and level
SIZES = ("images", "patients", "positives", "positive_patients", "negative_patients")


@dataclass(frozen=True, kw_only=True, eq=False)
class Subgroups:
    """One row a level and finding, one row a contrast and finding, and how many images have no level.

    cells: attribute, level, finding (14 findings, No Finding where any level can measure it, macro_14), images,
    patients, positives, positive_patients, negative_patients, few (under 30 effective positive patients: intervals
    are too narrow; empty for a macro), prevalence (of the images that are labelled in the
    finding; a macro has images and patients of the level alone), then auroc, tpr, fpr with _low and _high, note.
    contrasts: attribute, contrast (`F minus M`), finding, auroc_difference, low, high, and tpr and fpr as
    tpr_difference, tpr_low, tpr_high. NaN where a level cannot be measured.
    """

    cells: pd.DataFrame
    contrasts: pd.DataFrame
    unknown: Mapping[str, int]  # attribute -> images whose level is not known: in no cell


def measure(
    test: pd.DataFrame, thresholds: pd.DataFrame | None, *, seed: int, count: int = REPLICATES
) -> Subgroups:
    """Measure the test rows of a scores table with age_years, sex, view and follow_up joined on.

    `thresholds`: a `thresholds.table` of validation (logits; a call is logit >= youden); None leaves TPR and FPR
    undefined. A cell needs 10 positive and 10 negative patients. macro_14 is the mean over findings that are
    the same in all levels of an attribute, see `_macro_classes`; so are those of TPR and FPR, where gaps in
    opposite directions cancel out. Intervals: 95 %, patient bootstrap, in the same replicates.
    """
    test, patients = ranked.numbered(test.reset_index(drop=True))
    groups = levels(test)
    known = {name: measured(test, name) for name in CLASSES}
    chosen = pd.Series(dtype=np.float64) if thresholds is None else thresholds[RULE]
    statistics: dict[str, Statistic] = {}
    rows: list[dict[str, object]] = []
    for attribute, names in LEVELS.items():
        for level in names:
            inside = (groups[attribute] == level).to_numpy()
            cell = {"attribute": attribute, "level": level}
            for name in CLASSES:
                part, threshold = known[name][inside[known[name].index]], float(chosen.get(name, np.nan))
                rows.append({**cell, "finding": name, **_counted(part, threshold)})
                for kind, statistic in _statistics(part, threshold, patients).items():
                    statistics[_key(attribute, level, kind, name)] = statistic
            whole = {"images": int(inside.sum()), "patients": test.loc[inside, "patient_id"].nunique()}
            rows.append({**cell, "finding": MACRO, **whole})
    found = ranked.estimates(statistics, patients, seed=seed, count=count)
    macros = {
        place: names for attribute in LEVELS for place, names in _macro_classes(attribute, statistics).items()
    }
    return Subgroups(
        cells=_cells(rows, found, macros),
        contrasts=_contrasts(found, macros),
        unknown={attribute: int((groups[attribute] == "").sum()) for attribute in LEVELS},
    )


def levels(test: pd.DataFrame) -> pd.DataFrame:
    """The level of each row in each attribute of `LEVELS`, one column each; empty where it is unknown."""
    images = test.groupby("patient_id")["image"].transform("size")
    return pd.DataFrame(
        {
            "sex": test["sex"].where(test["sex"].isin(LEVELS["sex"]), ""),
            "age": _banded(test["age_years"], (0, 18, 40, 60, 80, np.inf), LEVELS["age"]),
            "view": test["view"].where(test["view"].isin(LEVELS["view"]), ""),
            "visit": _banded(test["follow_up"] - test["follow_up"].min(), (0, 1, np.inf), LEVELS["visit"]),
            "images": _banded(images, (1, 2, 6, 21, np.inf), LEVELS["images"]),
        }
    )


def flat(subgroups: Subgroups, prefix: str = "test") -> dict[str, float]:
    """What is defined, as metrics: `test/subgroup/sex_F/auroc/Edema`, `test/contrast/sex_F_minus_M/tpr/Edema`."""
    metrics: dict[str, float] = {}
    for row in subgroups.cells.to_dict("records"):
        place = f"{prefix}/subgroup/{_metric(row['attribute'], row['level'])}"
        metrics |= {f"{place}/{kind}/{row['finding']}": row[kind] for kind in MEASURES}
    for row in subgroups.contrasts.to_dict("records"):
        place = f"{prefix}/contrast/{_metric(row['attribute'], row['contrast'])}"
        metrics |= {f"{place}/{kind}/{row['finding']}": row[f"{kind}_difference"] for kind in MEASURES}
    return {name: float(value) for name, value in metrics.items() if not np.isnan(value)}


def _banded(values: pd.Series, edges: tuple[float, ...], names: tuple[str, ...]) -> pd.Series:
    bands = pd.cut(values.astype(np.float64), list(edges), right=False, labels=list(names))
    return bands.astype(object).where(bands.notna(), "")


def _metric(attribute: str, level: str) -> str:
    """A name that MLflow takes: it has no `+`."""
    return f"{attribute}_{level}".replace(" minus ", "_minus_").replace("+", "_and_over")


def _key(attribute: str, level: str, kind: str, finding: str) -> str:
    return f"{attribute}/{level}/{kind}/{finding}"


def _counted(known: pd.DataFrame, threshold: float) -> dict[str, object]:
    size = ranked.sizes(known)
    unset = f"no {RULE} threshold of validation: no TPR, no FPR" if np.isnan(threshold) else ""
    prevalence = size["positives"] / size["images"] if size["images"] else np.nan
    return {**size, "few": ranked.few(known), "prevalence": prevalence, "note": ranked.too_few(known) or unset}


def _statistics(known: pd.DataFrame, threshold: float, patients: int) -> dict[str, Statistic]:
    """What can be measured of a class in a level, by measure."""
    if ranked.too_few(known):
        return {}
    found: dict[str, Statistic] = {"auroc": ranked.ranking(known, patients).auroc}
    if not np.isnan(threshold):
        labels, logits, of = ranked.columns(known)
        called = logits.astype(np.float64) >= threshold  # not in float32, to which a threshold would be rounded
        for kind, side in (("tpr", labels == 1), ("fpr", labels == 0)):
            counts = (np.bincount(of, weights=images, minlength=patients) for images in (side & called, side))
            found[kind] = rate(*counts)
    return found


def _macro_classes(attribute: str, statistics: Mapping[str, Statistic]) -> _Macros:
    """The findings of macro_14 in each level: the same in every level that has a macro, none in the others.

    A mean over other findings in each level would compare findings, not levels: so only those count that all
    levels can measure. A level that can measure fewer than half of those that any level can (as the 29 patients
    of 80 years and over in NIH's test set) has no macro, lest it empty the set for all.
    """
    carried = {
        level: [name for name in FINDINGS if _key(attribute, level, "auroc", name) in statistics]
        for level in LEVELS[attribute]
    }
    anywhere = {name for names in carried.values() for name in names}
    wide = [level for level, names in carried.items() if names and 2 * len(names) >= len(anywhere)]
    shared = tuple(name for name in FINDINGS if all(name in carried[level] for level in wide)) if wide else ()
    return {(attribute, level): shared if level in wide else () for level in LEVELS[attribute]}


def _sum(macros: _Macros, attribute: str, level: str, kind: str, finding: str) -> Sum:
    names = macros[attribute, level] if finding == MACRO else (finding,)
    return ranked.mean([_key(attribute, level, kind, name) for name in names])


def _cells(rows: list[dict[str, object]], found: Estimates, macros: _Macros) -> pd.DataFrame:
    for row in rows:
        attribute, level, finding = (str(row[name]) for name in ("attribute", "level", "finding"))
        for kind in MEASURES:
            estimate = found.of(_sum(macros, attribute, level, kind, finding))
            row |= estimate.named(kind, f"{kind}_low", f"{kind}_high")
        if finding == MACRO:
            row["note"] = _macro_note(macros, attribute, level)
    names = ["attribute", "level", "finding", *SIZES, "few", "prevalence"]
    names += [f"{kind}{end}" for kind in MEASURES for end in ("", "_low", "_high")] + ["note"]
    table = pd.DataFrame(rows, columns=names).astype(dict.fromkeys(SIZES, "Int64"))  # a macro has no positives
    return table[table["finding"].isin(_shown(found))].reset_index(drop=True)


def _macro_note(macros: _Macros, attribute: str, level: str) -> str:
    shared = macros[attribute, level]
    if shared:
        return ranked.macro_note(shared, [name for name in FINDINGS if name not in shared])
    if any(macros[attribute, other] for other in LEVELS[attribute]):
        return "no macro: fewer than half of the findings can be measured here"
    return "no macro: no finding can be measured in all levels"


def _contrasts(found: Estimates, macros: _Macros) -> pd.DataFrame:
    pairs = [(attribute, level, other) for attribute, other in REFERENCE.items() for level in LEVELS[attribute]]
    rows: list[dict[str, object]] = []
    for attribute, level, reference in pairs:
        if level == reference:
            continue
        for finding in _shown(found):
            row: dict[str, object] = {
                "attribute": attribute,
                "contrast": f"{level} minus {reference}",
                "finding": finding,
            }
            for kind, start in (("auroc", ""), ("tpr", "tpr_"), ("fpr", "fpr_")):
                one, other = (_sum(macros, attribute, side, kind, finding) for side in (level, reference))
                estimate = found.difference(one, other)
                row |= estimate.named(f"{kind}_difference", f"{start}low", f"{start}high")
            rows.append(row)
    return pd.DataFrame(rows)


def _shown(found: Estimates) -> tuple[str, ...]:
    """The findings that have rows: `No Finding` only where some level can measure it."""
    healthy = any(name.endswith(f"/auroc/{NO_FINDING}") for name in found.place)
    return (*FINDINGS, *((NO_FINDING,) if healthy else ()), MACRO)
