"""What a person finds who opens the experiment in the MLflow UI: what it holds, a legend, views with what matters.

The UI keeps the columns of its run table in the browser; a view that others shall see is a tag of the experiment
(`mlflow.sharedViewState.<key>`, as its "Share view" button leaves it; read in MLflow 3.17's user interface). So
the description can link to a table that has the right columns, on any server.
"""

import json

import mlflow
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from cxr.findings import FINDINGS

NOTE = "mlflow.note.content"
VIEW = "mlflow.sharedViewState."
_OURS = "**cxr**"  # a description that begins so is ours
_RUN_NAME = "attributes.`Run Name`"
_MACRO = "metrics.`test/auroc/macro_14`"
_VIEWS: dict[str, tuple[str, ...]] = {
    "results": (
        _MACRO, "metrics.`test/auroc_low/macro_14`", "metrics.`test/auroc_high/macro_14`",
        "tags.`stage`", "tags.`scope`", "tags.`model`", "tags.`val_macro_14`", "tags.`config.recipe`",
        "tags.`config.arch`", "tags.`config.image_size`", "tags.`config.epochs`", "tags.`config.seed`",
    ),
    "findings": (
        _MACRO, *(f"metrics.`test/auroc/{name}`" for name in FINDINGS), "tags.`stage`", "tags.`scope`",
    ),
}  # fmt: skip
_MEASURED_BEST_FIRST = {"searchFilter": f"{_MACRO} > 0", "orderByKey": _MACRO, "orderByAsc": False}
_WIDTHS = {"attributes": 300, "metrics": 190, "tags": 120}  # pixels; the UI's own would cut the names of metrics
_LEGEND = {
    "`test/auroc/macro_14`": "mean AUROC of the findings with 10 positive and 10 negative patients, as many as "
    "`test/macro_14_classes` says; `macro_15`: with No Finding",
    "`test/auroc_low/...`, `test/auroc_high/...`": "its 95 % interval, by patient",
    "`test/auroc/<Finding>`": "AUROC of one finding",
    "`test/ece/<Finding>`, `test/ece_platt/<Finding>`": "calibration error of the model as it is, and after "
    "Platt scaling on validation",
    "`val/...`, `train/...`": "one point an epoch; the tag `val_macro_14` is of the epoch that was kept",
    "`gradcam/<Finding>`": "class-averaged Grad-CAM map, an image card in the charts",
}


def describe(experiment_id: str) -> None:
    """Set an experiment's description and views, unless people wrote a description of their own.

    An account that may log runs but not edit the experiment leaves it as it is.
    """
    client = mlflow.MlflowClient()
    experiment = client.get_experiment(experiment_id)
    wanted = tags(experiment_id)
    if not _is_ours(experiment) or all(experiment.tags.get(key) == value for key, value in wanted.items()):
        return
    try:
        for key, value in wanted.items():
            client.set_experiment_tag(experiment_id, key, value)
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise


def tags(experiment_id: str) -> dict[str, str]:
    """The tags of an experiment that make its page: the views, and last the description."""
    views = {
        VIEW + key: json.dumps(
            _MEASURED_BEST_FIRST
            | {
                "selectedColumns": columns,
                "columnOrder": columns,
                "columnWidths": {name: _WIDTHS[name.partition(".")[0]] for name in (_RUN_NAME, *columns)},
            }
        )
        for key, columns in _VIEWS.items()
    }
    return views | {NOTE: description(experiment_id)}


def description(experiment_id: str) -> str:
    """The experiment's description, in Markdown."""
    runs = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    legend = "\n".join(f"| {names} | {meaning} |" for names, meaning in _LEGEND.items())
    return f"""{_OURS}: \
[results, best first]({runs}&viewStateShareKey=results) · \
[by finding]({runs}&viewStateShareKey=findings) · \
[charts and maps, run beside run]({runs}&compareRunsMode=CHART) · \
[registered models](#/models)

A row of stage `main` is a whole experiment and carries what compares: tick two and press Compare. Its stages \
lie folded below it where rows are sorted by time. A run's description says its figure of merit and scope; \
`report.html` among its artifacts says all of it.

| metric | is |
|---|---|
{legend}

`scope` says what a number compares with: `official` is NIH's own test list; `phantom` is drawn, not X-rays. \
Not a medical device.
"""


def _is_ours(experiment: Experiment) -> bool:
    note = experiment.tags.get(NOTE, "")
    return not note or note.startswith(_OURS)
