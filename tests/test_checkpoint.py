"""Checkpoints: everything comes back, nothing runs while reading, and a kill leaves the one before whole."""

import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cxr import checkpoint
from cxr.checkpoint import Checkpoint, describe, load, newest, save
from cxr.errors import InputError

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def step(network: nn.Module, optimiser: torch.optim.Optimizer, order: torch.Generator) -> None:
    optimiser.zero_grad()
    network(torch.randn(5, 4, generator=order)).square().sum().backward()
    optimiser.step()


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    step(network, optimiser, torch.Generator().manual_seed(4))
    return network, optimiser


def taken(network: nn.Module, optimiser: torch.optim.Optimizer) -> Checkpoint:
    return Checkpoint(
        epoch=2,
        step=7,
        weights=network.state_dict(),
        optimiser=optimiser.state_dict(),
        average={"0.weight": torch.full((3, 4), 0.5)},
        best={"0.weight": torch.full((3, 4), 0.25)},
        running={"loss": 3.5, "images": 70.0},
        history=[
            {"epoch": 1, "time_ms": 1_000, "metrics": {"val/loss": 0.5}},
            {"epoch": 2, "time_ms": 2_000, "metrics": {"val/loss": 0.25, "val/macro_14_classes": 3.0}},
        ],
        metadata={"arch": "resnet18", "best_by": "val/loss"},
    )


@pytest.fixture
def given() -> Checkpoint:
    return taken(*trained())


class RunsCode:
    """A value whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def spoil(path: Path) -> None:
    """Change one byte in the middle; the length stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---------------------------------------------------------------- what comes back


def test_every_field_comes_back(tmp_path: Path, given: Checkpoint) -> None:
    back = load(save(tmp_path, given))
    assert (back.epoch, back.step, back.running) == (2, 7, given.running)
    assert (back.history, back.metadata) == (given.history, given.metadata)
    for there, here in ((back.weights, given.weights), (back.average, given.average), (back.best, given.best)):
        assert there.keys() == here.keys()
        assert all(torch.equal(there[name], here[name]) for name in here)


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    network, optimiser = trained()
    path = save(tmp_path, taken(network, optimiser))
    order = torch.Generator().manual_seed(9)
    for _ in range(3):
        step(network, optimiser, order)

    back = load(path)
    again = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    again.load_state_dict(back.weights)
    second = torch.optim.Adam(again.parameters(), lr=0.5)  # its own lr comes from the checkpoint
    second.load_state_dict(back.optimiser)
    order = torch.Generator().manual_seed(9)
    for _ in range(3):
        step(again, second, order)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("source", ["weights", "average"])
def test_best_weights_that_are_the_last_are_stored_once_and_come_back_apart(
    tmp_path: Path, given: Checkpoint, source: str
) -> None:
    big = {"w": torch.arange(100_000.0)}
    path = save(tmp_path, replace(given, **{source: big}, best=big))
    assert path.stat().st_size < 2 * 400_000
    back = load(path)
    getattr(back, source)["w"].zero_()
    assert torch.equal(back.best["w"], torch.arange(100_000.0))


def test_a_person_can_read_what_it_is_in_the_json_beside_it(tmp_path: Path, given: Checkpoint) -> None:
    path = save(tmp_path / "deep" / "folder", given)
    assert path == tmp_path / "deep" / "folder" / "last-0.pt"
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "digest": checkpoint.digest_of(path), "bytes": path.stat().st_size, "number": 1, "epoch": 2, "step": 7,
        "metadata": {"arch": "resnet18", "best_by": "val/loss"}, "last_record": given.history[1],
    }  # fmt: skip
    assert {file.name for file in path.parent.iterdir()} == {"last-0.pt", "last-0.json"}


def test_a_checkpoint_before_the_first_epoch_has_no_record(tmp_path: Path, given: Checkpoint) -> None:
    path = save(tmp_path, replace(given, epoch=0, history=[]))
    assert load(path).history == []
    assert json.loads(path.with_suffix(".json").read_text())["last_record"] is None


def test_numbers_that_json_has_not_come_back(tmp_path: Path, given: Checkpoint) -> None:
    record = {"epoch": 1, "time_ms": 1, "metrics": {"a": math.nan, "b": math.inf}}
    path = save(tmp_path, replace(given, history=[record]))
    (back,) = load(path).history
    assert math.isnan(back["metrics"]["a"])
    assert back["metrics"]["b"] == math.inf
    assert describe(tmp_path) is not None


# ---------------------------------------------------------------- two slots


def test_saves_take_turns_and_the_newest_is_found(tmp_path: Path, given: Checkpoint) -> None:
    assert newest(tmp_path) is None
    assert describe(tmp_path) is None
    for epoch, name in [(1, "last-0.pt"), (2, "last-1.pt"), (3, "last-0.pt"), (4, "last-1.pt")]:
        assert save(tmp_path, replace(given, epoch=epoch)).name == name
        found, slot = newest(tmp_path), describe(tmp_path)
        assert found is not None
        assert slot is not None
        assert (found.checkpoint.epoch, found.path.name, found.skipped) == (epoch, name, ())
        assert (slot.epoch, slot.number, slot.path, slot.step) == (epoch, epoch, found.path, 7)
        assert slot.digest == checkpoint.digest_of(slot.path)


@pytest.mark.parametrize("damage", [spoil, lambda path: os.truncate(path, 500), Path.unlink])
def test_a_broken_newest_is_passed_over_and_the_one_before_survives_the_next_save(
    tmp_path: Path, given: Checkpoint, damage: object
) -> None:
    save(tmp_path, replace(given, epoch=1))
    damage(save(tmp_path, replace(given, epoch=2)))  # type: ignore[operator]
    found = newest(tmp_path)
    assert found is not None
    assert (found.checkpoint.epoch, found.path.name) == (1, "last-0.pt")
    (reason,) = found.skipped
    assert str(tmp_path / "last-1.pt") in reason
    if damage is not spoil:  # a save looks at the length alone
        assert save(tmp_path, replace(given, epoch=3)).name == "last-1.pt"
    else:
        save(tmp_path, replace(given, epoch=3))
    found = newest(tmp_path)
    assert found is not None
    assert found.checkpoint.epoch == 3


def test_a_file_whose_json_was_not_reached_does_not_count(tmp_path: Path, given: Checkpoint) -> None:
    first = save(tmp_path, replace(given, epoch=1))
    first.with_suffix(".json").unlink()
    assert newest(tmp_path) is None  # killed in the very first save: nothing to go on from
    assert save(tmp_path, replace(given, epoch=1)).name == "last-0.pt"
    second = save(tmp_path, replace(given, epoch=2))
    torch.save({"w": torch.zeros(3)}, first)  # a third save's file under the first one's json
    found = newest(tmp_path)
    assert found is not None
    assert (found.checkpoint.epoch, found.path, found.skipped) == (2, second, ())
    assert save(tmp_path, replace(given, epoch=3)) == first


def test_slots_of_which_none_is_whole_are_an_error_with_all_reasons(tmp_path: Path, given: Checkpoint) -> None:
    spoil(save(tmp_path, given))
    save(tmp_path, given).with_suffix(".json").write_text('{"digest": "ab"')
    with pytest.raises(InputError, match="no checkpoint there is whole") as refused:
        newest(tmp_path)
    assert f"{tmp_path}/last-0.pt: its bytes are not those" in str(refused.value)
    assert f"{tmp_path}/last-1.json: not the json of a checkpoint" in str(refused.value)


def test_a_whole_file_of_other_fields_is_passed_over(tmp_path: Path, given: Checkpoint) -> None:
    save(tmp_path, replace(given, epoch=1))
    path = save(tmp_path, replace(given, epoch=2))
    torch.save({"epoch": 9}, path)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"digest": checkpoint.digest_of(path)}))
    found = newest(tmp_path)
    assert found is not None
    assert found.checkpoint.epoch == 1
    assert "not a whole checkpoint of this project" in found.skipped[0]


# ---------------------------------------------------------------- what is refused


def test_an_arbitrary_object_is_refused_and_its_code_does_not_run(tmp_path: Path, given: Checkpoint) -> None:
    content = vars(given) | {"metadata": RunsCode(tmp_path / "made")}
    torch.save(content, tmp_path / "bad.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(RunsCode(tmp_path / "made")))
    for name in ("bad.pt", "bare.pt"):
        with pytest.raises(InputError, match=rf"{name}: not a whole checkpoint"):
            load(tmp_path / name)
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert (tmp_path / "made").is_dir()  # the trap was live


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_checkpoint_that_is_cut_short_is_refused_by_path(
    tmp_path: Path, given: Checkpoint, share: float
) -> None:
    path = save(tmp_path, given)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: not a whole checkpoint")


@pytest.mark.parametrize("content", [{"epoch": 1}, [1, 2], {"model": torch.zeros(1)}])
def test_a_file_of_other_fields_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: not a whole checkpoint"):
        load(tmp_path / "other.pt")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt: there is no such checkpoint"):
        load(tmp_path / "none.pt")


# ---------------------------------------------------------------- a disk that is full, and kills

SAVES = """
import itertools, os, resource, signal, sys
from pathlib import Path
import torch
from cxr.checkpoint import Checkpoint, newest, save
from cxr.errors import InputError

def state(epoch, size):
    return Checkpoint(
        epoch=epoch, step=0, weights={"w": torch.full((size,), float(epoch))}, optimiser={}, average={}, best={},
        running={}, history=[], metadata={},
    )

folder = Path(sys.argv[1])
"""

SAVE_FOR_EVER = """
found = newest(folder)
print("ready", flush=True)
for epoch in itertools.count(found.checkpoint.epoch + 1 if found else 1):
    save(folder, state(epoch, 500_000))
    print(epoch, flush=True)
"""

SAVE_ON_A_FULL_DISK = """
save(folder, state(1, 1000))
save(folder, state(2, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    save(folder, state(3, 500_000))
except InputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
found = newest(folder)
print(found.checkpoint.epoch, found.skipped, sorted(os.listdir(folder)))
save(folder, state(3, 500_000))
print(newest(folder).checkpoint.epoch)
"""


@pytest.mark.parametrize("limit", [0, 1000, 1_000_000])
def test_a_full_disk_is_said_and_the_checkpoint_before_stands(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", SAVES + SAVE_ON_A_FULL_DISK, str(tmp_path), str(limit)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, found, after = done.stdout.splitlines()
    assert said == (
        f"{tmp_path}/last-0.pt: the checkpoint could not be written ([Errno 27] File too large); "
        f"the one before it stands: {tmp_path}/last-1.pt."
    )
    assert found == "2 () ['last-0.json', 'last-0.pt', 'last-1.json', 'last-1.pt']"
    assert after == "3"


def test_kills_at_any_moment_leave_a_whole_checkpoint_not_older_than_the_last_that_was_reported(
    tmp_path: Path,
) -> None:
    moments = random.Random(3)
    last = 0
    for _ in range(15):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVES + SAVE_FOR_EVER, str(tmp_path)],
            env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0.0, 0.12))
        finally:
            child.kill()
            assert child.wait(timeout=30) == -signal.SIGKILL
        reported = [int(line) for line in child.stdout.read().splitlines()]
        child.stdout.close()
        last = max([last, *reported])
        found = newest(tmp_path)
        assert (found.checkpoint.epoch if found else 0) >= last
        if found:
            assert (found.checkpoint.weights["w"] == found.checkpoint.epoch).all()
            last = found.checkpoint.epoch
    assert last > 15
