"""What a scores table says, on the active run: every number as a metric, tables, figures, and what is missing.

All of it is computed from the table and the cohort's columns beside it; no network and no image is needed.
"""

import mlflow
import pandas as pd

from cxr import figures, tracking
from cxr.evaluation import curves, intervals, metrics, operating, subgroups, thresholds
from cxr.evaluation.bootstrap import SEED
from cxr.findings import CLASSES, NO_FINDING
from entrypoints import controls, risks
from entrypoints.subject import Subject

THRESHOLDS = "thresholds.json"  # what a version takes over
_POINTS = {"youden": "Youden", "sensitivity_90": "90 % sensitivity", "specificity_90": "90 % specificity"}
_MACROS = {"macro_14": "macro, 14 findings", "macro_15": "macro, 15 classes"}
_WORDS = {"images": "number of images that the patient has"}
_NEVER = {
    "race or ethnicity": "not in the metadata",
    "drift over the years": "the images carry no dates, only their order within a patient",
    "other trainings": "a run is one training; `train -P seeds=5` gives the spread between seeds",
    "where the model looks": "localisation and the stability of its maps are not measured",
    "use in a clinic": "no reader and no patient was involved",
}


def log(subject: Subject) -> str:
    """Log everything that can be measured, name what cannot, describe the run; the macro AUROC in a line."""
    val, test = subject.rows("val"), subject.rows("test")
    missing = _NEVER | dict(subject.missing)
    chosen = thresholds.table(val) if len(val) else None
    if chosen is None:
        missing["thresholds"] = "there are no validation rows to choose them on"
    if unscored := [name for name in CLASSES if test[name].notna().any() and test[f"logit_{name}"].isna().all()]:
        missing["classes without scores"] = f"{', '.join(unscored)}: unknown to the model, or not in the file"
    table, headline = _ranking(subject, test)
    _curves(subject, test, table, chosen)
    if chosen is not None:
        _operating(subject, test, chosen)
    said, unfitted = risks.log(subject, val, test)
    contrasts, ungrouped = _subgroups(subject, test, chosen)
    missing |= unfitted | ungrouped
    for name, control in controls.ALL.items():
        if reason := control(subject, test):
            missing[name] = reason
    tracking.log_frame(pd.DataFrame(missing.items(), columns=["not evaluated", "why"]), "not_evaluated")
    mlflow.set_tags({"scope_line": subject.scope, "headline": f"{headline}. {subject.scope}",
                     "not_evaluated": "; ".join(missing), "classes": "|".join(table.index)})  # fmt: skip
    absent = "\n".join(f"- {name}: {why}" for name, why in missing.items())
    text = [f"{headline}. {subject.scope}", *said, *contrasts, f"**Not evaluated in this run:**\n\n{absent}"]
    tracking.describe_run("\n\n".join(text), _readable(table))
    return headline


def _ranking(subject: Subject, test: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """AUROC and average precision with their intervals: the paper's Table 3; the macro in a line."""
    points, bounds = metrics.per_class(test), intervals.table(test, seed=SEED)
    table = points.join(bounds[[name for name in bounds.columns if name not in points.columns]])
    if subject.paper:
        table["paper"] = pd.Series(subject.paper)
    tracking.log_frame(table, "table3_auroc")
    tracking.log_frame(bounds.loc[list(_MACROS)], "macro_auroc")
    subject.log(metrics.flat(points, "test") | intervals.flat(bounds, "test"))
    macros = {name: metrics.macro(points, intervals.MACROS[name]) for name in _MACROS}
    mlflow.log_dict({name: list(macro.classes) for name, macro in macros.items()}, "macro_classes.json")
    ends = {name: bounds.loc[[name], ["auroc_low", "auroc_high"]].to_numpy()[0] for name in macros}
    rows = [
        figures.MacroRow(label=label, value=macros[name].value, low=low, high=high, note=macros[name].brief)
        for name, label in _MACROS.items()
        for low, high in [ends[name]]
        if name == "macro_14" or NO_FINDING in macros[name].classes
    ]
    known = table.loc[metrics.labelled(points).index]
    # the drawn macro is that of the 14 findings
    drawn = known.assign(in_macro=known["in_macro"] & (known.index != NO_FINDING))
    mlflow.log_figure(figures.auroc(drawn, macro=rows, subtitle=subject.scope), "auroc.png")
    return known, macros["macro_14"].line(*ends["macro_14"])


def _curves(subject: Subject, test: pd.DataFrame, table: pd.DataFrame, chosen: pd.DataFrame | None) -> None:
    drawn: dict[str, figures.Curve] = {}
    for name in table.index:
        known, marks = thresholds.measured(test, name), {}
        if chosen is not None and name in chosen.index and known["label"].nunique() == 2:
            at = chosen.loc[[name], list(_POINTS)].to_numpy()[0]
            marks = {
                f"{words}, chosen on validation": curves.operating_point(known, threshold)
                for words, threshold in zip(_POINTS.values(), at, strict=True)
            }
        points = table.loc[[name], ["auroc", "average_precision", "prevalence"]].to_numpy(dtype=float)
        auroc, precision, prevalence = points[0]
        drawn[name] = figures.Curve(**curves.curves(known)._asdict(), auroc=auroc, average_precision=precision,
                                    prevalence=prevalence, points=marks)  # fmt: skip
    mlflow.log_figure(figures.roc(drawn, subtitle=subject.scope), "roc.png")
    mlflow.log_figure(figures.precision_recall(drawn, subtitle=subject.scope), "precision_recall.png")


def _operating(subject: Subject, test: pd.DataFrame, chosen: pd.DataFrame) -> None:
    table = operating.table(test, chosen, seed=SEED)
    mlflow.log_dict(thresholds.to_dict(chosen), THRESHOLDS)
    tracking.log_frame(table, "operating_points")
    subject.log(operating.flat(table, "test"))


def _subgroups(
    subject: Subject, test: pd.DataFrame, chosen: pd.DataFrame | None
) -> tuple[list[str], dict[str, str]]:
    """Tables and figures of all attributes; contrasts in words; what nothing can be said of, and why."""
    found = subgroups.measure(test, chosen, seed=SEED)
    tracking.log_frame(found.cells, "subgroups")
    tracking.log_frame(found.contrasts, "contrasts")
    named = subgroups.flat(found)
    for kind in ("/subgroup/", "/contrast/"):  # a call takes a thousand metrics at most
        subject.log({name: value for name, value in named.items() if kind in name})
    missing = {}
    for attribute in subgroups.LEVELS:
        cells = found.cells[(found.cells["attribute"] == attribute) & (found.cells["images"] > 0)]
        unknown = found.unknown[attribute]
        if unknown == len(test):
            missing[f"subgroups by {attribute}"] = "unknown for every test image"
        elif cells["auroc"].isna().all():
            missing[f"subgroups by {attribute}"] = "no group has 10 positive and 10 negative patients of a finding"
        else:
            scope = subject.scope + (f" {attribute} is unknown for {unknown:,} images." if unknown else "")
            _draw_subgroups(cells, attribute, scope)
    return _contrasts(found.contrasts), missing


def _contrasts(table: pd.DataFrame) -> list[str]:
    """The mean difference between groups, and the findings whose own interval excludes 0."""
    lines = []
    for name, rows in table[table["auroc_difference"].notna()].groupby("contrast", sort=False):
        macro = rows["finding"] == "macro_14"
        mean = "".join(
            f"mean {value:+.3f} ({low:+.3f} to {high:+.3f}); "
            for value, low, high in rows.loc[macro, ["auroc_difference", "low", "high"]].itertuples(index=False)
        )
        apart = rows[~macro & ((rows["low"] > 0) | (rows["high"] < 0))]
        which = [f"{one} {value:+.3f}" for one, value in apart[["finding", "auroc_difference"]].to_numpy()]
        count = f"{len(which)} of {(~macro).sum()} classes' own intervals exclude 0"
        lines.append(f"- {name}: {mean}{count}{': ' if which else ''}{', '.join(which)}")
    head = "**Differences of AUROC between groups** (95 % intervals; one in twenty excludes 0 by chance):"
    return ["\n".join([head, "", *lines])] if lines else []


def _draw_subgroups(cells: pd.DataFrame, attribute: str, scope: str) -> None:
    """Findings that some group can measure; a macro goes by the number of findings that it is the mean of."""
    means = cells.loc[cells["finding"] == "macro_14", "note"].str.extract(r"^mean of (\d+)")[0].dropna()
    label = f"macro of {means.iloc[0]}" if len(means) else "macro"
    drawn = cells[cells.groupby("finding")["auroc"].transform("count") > 0]
    left_out = cells["finding"].nunique() - drawn["finding"].nunique()
    scope += (
        f" {left_out} rows without a number (too few patients in every group) are left out." if left_out else ""
    )
    cells = drawn.assign(finding=drawn["finding"].replace("macro_14", label))
    cells = cells.astype(dict.fromkeys(subgroups.SIZES, float))
    kinds = {"auroc": figures.subgroups} | ({"rates": figures.rates} if cells["tpr"].notna().any() else {})
    for kind, draw in kinds.items():
        figure = draw(cells, attribute=_WORDS.get(attribute, attribute), subtitle=scope)
        mlflow.log_figure(figure, f"subgroups/{attribute}_{kind}.png")


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Table 3 for the run's description, with the interval beside each value."""
    shown = metrics.readable(table[[name for name in table.columns if name in (*metrics.COLUMNS, "paper")]])
    ends = table.loc[shown.index, ["auroc_low", "auroc_high"]]
    shown.insert(1, "95 % interval", [
        "none" if pd.isna(low) else f"{low:.3f} to {high:.3f}" for low, high in ends.itertuples(index=False)
    ])  # fmt: skip
    if "paper" in shown:
        shown["paper"] = shown["paper"].map(lambda value: "" if pd.isna(value) else f"{value:.3f}")
    shown.insert(2, "few patients", table.loc[shown.index, "few"].map({True: "yes", False: ""}))
    return shown
