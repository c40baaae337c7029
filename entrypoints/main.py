"""The whole experiment: split, train, evaluate, explain, register, report, as children of one run."""

from dataclasses import replace

import click

from cxr.training.recipe import Overrides
from entrypoints import evaluate, explain, options, register, report, split, train
from entrypoints import seeds as several
from entrypoints.door import enter
from entrypoints.options import Common, How


@click.command("main", context_settings={"show_default": True})
@options.common
@options.val_fraction
@options.training
@options.how
@options.seeds
@options.layer
@options.stress
@options.register_as
@options.promote
def main(
    common: Common,
    val_fraction: float,
    recipe: str,
    overrides: Overrides,
    how: How,
    seeds: int,
    layer: str,
    stress: str,
    register_as: str,
    promote: str,
) -> None:
    """Run every stage in turn, register the trained model and write the report."""
    import mlflow

    from cxr import tracking
    from entrypoints import upstream

    if promote != "auto" and not register_as:
        raise click.UsageError(f"promote={promote} has no effect without register_as: nothing is registered.")
    tracking.connect()
    # no parameters: the UI prints them all above each image card, and the stages carry their own
    stage = tracking.Stage(name="main", config={}, data_digest="")
    with tracking.run(stage, title="experiment", adopt=True) as run_id:
        split_run = split.run(common, val_fraction=val_fraction)
        train_run = train.run(
            common, recipe=recipe, overrides=overrides, how=how, split_run=split_run, register_as=register_as
        )
        evaluate_run = evaluate.run(common, model=train_run, split_run=split_run, processes=how.processes)
        scored = [evaluate_run]
        for seed in range(common.seed + 1, common.seed + seeds):
            other = train.run(replace(common, seed=seed), recipe=recipe, overrides=overrides, how=how,
                              split_run=split_run, register_as="")  # fmt: skip
            scored.append(
                evaluate.run(replace(common, seed=seed), model=other, split_run=split_run, processes=how.processes)
            )
        explain_run = explain.run(common, evaluate_run=evaluate_run, layer=layer, stress=stress)
        version = register.run(
            common, evaluate_run=evaluate_run, explain_run=explain_run, register_as=register_as, promote=promote
        ) if register_as else ""  # fmt: skip
        runs = {"split_run": split_run, "train_run": train_run, "evaluate_run": evaluate_run,
                "explain_run": explain_run}  # fmt: skip
        source = upstream.read_split(split_run, common)
        upstream.log_rows(source.table, source.tags, source.folder, "test")
        headline = _carry(runs, f"models:/{register_as}/{version}" if version else "not registered", scored)
        reported = report.run(
            common, evaluate_run=evaluate_run, explain_run=explain_run, several=run_id if seeds > 1 else ""
        )
        tracking.copy_artifacts(reported, [report.FILE])
        mlflow.set_tag("report_run", reported)
    click.echo(f"\n{headline}\n{tracking.address(run_id)}")


def _carry(runs: dict[str, str], model: str, scored: list[str]) -> str:
    """Put on the parent what people compare, since the UI folds children away; the headline.

    `scored` are the evaluate runs of all seeds; the first one's model is the one that is explained and registered.
    """
    import mlflow

    from cxr import tracking

    evaluated = mlflow.get_run(runs["evaluate_run"])
    trained = mlflow.get_run(runs["train_run"])
    # subgroups stay with the evaluate run: hundreds more would bury what people compare
    carried = {key: value for key, value in evaluated.data.metrics.items()
               if "/subgroup/" not in key and "/contrast/" not in key}  # fmt: skip
    mlflow.log_metrics(carried)
    kept = ("dataset", "edition", "scope", "split_digest", "data_digest", "images_digest", "val_macro_14")
    mlflow.set_tags(runs | {key: trained.data.tags[key] for key in kept} | trained.data.params | {"model": model})
    tracking.copy_artifacts(runs["split_run"], ["prevalence.png", "shift.png"])
    tracking.copy_artifacts(
        runs["evaluate_run"], ["auroc.png", "reliability.png", "metadata_only.png", "table3_auroc.json"]
    )
    tracking.copy_artifacts(runs["explain_run"], ["gradcam_top3.png", "gradcam_lowest3.png", "images"])
    mlflow.set_tag("mlflow.runName", trained.info.run_name.removeprefix("train "))
    headline = f"{model}: {evaluated.data.tags['headline']}"
    if len(scored) > 1:
        headline += f" All seeds: {several.log(scored)}"
    tracking.describe_run(headline)
    return headline


if __name__ == "__main__":
    enter(main, "main")
