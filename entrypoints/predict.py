"""Predict: a registered model and image files -> a table of probabilities; broken files are rows with a reason."""

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxr.errors import InputError
from entrypoints.door import enter
from entrypoints.kinds import Device

if TYPE_CHECKING:
    import torch
    from mlflow.entities.model_registry import ModelVersion
    from torchvision.models import ResNet

    from cxr.prediction import Batch, Meaning

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
    from cxr import prediction, registry, serving, tracking

    tracking.connect()
    table = Path(output).absolute()
    maps = table.with_name(f"{table.stem}_maps")
    writer = prediction.Output(table, overwrite=overwrite)
    if explain and maps.exists() and not overwrite:
        raise InputError(f"explain=true: {maps} is there already; overwrite=true replaces it.")
    folder, names = prediction.find(Path(input).absolute(), leave_out=maps)
    version = registry.resolve(model)
    meaning = _meaning(version, model, calibrated=calibrated, threshold=threshold)
    where = devices.choose(device)
    network, spec = serving.load_network(f"models:/{version.name}/{version.version}", device=where)
    config = {"calibrated": calibrated, "threshold": threshold, "explain": explain, "device": str(where)}
    stage = tracking.Stage(name="predict", config=config, data_digest="")
    with tracking.run(stage, title=f"predict {version.name} {version.version}", adopt=True) as run_id:
        mlflow.set_tags({"registered_model": version.name, "version": str(version.version)})
        if explain and maps.exists():
            shutil.rmtree(maps)
        start, done, broken = time.perf_counter(), 0, 0
        with writer:
            for batch in prediction.predict(network, folder, names, size=spec.image_size, device=where):
                writer.add(prediction.table(batch, meaning))
                if explain:
                    _explain(network, batch, meaning, maps, where, first=done)
                done += len(batch.names)
                broken += sum(map(bool, batch.reasons))
                click.echo(f"\rpredict: {done:,} of {len(names):,} files", err=True, nl=done == len(names))
        seconds = time.perf_counter() - start
        mlflow.log_metrics({"predict/images": done, "predict/broken": broken, "predict/seconds": seconds,
                            "predict/images_per_second": done / seconds})  # fmt: skip
        line = f"models:/{version.name}/{version.version} on {done:,} files, {broken:,} of them broken"
        tracking.describe_run(f"{line}. Names and rows are not on this server. Not a medical device.")
    kept = f"; maps in {maps}" if explain else ""
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
    chosen = thresholds.from_dict(stored("thresholds", f"threshold={threshold}")) if threshold != "none" else None
    return Meaning(
        learned=version.tags["classes"].split("|") if version.tags.get("classes") else CLASSES,
        maps=maps, thresholds=None if chosen is None else chosen[threshold],
    )  # fmt: skip


def _explain(
    network: "ResNet", batch: "Batch", meaning: "Meaning", folder: Path, where: "torch.device", *, first: int
) -> None:
    """An overlay for each good file, `<row of the table>_<its name>.<Finding>.png`, of its highest finding.

    `first` is the batch's first row. The row makes names differ; of a long name the beginning is kept.
    """
    import numpy as np
    import torch
    from torch.nn import functional

    from cxr.data.augment import normalise
    from cxr.explain import gradcam
    from cxr.figures.pictures import Tile, write
    from cxr.findings import CLASSES, FINDINGS

    good = [row for row, reason in enumerate(batch.reasons) if not reason]
    if not good:
        return
    known = [number for number, name in enumerate(CLASSES) if name in FINDINGS and name in meaning.learned]
    highest = torch.tensor([known[int(np.argmax(batch.logits[row, known]))] for row in good])
    images = normalise(torch.from_numpy(batch.pixels[good]).to(where))
    maps = gradcam.maps_of(network, gradcam.default_layer(images.shape[-1]), images, highest).relu()  # [n, h, w]
    large = functional.interpolate(maps[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False)
    folder.mkdir(exist_ok=True)
    for place, row in enumerate(good):
        finding, name = CLASSES[highest[place]], Path(batch.names[row]).stem[:50]
        path = folder / f"{first + row + 1:06}_{name}.{finding}.png"
        write(path, Tile(batch.pixels[row], large[place, 0].numpy(), finding, batch.names[row]))


if __name__ == "__main__":
    enter(main, "predict")
