"""Evaluate stage, from a file of scores that somebody published or a run of ours left: no model, no images."""

import hashlib
from dataclasses import replace
from pathlib import Path

import click
import mlflow
import pandas as pd

from cxr import published, tracking
from cxr.data import cohort as cohorts
from cxr.data import expert_labels, nih
from cxr.data import split as splits
from cxr.evaluation import scores_file
from cxr.findings import CLASSES
from entrypoints import measures, sources, upstream
from entrypoints.options import Common
from entrypoints.subject import Subject


def run(common: Common, scores: str) -> str:
    """Make or find the evaluate run of a scores file on the cohort that `data` names; its run id.

    All rows of the file are the evaluated set, whatever NIH's lists say; those that its column `split` calls val
    choose thresholds and maps.
    """
    tracking.connect()
    path = _fetched(scores)
    cohort, _ = sources.read_cohort(replace(common, images="skip"), "test")
    table = _learned(scores, scores_file.read(path, cohort.table))
    experts = None if cohort.scope == "external" else expert_labels.read(cohort.folder, cohort.table)
    stage = tracking.Stage(
        name="evaluate",
        config={
            "scores": path.name,
            "scores_digest": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
            "experts": "" if experts is None else cohorts.digest(experts),
        },
        data_digest=cohorts.digest(cohort.table),
    )
    if found := upstream.reuse(stage, common):
        return found
    source = _source(cohort, table, stage.data_digest)
    upstream.refuse_nothing_shared(source, [name for name in CLASSES if table[f"logit_{name}"].notna().any()])
    if certain := table.attrs["certain"]:
        click.echo(
            f"evaluate: {certain:,} probabilities are 0 or 1: taken for half of the file's smallest distance"
        )
    title = f"evaluate {path.name} on {source.name}"
    with tracking.run(stage, title=title, adopt=common.command == "evaluate") as run_id:
        mlflow.set_tags(source.tags | {"data_folder": str(source.folder), "scores_file": path.name})
        tracking.log_frame(table, "scores.parquet")
        others = cohort.table[~cohort.table["patient_id"].isin(table["patient_id"])]
        rows = _trained_on(scores)
        fit_rows = others if rows is None else rows
        line = measures.log(_subject(table, cohort, source, fit_rows, experts))
    click.echo(f"evaluate: {line}; run {run_id}")
    return run_id


def _fetched(scores: str) -> Path:
    if not scores.startswith("runs:/"):
        return Path(scores).expanduser().absolute()
    run_id, _, name = scores.removeprefix("runs:/").partition("/")
    return tracking.artifact(run_id, name or "scores.parquet")


def _tags(scores: str) -> dict[str, str]:
    """The tags of the run that scores are from, if they are a run's."""
    if not scores.startswith("runs:/"):
        return {}
    return dict(mlflow.get_run(scores.removeprefix("runs:/").partition("/")[0]).data.tags)


def _learned(scores: str, table: pd.DataFrame) -> pd.DataFrame:
    """Without what a network of ours says of classes that it has not learned: see `upstream.scores_of`."""
    known = _tags(scores).get("classes", "|".join(CLASSES)).split("|")
    return table.assign(**{f"logit_{name}": float("nan") for name in CLASSES if name not in known})


def _trained_on(scores: str) -> pd.DataFrame | None:
    """The training rows of the split of a run of ours, so that it is measured again against the same control."""
    if not (train_run := _tags(scores).get("train_run")):
        return None
    cohort = tracking.frame(mlflow.get_run(train_run).data.tags["split_run"], "cohort.parquet")
    return cohort[cohort["split"] == "train"]


def _source(cohort: cohorts.Cohort, scores: pd.DataFrame, data_digest: str) -> upstream.Split:
    """The evaluated rows as a split that no run has made."""
    part = scores.set_index("image")["split"]
    table = cohort.table[cohort.table["image"].isin(part.index)].reset_index(drop=True)
    table["split"] = part.loc[table["image"]].to_numpy()
    scope = cohort.scope
    if cohort.dataset == "nih" and cohort.edition in nih.EDITIONS.values():
        official = nih.is_official_test(table.loc[table["split"] == "test", "image"])
        scope = "official" if official else "sample"
    tags = {"dataset": cohort.dataset, "edition": cohort.edition, "scope": scope,
            "split_digest": splits.digest(table), "data_digest": data_digest}  # fmt: skip
    return upstream.Split(run_id="", table=table, folder=cohort.folder, tags=tags)


def _scope(source: upstream.Split) -> str:
    """What these numbers compare with: a file's images may be any of a set."""
    line, test = upstream.scope_line(source), source.rows("test")
    if source.tags["dataset"] == "nih" and source.tags["scope"] != "official":
        patients = test["patient_id"].nunique()
        line = (
            f"NIH ChestX-ray14, {len(test):,} images of {patients:,} patients, those of the file: not comparable "
            "with figures on the official test list."
        )
    return f"{line} Scores from a file: what their model has seen is not known here."


def _subject(
    scores: pd.DataFrame,
    cohort: cohorts.Cohort,
    source: upstream.Split,
    fit_rows: pd.DataFrame,
    experts: pd.DataFrame | None,
) -> Subject:
    about = cohort.table.set_index("image").loc[scores["image"], list(cohorts.ABOUT)]
    return Subject(
        scores=pd.concat([scores, about.reset_index(drop=True)], axis=1),
        scope=_scope(source),
        paper=published.AHMED_2025_AUROC if source.tags["scope"] == "official" else {},
        fit_rows=fit_rows,
        experts=experts,
        no_home="the model that made these scores is not known here",
        missing={"leakage": "whether the model has seen these patients or images is not known"},
        dataset=upstream.log_rows(source.table, source.tags, source.folder, "test"),
    )
