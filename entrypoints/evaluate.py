"""Evaluate stage: a model's scores of validation and test, or scores from a file -> what they are worth."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from entrypoints import options, split, train
from entrypoints.door import enter
from entrypoints.options import Common

if TYPE_CHECKING:
    import pandas as pd

    from entrypoints.subject import Subject
    from entrypoints.upstream import Model, Split


_SAME = "these are test images of the model's own set; `evaluate -P model=... -P data=...` measures it elsewhere"


@click.command("evaluate", context_settings={"show_default": True})
@options.common
@options.model
@click.option(
    "--scores", default="", help="Instead of a model: a file of scores (.csv, .csv.gz, .parquet, or "
    "runs:/RUN/scores.parquet) of images of data, with a column image, then prob_<class> or logit_<class>; a "
    "column split with val and test supplies validation rows.",
)  # fmt: skip
@options.processes
def main(common: Common, model: str, scores: str, processes: int) -> None:
    """Score the validation and test images, save the scores; AUROC, intervals, calibration, subgroups on test."""
    if scores:
        _refuse_beside_scores(common, model, scores)
        from entrypoints import scored

        scored.run(common, scores)
        return
    options.refuse_idle(common, "model", model if common.data == "auto" else "")
    run(common, model=model, processes=processes)


def run(
    common: Common, *, model: str = "", split_run: str = "", register_as: str = train.REGISTER_AS,
    processes: int = 1,
) -> str:  # fmt: skip
    """Make or find the evaluate run of a model on a split; its run id.

    Without a split run: where a model and a data folder are given, that folder's test images are
    scored, else those of the split that the model was trained on.
    """
    import mlflow
    import pandas as pd

    from cxr import device, serving, tracking
    from cxr.evaluation.predict import scores_table
    from cxr.evaluation.shares import predict_shares
    from entrypoints import measures, seen, upstream

    tracking.connect()
    where = device.choose(common.device)
    trained = upstream.read_model(model or train.run(common.for_upstream(), register_as=register_as))
    if not split_run:
        elsewhere = bool(model) and common.data != "auto"
        split_run = split.run(common.for_upstream()) if elsewhere else trained.tags["split_run"]
    source = upstream.read_split(split_run, common, made_from=trained.tags["data_folder"])
    # by content: a split may have been made anew, and a drawn table may equal one that is not drawn
    same_data = all(source.tags[key] == trained.tags[key] for key in ("dataset", "data_digest"))
    seen.refuse_patients(source, trained)
    stage = tracking.Stage(
        name="evaluate",
        config={"model": trained.model_id, "on_bad_image": common.on_bad_image},
        data_digest=source.images_digest(),
        upstream=(trained.train_run, source.run_id),
    )
    if found := upstream.reuse(stage, common):
        return found
    network, spec = serving.load_network(trained.uri, device=where)
    source, packed = source.open_store(common, spec.image_size)
    same_split = same_data and source.tags["split_digest"] == trained.tags["split_digest"]
    if not same_split:
        seen.refuse_images(source, packed, trained)
    upstream.refuse_nothing_shared(source, trained.classes)
    title = f"evaluate {spec.arch} {spec.image_size}px on {source.name}"
    with tracking.run(stage, title=title, adopt=common.command == "evaluate") as run_id:
        mlflow.set_tags(
            source.tags
            | {"split_run": source.run_id, "train_run": trained.train_run, "model_uri": trained.uri}
            | {"data_folder": str(source.folder), "trained_on": trained.tags["scope"]}
        )
        # validation rows of another carve may have been training rows of this model
        parts = ("val", "test") if same_split else ("test",)
        rows = pd.concat([source.rows(part) for part in parts], ignore_index=True)
        places = packed.rows_of(rows["image"].tolist())
        logits = predict_shares(network, packed, places, device=where, processes=processes)
        scores = scores_table(rows, logits)
        tracking.log_frame(scores, "scores.parquet")  # before anything is computed from it
        line = measures.log(_subject(scores, rows, source, trained, same_data=same_data))
    click.echo(f"evaluate: {line}; run {run_id}")
    return run_id


def _subject(
    scores: "pd.DataFrame", rows: "pd.DataFrame", source: "Split", trained: "Model", *, same_data: bool
) -> "Subject":
    """The scores with the cohort's columns, and what else they can be held against."""
    from cxr import published, tracking
    from cxr.data.cohort import ABOUT
    from cxr.findings import CLASSES
    from entrypoints import upstream
    from entrypoints.subject import Subject

    # a class that the model has not learned has no number, whatever its output says
    scores = scores.assign(**{f"logit_{name}": float("nan") for name in CLASSES if name not in trained.classes})
    scope = upstream.scope_line(source)
    if not same_data:
        scope += f" The model was trained on other data: {trained.tags['dataset']} ({trained.tags['scope']})."
    labels = "expert_labels.parquet"
    own = source.table if same_data else tracking.frame(trained.tags["split_run"], "cohort.parquet")
    return Subject(
        scores=scores.join(rows[list(ABOUT)]),
        scope=scope,
        paper=published.AHMED_2025_AUROC if source.tags["scope"] == trained.tags["scope"] == "official" else {},
        fit_rows=own[own["split"] == "train"],
        experts=tracking.frame(source.run_id, labels) if tracking.has(source.run_id, labels) else None,
        home=None if same_data else upstream.table_at_home(trained),
        no_home=_SAME
        if same_data
        else f"no evaluate run of {trained.uri} on its own test images to hold it against",
        dataset=upstream.log_rows(source.table, source.tags, source.folder, "test"),
        model_id=trained.model_id,
    )


def _refuse_beside_scores(common: Common, model: str, scores: str) -> None:
    if model:
        raise click.UsageError(f"model={model} beside scores={scores}: give one of them.")
    if common.data == "auto":
        raise click.UsageError(
            f"scores={scores}: give data, the set that its images are of: labels, patients and the rest come from "
            "its tables; no image is read."
        )
    options.refuse_idle(replace(common, images="all"), "scores", scores)


if __name__ == "__main__":
    enter(main, "evaluate")
