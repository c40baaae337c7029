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
    table = scores_file.read(path, cohort.table)
    stage = tracking.Stage(
        name="evaluate",
        config={"scores": path.name, "scores_digest": hashlib.sha256(path.read_bytes()).hexdigest()[:16]},
        data_digest=cohorts.digest(cohort.table),
    )
    if found := upstream.reuse(stage, common):
        return found
    source = _source(cohort, table, stage.data_digest)
    title = f"evaluate {path.name} on {source.name}"
    with tracking.run(stage, title=title, adopt=common.command == "evaluate") as run_id:
        mlflow.set_tags(source.tags | {"data_folder": str(source.folder), "scores_file": path.name})
        tracking.log_frame(table, "scores.parquet")
        line = measures.log(_subject(table, cohort, source, seed=common.seed))
    click.echo(f"evaluate: {line}; run {run_id}")
    return run_id


def _fetched(scores: str) -> Path:
    if not scores.startswith("runs:/"):
        return Path(scores).expanduser().absolute()
    run_id, _, name = scores.removeprefix("runs:/").partition("/")
    return tracking.artifact(run_id, name or "scores.parquet")


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


def _subject(scores: pd.DataFrame, cohort: cohorts.Cohort, source: upstream.Split, *, seed: int) -> Subject:
    about = cohort.table.set_index("image").loc[scores["image"], list(cohorts.ABOUT)]
    others = ~cohort.table["patient_id"].isin(scores["patient_id"])
    return Subject(
        scores=pd.concat([scores, about.reset_index(drop=True)], axis=1),
        scope=f"{upstream.scope_line(source)} Scores from a file: what their model has seen is not known here.",
        seed=seed,
        paper=published.AHMED_2025_AUROC if source.tags["scope"] == "official" else {},
        fit_rows=cohort.table[others],
        experts=None if cohort.scope == "external" else expert_labels.read(cohort.folder, cohort.table),
        no_home="the model that made these scores is not known here",
        missing={"leakage": "whether the model has seen these patients or images is not known"},
        dataset=upstream.log_rows(source.table, source.tags, source.folder, "test"),
    )
