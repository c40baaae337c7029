"""Report stage: what the other stages left -> one HTML file that reads without a server."""

import click

from entrypoints import evaluate, explain, options
from entrypoints.door import enter
from entrypoints.options import Common

FILE = "report.html"


@click.command("report", context_settings={"show_default": True})
@options.common
@options.model
def main(common: Common, model: str) -> None:
    """Write one self-contained HTML file of a model's data, training, numbers, maps and scope."""
    options.refuse_idle(common, "model", model if common.data == "auto" else "")
    run(common, evaluate_run=evaluate.run(common.for_upstream(), model=model))


def run(common: Common, *, evaluate_run: str, explain_run: str = "", several: str = "") -> str:
    """Make or find the report run of an evaluate run; its run id.

    Without an explain run: the newest of the evaluate run, whatever its layer and stress, else one is made.
    `several` is the run that holds several seeds together, where the caller knows it.
    """
    import mlflow

    from cxr import report, tracking
    from entrypoints import reported, upstream

    tracking.connect()
    evaluate_run = tracking.stage_run(evaluate_run, "evaluate", "evaluate_run").info.run_id
    explain_run = explain_run or reported.explanation(evaluate_run)
    explain_run = explain_run or explain.run(common.for_upstream(), evaluate_run=evaluate_run)
    decided = reported.registered_in(evaluate_run)
    tags = mlflow.get_run(evaluate_run).data.tags
    stage = tracking.Stage(
        name="report",
        config={"template": report.template_digest()},
        data_digest=tags["split_digest"],
        upstream=tuple(
            name for name in (evaluate_run, explain_run, decided.info.run_id if decided else "", several) if name
        ),
    )
    if found := upstream.reuse(stage, common):
        return found
    with tracking.run(stage, title="report", adopt=common.command == "report") as run_id:
        found_runs = reported.collect(evaluate_run, explain_run=explain_run, several=several)
        kept = ("dataset", "edition", "scope", "split_digest", "split_run", "train_run", "model_uri")
        mlflow.set_tags({key: tags[key] for key in kept if key in tags})
        mlflow.set_tags({"evaluate_run": evaluate_run, "explain_run": explain_run})
        page = report.render(report.contents(found_runs))
        mlflow.log_text(page, FILE)
        size = len(page.encode())
        mlflow.log_metric("report/bytes", size)
        tracking.describe_run(f"Artifact `{FILE}`: {size / 1e6:.1f} MB, loads nothing. {tags['headline']}")
    click.echo(f"report: {FILE}, {size / 1e6:.1f} MB; run {run_id}")
    return run_id


if __name__ == "__main__":
    enter(main, "report")
