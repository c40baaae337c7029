"""What a version's tags and its model card say, read from the runs that made and measured it."""

import math
from datetime import UTC, datetime
from typing import NamedTuple

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from cxr import card, tracking
from cxr.evaluation import calibration
from cxr.evaluation.promotion import Decision
from cxr.findings import CLASSES

_MAPS = "where the model looks"  # of an evaluate run's list; an explain run has measured it


class Measured(NamedTuple):
    """An evaluate run of a version; its explain run, if any; validation's row `macro_14`, where its scores are."""

    evaluated: Run
    explain_run: str
    validation: pd.Series | None


def explain_run_of(train_run: str) -> str:
    """The newest finished explain run of a train run's model; empty where there is none."""
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.stage = 'explain' and attributes.status = 'FINISHED' and "
        f"tags.train_run = '{train_run}'",
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return next((run.info.run_id for run in runs if "reuses" not in run.data.tags), "")


def tags(measured: Measured) -> dict[str, str | None]:
    """What a version says of its numbers and its runs; None where there is no such thing (now)."""
    run, metrics, macro = measured.evaluated, measured.evaluated.data.metrics, measured.validation
    found: dict[str, str | None] = {
        "evaluate_run": run.info.run_id, "explain_run": measured.explain_run or None,
        "measured_on": run.data.tags["scope_line"],
    }  # fmt: skip
    for end in ("", "_low", "_high"):
        found[f"test_macro_14{end}"] = _number(metrics.get(f"test/auroc{end}/macro_14"))
    for end in ("_low", "_high"):  # the value itself is the train run's own tag
        found[f"val_macro_14{end}"] = _number(None if macro is None else float(macro[f"auroc{end}"]))
    return found


def decided(decision: Decision, told: str, promote: str) -> dict[str, str | None]:
    """What a version says of the decision on it; None where it has no such number."""
    difference = decision.difference
    ends = (difference.value, difference.low, difference.high) if difference else (None, None, None)
    return {
        "decision": told, "decided": datetime.now(UTC).date().isoformat(), "promote": promote,
        "compared_with": decision.against or None,
        **{f"promotion_difference{end}": _number(value)
           for end, value in zip(("", "_low", "_high"), ends, strict=True)},
    }  # fmt: skip


def _number(value: float | None) -> str | None:
    return None if value is None or math.isnan(value) else f"{value:.6f}"


def write(version: ModelVersion, measured: Measured) -> str:
    """The model card of a version that has its tags."""
    about, run = version.tags, measured.evaluated
    runs = {"split": about.get("split_run", ""), "train": about["train_run"], "evaluate": run.info.run_id,
            "explain": measured.explain_run}  # fmt: skip
    learned = about.get("classes") or "|".join(CLASSES)
    return card.text(card.Card(
        name=version.name,
        version=str(version.version),
        dataset=about["dataset"],
        edition=about.get("edition", ""),
        arch={"resnet": "ResNet-"}.get(about["arch"][:6], "") + about["arch"].removeprefix("resnet"),
        image_size=about["image_size"],
        classes=tuple(learned.split("|")),
        training=_training(about),
        headline=run.data.tags["headline"],
        validation=_validation(measured.validation),
        rows=_rows(run),
        thresholds=_thresholds(run),
        calibration=_calibration(run),
        maps=_maps(measured.explain_run),
        not_evaluated=_not_evaluated(run, measured.explain_run),
        decision=about["decision"],
        decided=about["decided"],
        runs=tuple((stage, run_id) for stage, run_id in runs.items() if run_id),
        git_commit=about.get("git_commit", "unknown"),
    ))  # fmt: skip


def _training(about: dict[str, str]) -> str:
    changed = f" ({about['changed']})" if about.get("changed") else ""
    start = "given weights" if about.get("pretrained") else "random weights"
    chosen = f"epoch {about.get('best_epoch', '?')} chosen by `{about.get('best_by', '?')}` on validation"
    return f"Recipe {about['recipe']}{changed} from {start}, seed {about.get('seed', '?')}; {chosen}."


def _validation(macro: pd.Series | None) -> str:
    if macro is None or math.isnan(macro["auroc"]):
        return ""
    low, high = macro["auroc_low"], macro["auroc_high"]
    return f"Validation macro AUROC {macro['auroc']:.4f} (95 % {low:.4f} to {high:.4f}; it also chose the epoch)."


def _rows(run: Run) -> tuple[card.Row, ...]:
    metrics = run.data.metrics
    few = _column(run, "table3_auroc", "few")
    return tuple(
        card.Row(
            finding=name,
            auroc=metrics[f"test/auroc/{name}"],
            low=metrics.get(f"test/auroc_low/{name}", math.nan),
            high=metrics.get(f"test/auroc_high/{name}", math.nan),
            few=few.get(name) is True,
        )
        for name in CLASSES
        if f"test/auroc/{name}" in metrics
    )


def _column(run: Run, table: str, column: str) -> dict[str, object]:
    if not tracking.has(run.info.run_id, f"{table}.csv"):
        return {}
    frame = pd.read_csv(tracking.artifact(run.info.run_id, f"{table}.csv"), index_col=0)
    return {str(name): value for name, value in frame[column].items()}


def _thresholds(run: Run) -> str:
    if "thresholds" in run.data.tags["not_evaluated"].split("; "):
        return "None: that run had no validation images to choose them on."
    return (
        "Tag `thresholds`, on logits: Youden, 90 % sensitivity, 90 % specificity, each chosen on this model's own "
        "validation images; elsewhere they give other rates."
    )


def _calibration(run: Run) -> str:
    text = "The sigmoid of the logits, as the network gives them."
    if not tracking.has(run.info.run_id, "calibration.csv"):
        return text
    table = pd.read_csv(tracking.artifact(run.info.run_id, "calibration.csv"), index_col=0)
    table["few"] = table["few"].astype(bool)
    judged = table[table["intercept"].notna() & ~table["few"]]
    wrong = len(calibration.misstated(judged))
    unjudged = int((table["images"] > 0).sum()) - len(judged)
    few = f"; {unjudged} more have too few patients to say" if unjudged else ""
    maps = "Tag `recalibration` holds maps fitted on validation, not applied here."
    return f"{text} Risks are misstated on test for {wrong} of {len(judged)} classes{few}. {maps}"


def _maps(explain_run: str) -> str:
    """What the explain run says of shortcuts; empty where it did not look for them."""
    alarm = mlflow.get_run(explain_run).data.tags.get("shortcut_alarm") if explain_run else None
    if alarm is None:
        return ""
    names = alarm.split("|")
    found = f"shortcut alarm for {', '.join(names)}" if set(names) <= set(CLASSES) else alarm
    return f"Masking what lies away from the lungs: {found} (the explain run has the maps and stress tests)."


def _not_evaluated(run: Run, explain_run: str) -> tuple[tuple[str, str], ...]:
    found = pd.read_csv(tracking.artifact(run.info.run_id, "not_evaluated.csv")).astype(str)
    return tuple(
        (what, why)
        for what, why in found.itertuples(index=False)
        if not (explain_run and what == _MAPS)  # the explain run has
    )
