"""Listing and removing what is packed on this machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from cxr.data import nih, store


@pytest.fixture
def root(phantom_folder: Path, tmp_path: Path) -> Path:
    """Two stores of 20 drawn images, one of them not opened for a month."""
    root = tmp_path / "stores"
    files = dict(list(nih.image_files(phantom_folder).items())[:20])
    for size in (16, 24):
        store.open_or_pack(root, list(files), files, size=size, dataset="phantom")
    (old,) = root.glob("16px-*[0-9a-f]/store.json")
    month_ago = time.time() - 30 * 24 * 3600
    os.utime(old, (month_ago, month_ago))
    os.utime(old.parent, (month_ago, month_ago))
    return root


def sizes(root: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in root.iterdir() if path.is_dir())


def test_the_list_says_what_each_store_is(call: Callable, root: Path) -> None:
    done = call("stores", store=root)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines() if "px-" in line]
    assert [line[1:4] for line in lines] == [["phantom", "20", "16"], ["phantom", "20", "24"]]
    assert all(line[-1] == "complete" for line in lines)
    assert "2 folders" in done.out
    assert sizes(root) == ["16px", "24px"]


def test_an_empty_folder_is_said(call: Callable, tmp_path: Path) -> None:
    assert "nothing packed or drawn" in call("stores", store=tmp_path / "none").out


@pytest.mark.parametrize(
    ("remove", "left"),
    [("unused:7", ["24px"]), ("unused:60", ["16px", "24px"]), ("unfinished", ["16px", "24px"]), ("all", [])],
)
def test_stores_are_removed_by_what_is_said(call: Callable, root: Path, remove: str, left: list[str]) -> None:
    assert call("stores", store=root, remove=remove).code == 0
    assert sizes(root) == left


def test_a_store_is_removed_by_name_and_an_unknown_name_removes_nothing(call: Callable, root: Path) -> None:
    (name,) = (path.name for path in root.glob("24px-*") if path.is_dir())
    done = call("stores", store=root, remove=f"{name},24px-nothing")
    assert done.code == 2
    assert "24px-nothing: no such store" in done.err
    assert sizes(root) == ["16px", "24px"]
    assert f"removed {name}" in call("stores", store=root, remove=name).out
    assert sizes(root) == ["16px"]


def test_what_cannot_be_removed_is_said_and_the_others_are(call: Callable, root: Path, tmp_path: Path) -> None:
    (store_16,) = (path for path in root.glob("16px-*") if path.is_dir())
    store_16.rename(tmp_path / "elsewhere")
    store_16.symlink_to(tmp_path / "elsewhere")
    done = call("stores", store=root, remove="all")
    assert done.code == 1
    assert "it is a link to" in " ".join(done.err.split())
    assert sizes(root) == ["16px"]
    assert (tmp_path / "elsewhere" / "pixels.u8").exists()


def test_the_run_that_mlflow_opened_ends_finished(
    tracking_store: str, call: Callable, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    assert call("stores", store=root).code == 0
    run = mlflow.get_run(opened)
    assert (run.info.status, run.data.tags["stage"]) == ("FINISHED", "stores")
    assert len(mlflow.search_runs(output_format="list")) == 1
