"""Predict: a registered model and image files -> a table of probabilities; broken files are rows with a reason."""

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxr.errors import InputError
from entrypoints.door import enter
from entrypoints.kinds import Device

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from cxr.prediction import Meaning

THRESHOLDS = ("none", "youden", "sensitivity_90", "specificity_90")


@click.command("predict", context_settings={"show_default": True})
@click.option("--model", default="", help="models:/NAME/VERSION or models:/NAME@ALIAS.")
@click.option(
    "--input",
    default="",
    help="Folder of PNG, JPEG and DICOM files (all below it), one file, or a .txt file with a path a line.",
)
@click.option("--output", default="predictions.csv", help="Table to write: .csv or .parquet.")
@click.option("--overwrite", type=click.BOOL, default="false", help="true: replace a table that is there.")
@click.option(
    "--calibrated",
    type=click.BOOL,
    default="false",
    help="true: by the version's Platt maps, where it has them.",
)
@click.option(
    "--threshold",
    type=click.Choice(THRESHOLDS),
    default="none",
    help="Rule by whose validation threshold a column <Finding>_positive calls each image.",
)
@click.option(
    "--explain",
    type=click.BOOL,
    default="false",
    help="true: a Grad-CAM overlay of each image's highest finding, in a folder beside the table.",
)
@click.option("--device", type=Device(), default="auto", help="auto, cpu, cuda or cuda:N; auto: the first GPU.")
def main(
    model: str,
    input: str,
    output: str,
    overwrite: bool,
    calibrated: bool,
    threshold: str,
    explain: bool,
    device: str,
) -> None:
    """Give the probabilities of a registered model for image files. File names and rows stay on this machine."""
    if not model.startswith("models:/"):
        raise click.BadParameter(
            f"{model!r}: expected models:/NAME/VERSION or models:/NAME@ALIAS.", param_hint="--model"
        )
    if not input:
        raise click.BadParameter(
            "it is empty; expected a folder, a file or a list of files.", param_hint="--input"
        )
    import mlflow

    from cxr import device as devices
    from cxr import overlays, prediction, registry, serving, tracking

    tracking.connect()
    table, source = Path(output).absolute(), Path(input).absolute()
    writer = prediction.Output(table, overwrite=overwrite)
    of_its_own = source.is_relative_to(overlays.folder_of(table))  # who points at overlays means them
    folder, names = prediction.find(source, leave_out=() if of_its_own else overlays.left_by(table))
    inputs = (folder / name for name in names)
    pictures = overlays.Overlays(table, overwrite=overwrite, inputs=inputs) if explain else None
    version = registry.resolve(model)
    meaning = _meaning(version, model, calibrated=calibrated, threshold=threshold)
    where = devices.choose(device)
    network, spec = serving.load_network(f"models:/{version.name}/{version.version}", device=where)
    config = {"calibrated": calibrated, "threshold": threshold, "explain": explain, "device": str(where)}
    stage = tracking.Stage(name="predict", config=config, data_digest="")
    with tracking.run(stage, title=f"predict {version.name} {version.version}", adopt=True) as run_id:
        mlflow.set_tags({"registered_model": version.name, "version": str(version.version)})
        start, done, broken = time.perf_counter(), 0, 0
        with writer, pictures or nullcontext():
            for batch in prediction.predict(network, folder, names, size=spec.image_size, device=where):
                writer.add(prediction.table(batch, meaning))
                if pictures:
                    pictures.add(network, batch, meaning.learned, where, first=done)
                done += len(batch.names)
                broken += sum(map(bool, batch.reasons))
                click.echo(f"\rpredict: {done:,} of {len(names):,} files", err=True, nl=done == len(names))
        seconds = time.perf_counter() - start
        mlflow.log_metrics({"predict/images": done, "predict/broken": broken, "predict/seconds": seconds,
                            "predict/images_per_second": done / seconds})  # fmt: skip
        line = f"models:/{version.name}/{version.version} on {done:,} files, {broken:,} of them broken"
        tracking.describe_run(f"{line}. Names and rows are not on this server. Not a medical device.")
    kept = f"; maps in {pictures.folder}" if pictures else ""
    click.echo(f"predict: {line}, {done / seconds:.0f} a second: {table}{kept}; run {run_id}")


def _meaning(version: "ModelVersion", model: str, *, calibrated: bool, threshold: str) -> "Meaning":
    """What the version says of its logits. Raises InputError where it has not what is asked for."""
    from cxr.evaluation import recalibration, thresholds
    from cxr.findings import CLASSES
    from cxr.prediction import Meaning

    def stored(tag: str, parameter: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = json.loads(version.tags.get(tag, "{}"))
        if not found:
            raise InputError(f"{parameter}: {model} has no {tag}, which `register` puts on a version.")
        return found

    maps = recalibration.from_dict(stored("recalibration", "calibrated=true")) if calibrated else None
    if maps is not None and maps["platt_slope"].isna().all():
        raise InputError(f"calibrated=true: {model} has a map for no class: too few patients in validation.")
    if maps is not None and (bare := list(maps.index[maps["platt_slope"].isna()])):
        click.echo(f"predict: calibrated=true has no map for {', '.join(bare)}: not calibrated.", err=True)
    chosen = thresholds.from_dict(stored("thresholds", f"threshold={threshold}")) if threshold != "none" else None
    return Meaning(
        learned=version.tags["classes"].split("|") if version.tags.get("classes") else CLASSES,
        maps=maps, thresholds=None if chosen is None else chosen[threshold],
    )  # fmt: skip


if __name__ == "__main__":
    enter(main, "predict")
