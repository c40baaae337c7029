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

    from cxr.delivery import Courier
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
    others = {"seed": common.seed, "processes": cluster.size, "pretrained": pretrained,
              "without": ",".join(how.without)}  # fmt: skip
    told = ", ".join(f"{name} {value}" for name, value in others.items() if value not in ("", 1))
    click.echo(f"train: {recipes.line(chosen)}; {told}; on {where}")
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
    given = _given(common, how, register_as)
    run_id = _record(stage, job, source, common, old, patience=60 * how.wait_minutes, given=given)
    _register(run_id, register_as)
    click.echo(f"train: run {run_id}")
    return run_id


def _from(
    common: Common, split_run: str, resume: str, patience: float
) -> "tuple[Common, Split, Unfinished | None]":
    """What is trained on: a split, made now if none is given, or an unfinished run with its own seed and split."""
    from entrypoints import resume as resumed
    from entrypoints import upstream

    if not resume:
        return common, upstream.read_split(split_run or split.run(common.for_upstream()), common), None
    old = resumed.read(resume, common.store, patience)
    common = replace(common, seed=old.seed, on_bad_image=old.on_bad_image)
    return common, upstream.read_split(old.tags["split_run"], common, made_from=old.tags["data_folder"]), old


def _record(
    stage: "Stage", job: "Job", source: "Split", common: Common, old: "Unfinished | None", *,
    patience: float, given: dict[str, object],
) -> str:  # fmt: skip
    """Train in a run of its own: what goes in, what is delivered on the way, what comes out; its id."""
    import mlflow

    from cxr import device, tracking
    from cxr.delivery import Courier
    from cxr.training import recipe as recipes
    from entrypoints import resume as resumed
    from entrypoints import seen, upstream

    chosen = job.recipe
    engine = device.engine(device.choose(job.device), without=job.without, pixel_bytes=job.store.pixels.nbytes)
    tags = source.tags | {
        "split_run": source.run_id, "images_digest": stage.data_digest, "recipe": chosen.name,
        "data_folder": str(source.folder), "classes": "|".join(source.classes()),
        "arch": chosen.arch, "image_size": str(chosen.image_size), "changed": recipes.changes(chosen),
        "loss": chosen.loss, "seed": str(job.seed), "pretrained": str(stage.config["pretrained"]),
    }  # fmt: skip
    machine = resumed.describe_machine(engine, job.cluster)
    title = f"train {chosen.name} {chosen.arch} {chosen.image_size}px on {source.name}"
    title += f", seed {job.seed}" if common.command == "seeds" or job.seed != 123 else ""
    with tracking.run(stage, title=title, adopt=common.command == "train", system_metrics=True) as run_id:
        here = resumed.folder(common.store, run_id)
        with resumed.kept(here), Courier(here, run_id, tell=_tell) as courier:  # locked: the run is under way
            mlflow.set_tags(tags)
            mlflow.log_params({f"engine.{name}": value for name, value in vars(engine).items()})
            for part in ("train", "val"):
                upstream.log_rows(source.table, source.tags, source.folder, part)
            seen.log(source, job.store)
            if old:
                resumed.warn(old, machine)
                resumed.take_over(old, run_id, here, math.ceil(len(source.rows("train")) / chosen.batch_size))
            go_on = resumed.command(run_id, given)
            go_on += ", and then what you called again" if common.command != "train" else ""
            _train(
                replace(job, logbook=here, metadata=tags | machine), stage.fingerprint, courier, patience, go_on
            )
            _log_best(here, tags)
    resumed.forget(common.store, run_id)
    return run_id


def _train(job: "Job", name: str, courier: "Courier", patience: float, go_on: str) -> None:
    """Train; what was reached is delivered in any case, and how to go on from it is told."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from cxr import checkpoint, tracking
    from cxr.errors import InputError, NotDeliveredError, TrainingError
    from cxr.training import work

    assert job.logbook
    try:
        work.train(job, name=name)
        courier.finish(patience)
    except NotDeliveredError as error:
        if not error.only_checkpoints:
            raise NotDeliveredError(
                f"{error} Training is complete; once the server takes it, this delivers it: {go_on}"
            ) from error
        click.echo(f"train: warning: {error} Training is complete: the model is logged without it.")
        mlflow.set_tag("not_delivered", str(error)[:5000])
    except (KeyboardInterrupt, TrainingError, InputError) as error:  # InputError: a full disk
        reached = checkpoint.describe(job.logbook)
        hint = f"To go on from the last checkpoint, with the same values: {go_on}" if reached else ""
        if reached:
            with contextlib.suppress(MlflowException):
                mlflow.set_tag(tracking.TO_GO_ON, go_on)
        if not isinstance(error, KeyboardInterrupt):
            with contextlib.suppress(NotDeliveredError):  # it stands on this machine
                courier.finish(patience)
            raise TrainingError(f"{error} {hint or 'There is no checkpoint yet.'}") from error
        with contextlib.suppress(NotDeliveredError):
            courier.finish(_LAST_UPLOAD, at_most=_LAST_UPLOAD)
        click.echo(f"\ntrain: interrupted. {hint or 'There was no checkpoint yet.'}")
        raise


def _log_best(here: "Path", tags: dict[str, str]) -> None:
    """Log the best epoch's network as a model of the active run."""
    import tempfile
    from pathlib import Path

    import mlflow

    from cxr import checkpoint, model, registry, tracking
    from cxr.data.image import example_png
    from cxr.serving import WEIGHTS
    from cxr.training.records import BY_LOSS

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
    # a run's page shows the last epoch's values; those of the model are another's
    measured = state.history[int(best["best_epoch"]) - 1]["metrics"]
    mlflow.log_metrics({f"best/{name}": value for name, value in measured.items() if name.startswith("val/")})
    decided = f"{best['best_by']} {measured[best['best_by']]:.4g}"
    tracking.describe_run(
        f"The model is that of epoch {best['best_epoch']} of {len(state.history)}, by {decided}"
        f"{'' if best['best_by'] != BY_LOSS else ' (no finding has enough validation patients for an AUROC)'}."
    )


def _given(common: Common, how: How, register_as: str) -> dict[str, object]:
    """What the user gave of values that an unfinished run does not know when it is gone on from."""
    from cxr.data.store import default_root

    values = vars(how) | {"without": ",".join(how.without), "device": common.device, "register_as": register_as}
    values |= {} if common.store == default_root() else {"store": common.store}
    defaults = {option.name: str(option.default) for option in main.params} | {"pretrained": str(how.pretrained)}
    return {name: value for name, value in values.items() if str(value) != defaults[name]}


def _tell(line: str) -> None:
    click.echo(f"train: {line}")


def _register(run_id: str, name: str) -> None:
    from entrypoints import upstream

    if version := upstream.ensure_registered(run_id, name):
        click.echo(f"train: models:/{name}/{version}")


if __name__ == "__main__":
    enter(main, "train")
