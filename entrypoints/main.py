"""The whole experiment: split, train, evaluate, explain, register, as children of one run."""

import click

from cxr.training.recipe import Overrides
from entrypoints import evaluate, explain, options, register, split, train
from entrypoints.door import enter
from entrypoints.options import Common


@click.command("main", context_settings={"show_default": True})
@options.common
@options.val_fraction
@options.training
@options.layer
@options.register_as
def main(
    common: Common, val_fraction: float, recipe: str, overrides: Overrides, layer: str, register_as: str
) -> None:
    """Run every stage in turn and register the trained model."""
    from cxr import tracking
    from entrypoints import upstream

    tracking.connect()
    # no parameters: the UI prints them all above each image card, and the stages carry their own
    stage = tracking.Stage(name="main", config={}, data_digest="")
    with tracking.run(stage, title="experiment", adopt=True) as run_id:
        split_run = split.run(common, val_fraction=val_fraction)
        train_run = train.run(
            common, recipe=recipe, overrides=overrides, split_run=split_run, register_as=register_as
        )
        evaluate_run = evaluate.run(common, model=train_run, split_run=split_run)
        explain_run = explain.run(common, evaluate_run=evaluate_run, layer=layer)
        version = register.run(common, evaluate_run=evaluate_run, register_as=register_as) if register_as else ""
        runs = {"split_run": split_run, "train_run": train_run, "evaluate_run": evaluate_run,
                "explain_run": explain_run}  # fmt: skip
        source = upstream.read_split(split_run, common)
        upstream.log_rows(source.table, source.tags, source.folder, "test")
        headline = _carry(runs, f"models:/{register_as}/{version}" if version else "not registered")
    click.echo(f"\n{headline}\n{tracking.address(run_id)}")


def _carry(runs: dict[str, str], model: str) -> str:
    """Put on the parent what people compare, since the UI folds children away; the headline."""
    import mlflow

    from cxr import tracking

    evaluated = mlflow.get_run(runs["evaluate_run"])
    trained = mlflow.get_run(runs["train_run"])
    mlflow.log_metrics(evaluated.data.metrics)
    kept = ("dataset", "edition", "scope", "split_digest", "data_digest", "images_digest", "val_macro_14")
    mlflow.set_tags(runs | {key: trained.data.tags[key] for key in kept} | trained.data.params | {"model": model})
    tracking.copy_artifacts(runs["split_run"], ["prevalence.png", "shift.png"])
    tracking.copy_artifacts(runs["evaluate_run"], ["auroc.png", "table3_auroc.json"])
    tracking.copy_artifacts(runs["explain_run"], ["gradcam_top3.png", "gradcam_lowest3.png", "images"])
    mlflow.set_tag("mlflow.runName", trained.info.run_name.removeprefix("train "))
    headline = f"{model}: {evaluated.data.tags['headline']}"
    tracking.describe_run(headline)
    return headline


if __name__ == "__main__":
    enter(main, "main")
