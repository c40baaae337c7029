"""Networks whose maps should agree with an explained one's: its run's other checkpoints, and other seeds."""

import contextlib
from collections.abc import Iterator, Mapping

import click
import mlflow
import torch
from torch import nn

from cxr import checkpoint, delivery, model, serving, tracking
from cxr.errors import InputError

_ALIKE = ("split_digest", "recipe", "changed", "arch", "image_size", "loss", "pretrained")


def seeds(train_run: str, *, most: int) -> dict[str, str]:
    """Finished train runs that differ from one in their seed only: `seed 124` -> run id; the newest of each seed.

    At most so many, those with the lowest seeds.
    """
    own = mlflow.get_run(train_run).data.tags
    alike = " and ".join(f"tags.{name} = '{own[name]}'" for name in _ALIKE if own.get(name))
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.stage = 'train' and attributes.status = 'FINISHED' and {alike}",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    tags = {run.info.run_id: run.data.tags for run in runs}
    found = {
        int(other["seed"]): run_id
        for run_id, other in tags.items()
        if all(other.get(name) == own.get(name) for name in _ALIKE)
        and "reuses" not in other and "model_uri" in other and other["seed"] != own["seed"]
    }  # fmt: skip
    return {f"seed {seed}": found[seed] for seed in sorted(found)[:most]}


def networks(
    train_run: str, others: Mapping[str, str], *, checkpoints: int, device: torch.device
) -> dict[str, nn.Module]:
    """Networks by name: up to so many checkpoints of other epochs than the best, and the best of other seeds.

    One that cannot be fetched any more is left out, and said to be.
    """
    found: dict[str, nn.Module] = {}
    for name, run_id in others.items():
        with _left_out(name):
            found[name], _ = serving.load_network(mlflow.get_run(run_id).data.tags["model_uri"], device=device)
    tags = mlflow.get_run(train_run).data.tags
    slots = [slot for slot in _slots(train_run) if str(slot.epoch) != tags.get("best_epoch")]
    for slot in slots[:checkpoints]:
        with _left_out(f"epoch {slot.epoch}"):
            state = checkpoint.load(tracking.artifact(train_run, f"{delivery.REMOTE}/{slot.path.name}"))
            network = model.build(tags["arch"], seed=0)
            model.load_weights(network, state.average or state.weights, str(slot.path))
            found[f"epoch {slot.epoch}"] = network.to(device).eval()
    return found


@contextlib.contextmanager
def _left_out(name: str) -> Iterator[None]:
    """A network to compare with is no reason to fail: the explained one is there."""
    try:
        yield
    except InputError as error:
        click.echo(f"explain: warning: {name} is left out of the comparison: {error}")


def _slots(train_run: str) -> list[checkpoint.Slot]:
    """The checkpoints that the tracking server has of a run, newest first; one that is not whole is left out."""
    client = mlflow.MlflowClient()
    names = [
        item.path for item in client.list_artifacts(train_run, delivery.REMOTE) if item.path.endswith(".json")
    ]
    slots = []
    for name in names:
        with _left_out(name):
            slots.append(checkpoint.read_slot(tracking.artifact(train_run, name)))
    return sorted(slots, key=lambda slot: -slot.number)
