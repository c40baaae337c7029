"""Several processes against one: the same gradients, every image once, the same validation. Real ones, gloo."""

import os
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cxr import distributed
from cxr.data.jitter import Augment
from cxr.data.store import Store
from cxr.device import Engine
from cxr.distributed import ALONE, Cluster, Group
from cxr.errors import InputError, TrainingError
from cxr.findings import CLASSES
from cxr.training.loop import Trainer
from cxr.training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(
    name="tiny",
    arch="resnet18",
    image_size=32,
    epochs=2,
    batch_size=7,
    lr=1e-3,
    augment=Augment(degrees=5, shift=0.1),
)
TWO = Cluster(processes=2)


class Frozen(nn.BatchNorm2d):
    """Batch norm that stays in eval mode: with the statistics of each process's own share nothing would agree."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4, bias=False), Frozen(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Linear(64, 15),
        )  # fmt: skip


def cohort() -> pd.DataFrame:
    """15 training and 11 validation images of as many patients; labels that are not known here and there."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(26)], "patient_id": range(26)})
    table["split"] = ["train"] * 15 + ["val"] * 11
    labels = (rng.random((26, len(CLASSES))) < 0.4).astype(float)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    return pd.concat([table, pd.DataFrame(labels, columns=list(CLASSES))], axis=1)


def store() -> Store:
    pixels = np.random.default_rng(4).integers(0, 256, (26, 32, 32), dtype=np.uint8)
    return Store(pixels, {f"{row}.png": row for row in range(26)})


def make(group: Group, recipe: Recipe = RECIPE) -> Trainer:
    return Trainer(network(), recipe, store(), cohort(), engine=Engine(device=CPU), seed=5, group=group)


@dataclass(frozen=True)
class Task:
    """Where a process writes what it found."""

    folder: Path
    cluster: Cluster
    recipe: Recipe = RECIPE


def measure(task: Task) -> str:
    """Two epochs; gradients of the first step, everything at the end."""
    with distributed.joined(task.cluster) as group:
        trainer = make(group, task.recipe)
        first: dict[str, torch.Tensor] = {}

        def keep(optimiser: torch.optim.Optimizer, *_: object) -> None:
            if not first:
                first.update({name: one.grad.clone() for name, one in trainer.network.named_parameters()})

        trainer.optimiser.register_step_pre_hook(keep)
        list(trainer.epochs())
        found = {
            "gradients": first,
            "weights": trainer.network.state_dict(),
            "history": trainer.history,
            "gathered": distributed.interleave(group.gather(np.arange(23)[group.rank :: group.size]), 23).tolist(),
            "told": group.from_one("said" if group.rank == group.size - 1 else None),
        }
        torch.save(found, task.folder / f"{group.rank}.pt")
    return ""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What one process found, and each of two."""
    folder = tmp_path_factory.mktemp("found")
    alone, together = folder / "alone", folder / "together"
    for place, cluster in ((alone, Cluster()), (together, TWO)):
        place.mkdir()
        distributed.launch(measure, Task(place, cluster), cluster, name="measure")
    paths = {"one": alone / "0.pt", "first": together / "0.pt", "second": together / "1.pt"}
    return {name: torch.load(path, weights_only=False) for name, path in paths.items()}


# ---------------------------------------------------------------- two processes against one


def test_one_and_two_processes_have_the_same_gradients_with_batch_norm_in_eval_mode(found: dict) -> None:
    assert len(found["one"]["gradients"]) == 5
    for name, expected in found["one"]["gradients"].items():  # 7 images with unknown labels: shares of 4 and 3
        torch.testing.assert_close(found["first"]["gradients"][name], expected, rtol=1e-4, atol=1e-7, msg=name)
        assert torch.equal(found["second"]["gradients"][name], found["first"]["gradients"][name])


def test_after_two_epochs_all_have_the_same_weights_and_records(found: dict) -> None:
    for name, expected in found["one"]["weights"].items():
        torch.testing.assert_close(found["first"]["weights"][name], expected, rtol=1e-3, atol=1e-5, msg=name)
        assert torch.equal(found["second"]["weights"][name], found["first"]["weights"][name])
    for one, first, second in zip(*(found[name]["history"] for name in ("one", "first", "second")), strict=True):
        for metric, value in one["metrics"].items():
            if "per_second" not in metric:
                assert first["metrics"][metric] == pytest.approx(value, rel=1e-4), metric
                assert second["metrics"][metric] == first["metrics"][metric], metric


def test_what_is_gathered_has_every_row_once_and_in_its_place(found: dict) -> None:
    for name in ("one", "first", "second"):
        assert found[name]["gathered"] == list(range(23))  # an odd number: nothing is repeated to fill up
        assert found[name]["told"] == "said"


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_of_a_batch_cover_every_image_once(size: int) -> None:
    trainers = [make(replace(ALONE, rank=rank, size=1)) for rank in range(size)]
    for rank, trainer in enumerate(trainers):
        trainer.group = Group(rank=rank, size=size)
    for length in range(1, 8):
        batch = torch.arange(20, 20 + length) % 15
        computed = [(trainer._mine(batch).tolist(), trainer._share(batch)) for trainer in trainers]
        assert all(images for images, _ in computed)
        # a process without an image of its own computes one that counts nothing
        counted = [image for images, share in computed if share for image in images]
        assert sorted(counted) == sorted(batch.tolist())
        assert sum(share for _, share in computed) == pytest.approx(1)


# ---------------------------------------------------------------- what goes wrong


def stop_together(task: Task) -> str:
    with distributed.joined(task.cluster) as group:
        trainer = make(group)
        with torch.no_grad():
            trainer.network[5].bias[0] = torch.nan
        try:
            list(trainer.epochs())
        except TrainingError as error:
            return str(error)
    return ""


def test_a_loss_that_is_not_finite_stops_all_at_the_same_step_and_is_not_tried_again(tmp_path: Path) -> None:
    first, second = distributed.launch(stop_together, Task(tmp_path, TWO), TWO, name="stop")
    assert re.match(r"The training loss is nan at step 1 of epoch 1, on the images \d+\.png", first)
    assert second == first


def fail(task: Task) -> str:
    with (task.folder / "tries").open("a") as file:
        file.write("x")
    raise ValueError("this will not do")


def die_thrice(task: Task) -> str:
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    with distributed.joined(task.cluster) as group:
        (task.folder / f"{attempt}-{group.rank}").touch()
        group.gather(attempt)
        if group.rank and attempt != "3":
            os.kill(os.getpid(), signal.SIGKILL)
        group.gather(attempt)
        return attempt


def test_processes_that_are_started_anew_meet_each_other_and_not_the_dead(tmp_path: Path) -> None:
    assert distributed.launch(die_thrice, Task(tmp_path, TWO), TWO, name="thrice") == ["3", "3"]
    assert len(list(tmp_path.iterdir())) == 4 * 2


def test_a_process_that_fails_is_started_anew_and_told_when_that_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "RESTARTS", 1)
    with pytest.raises(TrainingError, match=r"Process \d of 2 failed, after 1 restarts too: .*this will not do"):
        distributed.launch(fail, Task(tmp_path, TWO), TWO, name="fail")
    assert len((tmp_path / "tries").read_text()) >= 2


@pytest.mark.parametrize(
    ("cluster", "device", "reason"),
    [(Cluster(processes=2), "cuda", "there are 1 GPUs"), (TWO, "cuda:0", "processes take a GPU each")],
)
def test_more_processes_than_gpus_are_refused(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, device: str, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=reason):
        distributed.check(cluster, torch.device(device))


@pytest.mark.parametrize(("name", "expected"), [("cpu", "cpu"), ("cuda", "cuda:1"), ("cuda:0", "cuda:1")])
def test_each_process_has_a_gpu_of_its_own(name: str, expected: str) -> None:
    assert distributed.device_of(name, Group(rank=3, size=4, local_rank=1)) == expected
    assert distributed.device_of(name, ALONE) == name


def test_a_cluster_counts_the_processes_of_all_machines() -> None:
    assert (Cluster().size, Cluster(processes=4, nodes=3).size) == (1, 12)
