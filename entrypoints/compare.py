"""Compare: two runs or versions on the same test images, paired by patient; a table and a figure."""

from typing import TYPE_CHECKING, Any

import click

from entrypoints.door import enter

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run


class References(click.ParamType[tuple[str, ...]]):
    """Runs and model URIs, joined by commas."""

    name = "references"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(word.strip() for word in str(value).split(",") if word.strip())


@click.command("compare", context_settings={"show_default": True})
@click.option(
    "--runs", type=References(), default="", help="Two of these, joined by a comma: ids of evaluate, train or "
    "main runs, models:/NAME/VERSION, models:/NAME@ALIAS. Each must have been evaluated on the same images.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=123, help="Of the patient bootstrap.")
def main(runs: tuple[str, ...], seed: int) -> None:
    """Compare two models by AUROC on the same test images: differences, intervals by patient, p after Holm."""
    if len(runs) != 2:
        raise click.UsageError(f"runs={','.join(runs)!r}: expected two runs or model URIs, joined by a comma.")
    import mlflow
    import pandas as pd

    from cxr import figures, tracking
    from cxr.errors import InputError
    from cxr.evaluation import comparison
    from entrypoints import upstream

    tracking.connect()
    found = [_evaluated(reference) for reference in runs]
    if found[0].info.run_id == found[1].info.run_id:
        raise InputError(
            f"runs={','.join(runs)}: both are evaluate run {found[0].info.run_id}. Expected two models."
        )
    tables = [upstream.scores_of(run.info.run_id) for run in found]
    scores = [table[table["split"] == "test"] for table in tables]
    comparison.refuse_unpaired(scores[0], scores[1], (runs[0], runs[1]))
    names = _short(runs, found)
    stage = tracking.Stage(
        name="compare", config={"seed": seed, "first": runs[0], "second": runs[1]}, data_digest="",
        upstream=tuple(run.info.run_id for run in found),
    )  # fmt: skip
    with tracking.run(stage, title=f"compare {names[0]} with {names[1]}", adopt=True) as run_id:
        kept = ("dataset", "edition", "scope", "split_digest", "scope_line")
        mlflow.set_tags({key: found[0].data.tags[key] for key in kept})
        mlflow.set_tags({"first": found[0].info.run_id, "second": found[1].info.run_id})
        table = comparison.table(scores[0], scores[1], seed=seed)
        tracking.log_frame(table, "comparison")
        mlflow.log_metrics(comparison.flat(table, "compare"))
        scope = found[0].data.tags["scope_line"]
        drawn = table[table["first"].notna()].drop(index=["No Finding", "macro_15"], errors="ignore")
        drawn = drawn.assign(p_holm=drawn["p_holm"].fillna(drawn["p"]))  # the one macro needs no adjustment
        if len(drawn):
            mlflow.log_figure(figures.differences(drawn, names=names, subtitle=scope), "comparison.png")
        line = comparison.line(table, "macro_14", names)
        mlflow.set_tag("headline", f"{line}. {scope}")
        shown = _shown(table, names)
        tracking.describe_run(f"{line}. {scope} {comparison.READING}", shown)
    with pd.option_context("display.width", 200, "display.max_columns", None):
        click.echo(shown.to_string())
    click.echo(f"compare: {line}; run {run_id}")


def _evaluated(reference: str) -> "Run":
    """The evaluate run that a reference leads to; InputError where there is none, and how it is made."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from cxr import registry, tracking
    from cxr.errors import InputError
    from entrypoints import upstream

    if reference.startswith("models:/"):
        version = registry.resolve(reference)
        train_run, split = version.run_id or "", version.tags.get("split_digest", "")
    else:
        try:
            run = mlflow.get_run(reference)
        except MlflowException as error:
            raise InputError(
                f"runs={reference}: there is no such run on {mlflow.get_tracking_uri()}. Expected the id of an "
                "evaluate, train or main run, or a model URI."
            ) from error
        tags = run.data.tags
        stage = tags.get("stage", "no stage of this project")
        if stage in ("evaluate", "main") or "reuses" in tags:
            there = tags.get("evaluate_run", reference) if stage == "main" else reference
            return tracking.stage_run(there, "evaluate", "runs")
        if stage != "train":
            raise InputError(f"runs={reference}: that run is of {stage}; expected evaluate, train or main.")
        train_run, split = reference, tags.get("split_digest", "")
    runs = upstream.evaluations(train_run, split)
    if not runs:
        raise InputError(
            f"runs={reference}: it has not been evaluated on its own split. "
            f"`mlflow run . -e evaluate -P model={reference}` does that."
        )
    return mlflow.get_run(runs[0])


def _shown(table: "pd.DataFrame", names: tuple[str, str]) -> "pd.DataFrame":
    """The table for reading: values as text, under the models' names."""
    import pandas as pd

    known = table[table["first"].notna()]
    text = known.map(lambda value: f"{value:.3f}" if isinstance(value, float) and not pd.isna(value) else "")
    return pd.DataFrame(
        {
            names[0]: text["first"],
            names[1]: text["second"],
            "difference": text["difference"],
            "95 % interval": (text["difference_low"] + " to " + text["difference_high"]).replace(" to ", "none"),
            "p": text["p"],
            "p (Holm)": text["p_holm"],
            "positive patients": [
                f"{count:.0f}" if pd.notna(count) else "" for count in known["positive_patients"]
            ],
            "few": known["few"].map({True: "few", False: ""}),
        }
    )


def _short(references: tuple[str, ...], runs: "list[Run]") -> tuple[str, str]:
    """Names that fit a figure: a model's own (its version, where both have one name), or the run's with its id."""
    models = [reference.removeprefix("models:/") for reference in references if reference.startswith("models:/")]
    name = models[0].replace("@", "/").partition("/")[0] if len(models) == 2 else ""
    if name and all(model.startswith((f"{name}/", f"{name}@")) for model in models):
        one, other = (model.replace(f"{name}/", "version ").replace(f"{name}@", "") for model in models)
        return one, other
    first, second = (
        reference.removeprefix("models:/")
        if reference.startswith("models:/")
        else f"{(run.info.run_name or '').removeprefix('evaluate ')} {run.info.run_id[:6]}".strip()
        for reference, run in zip(references, runs, strict=True)
    )
    return first, second


if __name__ == "__main__":
    enter(main, "compare")
