"""Explain stage: model and test images -> Grad-CAM maps, what they are worth, and what does not follow."""

from typing import TYPE_CHECKING, Any

import click

from entrypoints import evaluate, options
from entrypoints.door import enter
from entrypoints.options import Common

if TYPE_CHECKING:
    import pandas as pd

    from entrypoints.upstream import Split

_CHECKPOINTS = {"quick": 1, "full": 2}
_SEEDS = {"quick": 2, "full": 4}


@click.command("explain", context_settings={"show_default": True})
@options.common
@options.model
@options.layer
@options.stress
def main(common: Common, model: str, layer: str, stress: str) -> None:
    """Map the test images of every finding, hold the maps against boxes, put them to stress; log all of it."""
    options.refuse_idle(common, "model", model if common.data == "auto" else "")
    run(common, evaluate_run=evaluate.run(common.for_upstream(), model=model), layer=layer, stress=stress)


def run(common: Common, *, evaluate_run: str, layer: str = "auto", stress: str = "quick") -> str:
    """Make or find the explain run of an evaluate run; its run id."""
    import mlflow

    from cxr import device, serving, tracking
    from cxr.explain import gradcam
    from entrypoints import explained, explaining, siblings, upstream

    tracking.connect()
    where = device.choose(common.device)
    tags = tracking.stage_run(evaluate_run, "evaluate", "evaluate_run").data.tags
    source = upstream.read_split(tags["split_run"], common, made_from=tags["data_folder"])
    network, spec = serving.load_network(tags["model_uri"], device=where)
    chosen = gradcam.default_layer(spec.image_size) if layer == "auto" else layer
    seeds = siblings.seeds(tags["train_run"], most=_SEEDS[stress]) if stress != "off" else {}
    stage = tracking.Stage(
        name="explain",
        config={"layer": chosen, "method": "Grad-CAM on logits", "stress": stress, "seed": common.seed},
        data_digest=source.images_digest(),
        upstream=(evaluate_run, *seeds.values()),
    )
    if found := upstream.reuse(stage, common):
        return found
    source, packed = source.open_store(common, spec.image_size)
    with tracking.run(stage, title=f"explain {chosen}", adopt=common.command == "explain") as run_id:
        mlflow.set_tags(source.tags | {key: tags[key] for key in ("split_run", "train_run", "model_uri")})
        mlflow.set_tag("evaluate_run", evaluate_run)
        others = {}
        if stress != "off":
            others = siblings.networks(tags["train_run"], seeds, checkpoints=_CHECKPOINTS[stress], device=where)
        scores = upstream.scores_of(evaluate_run)
        subject = explained.Explained(
            network=gradcam.fast(network), layer=chosen, store=packed, device=where, seed=common.seed,
            others=others, **_images(scores[scores["image"].isin(source.table["image"])], source),
        )  # fmt: skip
        line = explaining.log(subject, stress_level=stress)
    click.echo(f"explain: {line}; run {run_id}")
    return run_id


def _images(scores: "pd.DataFrame", source: "Split") -> dict[str, Any]:
    """What is known of the test images: scores, findings, AUROC, thresholds, boxes, and what they are worth."""
    import pandas as pd

    from cxr.evaluation import metrics, thresholds
    from cxr.findings import FINDINGS
    from entrypoints import upstream

    test = scores[scores["split"] == "test"].reset_index(drop=True)
    val = scores[scores["split"] == "val"]
    table = metrics.per_class(test)
    auroc = {str(name): float(value) for name, value in table["auroc"].items()}
    chosen = thresholds.table(val) if len(val) else pd.DataFrame(columns=["youden"])
    return {
        "test": test, "val_images": len(val), "scope": upstream.scope_line(source), "auroc": auroc,
        "findings": [name for name in FINDINGS if (test[name] == 1).any() and test[f"logit_{name}"].notna().all()],
        "carried": frozenset(table.index[table["auroc"].notna() & table["in_macro"].astype(bool)]),
        "thresholds": {str(name): float(value) for name, value in chosen["youden"].items()},
        "boxes": _boxes(source), "official": source.tags["scope"] == "official",
        "drawn_boxes": "where it was drawn" if source.is_phantom else "a radiologist's box (Wang et al. 2017)",
    }  # fmt: skip


def _boxes(source: "Split") -> "pd.DataFrame":
    import pandas as pd

    from cxr import tracking

    name = "boxes.parquet"
    if tracking.has(source.run_id, name):
        return tracking.frame(source.run_id, name)
    return pd.DataFrame(columns=["image", "finding", "x", "y", "width", "height"])


if __name__ == "__main__":
    enter(main, "explain")
