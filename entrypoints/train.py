"""Train stage: split run -> packed images -> trained network, checkpoints, a registered version."""

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from cxr.training.recipe import Overrides
from entrypoints import options, split
from entrypoints.door import enter
from entrypoints.options import Common, How

if TYPE_CHECKING:
    from pathlib import Path

    from cxr.tracking import Stage
    from cxr.training.work import Job
    from entrypoints.resume import Unfinished
    from entrypoints.upstream import Split

REGISTER_AS = "cxr-resnet50"
PLAIN = How()
_LAST_UPLOAD = 10.0  # seconds that an interrupted run has for what is not delivered yet


@click.command("train", context_settings={"show_default": True})
@options.common
@options.training
@options.how
@options.machines
@options.seeds
@click.option("--split_run", default="", help="Id of a split run. Empty: split first.")
@click.option("--resume", default="", help="Id of a train run that did not finish: go on from its last "
              "checkpoint, in a run of its own.")  # fmt: skip
@options.register_as
def main(
    common: Common,
    recipe: str,
    overrides: Overrides,
    how: How,
    seeds: int,
    split_run: str,
    resume: str,
    register_as: str,
) -> None:
    """Train a ResNet; log curves and checkpoints; register the best epoch."""
    options.refuse_idle(common, "split_run", split_run)
    options.refuse_beside_resume(
        resume,
        {"recipe": recipe, "split_run": split_run, "pretrained": how.pretrained, "seed": common.seed,
         "on_bad_image": common.on_bad_image, "limit": common.limit, "split": common.split,
         "uncertain": common.uncertain} | vars(overrides),
    )  # fmt: skip
    options.refuse_strangers(how, split_run or resume)
    if seeds > 1:
        from entrypoints import seeds as several

        if resume or how.nodes > 1:
            raise click.UsageError(f"seeds={seeds}: not together with resume or nodes.")
        several.run(common, seeds, recipe=recipe, overrides=overrides, how=how, split_run=split_run,
                    register_as=register_as)  # fmt: skip
        return
    run(common, recipe=recipe, overrides=overrides, how=how, split_run=split_run, resume=resume,
        register_as=register_as)  # fmt: skip


def run(
    common: Common, *, recipe: str = "auto", overrides: Overrides | None = None, how: How = PLAIN,
    split_run: str = "", resume: str = "", register_as: str = REGISTER_AS,
) -> str:  # fmt: skip
    """Make or find the train run of a split run and a recipe, or go on from an unfinished one; its run id.

    On a machine that helps another it is empty: the run is the other's.
    """
    from cxr import device, distributed, model, tracking
    from cxr.training import recipe as recipes
    from cxr.training import work
    from entrypoints import upstream

    tracking.connect()
    where = device.choose(common.device)
    cluster = distributed.Cluster(
        processes=how.processes, nodes=how.nodes, node=how.node, rendezvous=how.rendezvous
    )
    distributed.check(cluster, where)
    common, source, old = _from(common, split_run, resume, 60 * how.wait_minutes)
    source.refuse_untrainable()
    chosen = old.recipe if old else recipes.choose(recipe, overrides or Overrides(), phantom=source.is_phantom)
    pretrained = old.pretrained if old else ""
    if how.pretrained:  # another start must not pass for the recipe
        pretrained = model.file_digest(how.pretrained)
        chosen = replace(chosen, name=f"{chosen.name}-pretrained")
    stage = tracking.Stage(
        name="train",
        config=recipes.to_config(chosen) | {
            "seed": common.seed, "on_bad_image": common.on_bad_image, "processes": cluster.size,
            "without": ",".join(how.without), "pretrained": pretrained,
        },
        data_digest=source.images_digest(),
        upstream=(source.run_id,),
    )  # fmt: skip
    click.echo(f"train: {recipes.line(chosen)}; on {where}")
    if old:
        old.refuse_other_images(stage.data_digest)
    elif found := upstream.reuse(stage, common):
        _register(found, register_as)
        return found
    source, packed = source.open_store(common, chosen.image_size)
    source.refuse_untrainable()  # unreadable images may have been all of a part
    job = work.Job(
        recipe=chosen, seed=common.seed, store=packed, table=source.table, device=str(where), without=how.without,
        cluster=cluster, logbook=None, checkpoint_seconds=60 * how.checkpoint_minutes, metadata={},
        pretrained=how.pretrained, tell=_tell,
    )  # fmt: skip
    if how.node:
        work.train(job, name=stage.fingerprint)
        tracking.close_opened_run(
            f"Machine {how.node} of {how.nodes} that trained together; machine 0 keeps the run."
        )
        return ""
    run_id = _record(stage, job, source, common, old, 60 * how.wait_minutes)
    _register(run_id, register_as)
    click.echo(f"train: run {run_id}")
    return run_id


def _from(
    common: Common, split_run: str, resume: str, wait_seconds: float
) -> "tuple[Common, Split, Unfinished | None]":
    """What is trained on: a split, made now if none is given, or an unfinished run with its own seed and split."""
    from entrypoints import resume as resumed
    from entrypoints import upstream

    if not resume:
        return common, upstream.read_split(split_run or split.run(common.for_upstream()), common), None
    old = resumed.read(resume, common.store, wait_seconds)
    common = replace(common, seed=old.seed, on_bad_image=old.on_bad_image)
    return common, upstream.read_split(old.tags["split_run"], common, made_from=old.tags["data_folder"]), old


def _record(
    stage: "Stage", job: "Job", source: "Split", common: Common, old: "Unfinished | None", wait_seconds: float
) -> str:
    """Train in a run of its own: what goes in, what is delivered on the way, what comes out; its id."""
    import shutil

    import mlflow

    from cxr import device, tracking
    from entrypoints import resume as resumed
    from entrypoints import seen, upstream

    chosen = job.recipe
    engine = device.engine(device.choose(job.device), without=job.without, pixel_bytes=job.store.pixels.nbytes)
    tags = source.tags | {
        "split_run": source.run_id, "images_digest": stage.data_digest, "recipe": chosen.name,
        "data_folder": str(source.folder), "classes": "|".join(source.classes()),
        "arch": chosen.arch, "image_size": str(chosen.image_size),
    }  # fmt: skip
    machine = resumed.describe_machine(engine, job.cluster)
    title = f"train {chosen.name} {chosen.arch} {chosen.image_size}px on {source.name}"
    with tracking.run(stage, title=title, adopt=common.command == "train", system_metrics=True) as run_id:
        here = resumed.folder(common.store, run_id)
        mlflow.set_tags(tags)
        mlflow.log_params({f"engine.{name}": value for name, value in vars(engine).items()})
        for part in ("train", "val"):
            upstream.log_rows(source.table, source.tags, source.folder, part)
        seen.log(source, job.store)
        if old:
            resumed.warn(old, machine)
            resumed.take_over(old, run_id, here, math.ceil(len(source.rows("train")) / chosen.batch_size))
        _train(replace(job, logbook=here, metadata=tags | machine), run_id, stage.fingerprint, wait_seconds)
        _log_best(here, tags)
    for folder in (here, *([resumed.folder(common.store, old.run_id)] if old else [])):
        shutil.rmtree(folder, ignore_errors=True)
    return run_id


def _train(job: "Job", run_id: str, name: str, wait_seconds: float) -> None:
    """Train, and deliver meanwhile what is written; what was reached is delivered in any case."""
    from cxr.delivery import Courier, NotDeliveredError
    from cxr.errors import TrainingError
    from cxr.training import work
    from entrypoints import resume as resumed

    assert job.logbook
    go_on = resumed.command(run_id, job.logbook.parent)
    with Courier(job.logbook, run_id, tell=_tell) as courier:
        try:
            work.train(job, name=name)
            courier.finish(wait_seconds)
        except KeyboardInterrupt:
            click.echo(f"\ntrain: interrupted; to go on: {go_on}")
            with contextlib.suppress(NotDeliveredError):  # it stands on this machine
                courier.finish(_LAST_UPLOAD)
            raise
        except NotDeliveredError as error:
            raise NotDeliveredError(
                f"{error} Training is complete; once the server is back, this delivers it: {go_on}"
            ) from error
        except TrainingError as error:
            courier.finish(wait_seconds)
            raise TrainingError(f"{error} To go on from it: {go_on}") from error


def _log_best(here: "Path", tags: dict[str, str]) -> None:
    """Log the best epoch's network as a model of the active run."""
    import tempfile
    from pathlib import Path

    import mlflow

    from cxr import checkpoint, model, registry
    from cxr.data.image import example_png
    from cxr.serving import WEIGHTS

    found = checkpoint.newest(here)
    assert found
    state = found.checkpoint
    best = {key: state.metadata[key] for key in ("best_by", "best_epoch", "val_macro_14", "val_macro_14_classes")}
    spec = model.Spec(arch=tags["arch"], image_size=int(tags["image_size"]))
    with tempfile.TemporaryDirectory() as scratch:
        model.save_network(Path(scratch, WEIGHTS), state.best, spec)
        uri = registry.log_model(
            Path(scratch, WEIGHTS), example_png(), step=int(best["best_epoch"]), tags=tags | best
        )
    mlflow.set_tags(best | {"model_uri": uri, "weights_digest": model.weights_digest(state.best)})


def _tell(line: str) -> None:
    click.echo(f"train: {line}")


def _register(run_id: str, name: str) -> None:
    from entrypoints import upstream

    if version := upstream.ensure_registered(run_id, name):
        click.echo(f"train: models:/{name}/{version}")


if __name__ == "__main__":
    enter(main, "train")
