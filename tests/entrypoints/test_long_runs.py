"""What happens to long runs: real processes, real signals, a real tracking server."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow.entities import Run

from tests.stage_process import Place, place_on, position
from tests.tracking_server import TrackingServer, tracking_server
from tests.waiting import wait_until

EVERY_STEP = 0.00001  # checkpoint_minutes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with tracking_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def served(server: TrackingServer, tmp_path: Path, phantom_folder: Path) -> Iterator[Place]:
    """On the server, which answers when the test begins."""
    server.start()
    place = place_on(tmp_path, server.uri, phantom_folder)
    yield place
    place.tidy()
    for folder in server.artifacts.glob("*/*/artifacts/checkpoints"):
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def uninterrupted(shelf: Place) -> Run:
    """Three epochs at a stretch."""
    process = shelf.train(epochs=3)
    assert process.wait() == 0, process.err
    return shelf.newest_run()


def same_but_for_speed(place: Place, run: Run, other: Run) -> None:
    names = set(run.data.metrics) | set(other.data.metrics)
    trained = [name for name in names if name.split("/")[0] in ("train", "val") and "per_second" not in name]
    assert len(trained) > 4
    for name in trained:
        expected = place.history(run.info.run_id, name)
        assert place.history(other.info.run_id, name) == expected, name
        assert [step for step, _ in expected] == [1, 2, 3]
    assert other.data.tags["weights_digest"] == run.data.tags["weights_digest"]
    assert other.data.tags["fingerprint"] == run.data.tags["fingerprint"]


def forget_signs_of_life(place: Place, run_id: str) -> None:
    """As if a minute had gone by since the run was heard of."""
    earlier = (
        "update metrics set timestamp = timestamp - 60000 where run_uuid = ? and key like 'system/%'",
        "update runs set start_time = start_time - 60000 where run_uuid = ?",
    )
    with sqlite3.connect(place.folder / "mlflow.db") as database:
        for change in earlier:
            database.execute(change, (run_id,))


# ---------------------------------------------------------------- kill -9, and going on elsewhere


def test_after_kill_9_in_mid_epoch_training_goes_on_elsewhere_bit_by_bit(
    shelf: Place, uninterrupted: Run, tmp_path: Path
) -> None:
    killed = shelf.train(epochs=3, checkpoint_minutes=EVERY_STEP, fresh="true")
    run_id = shelf.run_id_of(killed)
    artifacts = Path(shelf.client().get_run(run_id).info.artifact_uri, "checkpoints")
    wait_until(lambda: position(artifacts) > (1, 0), 60)  # in the middle of epoch 2, on the tracking store
    killed.own().kill()
    killed.wait()
    assert shelf.client().get_run(run_id).info.status == "RUNNING"
    reached = position(artifacts)
    shutil.rmtree(shelf.logbook(run_id))  # another machine, an empty disk

    again = shelf.train(resume=run_id, store=tmp_path / "elsewhere")  # who knows whether it is dead?
    assert again.wait() == 1
    assert "is RUNNING, and was heard of" in " ".join(again.err.split())
    forget_signs_of_life(shelf, run_id)
    resumed = shelf.train(resume=run_id, store=tmp_path / "elsewhere")
    assert resumed.wait() == 0, resumed.err
    assert "not bit by bit" not in resumed.out
    run, old = shelf.newest_run(), shelf.client().get_run(run_id)
    same_but_for_speed(shelf, uninterrupted, run)
    steps = len(shelf.client().get_metric_history(uninterrupted.info.run_id, "train/loss"))
    assert steps == 3
    assert run.data.tags["resumed_from"] == run_id
    assert int(run.data.tags["resumed_from_step"]) >= reached[0] * 7 + reached[1]
    assert (old.info.status, old.data.tags["resumed_by"]) == ("KILLED", run.info.run_id)
    assert not list((tmp_path / "elsewhere").glob("training-*"))  # delivered: nothing is left on the disk


def test_a_checkpoint_cut_short_on_the_server_is_told_and_the_one_before_it_taken(
    shelf: Place, uninterrupted: Run, tmp_path: Path
) -> None:
    killed = shelf.train(epochs=3, checkpoint_minutes=EVERY_STEP, fresh="true")
    run_id = shelf.run_id_of(killed)
    artifacts = Path(shelf.client().get_run(run_id).info.artifact_uri, "checkpoints")
    wait_until(lambda: len(list(artifacts.glob("last-*.json"))) == 2, 60)
    killed.own().kill()
    killed.wait()
    shutil.rmtree(shelf.logbook(run_id))
    newest = max(artifacts.glob("last-*.pt"), key=lambda path: position_of(path))
    os.truncate(newest, newest.stat().st_size // 2)
    forget_signs_of_life(shelf, run_id)

    resumed = shelf.train(resume=run_id, store=tmp_path / "elsewhere")
    assert resumed.wait() == 0, resumed.err
    assert f"{newest.name}: its bytes are not those" in resumed.out
    same_but_for_speed(shelf, uninterrupted, shelf.newest_run())


def position_of(path: Path) -> tuple[int, int]:
    import json

    said = json.loads(path.with_suffix(".json").read_text())
    return said["epoch"], said["step"]


def test_a_run_that_is_under_way_is_not_gone_on_from(shelf: Place) -> None:
    process = shelf.train(epochs=500, fresh="true")
    run_id = shelf.run_id_of(process)
    refused = shelf.train(resume=run_id)
    assert refused.wait() == 1
    assert "that run is under way on this machine" in " ".join(refused.err.split())
    assert shelf.client().get_run(run_id).info.status == "RUNNING"
    process.own().send_signal(signal.SIGTERM)
    assert process.wait() == 130


def test_where_the_checkpoints_here_are_spoilt_the_servers_serve(shelf: Place, uninterrupted: Run) -> None:
    killed = shelf.train(epochs=3, checkpoint_minutes=EVERY_STEP, fresh="true")
    run_id = shelf.run_id_of(killed)
    artifacts = Path(shelf.client().get_run(run_id).info.artifact_uri, "checkpoints")
    wait_until(lambda: position(artifacts) > (1, 0), 60)
    killed.own().kill()
    killed.wait()
    for path in shelf.logbook(run_id).glob("last-*.pt"):
        os.truncate(path, 1000)
    resumed = shelf.train(resume=run_id)
    assert resumed.wait() == 0, resumed.err
    assert "Another checkpoint is taken" in resumed.out
    same_but_for_speed(shelf, uninterrupted, shelf.newest_run())


def test_a_finished_run_a_run_of_another_stage_and_one_without_checkpoint_cannot_be_resumed(
    shelf: Place, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch, call: Callable
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shelf.uri)
    mlflow.set_tracking_uri(shelf.uri)
    try:
        empty = shelf.client().create_run("0", start_time=1, tags={"stage": "train"}).info.run_id
        cases = {
            uninterrupted.info.run_id: "that run is finished",
            shelf.split_run: "that run is of split",
            empty: "before its first checkpoint",
            "0123": "there is no such run",
        }
        for run_id, reason in cases.items():
            refused = call("train", resume=run_id, store=shelf.folder / "store")
            assert (refused.code, reason in " ".join(refused.err.split())) == (1, True), refused.err
        later = shelf.client().create_run("0", start_time=1, tags={"stage": "train", "resumed_from": empty})
        refused = call("train", resume=later.info.run_id, store=shelf.folder / "store")
        assert f"going back to run {empty}" in refused.out
        assert "before its first checkpoint" in " ".join(refused.err.split())
        assert shelf.client().get_run(later.info.run_id).info.status == "KILLED"  # no longer RUNNING
        refused = call("train", resume=empty, seed=7)
        assert (refused.code, "a resumed run keeps its own seed" in " ".join(refused.err.split())) == (2, True)
    finally:
        mlflow.set_tracking_uri(None)


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("target", ["our process", "the group", "mlflow run alone"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_a_killed_run_and_no_process(
    shelf: Place, target: str, number: signal.Signals
) -> None:
    process = shelf.train(through_mlflow=True, epochs=500, fresh="true")
    run_id = shelf.run_id_of(process)
    family = process.family()
    own = process.own()
    if target == "our process":
        own.send_signal(number)
    elif target == "the group":
        os.killpg(process.process.pid, number)
    else:
        process.process.send_signal(number)
    assert not psutil.wait_procs(family, timeout=30)[1]
    process.wait(30)
    run = shelf.client().get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags["failure"] == "interrupted"
    assert f"-e train -P resume={run_id}" in process.out
    recorded = len(shelf.history(run_id, "train/loss"))
    assert position(Path(run.info.artifact_uri, "checkpoints")) >= (recorded, 0)
    assert recorded >= 1


def test_an_interrupted_run_goes_on_where_it_was(shelf: Place, uninterrupted: Run) -> None:
    process = shelf.train(
        epochs=3, checkpoint_minutes=EVERY_STEP, fresh="true"
    )  # slow enough to be met in mid-epoch
    run_id = shelf.run_id_of(process)
    process.own().send_signal(signal.SIGTERM)
    assert process.wait() == 130
    again = shelf.train(resume=run_id)
    assert again.wait() == 0, again.err
    same_but_for_speed(shelf, uninterrupted, shelf.newest_run())


# ---------------------------------------------------------------- the tracking server away


def test_training_outlives_the_tracking_server_and_delivers_in_order_and_once(
    served: Place, server: TrackingServer
) -> None:
    process = served.train(epochs=12)
    run_id = served.run_id_of(process)
    wait_until(lambda: len(served.history(run_id, "train/loss")) >= 1, 60)
    server.kill()
    reached = position(served.logbook(run_id))
    wait_until(lambda: position(served.logbook(run_id)) >= (reached[0] + 3, 0), 60)  # training goes on
    assert process.process.poll() is None
    server.start()
    assert process.wait() == 0, process.err
    run = served.client().get_run(run_id)
    assert run.info.status == "FINISHED"
    records = served.client().get_metric_history(run_id, "train/loss")
    assert [record.step for record in records] == list(range(1, 13))
    times = [record.timestamp for record in records]
    assert times == sorted(times)
    assert times[-1] - times[0] > 1000  # their own times, not those of the delivery


def test_a_server_that_never_returns_costs_nothing_but_a_command(served: Place, server: TrackingServer) -> None:
    process = served.train(epochs=4, wait_minutes=0)
    run_id = served.run_id_of(process)
    server.kill()
    assert process.wait() == 1
    said = " ".join(process.err.split())
    assert "did not reach the tracking server" in said
    assert f"-P resume={run_id}" in said
    assert position(served.logbook(run_id)) == (4, 0)
    server.start()
    assert served.client().get_run(run_id).info.status == "RUNNING"

    delivered = served.train(resume=run_id)
    assert delivered.wait() == 0, delivered.err
    run, old = served.newest_run(), served.client().get_run(run_id)
    for one in (run, old):
        assert [step for step, _ in served.history(one.info.run_id, "train/loss")] == [1, 2, 3, 4]
    assert (run.info.status, old.info.status) == ("FINISHED", "KILLED")
    assert run.data.tags["model_uri"]


# ---------------------------------------------------------------- what cannot go on


def test_a_full_disk_ends_training_with_what_happened_and_the_checkpoint_before_it(
    served: Place, server: TrackingServer
) -> None:
    process = served.train(epochs=500)
    run_id = served.run_id_of(process)
    process.own().rlimit(psutil.RLIMIT_FSIZE, (1_000_000, -1))  # as a disk that takes no more
    assert process.wait(60) == 1
    assert "the checkpoint could not be written" in " ".join(process.err.split())
    assert "the one before it stands" in " ".join(process.err.split())
    assert f"-P resume={run_id}" in " ".join(process.err.split())
    assert served.client().get_run(run_id).info.status == "FAILED"
    assert position(served.logbook(run_id)) >= (1, 0)


def test_a_loss_that_is_not_finite_names_step_and_images_and_can_be_gone_on_from(shelf: Place) -> None:
    process = shelf.train(epochs=3, lr=9.0, weight_decay=10.0, fresh="true")
    assert process.wait() == 1, process.out
    said = " ".join(process.err.split())
    assert "loss is" in said
    assert "of epoch" in said or "after epoch" in said
    assert shelf.newest_run().info.status == "FAILED"
