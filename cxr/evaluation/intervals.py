"""AUROC and average precision with intervals that respect patients.

The headline interval is the patient bootstrap (`bootstrap`). Beside it stand clustered DeLong, which is analytic,
the patient jackknife with Student's t, which keeps its 95 % with few patients, too (both `delong`), and AUROC on
one image of each patient, where no image depends on another: of another population, since patients with many
images count no more than others.
"""

import numpy as np
import pandas as pd

from cxr.evaluation import delong, metrics
from cxr.evaluation.bootstrap import REPLICATES
from cxr.evaluation.ranked import FEW, columns, effective_patients, estimates, mean, numbered, ranking
from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES, FINDINGS

MACROS = {"macro_14": FINDINGS, "macro_15": CLASSES}
_BOUNDED = ("auroc", "auroc_delong", "auroc_t", "average_precision", "auroc_one_image")
COLUMNS = (
    *(f"{name}{end}" for name in _BOUNDED for end in ("", "_low", "_high")),
    "dropped", "effective_patients", "few",
)  # fmt: skip


def table(test: pd.DataFrame, *, seed: int, count: int = REPLICATES) -> pd.DataFrame:
    """A row a class, then macro_14 and macro_15, of the test rows of a scores table.

    Columns: auroc and average_precision with _low and _high (95 %, patient bootstrap); with the same ends
    auroc_delong (the same value, clustered DeLong on the logit scale), auroc_t (the same, patient jackknife with
    Student's t) and auroc_one_image (one image a patient, drawn by `seed`; DeLong); dropped (share of replicates
    without a positive or a negative), effective_patients ((sum m)^2 / sum m^2 over the positive images m of each
    patient), few (fewer than 30 of them). A macro average is over the fixed classes of `metrics.macro`, all in
    the same replicate; it is few where one of them is.
    """
    points = metrics.per_class(test)
    test, patients = numbered(test.reset_index(drop=True))
    known = {name: measured(test, name) for name in CLASSES}
    defined = points.index[points["auroc"].notna()].tolist()
    rankings = {name: ranking(known[name], patients) for name in defined}
    values = estimates(
        {f"auroc/{name}": one.auroc for name, one in rankings.items()}
        | {f"average_precision/{name}": one.average_precision for name, one in rankings.items()},
        patients, seed=seed, count=count,
    )  # fmt: skip
    parts = {name: delong.components(*columns(known[name]), patients) for name in defined}
    single = one_image(test, seed=seed)
    alone = {name: delong.components(*columns(known[name].loc[known[name].index.isin(single)]), patients)
             for name in defined}  # fmt: skip
    averaged = {name: list(metrics.macro(points, of).classes) for name, of in MACROS.items()}
    rows: dict[str, dict[str, object]] = {name: {"few": True} for name in [*CLASSES, *MACROS]}
    for name, classes in ({name: [name] for name in defined} | averaged).items():
        if not classes:
            continue
        for measure in ("auroc", "average_precision"):
            found = values.of(mean([f"{measure}/{one}" for one in classes]))
            rows[name] |= found.named(measure, f"{measure}_low", f"{measure}_high")
        rows[name]["dropped"] = values.dropped(mean([f"auroc/{one}" for one in classes]))
        whole, single_images = (delong.mean([of[one] for one in classes]) for of in (parts, alone))
        rows[name] |= _bounded("auroc_t", whole.auroc, delong.t_interval(whole))
        for measure, of in (("auroc_delong", whole), ("auroc_one_image", single_images)):
            rows[name] |= _bounded(measure, of.auroc, delong.logit_interval(of.auroc, delong.variance(of)))
    for name in defined:
        effective = effective_patients(known[name])
        rows[name] |= {"effective_patients": effective, "few": effective < FEW}
    for name, classes in averaged.items():
        rows[name]["few"] = any(rows[one]["few"] for one in classes) or not classes
    for row in rows.values():  # equal in all replicates: without any variation there is no interval
        for measure in ("auroc", "average_precision"):
            if row.get(f"{measure}_low") == row.get(f"{measure}_high"):
                row |= {f"{measure}_low": np.nan, f"{measure}_high": np.nan}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS)).rename_axis("finding")
    return frame.astype({name: float for name in COLUMNS if name != "few"} | {"few": bool})


def one_image(test: pd.DataFrame, *, seed: int) -> np.ndarray:
    """The index labels of one image of each patient, drawn at random; the same ones in any order of rows."""
    shuffled = np.argsort(test["image"].to_numpy())[np.random.default_rng(seed).permutation(len(test))]
    first = ~test["patient_id"].iloc[shuffled].duplicated()
    return test.index[np.sort(shuffled[first.to_numpy()])].to_numpy()


def flat(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Metrics: `<prefix>/auroc_low/Edema`, `<prefix>/auroc_delong_high/macro_14`, `<prefix>/few/...` and so on.

    The values of AUROC and average precision themselves are `metrics.flat`'s.
    """
    shown = [
        name for name in COLUMNS if name not in ("few", "auroc", "auroc_delong", "auroc_t", "average_precision")
    ]
    return {
        f"{prefix}/{name}/{finding}": float(value)
        for name in shown
        for finding, value in table[name].dropna().items()
    }


def _bounded(measure: str, value: float, ends: tuple[float, float]) -> dict[str, object]:
    return {measure: value, f"{measure}_low": ends[0], f"{measure}_high": ends[1]}
