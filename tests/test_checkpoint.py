"""Checkpoints: everything comes back, nothing runs while reading, and a kill leaves a whole file."""

import json
import os
import pickle
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
from cxr.checkpoint import Checkpoint, load, save
from cxr.errors import InputError

ROOT = Path(__file__).parent.parent


def step(network: nn.Module, optimiser: torch.optim.Optimizer, order: torch.Generator) -> None:
    optimiser.zero_grad()
    network(torch.randn(5, 4, generator=order)).square().sum().backward()
    optimiser.step()


def trained() -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(4)
    step(network, optimiser, order)
    return network, optimiser, order


def taken(network: nn.Module, optimiser: torch.optim.Optimizer, order: torch.Generator) -> Checkpoint:
    return Checkpoint(
        epoch=2,
        weights=network.state_dict(),
        optimiser=optimiser.state_dict(),
        generators={"order": order.get_state(), "torch": torch.get_rng_state()},
        history=[{"val/loss": 0.5}, {"val/loss": 0.25, "val/macro_14_classes": 3}],
        metadata={"arch": "resnet18", "best_by": "val/loss"},
    )


class RunsCode:
    """A value whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


# ---------------------------------------------------------------- what comes back


def test_every_field_comes_back(tmp_path: Path) -> None:
    given = taken(*trained())
    save(tmp_path / "last.pt", given)
    back = load(tmp_path / "last.pt")
    assert (back.epoch, back.history, back.metadata) == (2, given.history, given.metadata)
    for there, here in ((back.weights, given.weights), (back.generators, given.generators)):
        assert there.keys() == here.keys()
        assert all(torch.equal(there[name], here[name]) for name in here)


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    network, optimiser, order = trained()
    save(tmp_path / "last.pt", taken(network, optimiser, order))
    for _ in range(3):
        step(network, optimiser, order)

    back = load(tmp_path / "last.pt")
    again = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    again.load_state_dict(back.weights)
    second = torch.optim.Adam(again.parameters(), lr=0.5)  # its own lr comes from the checkpoint
    second.load_state_dict(back.optimiser)
    restored = torch.Generator()
    restored.set_state(back.generators["order"])
    for _ in range(3):
        step(again, second, restored)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_global_generator_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "last.pt", taken(*trained()))
    expected = torch.rand(3)
    torch.set_rng_state(load(tmp_path / "last.pt").generators["torch"])
    assert torch.equal(torch.rand(3), expected)


def test_a_person_can_read_what_it_is_in_the_json_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "best.pt", taken(*trained()))
    said = json.loads((tmp_path / "deep" / "best.json").read_text())
    assert said == {
        "arch": "resnet18", "best_by": "val/loss", "epoch": 2,
        "last_record": [{"val/loss": 0.25, "val/macro_14_classes": 3}],
    }  # fmt: skip


def test_a_checkpoint_before_the_first_epoch_has_no_record(tmp_path: Path) -> None:
    save(tmp_path / "first.pt", replace(taken(*trained()), epoch=0, history=[]))
    assert load(tmp_path / "first.pt").history == []
    assert json.loads((tmp_path / "first.json").read_text())["last_record"] == []


# ---------------------------------------------------------------- what is refused


def test_an_arbitrary_object_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    content = vars(taken(*trained())) | {"metadata": RunsCode(tmp_path / "made")}
    torch.save(content, tmp_path / "bad.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(RunsCode(tmp_path / "made")))
    for name in ("bad.pt", "bare.pt"):
        with pytest.raises(InputError, match=rf"{name}: not a whole checkpoint"):
            load(tmp_path / name)
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert (tmp_path / "made").is_dir()  # the trap was live


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_checkpoint_that_is_cut_short_is_refused_by_path(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    save(path, taken(*trained()))
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


# ---------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("failing", ["torch.save", "fsync"])
def test_a_failure_while_writing_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "last.pt"
    given = taken(*trained())
    save(path, given)
    before = path.read_bytes()

    def disk_full(*arguments: object) -> None:
        if failing == "torch.save":
            arguments[1].write(b"half of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    owner, name = (torch, "save") if failing == "torch.save" else (checkpoint.os, "fsync")
    monkeypatch.setattr(owner, name, disk_full)
    with pytest.raises(OSError, match="No space left"):
        save(path, replace(given, epoch=3))
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"last.pt", "last.json"}
    assert json.loads((tmp_path / "last.json").read_text())["epoch"] == 2


SAVE_FOR_EVER = """
import sys
from pathlib import Path
import torch
from cxr.checkpoint import Checkpoint, save
epoch = 0
while True:
    epoch += 1
    save(Path(sys.argv[1]), Checkpoint(
        epoch=epoch, weights={"w": torch.full((2_000_000,), float(epoch))}, optimiser={}, generators={},
        history=[], metadata={},
    ))
"""


def test_whatever_file_a_kill_leaves_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    epochs: list[int] = []
    child = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(path)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not path.exists():
            assert child.poll() is None, "the child ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while len(set(epochs)) < 4:  # what lies there at any moment is whole
            assert time.monotonic() < deadline
            found = load(path)
            assert (found.weights["w"] == found.epoch).all()
            epochs.append(found.epoch)
            time.sleep(0.007)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    found = load(path)
    assert (found.weights["w"] == found.epoch).all()
    assert found.epoch >= epochs[-1]
    assert epochs == sorted(epochs)
