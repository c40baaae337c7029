"""Runs on a real tracking store: fingerprints, how runs end, what is reused, what is logged and copied."""

import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cxr import tracking
from cxr.errors import InputError
from cxr.tracking import Stage, finished, run, stage_run

STAGE = Stage(name="train", config={"lr": 0.001, "epochs": 2}, data_digest="abc", upstream=("r1",))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_tracking_database: Path) -> Iterator[Path]:
    """One tracking store for all tests here; its folder."""
    folder = tmp_path_factory.mktemp("tracking")
    shutil.copy(empty_tracking_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{folder}/mlflow.db"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        yield folder
        mlflow.set_tracking_uri(None)


@pytest.fixture(autouse=True)
def experiment(
    store: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An active experiment of its own for each test; its id."""
    made = mlflow.create_experiment(request.node.name, artifact_location=(tmp_path / "artifacts").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", made)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    yield made
    assert mlflow.active_run() is None, "a run was left active"


def done(stage: Stage, title: str = "a run") -> str:
    """A finished run of a stage; its id."""
    with run(stage, title=title) as run_id:
        pass
    return run_id


def tags(run_id: str) -> Mapping[str, str]:
    return mlflow.get_run(run_id).data.tags


def status(run_id: str) -> str:
    return mlflow.get_run(run_id).info.status


def opened() -> str:
    """A run as `mlflow run` opens one for its child process; its id."""
    return mlflow.MlflowClient().create_run(os.environ["MLFLOW_EXPERIMENT_ID"]).info.run_id


def fetched(run_id: str, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name))


# ---------------------------------------------------------------- fingerprints


@pytest.mark.parametrize(
    "other",
    [
        replace(STAGE, name="evaluate"),
        replace(STAGE, config={"lr": 0.002, "epochs": 2}),
        replace(STAGE, config={"lr": 0.001}),
        replace(STAGE, config={"lr": 0.001, "epochs": 2, "seed": 0}),
        replace(STAGE, config={"lr": "0.001", "epochs": 2}),
        replace(STAGE, upstream=("r2",)),
        replace(STAGE, upstream=()),
        replace(STAGE, upstream=("r1", "r2")),
        replace(STAGE, data_digest="abd"),
    ],
)
def test_everything_that_a_result_depends_on_changes_the_fingerprint(other: Stage) -> None:
    assert other.fingerprint != STAGE.fingerprint


def test_nothing_else_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = STAGE.fingerprint
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_RUN_ID", "whatever")
    assert replace(STAGE, config={"epochs": 2, "lr": 0.001}).fingerprint == before
    assert len(before) == 16


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of two files in place of ours."""
    root = tmp_path / "project"
    for name in ("cxr/a.py", "cxr/deep/b.py", "entrypoints/c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    monkeypatch.setattr(tracking, "_ROOT", root)
    yield root
    tracking.code_digest.cache_clear()


def fresh_fingerprint() -> str:
    """The fingerprint as a process would find it that starts now."""
    tracking.code_digest.cache_clear()
    return STAGE.fingerprint


def test_code_that_changes_appears_or_moves_changes_the_fingerprint(code: Path) -> None:
    seen = [fresh_fingerprint()]
    for change in (
        lambda: (code / "cxr/deep/b.py").write_text("x = 2\n"),
        lambda: (code / "entrypoints/c.py").write_text("x = 2\n"),
        lambda: (code / "cxr/new.py").write_text(""),
        lambda: (code / "cxr/new.py").rename(code / "cxr/newer.py"),
        lambda: (code / "cxr/a.py").unlink(),
    ):
        change()
        seen.append(fresh_fingerprint())
    assert len(set(seen)) == len(seen)


def test_files_that_are_no_code_of_stages_leave_the_fingerprint(code: Path) -> None:
    before = fresh_fingerprint()
    for name in ("README.md", "tests/test_a.py", "cxr/notes.txt", "cxr/__pycache__/a.cpython-311.pyc", "setup.py"):
        (code / name).parent.mkdir(exist_ok=True)
        (code / name).write_text("anything")
    (code / "cxr/a.py").touch()
    assert fresh_fingerprint() == before


# ---------------------------------------------------------------- how a run ends


def test_a_run_that_went_through_is_finished_and_carries_its_tags() -> None:
    with run(STAGE, title="train demo") as run_id:
        assert status(run_id) == "RUNNING"
        assert "fingerprint" not in tags(run_id)  # not before it is whole
        assert mlflow.active_run().info.run_id == run_id
    found = mlflow.get_run(run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "train demo")
    assert found.data.tags["stage"] == "train"
    assert found.data.tags["fingerprint"] == STAGE.fingerprint
    assert found.data.tags["code_digest"] == tracking.code_digest()
    assert found.data.tags["git_commit"] == tracking.git_commit()
    assert found.data.params == {"config.lr": "0.001", "config.epochs": "2"}
    assert "failure" not in found.data.tags


@pytest.mark.parametrize(
    ("error", "expected", "reason"),
    [
        (InputError("lr=9: too large"), "FAILED", "lr=9: too large"),
        (FloatingPointError("The loss is nan"), "FAILED", "The loss is nan"),
        (RuntimeError(), "FAILED", "RuntimeError()"),
        (MemoryError("x" * 9000), "FAILED", "x" * 5000),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (SystemExit(1), "KILLED", "interrupted"),
    ],
)
def test_a_run_that_broke_says_why_and_is_never_taken_for_whole(
    error: BaseException, expected: str, reason: str
) -> None:
    with pytest.raises(type(error)) as raised, run(STAGE, title="broken"):
        raise error
    assert raised.value is error
    (found,) = mlflow.search_runs(output_format="list")
    assert (found.info.status, found.data.tags["failure"]) == (expected, reason)
    assert "fingerprint" not in found.data.tags
    assert finished(STAGE) is None


def test_a_run_that_cannot_even_be_described_fails() -> None:
    misnamed = replace(STAGE, config={"lr?": 1})  # MLflow takes no question mark in a name
    with pytest.raises(MlflowException, match=r"lr\?"), run(misnamed, title="broken"):
        raise AssertionError("the stage's own work began")
    (found,) = mlflow.search_runs(output_format="list")
    assert found.info.status == "FAILED"


def test_a_stage_inside_another_is_its_child() -> None:
    with run(replace(STAGE, name="main"), title="main") as parent:
        child = done(STAGE)
        assert mlflow.active_run().info.run_id == parent
    assert tags(child)["mlflow.parentRunId"] == parent
    assert "mlflow.parentRunId" not in tags(parent)
    assert status(child) == status(parent) == "FINISHED"


def test_a_child_that_breaks_takes_its_parent_with_it() -> None:
    main = replace(STAGE, name="main")
    with pytest.raises(KeyboardInterrupt), run(main, title="main"), run(STAGE, title="train"):
        raise KeyboardInterrupt
    found = mlflow.search_runs(output_format="list")
    assert [(one.info.status, one.data.tags["failure"]) for one in found] == [("KILLED", "interrupted")] * 2


# ---------------------------------------------------------------- the run that mlflow run has opened


def test_adopting_takes_the_opened_run(monkeypatch: pytest.MonkeyPatch) -> None:
    given = opened()
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with run(STAGE, title="train demo", adopt=True) as run_id:
        assert run_id == given
        child = done(replace(STAGE, name="split"))  # it must not adopt the same run again
    assert child != given
    assert tags(child)["mlflow.parentRunId"] == given
    assert mlflow.get_run(given).info.run_name == "train demo"
    assert (status(given), tags(given)["fingerprint"]) == ("FINISHED", STAGE.fingerprint)


def test_a_stage_that_does_not_adopt_leaves_the_opened_run_for_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    given = opened()
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with run(replace(STAGE, name="split"), title="split") as run_id:
        assert run_id != given
    assert os.environ["MLFLOW_RUN_ID"] == given
    assert "mlflow.parentRunId" not in tags(run_id)
    assert status(given) == "RUNNING"
    with run(STAGE, title="train", adopt=True) as adopted:
        assert adopted == given


def test_a_stage_that_breaks_without_adopting_leaves_the_opened_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = opened()
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with pytest.raises(InputError), run(STAGE, title="split"):
        raise InputError("no images")
    tracking.fail_opened_run("no images")  # what the command then does
    assert (status(given), tags(given)["failure"]) == ("FAILED", "no images")


def test_adopting_without_an_opened_run_makes_one() -> None:
    with run(STAGE, title="train", adopt=True) as run_id:
        pass
    assert (status(run_id), mlflow.get_run(run_id).info.run_name) == ("FINISHED", "train")


def test_an_adopted_run_that_breaks_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    given = opened()
    monkeypatch.setenv("MLFLOW_RUN_ID", given)

    with pytest.raises(InputError), run(STAGE, title="train", adopt=True):
        raise InputError("no images")
    assert (status(given), tags(given)["failure"]) == ("FAILED", "no images")


def test_the_opened_run_becomes_a_pointer(monkeypatch: pytest.MonkeyPatch) -> None:
    original, given = done(STAGE, title="train demo"), opened()
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    tracking.point_opened_run(original)
    assert "MLFLOW_RUN_ID" not in os.environ
    found = mlflow.get_run(given)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "reuses: train demo")
    assert found.data.tags["reuses"] == original
    assert original in found.data.tags["mlflow.note.content"]
    assert finished(STAGE) == original  # a pointer is never reused itself


def test_the_opened_run_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    given = opened()
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    tracking.fail_opened_run("lr=9: too large")
    assert "MLFLOW_RUN_ID" not in os.environ
    assert (status(given), tags(given)["failure"]) == ("FAILED", "lr=9: too large")


def test_without_an_opened_run_there_is_nothing_to_point_or_to_fail() -> None:
    original = done(STAGE)
    tracking.point_opened_run(original)
    tracking.fail_opened_run("nothing")
    assert len(mlflow.search_runs(output_format="list")) == 1
    assert "failure" not in tags(original)


# ---------------------------------------------------------------- what is reused


def test_a_finished_run_of_the_same_fingerprint_is_found_the_newest_first() -> None:
    assert finished(STAGE) is None
    done(STAGE)
    time.sleep(0.002)  # start times are whole milliseconds
    newest = done(STAGE)
    done(replace(STAGE, data_digest="other"))
    assert finished(STAGE) == newest
    assert finished(replace(STAGE, config={})) is None


@pytest.mark.parametrize("state", ["RUNNING", "FAILED", "KILLED", "SCHEDULED"])
def test_a_run_that_is_not_finished_is_not_found(state: str) -> None:
    run_id = done(STAGE)
    mlflow.MlflowClient().update_run(run_id, status=state)
    assert finished(STAGE) is None


def test_a_deleted_run_is_not_found() -> None:
    mlflow.delete_run(done(STAGE))
    assert finished(STAGE) is None


def test_another_experiments_run_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done(STAGE)
    other = mlflow.create_experiment("another experiment", artifact_location=(tmp_path / "other").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert finished(STAGE) is None


# ---------------------------------------------------------------- reading another stage's run


def test_a_finished_run_of_the_stage_is_given() -> None:
    run_id = done(STAGE)
    found = stage_run(run_id, "train", "train_run")
    assert isinstance(found, Run)
    assert found.info.run_id == run_id


def test_a_pointer_stands_for_its_run_however_far(monkeypatch: pytest.MonkeyPatch) -> None:
    original, first, second = done(STAGE), opened(), opened()
    for pointer, to in ((first, original), (second, first)):
        monkeypatch.setenv("MLFLOW_RUN_ID", pointer)
        tracking.point_opened_run(to)
    assert stage_run(second, "train", "train_run").info.run_id == original


@pytest.mark.parametrize("unknown", ["0123456789abcdef0123456789abcdef", "no-run", "models:/cxr/1", "a'b"])
def test_an_unknown_run_is_refused_by_parameter_and_value(unknown: str) -> None:
    with pytest.raises(InputError) as refused:
        stage_run(unknown, "split", "split_run")
    assert str(refused.value).startswith(f"split_run={unknown}: there is no such run on sqlite:")
    assert "finished split run" in str(refused.value)


def test_a_run_of_another_stage_or_of_none_is_refused() -> None:
    run_id = done(STAGE)
    with pytest.raises(InputError, match=f"split_run={run_id}: that run is of train; expected a finished split"):
        stage_run(run_id, "split", "split_run")
    with pytest.raises(InputError, match="that run is of no stage of this project"):
        stage_run(opened(), "split", "split_run")


def test_a_pointer_to_another_stages_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original, pointer = done(STAGE), opened()
    monkeypatch.setenv("MLFLOW_RUN_ID", pointer)
    tracking.point_opened_run(original)
    with pytest.raises(InputError, match="that run is of train"):
        stage_run(pointer, "split", "split_run")


@pytest.mark.parametrize("state", ["RUNNING", "FAILED", "KILLED"])
def test_a_run_that_is_not_finished_is_refused(state: str) -> None:
    run_id = done(STAGE)
    mlflow.MlflowClient().update_run(run_id, status=state)
    with pytest.raises(InputError, match=f"model={run_id}: that train run is {state}; expected FINISHED"):
        stage_run(run_id, "train", "model")


# ---------------------------------------------------------------- what is logged


def test_resolved_values_do_not_collide_with_what_mlflow_run_logged_as_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = opened()
    for name, typed in (("lr", "1e-3"), ("epochs", "02")):
        mlflow.MlflowClient().log_param(given, name, typed)
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with run(STAGE, title="train", adopt=True):
        pass
    assert mlflow.get_run(given).data.params == {
        "lr": "1e-3", "epochs": "02", "config.lr": "0.001", "config.epochs": "2",
    }  # fmt: skip
    assert json.loads(fetched(given, "config.json").read_text()) == {"lr": 0.001, "epochs": 2}


FRAME = pd.DataFrame(
    {"auroc": [0.75, np.nan], "positives": [3, 0], "note": ["", "undefined: no positive, image"]},
    index=pd.Index(["Edema", "Hernia"], name="finding"),
)


def test_a_parquet_table_comes_back_whole_without_its_index() -> None:
    with run(STAGE, title="x") as run_id:
        tracking.log_frame(FRAME, "scores.parquet")
    back = pd.read_parquet(fetched(run_id, "scores.parquet"))
    pd.testing.assert_frame_equal(back, FRAME.reset_index(drop=True))


def test_another_table_comes_back_from_csv_and_from_the_table_of_the_ui() -> None:
    with run(STAGE, title="x") as run_id:
        tracking.log_frame(FRAME, "table3_auroc")
    back = pd.read_csv(fetched(run_id, "table3_auroc.csv"), index_col="finding", keep_default_na=False)
    assert back["auroc"].tolist() == ["0.75", ""]
    assert back["note"].tolist() == FRAME["note"].tolist()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    said = json.loads(fetched(run_id, "table3_auroc.json").read_text(), parse_constant=refuse)
    assert said["columns"] == ["finding", "auroc", "positives", "note"]
    assert said["data"] == [["Edema", 0.75, 3, ""], ["Hernia", None, 0, "undefined: no positive, image"]]


def test_logging_a_table_leaves_it_as_it_was() -> None:
    given = FRAME.copy()
    with run(STAGE, title="x"):
        tracking.log_frame(given, "a")
        tracking.log_frame(given, "a.parquet")
    pd.testing.assert_frame_equal(given, FRAME)


def test_arrays_come_back_bit_by_bit() -> None:
    given = {"Edema/mean_relu": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), "b": np.full(2, np.nan)}
    with run(STAGE, title="x") as run_id:
        tracking.log_arrays(given, "maps.npz")
    back = np.load(fetched(run_id, "maps.npz"))
    assert set(back.files) == set(given)
    for name, values in given.items():
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype == values.dtype


def test_a_description_is_markdown_that_the_ui_renders() -> None:
    with run(STAGE, title="x") as run_id:
        tracking.describe_run("Drawn phantom.", FRAME)
    assert tags(run_id)["mlflow.note.content"] == (
        "Drawn phantom.\n\n| finding | auroc | positives | note |\n| --- | --- | --- | --- |\n"
        "| Edema | 0.75 | 3 |  |\n| Hernia | nan | 0 | undefined: no positive, image |"
    )


def test_a_description_without_a_table_is_its_text() -> None:
    with run(STAGE, title="x") as run_id:
        tracking.describe_run("Drawn phantom.")
    assert tags(run_id)["mlflow.note.content"] == "Drawn phantom."


# ---------------------------------------------------------------- artifacts of other runs


@pytest.fixture
def source() -> str:
    """A finished run with a figure, a table and two image cards."""
    with run(STAGE, title="source") as run_id:
        mlflow.log_text("a figure", "auroc.png")
        mlflow.log_text("a table", "table.csv")
        for name in ("Edema", "Hernia"):
            picture = np.full((4, 4, 3), 90, dtype=np.uint8)
            mlflow.log_image(picture, key=f"gradcam/{name}", step=0, synchronous=True)
    return run_id


def test_files_and_image_cards_are_copied_where_they_are(source: str) -> None:
    with run(replace(STAGE, name="main"), title="main") as run_id:
        tracking.copy_artifacts(source, ["auroc.png", "images", "not_there.png"])
    names = {item.path for item in mlflow.MlflowClient().list_artifacts(run_id)}
    assert names == {"auroc.png", "images", "config.json"}
    assert fetched(run_id, "auroc.png").read_text() == "a figure"
    cards, copies = (sorted(path.name for path in fetched(one, "images").iterdir()) for one in (source, run_id))
    assert cards == copies
    assert sum(name.endswith(".png") for name in copies) == 2
    assert tags(run_id)["mlflow.loggedImages"] == tags(source)["mlflow.loggedImages"]


def test_without_image_cards_nothing_claims_to_have_them(source: str) -> None:
    with run(replace(STAGE, name="main"), title="main") as run_id:
        tracking.copy_artifacts(source, ["table.csv"])
    assert "mlflow.loggedImages" not in tags(run_id)


def test_an_artifact_is_fetched_or_refused_by_run_and_name(source: str) -> None:
    assert tracking.artifact(source, "table.csv").read_text() == "a table"
    assert tracking.artifact(source, "images").is_dir()
    with pytest.raises(InputError, match=rf"run {source}: its artifact scores\.parquet cannot be fetched"):
        tracking.artifact(source, "scores.parquet")
    with pytest.raises(InputError, match="run nobody: its artifact"):
        tracking.artifact("nobody", "table.csv")


def test_a_persons_way_to_a_run_is_a_page_or_a_command(
    store: Path, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = done(STAGE)
    page = f"#/experiments/{experiment}/runs/{run_id}"
    assert tracking.address(run_id) == (
        f"run {run_id}; to see it: mlflow ui --backend-store-uri sqlite:///{store}/mlflow.db, "
        f"then http://localhost:5000/{page}"
    )
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://mlflow.example/base/")
    assert tracking.address(run_id) == f"https://mlflow.example/base/{page}"


# ---------------------------------------------------------------- the server


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test point MLflow elsewhere, past any proxy, and puts back what `connect` sets."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    level = logging.getLogger("mlflow").level
    yield monkeypatch
    logging.getLogger("mlflow").setLevel(level)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_server_that_is_not_there_is_said_at_once(connecting: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    connecting.setattr(mlflow, "get_tracking_uri", lambda: uri)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"MLFLOW_TRACKING_URI={uri}: no tracking server answers there"):
        tracking.connect()
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("uri", ["http://", "http://127.0.0.1:port", "http://no host", "http://[::1"])
def test_an_address_that_is_none_is_refused(connecting: pytest.MonkeyPatch, uri: str) -> None:
    connecting.setattr(mlflow, "get_tracking_uri", lambda: uri)
    with pytest.raises(InputError) as refused:
        tracking.connect()
    assert str(refused.value).startswith(f"MLFLOW_TRACKING_URI={uri}: no tracking server answers there")


def test_something_else_that_listens_there_is_no_tracking_server(connecting: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        threading.Thread(target=greet, daemon=True).start()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        connecting.setattr(mlflow, "get_tracking_uri", lambda: uri)
        with pytest.raises(InputError, match="no tracking server answers there"):
            tracking.connect()


@pytest.mark.parametrize("code", [200, 401, 403, 404])
def test_a_server_that_answers_is_taken_whatever_a_proxy_says_to_health(
    connecting: pytest.MonkeyPatch, code: int
) -> None:
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        connecting.setattr(mlflow, "get_tracking_uri", lambda: f"http://127.0.0.1:{server.server_port}/base/")
        tracking.connect()
    assert asked == ["/base/health"]


def test_a_local_store_needs_no_server(connecting: pytest.MonkeyPatch) -> None:
    tracking.connect()
    assert logging.getLogger("mlflow").level == logging.WARNING


# ---------------------------------------------------------------- the commit


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository of one tagged commit in place of ours."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "a.py").write_text("x = 1\n")
    for words in (
        ["init", "-q"], ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "commit", "-qm", "a"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "tag.gpgsign=false", "tag", "-am", "v1", "v1"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", str(root), *words], check=True)
    monkeypatch.setattr(tracking, "_ROOT", root)
    yield root
    tracking.code_digest.cache_clear()


def test_the_commit_is_named_in_full_and_dirty_where_files_differ(repository: Path) -> None:
    head = (repository / ".git" / "refs" / "heads").iterdir().__next__().read_text().strip()
    assert tracking.git_commit() == head
    (repository / "a.py").write_text("x = 2\n")
    assert tracking.git_commit() == f"{head}-dirty"


def test_without_a_repository_or_without_git_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracking.git_commit() == "unknown"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tracking.git_commit() == "unknown"
