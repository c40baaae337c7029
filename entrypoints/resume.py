"""An unfinished train run, and what is needed to go on from it: here or on another machine."""

import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import mlflow
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cxr import checkpoint, delivery, tracking
from cxr.checkpoint import Checkpoint
from cxr.device import Engine
from cxr.distributed import Cluster
from cxr.errors import InputError
from cxr.training import recipe as recipes
from cxr.training.logbook import Logbook
from cxr.training.recipe import Recipe

_SIGN_OF_LIFE = "system/cpu_utilization_percentage"  # MLflow's own record, every ten seconds
_ALIVE = 35.0  # seconds
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


def command(run_id: str, given: Mapping[str, object]) -> str:
    """What a person types to go on; `given` are values that the run itself does not know."""
    words = [f"-P {name}={shlex.quote(str(value))}" for name, value in {"resume": run_id, **given}.items()]
    return f"mlflow run . --env-manager local -e train {' '.join(words)}"


def read(run_id: str, store: Path, patience: float) -> Unfinished:
    """Find an unfinished run's newest whole checkpoint, on this machine or on the tracking server.

    What stands here and is not on the server yet is delivered first. A run that itself went on from another and
    came to no checkpoint of its own has that one's. Raises InputError for a run that is not there, is finished or
    still under way, or has no checkpoint.
    """
    found = _unfinished(run_id)
    here = folder(store, run_id)
    if found.info.status == "RUNNING" and not here.is_dir():  # here, a lock says whether it is under way
        _refuse_alive(found)
    states, problems = _states(run_id, here, patience)
    if not states:
        if before := found.data.tags.get("resumed_from"):
            click.echo(f"train: run {run_id} came to no checkpoint of its own; going back to run {before}")
            _end(run_id, f"interrupted before its first checkpoint; gone back to run {before}")
            return read(before, store, patience)
        reason = " ".join(problems) or "that run was ended before its first checkpoint. Train anew."
        raise InputError(f"resume={run_id}: {reason}")
    for problem in problems:
        click.echo(f"train: warning: {problem} Another checkpoint is taken.")
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


@contextmanager
def kept(here: Path) -> Iterator[None]:
    """Keep the folder of a run that fails only where there is a checkpoint in it."""
    try:
        yield
    except BaseException:
        if not checkpoint.describe(here):
            shutil.rmtree(here, ignore_errors=True)
        raise


def forget(store: Path, run_id: str) -> None:
    """Remove what is kept on this machine of a run that has reached the server, and of those before it."""
    while run_id:
        shutil.rmtree(folder(store, run_id), ignore_errors=True)
        run_id = mlflow.get_run(run_id).data.tags.get("resumed_from", "")


def _states(run_id: str, here: Path, patience: float) -> tuple[list[Checkpoint], list[str]]:
    """The newest checkpoints of this machine and of the server, and what was wrong with any."""
    states: list[Checkpoint] = []
    problems: list[str] = []
    places: list[Callable[[], Path]] = []
    if here.is_dir():
        try:
            delivery.deliver(here, run_id, patience, tell=click.echo)
        except delivery.UnderWayError:
            raise InputError(f"resume={run_id}: that run is under way on this machine.") from None
        except InputError as error:  # its checkpoint may serve all the same
            problems.append(str(error))
        places.append(lambda: here)
    if any(item.path == delivery.REMOTE for item in mlflow.MlflowClient().list_artifacts(run_id)):
        places.append(lambda: tracking.artifact(run_id, delivery.REMOTE))
    for place in places:
        try:
            if newest := checkpoint.newest(place()):
                states.append(newest.checkpoint)
                problems += newest.skipped
        except InputError as error:
            problems.append(str(error))
    return states, problems


def _refuse_alive(found: Run) -> None:
    """Raise InputError where the run was heard of a moment ago: two would go on as one."""
    signs = mlflow.MlflowClient().get_metric_history(found.info.run_id, _SIGN_OF_LIFE)
    age = time.time() - max([found.info.start_time, *(sign.timestamp for sign in signs)]) / 1000
    if age < _ALIVE:
        raise InputError(
            f"resume={found.info.run_id}: that run is RUNNING, and was heard of {max(age, 0):.0f} s ago. Where it "
            f"was killed just now, try again in {_ALIVE:.0f} s."
        )


def take_over(old: Unfinished, run_id: str, here: Path, steps: int) -> None:
    """Note on both runs which one goes on from which, and lay the checkpoint where training looks for it.

    On the active run, `run_id`; `steps` are those of an epoch. The old run is RUNNING no longer.
    """
    Logbook(here).save(old.state)
    done = old.state.epoch * steps + old.state.step
    mlflow.set_tags({"resumed_from": old.run_id, "resumed_from_step": done, "resumed_from_epoch": old.state.epoch})
    mlflow.MlflowClient().set_tag(old.run_id, "resumed_by", run_id)
    _end(old.run_id, f"interrupted; run {run_id} goes on from it")
    position = f"epoch {old.state.epoch}" + (f" and {old.state.step} steps" if old.state.step else "")
    click.echo(f"train: going on from run {old.run_id} after {position} ({done:,} steps in all)")


def _end(run_id: str, reason: str) -> None:
    """End a run that ended too suddenly to say so itself."""
    client = mlflow.MlflowClient()
    if client.get_run(run_id).info.status == "RUNNING":
        tracking.mark_failed(run_id, reason)
        client.set_terminated(run_id, "KILLED")


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
