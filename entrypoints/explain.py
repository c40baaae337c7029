"""Explain stage: model and test positives -> class-averaged Grad-CAM maps and single-image panels."""

from typing import TYPE_CHECKING

import click

from entrypoints import evaluate, options
from entrypoints.door import enter
from entrypoints.options import Common

if TYPE_CHECKING:
    from cxr.explain.classmaps import ClassMap
    from cxr.figures import ClassMapRow

PANEL = "Positive test images by rule: highest, median and lowest score. Colours are scaled image by image."
CAUTION = (
    "A map shows where the network's evidence lies, not that the evidence is sound: plausible maps do not "
    "validate a model (section 6.4 of the paper)."
)


@click.command("explain", context_settings={"show_default": True})
@options.common
@options.model
@options.layer
def main(common: Common, model: str, layer: str) -> None:
    """Map every positive test image of every finding; log class means, figures and the raw maps."""
    options.refuse_idle(common, "model", model if common.data == "auto" else "")
    run(common, evaluate_run=evaluate.run(common.for_upstream(), model=model), layer=layer)


def run(common: Common, *, evaluate_run: str, layer: str = "auto") -> str:
    """Make or find the explain run of an evaluate run; its run id."""
    import mlflow

    from cxr import device, figures, serving, tracking
    from cxr.evaluation import metrics
    from cxr.explain import classmaps, examples, gradcam
    from cxr.findings import CLASSES, FINDINGS
    from entrypoints import upstream

    tracking.connect()
    where = device.choose(common.device)
    tags = tracking.stage_run(evaluate_run, "evaluate", "evaluate_run").data.tags
    source = upstream.read_split(tags["split_run"], common, made_from=tags["data_folder"])
    scores = tracking.frame(evaluate_run, "scores.parquet")
    network, spec = serving.load_network(tags["model_uri"], device=where)
    chosen = gradcam.default_layer(spec.image_size) if layer == "auto" else layer
    stage = tracking.Stage(
        name="explain",
        config={"layer": chosen, "method": "captum LayerGradCam on logits"},
        data_digest=source.images_digest(),
        upstream=(evaluate_run,),
    )
    if found := upstream.reuse(stage, common):
        return found
    source, packed = source.open_store(common, spec.image_size)
    test = scores[scores["split"] == "test"]
    table = metrics.per_class(test)
    with tracking.run(stage, title=f"explain {chosen}", adopt=common.command == "explain") as run_id:
        mlflow.set_tags(source.tags | {key: tags[key] for key in ("split_run", "train_run", "model_uri")})
        mlflow.set_tag("evaluate_run", evaluate_run)
        maps: dict[str, classmaps.ClassMap] = {}
        known = tags["classes"].split("|")  # to the set and to the model
        for finding in [name for name in FINDINGS if name in known and (test[name] == 1).any()]:
            positive = test[test[finding] == 1]
            output = CLASSES.index(finding)
            maps[finding] = classmaps.class_map(network, chosen, packed, positive, output, device=where)
            click.echo(f"explain: {finding}: {maps[finding].images} images")
            card = figures.overlay(maps[finding].mean_image, maps[finding].mean_relu)
            mlflow.log_image(card, key=f"gradcam/{finding}")
        tracking.log_arrays(classmaps.arrays(maps), "maps.npz")
        tracking.log_frame(classmaps.summary(maps), "class_maps")

        scope = f"{upstream.scope_line(source)} Mean over all test positives at {chosen}, ReLU per image."
        auroc = table["auroc"].dropna().sort_values(ascending=False)
        ranked = [name for name in auroc.index if name in maps]
        carried = [name for name in ranked if table.loc[name, "in_macro"]]
        ranked = carried if len(carried) >= 3 else ranked  # few patients make the extremes by chance
        for place, words, names in (
            ("top3", "three highest AUROC", ranked[:3]),
            ("lowest3", "three lowest AUROC", ranked[-3:]),
        ):
            rows = [_row(name, auroc[name], maps[name]) for name in names]
            tiles = [
                figures.Tile(one.pixels, one.map, f"{name}: {one.rule}, p = {one.probability:.2f}", one.image)
                for name in names
                for one in examples.explain(network, chosen, packed, test, name, device=where)
            ]
            if rows:
                figure = figures.class_maps(rows, title=f"Class-averaged Grad-CAM, {words}", subtitle=scope)
                mlflow.log_figure(figure, f"gradcam_{place}.png")
                figure = figures.panel(
                    tiles,
                    title=f"Grad-CAM of single images, {words}",
                    subtitle=f"{upstream.scope_line(source)} {PANEL}",
                )
                mlflow.log_figure(figure, f"gradcam_{place}_images.png")
        tracking.describe_run(f"{scope} {CAUTION}", classmaps.summary(maps).round(4))
    click.echo(f"explain: {len(maps)} findings; run {run_id}")
    return run_id


def _row(finding: str, auroc: float, one: "ClassMap") -> "ClassMapRow":
    from cxr.figures import ClassMapRow

    return ClassMapRow(
        finding=finding, auroc=auroc, images=one.images, patients=one.patients,
        mean_image=one.mean_image, mean_map=one.mean_relu, sd_map=one.sd_relu,
    )  # fmt: skip


if __name__ == "__main__":
    enter(main, "explain")
