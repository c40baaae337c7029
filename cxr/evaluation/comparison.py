"""Two models on the same images: differences of AUROC, paired by patient.

Intervals come from the patient bootstrap, both models in the same replicates; p from the paired clustered
DeLong test with the jackknife's variance and Student's t (`delong.t_compare`), adjusted over the findings after
Holm. Plain clustered DeLong finds a difference where none is in 11 % of samples with 12 positive patients; it is
p_normal. A difference that is not significant is not shown to be none.
"""

import numpy as np
import pandas as pd

from cxr.errors import InputError, first_ten
from cxr.evaluation import delong, metrics
from cxr.evaluation.bootstrap import REPLICATES
from cxr.evaluation.ranked import (
    Estimates,
    columns,
    estimates,
    few,
    mean,
    numbered,
    ranking,
)
from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES, FINDINGS

READING = (
    "Intervals: patient bootstrap, 95 %; p: paired clustered DeLong with Student's t; p_holm: over 14 findings. "
    "A difference that is not significant is not shown to be none."
)
COLUMNS = (
    "first", "second", "difference", "difference_low", "difference_high", "p", "p_holm", "p_normal", "images",
    "positives", "positive_patients", "few", "note",
)  # fmt: skip
MACROS = {"macro_14": FINDINGS, "macro_15": CLASSES}


def refuse_unpaired(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str]) -> None:
    """Raise InputError where two scores tables are not of the same images with the same patients and labels."""
    one, other = (table.set_index("image") for table in (first, second))
    for mine, theirs, name in ((one, other, names[0]), (other, one, names[1])):
        alone = mine.index.difference(theirs.index).tolist()
        if alone:
            raise InputError(
                f"{names[0]} and {names[1]} were not measured on the same images: {len(alone):,} of "
                f"{len(mine):,} of {name} are missing in the other: {first_ten(alone)}."
            )
    columns = ["patient_id", *CLASSES]
    left, right = one[columns], other.loc[one.index, columns]
    differs = ~((left == right) | (left.isna() & right.isna())).all(axis=1)
    if differs.any():
        images = first_ten(differs.index[differs].tolist())
        raise InputError(
            f"{names[0]} and {names[1]} were measured with other labels or patients for {differs.sum():,} of "
            f"{len(differs):,} images: {images}."
        )


def table(first: pd.DataFrame, second: pd.DataFrame, *, seed: int, count: int = REPLICATES) -> pd.DataFrame:
    """A row a class, then macro_14 and macro_15, of two scores tables of the same images (see `refuse_unpaired`).

    Columns: first and second (AUROC), difference (first - second) with _low and _high, p, p_holm (over the 14
    findings; the others have none), p_normal, images, positives, positive_patients, few (under 30 effective
    positive patients), note. NaN where a class is undefined or unknown to one of the two; the macro averages are
    over the classes that both know and enough patients carry (`metrics`), named in note.
    """
    second = second.set_index("image").loc[first["image"]].reset_index()
    (first, patients), (second, _) = numbered(first.reset_index(drop=True)), numbered(second)
    known = {side: {name: measured(scores, name) for name in CLASSES}
             for side, scores in (("first", first), ("second", second))}  # fmt: skip
    alone = [name for name in CLASSES if any(classes[name].empty for classes in known.values())]
    points = metrics.per_class(first.assign(**dict.fromkeys(alone, np.nan)))
    defined = points.index[points["auroc"].notna()].tolist()
    statistics = {
        f"{side}/{name}": ranking(classes[name], patients).auroc
        for side, classes in known.items()
        for name in defined
    }
    values = estimates(statistics, patients, seed=seed, count=count)
    parts = {
        side: {name: delong.components(*columns(classes[name]), patients) for name in defined}
        for side, classes in known.items()
    }
    rows = {str(name): _about(row, known["first"][str(name)]) for name, row in points.iterrows()}
    rows |= {name: {"note": metrics.macro(points, of).note, "few": False} for name, of in MACROS.items()}
    means = {name: list(metrics.macro(points, of).classes) for name, of in MACROS.items()}
    for name, classes in ({name: [name] for name in defined} | means).items():
        if classes:
            rows[name] |= _compared(classes, values, parts)
    compared = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS)).rename_axis("finding")
    findings = list(FINDINGS)
    compared.loc[findings, "p_holm"] = delong.holm(compared.loc[findings, "p"].to_numpy(dtype=float))
    return compared.astype({"few": bool})


def _compared(
    classes: list[str], values: Estimates, parts: dict[str, dict[str, delong.Components]]
) -> dict[str, float]:
    """One class, or the mean of several: both values, their difference with its interval, p."""
    first, second = (mean([f"{side}/{name}" for name in classes]) for side in ("first", "second"))
    pair = [delong.mean([parts[side][name] for name in classes]) for side in ("first", "second")]
    difference = values.difference(first, second).named("difference", "difference_low", "difference_high")
    return {
        "first": values.of(first).value,
        "second": values.of(second).value,
        "p": delong.t_compare(*pair).p,
        "p_normal": delong.compare(*pair).p,
    } | difference


def flat(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Metrics: `<prefix>/auroc_difference/Edema`, `.../auroc_difference_low/Edema`, `<prefix>/p_holm/Edema` ..."""
    names = {"difference": "auroc_difference", "difference_low": "auroc_difference_low",
             "difference_high": "auroc_difference_high", "p": "p", "p_holm": "p_holm"}  # fmt: skip
    return {
        f"{prefix}/{metric}/{finding}": float(value)
        for column, metric in names.items()
        for finding, value in table[column].dropna().items()
    }


def line(table: pd.DataFrame, macro: str, names: tuple[str, str]) -> str:
    """A macro average's difference in a line."""
    row = table.T[macro]
    if pd.isna(row["difference"]):
        return f"macro AUROC of {names[0]} and {names[1]}: no class can carry it ({row['note']})"
    bounds = (
        "no interval" if pd.isna(row["difference_low"])
        else f"95 % {row['difference_low']:+.4f} to {row['difference_high']:+.4f}"
    )  # fmt: skip
    return (
        f"macro AUROC {row['first']:.4f} ({names[0]}) - {row['second']:.4f} ({names[1]}) = "
        f"{row['difference']:+.4f} ({bounds}; p {row['p']:.2g}), {row['note']}"
    )


def _about(point: pd.Series, known: pd.DataFrame) -> dict[str, object]:
    return {"images": point["positives"] + point["negatives"], "positives": point["positives"],
            "positive_patients": point["positive_patients"], "few": few(known),
            "note": point["note"]}  # fmt: skip
