"""Evaluate stage: model and split -> scores of validation and test, AUROC per class on test."""

from typing import TYPE_CHECKING

import click

from entrypoints import options, split, train
from entrypoints.door import enter
from entrypoints.options import Common

if TYPE_CHECKING:
    import pandas as pd

    from entrypoints.upstream import Model, Split


@click.command("evaluate", context_settings={"show_default": True})
@options.common
@options.model
@options.processes
def main(common: Common, model: str, processes: int) -> None:
    """Score the validation and test images, save the scores, report AUROC per class on test."""
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
    from entrypoints import seen, upstream

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

        scope = upstream.scope_line(source)
        if not same_data:
            scope += f" The model was trained on other data: {trained.tags['dataset']} ({trained.tags['scope']})."
        line = _log_measures(scores[scores["split"] == "test"], source, trained, scope)
    click.echo(f"evaluate: {line}; run {run_id}")
    return run_id


def _log_measures(test: "pd.DataFrame", source: "Split", trained: "Model", scope: str) -> str:
    """Log what is computed from the test rows of a scores table; the macro AUROC in a line."""
    import mlflow
    import numpy as np
    import pandas as pd

    from cxr import figures, published, tracking
    from cxr.evaluation import metrics
    from cxr.findings import CLASSES, FINDINGS, NO_FINDING
    from entrypoints import upstream

    # a class that the model has not learned has no number, whatever its output says
    table = metrics.per_class(test.assign(**{name: np.nan for name in CLASSES if name not in trained.classes}))
    if source.tags["scope"] == trained.tags["scope"] == "official":
        table["paper"] = pd.Series(published.AHMED_2025_AUROC)
    known, macro = metrics.labelled(table), metrics.macro(table, FINDINGS)
    tested = upstream.log_rows(source.table, source.tags, source.folder, "test")
    mlflow.log_metrics(metrics.flat(table, "test"), dataset=tested, model_id=trained.model_id)
    tracking.log_frame(table, "table3_auroc")
    classes = {"macro_14": macro.classes, "macro_15": metrics.macro(table, CLASSES).classes}
    mlflow.log_dict({name: list(kept) for name, kept in classes.items()}, "macro_classes.json")
    mlflow.set_tags({"scope_line": scope, "headline": f"{macro.line}. {scope}", "classes": "|".join(known.index)})
    figure = figures.auroc(
        # the drawn macro is that of the 14 findings
        known.assign(in_macro=known["in_macro"] & (known.index != NO_FINDING))
        .rename(columns={"positive_patients": "patients"})
        .reset_index(),
        macro=macro.value, macro_note=macro.brief, subtitle=scope,
    )  # fmt: skip
    mlflow.log_figure(figure, "auroc.png")
    tracking.describe_run(f"{macro.line}. {scope}", metrics.readable(known))
    return macro.line


if __name__ == "__main__":
    enter(main, "evaluate")
