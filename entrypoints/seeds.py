"""The same training from several seeds: a train and an evaluate run each, mean and SD beside them."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from cxr.training.recipe import Overrides
from entrypoints import evaluate, split, train
from entrypoints.options import Common, How

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEPARATE = (
    "SD between trainings on the same test patients; what other patients would have given (the sampling interval "
    "of each run) is apart from it."
)


def run(
    common: Common, seeds: int, *, recipe: str, overrides: Overrides, how: How, split_run: str, register_as: str
) -> None:
    """The train command with seeds=N: a parent run, with a train and an evaluate run of each seed below it."""
    from cxr import tracking

    tracking.connect()
    split_run = split_run or split.run(common.for_upstream())
    stage = tracking.Stage(
        name="seeds", config={"seeds": seeds, "seed": common.seed}, data_digest="", upstream=(split_run,)
    )
    with tracking.run(stage, title=f"{seeds} seeds", adopt=True) as run_id:
        runs = []
        for number in range(seeds):
            own = replace(common, command="seeds", seed=common.seed + number)
            trained = train.run(own, recipe=recipe, overrides=overrides, how=how, split_run=split_run,
                                register_as=register_as)  # fmt: skip
            runs.append(evaluate.run(own, model=trained, split_run=split_run, processes=how.processes))
        headline = log(runs)
    click.echo(f"train: {headline}\n{tracking.address(run_id)}")


def log(evaluate_runs: "Sequence[str]") -> str:
    """Log on the active run what its evaluate runs, one a seed, have in common; in a line."""
    import mlflow

    from cxr import figures, tracking
    from cxr.evaluation import seeds

    runs = [mlflow.get_run(run_id) for run_id in evaluate_runs]
    measured = [run.data.metrics for run in runs]
    table = seeds.across(measured)
    mlflow.log_metrics(seeds.flat(table))
    mlflow.set_tag("evaluate_runs", ",".join(evaluate_runs))
    tracking.log_frame(table, "seeds")
    if len(table):
        drawn = figures.seeds(table, values=seeds.each(measured), subtitle=runs[0].data.tags["scope_line"])
        mlflow.log_figure(drawn, "seeds.png")
    headline = f"{seeds.line(table)}. {runs[0].data.tags['scope_line']}"
    tracking.describe_run(f"{headline} {_SEPARATE}", table.round(4))
    return headline
