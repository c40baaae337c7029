"""Split stage: metadata and lists -> one checked table, every patient in one split, and what the splits share."""

from typing import TYPE_CHECKING

import click

from entrypoints import options
from entrypoints.door import enter
from entrypoints.options import Common

if TYPE_CHECKING:
    import pandas as pd

    from cxr.data.cohort import Cohort

VAL_FRACTION = 0.1


@click.command("split", context_settings={"show_default": True})
@options.common
@options.val_fraction
def main(common: Common, val_fraction: float) -> None:
    """Read the cohort, keep its test list, carve validation by patient, log the table and what it leaks."""
    run(common, val_fraction=val_fraction)


def run(common: Common, *, val_fraction: float = VAL_FRACTION) -> str:
    """Make or find the split run of the given data; its run id."""
    import mlflow

    from cxr import figures, tracking
    from cxr.data import cohort as cohorts
    from cxr.data import leakage
    from cxr.data import split as splits
    from entrypoints import sources, upstream

    tracking.connect()
    split = sources.how_to_split(common)
    cohort, files = sources.read_cohort(common, split)
    companions = _companions(cohort)
    stage = tracking.Stage(
        name="split",
        config={"dataset": cohort.dataset, "edition": cohort.edition, "split": split, "images": common.images,
                "limit": common.limit, "uncertain": common.uncertain, "seed": common.seed,
                "val_fraction": val_fraction, "files": files,
                "companions": {name: cohorts.digest(table) for name, table in companions.items()}},
        data_digest=cohorts.digest(cohort.table),
    )  # fmt: skip
    if found := upstream.reuse(stage, common):
        return found
    # of all patients, like the test share of a random split
    share = val_fraction / (1 - splits.TEST_SHARE) if split == "random-patient" else val_fraction
    table = cohort.table if split == "test" else splits.carve(cohort.table, val_fraction=share, seed=common.seed)
    people, counts, leaks = splits.demographics(table), splits.class_counts(table), leakage.report(table)
    tags = {"dataset": cohort.dataset, "edition": cohort.edition, "scope": cohort.scope,
            "data_digest": stage.data_digest, "split_digest": splits.digest(table)}  # fmt: skip
    with tracking.run(
        stage,
        title=f"split {cohort.dataset}{'' if cohort.scope in ('official', 'phantom') else f' {cohort.scope}'}",
        adopt=common.command == "split",
    ) as run_id:
        mlflow.set_tags(tags | {"data_folder": str(cohort.folder)})
        mlflow.log_metrics(splits.metrics(table) | cohort.metrics | leakage.metrics(leaks))
        for part in splits.SPLITS:
            upstream.log_rows(table, tags, cohort.folder, part)
        tracking.log_frame(table, "cohort.parquet")
        tracking.log_frame(leaks.round(4), "leakage")
        mlflow.log_figure(figures.prevalence(counts, subtitle=f"{cohort.describe()}."), "prevalence.png")
        if split != "test":
            mlflow.log_figure(figures.shift(leaks, subtitle=f"{cohort.describe()}."), "shift.png")
        people, positives = _beside_the_paper(cohort, people, counts)
        tracking.log_frame(people.round(2).rename_axis("measure"), "table1_demographics")
        tracking.log_frame(positives.rename_axis("finding"), "table2_positives")
        for name, table_beside in companions.items():
            tracking.log_frame(table_beside, f"{name}.parquet")
            mlflow.log_metric(f"split/{name}", len(table_beside))
        shared = f"Patients in more than one split: {splits.patients_shared(table)}."
        tracking.describe_run(f"{cohort.describe()}. {shared} {_note(cohort)}", people.round(1))
    if cohort.scope == "official":
        for shown in (people.round(1), positives):
            click.echo(f"\n{shown.astype(object).fillna('').to_string()}")
        click.echo(f"\n{_note(cohort)}\n")
    click.echo(f"split: {cohort.describe()}; run {run_id}")
    return run_id


def _beside_the_paper(
    cohort: "Cohort", people: "pd.DataFrame", counts: "pd.DataFrame"
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Tables 1 and 2, with the paper's own figures where the data is the whole of NIH's, as the paper's was."""
    import pandas as pd

    from cxr import published

    labelled = counts.attrs["labelled"].sum(axis=1)
    counts = counts.assign(all=counts.sum(axis=1))
    counts["all_percent"] = (100 * counts["all"] / labelled).round(1)
    if cohort.scope == "official":
        people = people.assign(paper=pd.Series(published.AHMED_2025_TABLE_1))
        counts["paper"] = pd.Series(published.AHMED_2025_TABLE_2, dtype="Int64")
    return people, counts


def _note(cohort: "Cohort") -> str:
    if cohort.scope != "official":
        return ""
    ages = cohort.table["age_years"]
    return (
        "Column `paper`: Ahmed 2025, Tables 1 and 2. Its mean age of 49.6 years does not follow from NIH's "
        f"metadata: {ages.mean():.1f} +- {ages.std():.1f} by image in this edition ({cohort.edition})."
    )


def _companions(cohort: "Cohort") -> "dict[str, pd.DataFrame]":
    """The boxes and the radiologists' labels beside NIH's metadata, where there are any: tables of their own."""
    from cxr.data import expert_labels, nih

    if cohort.scope == "external":
        return {}
    boxes = nih.read_boxes(cohort.folder)
    found = {
        "boxes": None if boxes is None else boxes[boxes["image"].isin(cohort.table["image"])],
        "expert_labels": expert_labels.read(cohort.folder, cohort.table),
        "expert_readers": expert_labels.read_readers(cohort.folder, cohort.table),
    }
    return {name: table for name, table in found.items() if table is not None}


if __name__ == "__main__":
    enter(main, "split")
