"""Training in several processes and on several machines (two agents on this one): it ends as in one."""

import signal
import socket
from pathlib import Path

import psutil
import pytest
import torch

from tests.stage_process import Place, StageProcess, position
from tests.waiting import wait_until


def workers(process: StageProcess, count: int) -> list[psutil.Process]:
    """The training processes below a stage's own, once all are there."""

    def there() -> list[psutil.Process]:
        return [one for one in process.family() if "spawn_main" in " ".join(one.cmdline())]

    wait_until(lambda: len(there()) == count, 120)
    return there()


def test_a_killed_process_is_started_anew_and_training_goes_on_from_the_checkpoint(shelf: Place) -> None:
    process = shelf.train(processes=2, epochs=6, fresh="true")
    run_id = shelf.run_id_of(process)
    wait_until(lambda: position(shelf.logbook(run_id)) >= (2, 0), 60)
    before = workers(process, 2)
    before[1].send_signal(signal.SIGKILL)
    assert process.wait() == 0, process.err
    assert not set(before) & set(process.family())
    run = shelf.client().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in shelf.history(run_id, "train/loss")] == list(range(1, 7))  # each once
    assert run.data.params["config.processes"] == "2"
    epochs = [int(line.split("epoch ")[1].split()[0]) for line in process.out.splitlines() if "epoch " in line]
    assert sorted(set(epochs)) == list(range(1, 7))
    assert epochs.count(1) == epochs.count(2) == 1  # it did not begin anew


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_leaves_a_checkpoint_and_no_process(shelf: Place, number: signal.Signals) -> None:
    process = shelf.train(processes=2, epochs=500, fresh="true")
    run_id = shelf.run_id_of(process)
    family = process.family()
    assert len(workers(process, 2)) == 2
    for one in family:
        if one.is_running():
            one.send_signal(number)
    ended, left = psutil.wait_procs(family, timeout=45)
    assert not left
    assert {one.pid: one.returncode for one in ended}[process.process.pid] == 130
    run = shelf.client().get_run(run_id)
    assert (run.info.status, run.data.tags["failure"]) == ("KILLED", "interrupted")
    assert position(Path(run.info.artifact_uri, "checkpoints")) >= (1, 0)
    assert f"-P resume={run_id}" in process.out


@pytest.mark.parametrize("in_background", [False, True])
def test_kill_9_of_the_one_who_started_them_leaves_no_process(shelf: Place, in_background: bool) -> None:
    process = shelf.train(processes=2, epochs=500, fresh="true", in_background=in_background)
    run_id = shelf.run_id_of(process)
    family = process.family()
    process.own().kill()
    assert not psutil.wait_procs(family, timeout=45)[1]
    reached = position(shelf.logbook(run_id))
    assert reached >= (1, 0)
    done = shelf.train(resume=run_id, wait_minutes=1)  # in one process now
    done.wait_for("going on from run")
    done.own().send_signal(signal.SIGTERM)
    done.wait()
    assert "processes 2 -> 1" in done.out


def test_two_machines_train_together_and_one_records(shelf: Place, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        shelf.train(
            nodes=2, node=node, rendezvous=f"127.0.0.1:{port}", epochs=2, seed=9, store=tmp_path / str(node)
        )
        for node in (0, 1)
    ]
    assert [process.wait() for process in both] == [0, 0], both[0].err + both[1].err
    run = shelf.newest_run()
    assert run.info.status == "FINISHED"
    assert run.data.params["config.processes"] == "2"
    assert [step for step, _ in shelf.history(run.info.run_id, "train/loss")] == [1, 2]
    assert "epoch 2" in both[0].out
    assert "epoch" not in both[1].out.split("on cpu")[1]


def test_what_is_wrong_for_all_is_told_once_and_at_once(shelf: Place, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    process = shelf.train(processes=2, epochs=1, fresh="true", pretrained=tmp_path / "other.pth")
    assert process.wait() == 1
    said = " ".join(process.err.split())
    assert "these are not this network's weights" in said
    assert "There is no checkpoint yet." in said
    assert "Traceback" not in said
    assert not shelf.logbook(str(shelf.newest_run().info.run_id)).exists()


def test_what_several_machines_need_is_asked_for(shelf: Place) -> None:
    cases = {
        "need HOST:PORT to meet": {"nodes": 2},
        "expected 0 to 0": {"node": 1},
        "has no effect with nodes=1": {"rendezvous": "here:1"},
        "give split_run": {"nodes": 2, "rendezvous": "here:1", "split_run": ""},
    }
    processes = {reason: shelf.train(**parameters) for reason, parameters in cases.items()}
    for reason, process in processes.items():
        assert process.wait() == 2, process.err
        assert reason in " ".join(process.err.split())
