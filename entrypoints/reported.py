"""What a report needs, collected from the tracking server: each run with what it left."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cxr import tracking
from cxr.report import Record, Records

# Single images and cards of the UI are more than a report can carry; of the rates' figures it names the table.
_PICTURES: dict[str, tuple[str, ...]] = {
    "split": ("prevalence.png", "shift.png"),
    "evaluate": ("auroc.png", "roc.png", "precision_recall.png", "reliability.png", "prior_shift.png",
                 "metadata_only.png", "out_of_distribution.png"),
    "explain": ("gradcam_top3.png", "gradcam_lowest3.png", "gradcam_all.png", "gradcam_outcomes.png",
                "gradcam_top3_images.png", "gradcam_lowest3_images.png", "gradcam_boxed.png", "pointing.png",
                "localisation.png", "attention.png", "masking.png", "randomisation.png", "perturbation.png",
                "consistency.png", "faithfulness.png"),
    "seeds": ("seeds.png",),
    "main": ("seeds.png",),
}  # fmt: skip
_TABLES: dict[str, tuple[str, ...]] = {
    "split": ("table1_demographics", "table2_positives", "leakage"),
    "evaluate": ("table3_auroc", "macro_auroc", "operating_points", "calibration", "calibration_platt",
                 "prior_shift", "subgroups", "metadata_only", "expert_labels", "out_of_distribution",
                 "not_evaluated"),
    "explain": ("class_maps", "outcomes", "localisation", "localisation_differences", "attention", "masking",
                "randomisation", "perturbation", "consistency", "faithfulness"),
    "seeds": ("seeds",),
    "main": ("seeds",),
}  # fmt: skip
_CURVES = ("train/loss", "val/loss", "val/auroc/macro_14")


def collect(evaluate_run: str, *, explain_run: str = "", several: str = "") -> Records:
    """Fetch an evaluate run and what stands around it; `several` is the run that holds several seeds, if known."""
    evaluated = tracking.stage_run(evaluate_run, "evaluate", "evaluate_run")
    tags = evaluated.data.tags
    trained = tracking.stage_run(tags["train_run"], "train", "model")
    own, home = tags["split_run"], trained.data.tags["split_run"]
    seeds = mlflow.get_run(several) if several else _newest(f"tags.evaluate_runs LIKE '%{evaluate_run}%'")
    registered = registered_in(evaluate_run)
    return Records(
        split=record(tracking.stage_run(own, "split", "split_run")),
        # the same data may have been split twice
        home=record(tracking.stage_run(home, "split", "split_run")) if _elsewhere(evaluated, trained) else None,
        train=record(trained, curves=_CURVES),
        evaluate=record(evaluated),
        explain=record(mlflow.get_run(explain_run)) if explain_run else None,
        register=record(registered) if registered else None,
        seeds=record(seeds) if seeds else None,
        version=_version(registered, trained),
        requirements=_requirements(trained),
        reported=_moment(datetime.now(UTC)),
    )


def explanation(evaluate_run: str) -> str:
    """The newest finished explain run of an evaluate run; empty where there is none."""
    found = _newest(f"tags.stage = 'explain' and tags.evaluate_run = '{evaluate_run}'")
    return found.info.run_id if found else ""


def registered_in(evaluate_run: str) -> Run | None:
    """The newest finished register run that decided by an evaluate run."""
    return _newest(f"tags.stage = 'register' and tags.evaluate_run = '{evaluate_run}'")


def _newest(condition: str) -> Run | None:
    found = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"{condition} and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return next((run for run in found if "reuses" not in run.data.tags), None)


def _elsewhere(evaluated: Run, trained: Run) -> bool:
    names = ("dataset", "split_digest", "data_digest")
    return any(evaluated.data.tags.get(name) != trained.data.tags.get(name) for name in names)


def record(run: Run, *, curves: tuple[str, ...] = ()) -> Record:
    """A run with those of its tables, pictures and texts that are there and whole."""
    run_id, stage = run.info.run_id, run.data.tags.get("stage", "")
    client = mlflow.MlflowClient()
    there = {item.path for item in client.list_artifacts(run_id)}
    tables = {name: read for name in _TABLES.get(stage, ()) if f"{name}.csv" in there
              if (read := _read(run_id, f"{name}.csv", pd.read_csv)) is not None}  # fmt: skip
    pictures = [name for name in _PICTURES.get(stage, ()) if name in there]
    pictures += [name for name in there if name.startswith("expert_labels_") and name.endswith(".png")]
    if "subgroups" in there:
        inside = [item.path for item in client.list_artifacts(run_id, "subgroups")]
        pictures += [name for name in inside if name.endswith("_auroc.png")]
    history = {key: [(point.step, point.value) for point in client.get_metric_history(run_id, key)]
               for key in curves if key in run.data.metrics}  # fmt: skip
    texts = [name for name in ("statement.md",) if name in there]
    return Record(
        stage=stage, run_id=run_id, name=run.info.run_name or "", experiment_id=run.info.experiment_id,
        started=_moment(datetime.fromtimestamp(run.info.start_time / 1000, UTC)),
        tags=dict(run.data.tags), params=dict(run.data.params), metrics=dict(run.data.metrics),
        history={key: sorted(points) for key, points in history.items()},
        tables=tables,
        pictures={name: tracking.artifact(run_id, name).read_bytes() for name in pictures},
        texts={name: tracking.artifact(run_id, name).read_text() for name in texts},
    )  # fmt: skip


def _read(run_id: str, name: str, how: Callable[[Path], pd.DataFrame]) -> pd.DataFrame | None:
    """A table, or None where it has no columns at all, as an empty one is written."""
    try:
        return how(tracking.artifact(run_id, name))
    except pd.errors.EmptyDataError:
        return None


def _version(registered: Run | None, trained: Run) -> str:
    if registered:
        return f"models:/{registered.data.tags['registered_model']}/{registered.data.tags['version']}"
    found = mlflow.MlflowClient().search_model_versions(f"run_id = '{trained.info.run_id}'")
    return ", ".join(f"models:/{one.name}/{one.version}" for one in found)


def _requirements(trained: Run) -> str:
    """The packages that the model names; empty where it cannot be fetched any more."""
    try:
        model_id = trained.data.tags["model_uri"].removeprefix("models:/")
        place = mlflow.MlflowClient().get_logged_model(model_id).artifact_location
        return Path(mlflow.artifacts.download_artifacts(f"{place}/requirements.txt")).read_text()
    except (MlflowException, OSError):
        return ""


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
