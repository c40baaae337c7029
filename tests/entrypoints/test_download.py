"""The download stage against a local server: the folder, the run, what a person sees."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run

from cxr.data import nih
from cxr.data.download.archives import Archive
from tests.archive_server import ArchiveServer, Fault, drawn, serving, tar_gz, write_list

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def archives(server: ArchiveServer) -> list[Archive]:
    return [server.offer(number, tar_gz(drawn(number * 100, 5 * number))) for number in (1, 2, 3)]


@pytest.fixture
def source(archives: list[Archive], tmp_path: Path) -> Path:
    return write_list(tmp_path / "mirror.txt", *archives)


def only_run() -> Run:
    (run,) = mlflow.search_runs(output_format="list")
    return run


def table(run: Run, name: str) -> pd.DataFrame:
    return pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


def test_the_folder_is_filled_and_the_run_says_with_what(
    tracking_store: str,
    call: Callable,
    server: ArchiveServer,
    archives: list[Archive],
    source: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a folder"
    done = call("download", data=folder, archives="1-2", source=source, parallel=2)
    assert done.code == 0, done.err
    assert set(nih.image_files(folder)) == {Path(name).name for name in [*drawn(100, 5), *drawn(200, 10)]}
    assert "images_002.tar.gz: 10 images, " in done.out
    assert f"download: 15 images in {folder}" in done.out
    assert "test_list.txt: missing; fetch it by hand from https://nihcc.app.box.com/v/ChestXray-NIHCC" in done.out
    assert done.out.endswith(
        "next, once the missing tables are there: uv run mlflow run . --env-manager local -e split "
        f"-P data='{folder}' -P images=present\n"
    )

    run = only_run()
    assert run.info.status == "FINISHED"
    received = archives[0].bytes + archives[1].bytes
    metrics = run.data.metrics
    assert metrics["download/images"] == 15
    assert metrics["download/archives"] == 2
    assert metrics["download/bytes"] == received
    assert metrics["download/seconds"] > 0
    assert run.data.tags["data_folder"] == str(folder)
    assert run.data.tags["table.test_list.txt"] == "missing"
    assert "2 of 2 archives verified and unpacked" in run.data.tags["mlflow.note.content"]
    logged = table(run, "archives.csv")
    assert logged["name"].tolist() == ["images_001.tar.gz", "images_002.tar.gz"]
    assert logged["md5"].tolist() == [archives[0].md5, archives[1].md5]
    assert logged["images"].tolist() == [5, 10]
    assert run.data.params["config.source"] == str(source)

    again = call("download", data=folder, archives="1-2", source=source)
    assert again.code == 0
    assert "images_001.tar.gz: 5 images, there already" in again.out
    assert len(server.asked) == 2


def test_what_was_done_is_logged_when_an_archive_fails(
    tracking_store: str, call: Callable, server: ArchiveServer, source: Path, tmp_path: Path
) -> None:
    server.always["/images_002.tar.gz"] = Fault(status=404)
    done = call("download", data=tmp_path / "nih", archives="1-3", source=source, keep_archives="false")
    assert done.code == 1
    assert "1 of 3 archives could not be fetched. images_002.tar.gz:" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    run = only_run()
    assert run.info.status == "FAILED"
    assert "images_002.tar.gz" in run.data.tags["failure"]
    assert run.data.metrics["download/images"] == 20
    assert table(run, "archives.csv")["name"].tolist() == ["images_001.tar.gz", "images_003.tar.gz"]
    assert not list((tmp_path / "nih").glob("*.tar.gz"))


def test_the_run_that_mlflow_opened_is_the_downloads(
    tracking_store: str, call: Callable, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    assert call("download", data=tmp_path / "nih", archives=1, source=source).code == 0
    run = only_run()
    assert run.info.run_id == opened
    assert run.info.status == "FINISHED"
    assert run.data.tags["stage"] == "download"


USAGE = [
    ({}, "'' is not a folder to fill"),
    ({"data": "phantom"}, "'phantom' is not a folder to fill"),
    ({"data": "auto"}, "'auto' is not a folder to fill"),
    ({"data": "d", "archives": "13"}, "'13' is not between 1 and 12"),
    ({"data": "d", "archives": "0-3"}, "'0-3' is not between 1 and 12"),
    ({"data": "d", "archives": "5-3"}, "'5-3' is not between 1 and 12, lower end first"),
    ({"data": "d", "archives": ""}, "'' is not a choice of archives"),
    ({"data": "d", "archives": "1,,2"}, "'1,,2' is not a choice of archives. Expected numbers such as 1,3-5"),
    ({"data": "d", "archives": "all"}, "'all' is not a choice of archives"),
    ({"data": "d", "archives": "-1"}, "'-1' is not a choice of archives"),
    ({"data": "d", "archives": "²"}, "is not a choice of archives"),
    ({"data": "d", "parallel": 0}, "0 is not in the range"),
    ({"data": "d", "parallel": 13}, "13 is not in the range"),
    ({"data": "d", "keep_archives": "perhaps"}, "'perhaps' is not a valid boolean"),
    ({"data": "d", "seed": 1}, "No such option"),
]


@pytest.mark.parametrize(("parameters", "words"), USAGE, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_a_usage_error_that_names_it(
    call: Callable, parameters: dict[str, object], words: str
) -> None:
    done = call("download", **parameters)
    assert done.code == 2
    assert words in " ".join(done.err.replace("│", " ").split())
    assert not Path("d").exists()


@pytest.mark.parametrize(
    ("written", "numbers"),
    [("1-12", tuple(range(1, 13))), ("3", (3,)), ("5, 1-2,2 - 3", (1, 2, 3, 5)), ("01", (1,))],
)
def test_choices_of_archives(written: str, numbers: tuple[int, ...]) -> None:
    from entrypoints.download import main

    with main.make_context("download", ["--data", "d", "--archives", written]) as context:
        assert context.params["archives"] == numbers


def test_a_mirror_that_lacks_an_archive_and_a_list_that_is_not_there(
    tracking_store: str, call: Callable, source: Path, tmp_path: Path
) -> None:
    done = call("download", data=tmp_path / "nih", source=source)
    assert done.code == 1
    assert "mirror.txt: does not list the archives 4, 5, 6, 7, 8, 9, 10, 11, 12" in " ".join(done.err.split())
    done = call("download", data=tmp_path / "nih", source=tmp_path / "nowhere")
    assert done.code == 1
    assert "nowhere: cannot be read as a list of archives" in " ".join(done.err.split())
    assert not (tmp_path / "nih").exists()


def test_x_rays_do_not_go_among_drawings(
    tracking_store: str, call: Callable, source: Path, tmp_path: Path
) -> None:
    (tmp_path / nih.PHANTOM_NOTE).write_text("")
    done = call("download", data=tmp_path, archives=1, source=source)
    assert done.code == 1
    assert "this folder holds drawings" in " ".join(done.err.split())


def test_real_tables_are_told_to_be_official(
    tracking_store: str, call: Callable, source: Path, tmp_path: Path, real_data: Path
) -> None:
    folder = tmp_path / "nih"
    folder.mkdir()
    (folder / "test_list.txt").symlink_to(real_data / "nih/test_list.txt")
    (folder / "train_val_list.txt").write_text("another split\n")
    done = call("download", data=folder, archives=1, source=source)
    assert "\ntest_list.txt: official\n" in done.out
    assert "\ntrain_val_list.txt: differs from NIH's official file" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_exits_130_and_the_part_stays(
    tracking_store: str, server: ArchiveServer, source: Path, tmp_path: Path, number: int
) -> None:
    released = threading.Event()
    server.contents["/images_001.tar.gz"] = os.urandom(400_000)
    server.always["/images_001.tar.gz"] = Fault(cut=131_072, hold=released)
    folder = tmp_path / "nih"
    command = [sys.executable, "-m", "entrypoints.download", "--data", str(folder), "--archives", "1"]
    process = subprocess.Popen(
        [*command, "--source", str(source)], cwd=PROJECT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    part = folder / "images_001.tar.gz.part"
    try:
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= 131_072):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
        released.set()
    assert process.returncode == 130
    assert "Interrupted." in err
    assert "Traceback" not in err
    assert part.stat().st_size == 131_072
    run = only_run()
    assert run.info.status == "KILLED"
