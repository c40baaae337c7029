"""An unfinished train run, and what is needed to go on from it: here or on another machine."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import mlflow
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cxr import checkpoint, delivery, tracking
from cxr.checkpoint import Checkpoint
from cxr.data.store import default_root
from cxr.device import Engine
from cxr.distributed import Cluster
from cxr.errors import InputError
from cxr.training import recipe as recipes
from cxr.training.logbook import Logbook
from cxr.training.recipe import Recipe

_OTHERS = ("seed", "on_bad_image", "processes", "without", "pretrained")  # of config.json, beside the recipe's


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A train run that did not finish: its configuration and its last checkpoint."""

    run_id: str
    tags: dict[str, str]
    recipe: Recipe
    seed: int
    on_bad_image: str
    pretrained: str  # digest of the weights that it started from
    state: Checkpoint

    def refuse_other_images(self, digest: str) -> None:
        """Training goes on on the very images that it began with."""
        if digest != self.tags["images_digest"]:
            raise InputError(
                f"resume={self.run_id}: the images here are not those of that run (digest {digest}, expected "
                f"{self.tags['images_digest']})."
            )


def folder(store: Path, run_id: str) -> Path:
    """Where a train run's records and checkpoints stand on this machine until they are delivered."""
    return store / f"training-{run_id}"


def command(run_id: str, store: Path) -> str:
    """What a person types to go on."""
    place = "" if store == default_root() else f" -P store={shlex.quote(str(store))}"
    return f"mlflow run . --env-manager local -e train -P resume={run_id}{place}"


def read(run_id: str, store: Path, wait_seconds: float) -> Unfinished:
    """Find an unfinished run's newest whole checkpoint, on this machine or on the tracking server.

    What stands here and is not on the server yet is delivered first. Raises InputError for a run that is not
    there, is finished, is still under way on this machine, or has no checkpoint.
    """
    found = _unfinished(run_id)
    here = folder(store, run_id)
    states: list[Checkpoint] = []
    if here.is_dir():
        delivery.deliver(here, run_id, wait_seconds, tell=click.echo)
        states += _newest(here)
    if any(item.path == delivery.REMOTE for item in mlflow.MlflowClient().list_artifacts(run_id)):
        states += _newest(tracking.artifact(run_id, delivery.REMOTE))
    if not states:
        raise InputError(f"resume={run_id}: that run was ended before its first checkpoint. Train anew.")
    config = mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json")
    if missing := [name for name in _OTHERS if name not in config]:
        raise InputError(f"resume={run_id}: made by an earlier version of this project (no {', '.join(missing)}).")
    other = {name: config.pop(name) for name in _OTHERS}
    return Unfinished(
        run_id=run_id,
        tags=dict(found.data.tags),
        recipe=recipes.from_config(config),
        seed=int(other["seed"]),
        on_bad_image=other["on_bad_image"],
        pretrained=other["pretrained"],
        state=max(states, key=lambda state: (state.epoch, state.step)),
    )


def take_over(old: Unfinished, run_id: str, here: Path, steps: int) -> None:
    """Note on both runs which one goes on from which, and lay the checkpoint where training looks for it.

    On the active run, `run_id`; `steps` are those of an epoch. The old run is RUNNING no longer.
    """
    Logbook(here).save(old.state)
    done = old.state.epoch * steps + old.state.step
    mlflow.set_tags({"resumed_from": old.run_id, "resumed_from_step": done, "resumed_from_epoch": old.state.epoch})
    client = mlflow.MlflowClient()
    client.set_tag(old.run_id, "resumed_by", run_id)
    if client.get_run(old.run_id).info.status == "RUNNING":  # ended too suddenly to say so
        tracking.mark_failed(old.run_id, f"interrupted; run {run_id} goes on from it")
        client.set_terminated(old.run_id, "KILLED")
    position = f"epoch {old.state.epoch}" + (f" and {old.state.step} steps" if old.state.step else "")
    click.echo(f"train: going on from run {old.run_id} after {position} ({done:,} steps in all)")


def describe_machine(engine: Engine, cluster: Cluster) -> dict[str, str]:
    """What the bits of a result depend on beside its recipe: kept in checkpoints."""
    told = {name: str(value) for name, value in vars(engine).items() if name != "resident"}
    return told | {
        "processes": str(cluster.size), "threads": str(torch.get_num_threads()), "torch": str(torch.__version__),
        "code": tracking.code_digest(),
    }  # fmt: skip


def warn(old: Unfinished, now: dict[str, str]) -> None:
    """Say where training cannot go on bit by bit as the uninterrupted run would have."""
    before = old.state.metadata
    if other := [f"{name} {before.get(name, 'unknown')} -> {value}" for name, value in now.items()
                 if before.get(name) != value]:  # fmt: skip
        click.echo(f"train: warning: not bit by bit what the uninterrupted run would give: {', '.join(other)}")


def _unfinished(run_id: str) -> Run:
    try:
        found = mlflow.get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"resume={run_id}: there is no such run on {mlflow.get_tracking_uri()}. Expected the id of a train "
            "run that did not finish."
        ) from error
    stage = found.data.tags.get("stage", "no stage of this project")
    if stage != "train":
        raise InputError(f"resume={run_id}: that run is of {stage}; expected a train run that did not finish.")
    if found.info.status == "FINISHED":
        raise InputError(f"resume={run_id}: that run is finished; there is nothing to go on with.")
    if by := found.data.tags.get("resumed_by"):
        click.echo(f"train: warning: run {run_id} was resumed before, by run {by}")
    return found


def _newest(place: Path) -> list[Checkpoint]:
    found = checkpoint.newest(place)
    for problem in found.skipped if found else ():
        click.echo(f"train: warning: {problem} The checkpoint before it is taken.")
    return [found.checkpoint] if found else []
