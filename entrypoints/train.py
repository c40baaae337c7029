"""Train stage: split run -> packed images -> trained network, checkpoints, a registered version."""

import click

from cxr.training.recipe import Overrides
from entrypoints import options, split
from entrypoints.door import enter
from entrypoints.options import Common

REGISTER_AS = "cxr-resnet50"


@click.command("train", context_settings={"show_default": True})
@options.common
@options.training
@click.option("--split_run", default="", help="Id of a split run. Empty: split first.")
@options.register_as
def main(common: Common, recipe: str, overrides: Overrides, split_run: str, register_as: str) -> None:
    """Train a ResNet from random weights; log curves and checkpoints; register the best epoch."""
    options.refuse_idle(common, "split_run", split_run)
    run(common, recipe=recipe, overrides=overrides, split_run=split_run, register_as=register_as)


def run(
    common: Common, *, recipe: str = "auto", overrides: Overrides | None = None, split_run: str = "",
    register_as: str = REGISTER_AS,
) -> str:  # fmt: skip
    """Make or find the train run of a split run and a recipe; its run id."""
    import tempfile
    from dataclasses import asdict
    from pathlib import Path

    import mlflow

    from cxr import checkpoint, device, model, registry, tracking
    from cxr.data.image import example_png
    from cxr.serving import WEIGHTS
    from cxr.training import recipe as recipes
    from cxr.training.loop import Trainer
    from entrypoints import seen, upstream

    tracking.connect()
    where = device.choose(common.device)
    source = upstream.read_split(split_run or split.run(common.for_upstream()), common)
    source.refuse_untrainable()
    chosen = recipes.choose(recipe, overrides or Overrides(), phantom=source.is_phantom)
    click.echo(f"train: {chosen} on {where}")
    stage = tracking.Stage(
        name="train",
        config=asdict(chosen) | {"seed": common.seed, "on_bad_image": common.on_bad_image},
        data_digest=source.images_digest(),
        upstream=(source.run_id,),
    )
    if found := upstream.reuse(stage, common):
        _register(found, register_as)
        return found
    source, packed = source.open_store(common, chosen.image_size)
    source.refuse_untrainable()  # unreadable images may have been all of a part
    network = model.build(chosen.arch, seed=common.seed)
    trainer = Trainer(network, chosen, packed, source.table, device=where, seed=common.seed)
    title = f"train {chosen.name} {chosen.arch} {chosen.image_size}px on {source.name}"
    tags = source.tags | {
        "split_run": source.run_id, "images_digest": stage.data_digest, "recipe": chosen.name,
        "data_folder": str(source.folder), "classes": "|".join(source.classes()),
        "arch": chosen.arch, "image_size": str(chosen.image_size), "best_by": trainer.criterion,
    }  # fmt: skip
    with (
        tracking.run(stage, title=title, adopt=common.command == "train", system_metrics=True) as run_id,
        tempfile.TemporaryDirectory() as scratch,
    ):
        mlflow.set_tags(tags)
        for part in ("train", "val"):
            upstream.log_rows(source.table, source.tags, source.folder, part)
        seen.log(source, packed)
        last, best = Path(scratch, "last.pt"), Path(scratch, "best.pt")
        for epoch in trainer.epochs():
            mlflow.log_metrics(epoch.metrics, step=epoch.number)
            for path in (last, best) if epoch.is_best else (last,):
                checkpoint.save(path, trainer.checkpoint(tags))
                mlflow.log_artifact(str(path), "checkpoints")
                mlflow.log_artifact(str(path.with_suffix(".json")), "checkpoints")
            click.echo(f"train: {epoch.line} of {chosen.epochs}")
        chosen_weights = checkpoint.load(best)
        spec = model.Spec(arch=chosen.arch, image_size=chosen.image_size)
        model.save_network(Path(scratch, WEIGHTS), chosen_weights.weights, spec)
        uri = registry.log_model(Path(scratch, WEIGHTS), example_png(), step=chosen_weights.epoch, tags=tags)
        digest = model.weights_digest(chosen_weights.weights)
        mlflow.set_tags(trainer.best() | {"model_uri": uri, "weights_digest": digest})
    _register(run_id, register_as)
    click.echo(f"train: run {run_id}")
    return run_id


def _register(run_id: str, name: str) -> None:
    from entrypoints import upstream

    if version := upstream.ensure_registered(run_id, name):
        click.echo(f"train: models:/{name}/{version}")


if __name__ == "__main__":
    enter(main, "train")
