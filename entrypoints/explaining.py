"""What the explain stage measures: maps, boxes, stress; and what it says of each finding, on the active run."""

import time

import mlflow
import pandas as pd

from cxr import figures, published, tracking
from cxr.evaluation.bootstrap import SEED
from cxr.explain import classmaps, localisation, pairs, shortcuts, statements, survey
from cxr.explain.survey import Survey
from cxr.findings import FINDINGS
from entrypoints import gallery, masking, stress
from entrypoints.explained import Explained
from entrypoints.stress import Stressed

_NOTHING = pd.DataFrame()


def log(subject: Explained, *, stress_level: str) -> str:
    """Log maps, boxes and stress tests, and describe the run; what was found in a line."""
    start = time.perf_counter()
    boxed = list(zip(subject.boxes["image"], subject.boxes["finding"], strict=True))
    wanted = pairs.choose(subject.test, subject.findings, subject.thresholds, boxed=boxed, seed=subject.seed)
    found = survey.take(
        subject.network, subject.layer, subject.store, wanted, subject.boxes, device=subject.device
    )
    subject.measured["explain/seconds/maps"] = time.perf_counter() - start
    start = time.perf_counter()
    gallery.log(subject, found)
    subject.measured["explain/seconds/panels"] = time.perf_counter() - start
    located, differences = _boxes(subject, found)
    _attention(subject, found)
    stressed = Stressed(effects=_NOTHING, lines=["Stress tests were switched off (stress=off)."])
    if stress_level != "off":
        start = time.perf_counter()
        stressed = stress.log(subject, wanted, stress.EFFORTS[stress_level])
        subject.measured["explain/seconds/stress"] = time.perf_counter() - start
    mlflow.log_metrics(subject.measured)
    said = {
        name: statements.of_finding(name, one, located=located, differences=differences, effects=stressed.effects)
        for name, one in found.positives.items()
    }
    parts = [subject.scope, *stressed.lines, *said.values(), statements.DOES_NOT_FOLLOW]
    mlflow.log_text("\n\n".join(parts), "statement.md")
    shown = classmaps.summary(found.positives).round(4) if found.positives else None
    tracking.describe_run("\n\n".join(parts), shown)
    line = f"{len(found.positives)} findings mapped"
    if len(stressed.effects):
        alarms = list(stressed.effects.loc[stressed.effects["alarm"].astype(bool), "finding"].unique())
        none = "no shortcut alarm" if stressed.effects["drop"].notna().any() else "too few patients for an alarm"
        mlflow.set_tag("shortcut_alarm", "|".join(alarms) or none)
        line += f", shortcut alarm for {', '.join(alarms)}" if alarms else f", {none}"
    return line


def _boxes(subject: Explained, found: Survey) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold the maps against the boxes; the tables of what came out, empty where there are none."""
    if not found.boxed:
        return _NOTHING, _NOTHING
    rows = localisation.measure(found.boxed, seed=SEED)
    table, differences = localisation.table(rows), localisation.differences(rows)
    tracking.log_frame(rows.set_index("finding"), "localisation_images")
    tracking.log_frame(table.set_index("finding"), "localisation")
    tracking.log_frame(differences.set_index("finding"), "localisation_differences")
    subject.measured.update(localisation.flat(table, differences))
    mlflow.log_figure(figures.pointing(table, subtitle=subject.scope), "pointing.png")
    theirs = published.WANG_2017_LOCALISATION if subject.official else None
    mlflow.log_figure(figures.box_accuracy(table, published=theirs, subtitle=subject.scope), "localisation.png")
    return table, differences


def _attention(subject: Explained, found: Survey) -> None:
    """Where the maps of positive images look: shares of corners, border and all that is outside the chest."""
    if found.attention.empty:
        return
    table = shortcuts.mean_attention(found.attention)
    tracking.log_frame(table.set_index("finding"), "attention")
    subject.measured.update(
        {f"explain/attention/{row['region']}/{row['finding']}": float(row["share"])
         for row in table.dropna(subset=["share"]).to_dict("records")}
    )  # fmt: skip
    shown = table[table["region"].isin(masking.SHOWN)]
    wide = shown.set_index(["finding", "region"])["share"].unstack(sort=False)  # noqa: PD010 - keeps what is NaN
    wide = wide.reindex(index=[name for name in FINDINGS if name in wide.index])
    if len(wide):
        area = {str(region): float(share) for region, share in shown.groupby("region")["area"].first().items()}
        subtitle = f"{subject.scope} Mean over positive test images at {subject.layer}, of what maps are not zero."
        mlflow.log_figure(figures.attention(wide, area=area, subtitle=subtitle), "attention.png")
