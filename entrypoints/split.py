"""Split stage: metadata and official lists -> one checked table, every patient in one split."""

import click

from entrypoints import options
from entrypoints.door import enter
from entrypoints.options import Common

VAL_FRACTION = 0.1


@click.command("split", context_settings={"show_default": True})
@options.common
@options.val_fraction
def main(common: Common, val_fraction: float) -> None:
    """Read the cohort, keep the official test list, carve validation by patient, log the table."""
    run(common, val_fraction=val_fraction)


def run(common: Common, *, val_fraction: float = VAL_FRACTION) -> str:
    """Make or find the split run of the given folder; its run id."""
    import mlflow

    from cxr import figures, tracking
    from cxr.data import cohort as cohorts
    from cxr.data import split as splits
    from entrypoints import upstream

    tracking.connect()
    cohort = cohorts.read(upstream.data_folder(common), limit=common.limit)
    cohort = cohorts.require_images(cohort, common.images)
    stage = tracking.Stage(
        name="split",
        config={"dataset": cohort.name, "edition": cohort.edition, "images": common.images,
                "limit": common.limit, "seed": common.seed, "val_fraction": val_fraction},
        data_digest=cohorts.digest(cohort.table),
    )  # fmt: skip
    if found := upstream.reuse(stage, common):
        return found
    table = splits.carve(cohort.table, val_fraction=val_fraction, seed=common.seed)
    counts, people = splits.class_counts(table), splits.demographics(table)
    tags = {"dataset": cohort.name, "scope": cohort.scope, "data_digest": stage.data_digest,
            "split_digest": splits.digest(table)}  # fmt: skip
    with tracking.run(
        stage,
        title=f"split {cohort.name}{' sample' if cohort.scope == 'sample' else ''}",
        adopt=common.command == "split",
    ) as run_id:
        mlflow.set_tags(tags | {"data_folder": str(cohort.folder)})
        mlflow.log_metrics(splits.metrics(table) | cohort.metrics)
        for part in splits.SPLITS:
            upstream.log_rows(table, tags, cohort.folder, part)
        tracking.log_frame(table, "cohort.parquet")
        tracking.log_frame(people.round(2).rename_axis("measure"), "table1_demographics")
        tracking.log_frame(counts.rename_axis("finding"), "table2_positives")
        mlflow.log_figure(figures.prevalence(counts, subtitle=cohort.describe()), "prevalence.png")
        tracking.describe_run(f"{cohort.describe()}.", people.round(1))
    click.echo(f"split: {cohort.describe()}; run {run_id}")
    return run_id


if __name__ == "__main__":
    enter(main, "split")
