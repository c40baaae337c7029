"""What a user can get wrong: one message that names the value, an exit code that is not 0, nothing left behind."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

STAGES = ("main", "split", "train", "evaluate", "explain", "register")
TINY = {"image_size": 64, "epochs": 1, "arch": "resnet18", "batch_size": 8}

USAGE = [
    ("split", {"unknown": 1}, "No such option"),
    ("split", {"images": "some"}, "'some' is not one of 'all', 'present', 'skip'"),
    ("split", {"seed": "x"}, "'x' is not a valid integer"),
    ("split", {"seed": -1}, "-1 is not in the range"),
    ("split", {"limit": 0}, "0 is not in the range"),
    ("split", {"fresh": "maybe"}, "'maybe' is not a valid boolean"),
    ("split", {"val_fraction": "nan"}, "nan is not a finite number"),
    ("split", {"val_fraction": 0.7}, "0.7 is not in the range"),
    ("split", {"val_fraction": "a tenth"}, "'a tenth' is not a valid float"),
    ("split", {"device": "gpu"}, "'gpu' is not a device"),
    ("train", {"recipe": "best"}, "'best' is not one of 'auto', 'demo', 'paper'"),
    ("train", {"arch": "vgg16"}, "'vgg16' is not one of"),
    ("train", {"image_size": 32}, "32 is not in the range"),
    ("train", {"epochs": "ten"}, "'ten' is not a valid integer"),
    ("train", {"batch_size": 1}, "1 is not in the range"),
    ("train", {"lr": 0}, "0.0 is not in the range"),
    ("train", {"lr": "inf"}, "inf is not in the range"),
    ("train", {"register_as": "a/b"}, "'a/b' is not a model name"),
    ("train", {"register_as": ".."}, "'..' is not a model name"),
    ("train", {"register_as": "a?b"}, "'a?b' is not a model name"),
    ("explain", {"layer": "conv1"}, "'conv1' is not one of"),
    ("register", {"register_as": ""}, "expected the name of a registered model"),
    ("train", {"split_run": "abc", "limit": 5}, "limit=5 has no effect beside split_run=abc"),
    ("explain", {"model": "models:/m/1", "limit": 5}, "limit=5 has no effect beside model=models:/m/1"),
]


@pytest.mark.parametrize(("stage", "parameters", "words"), USAGE, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_a_usage_error_that_names_it(
    call: Callable, stage: str, parameters: dict[str, object], words: str
) -> None:
    done = call(stage, **parameters)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("stage", STAGES)
def test_an_unknown_parameter_is_refused_by_every_stage(call: Callable, stage: str) -> None:
    done = call(stage, epoch=3)
    assert done.code == 2
    assert "No such option" in done.err
    assert "epoch" in done.err


def test_a_usage_error_fails_the_run_that_mlflow_opened(
    tracking_store: str, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    assert call("train", epochs="ten").code == 2
    run = mlflow.get_run(opened)
    assert run.info.status == "FAILED"
    assert "'ten' is not a valid integer" in run.data.tags["failure"]


def refused(done: object, *words: str) -> None:
    assert done.code == 1, done
    for word in words:
        assert word in " ".join(done.err.split()), done.err
    assert "Traceback" not in done.err


def test_a_missing_folder(tracking_store: str, call: Callable, tmp_path: Path) -> None:
    refused(call("split", data=tmp_path / "nowhere"), "nowhere", "there is no such folder", "train_val_list.txt")
    assert mlflow.search_runs(output_format="list") == []


def test_a_missing_image_is_listed_and_nothing_is_logged(
    tracking_store: str, call: Callable, own_cohort: Path
) -> None:
    gone = sorted((own_cohort / "images").glob("*.png"))[3]
    gone.unlink()
    refused(call("split", data=own_cohort), gone.name, "images=present keeps")
    assert mlflow.search_runs(output_format="list") == []
    assert call("split", data=own_cohort, images="present").code == 0
    (split,) = mlflow.search_runs(output_format="list")
    assert split.data.metrics["split/left_out/no_file"] == 1


def test_corrupt_images_stop_training_all_by_name_and_nothing_half_is_a_store(
    tracking_store: str, call: Callable, tmp_path: Path, own_cohort: Path
) -> None:
    store = tmp_path / "store"
    broken = sorted((own_cohort / "images").glob("*.png"))[3:6]
    for path in broken:
        path.write_bytes(path.read_bytes()[:100])
    names = [path.name for path in broken]
    refused(call("train", data=own_cohort, store=store, **TINY), *names, "on_bad_image=skip goes on")
    assert [path.suffix for path in store.iterdir() if path.is_dir()] == [".unfinished"]
    stages = [run.data.tags["stage"] for run in mlflow.search_runs(output_format="list")]
    assert stages == ["split"]


def test_a_limit_that_leaves_too_little(tracking_store: str, call: Callable, phantom_folder: Path) -> None:
    refused(call("split", data=phantom_folder, limit=1), "at least 2 and 1 are needed", "Raise limit")


def test_images_skip_is_for_split_alone(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path
) -> None:
    folder = tmp_path / "metadata"
    shutil.copytree(phantom_folder, folder, ignore=shutil.ignore_patterns("images"))
    assert call("split", data=folder, images="skip").code == 0
    refused(call("train", data=folder, images="skip", **TINY), "are not in", str(folder))


def test_a_failure_behind_a_finished_upstream_stage_fails_the_run_that_mlflow_opened(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    refused(call("train", data=phantom_folder, store=tmp_path / "file", **TINY), "store=")
    run = mlflow.get_run(opened)
    assert run.info.status == "FAILED"
    assert "store=" in run.data.tags["failure"]


def test_a_run_id_that_does_not_exist(tracking_store: str, call: Callable) -> None:
    refused(call("train", split_run="0123abc"), "split_run=0123abc", "there is no such run", "split run")
    refused(call("evaluate", model="0123abc"), "model=0123abc", "there is no such run", "train run")


def test_a_run_id_of_another_stage(tracking_store: str, call: Callable, phantom_folder: Path) -> None:
    call("split", data=phantom_folder)
    (split,) = mlflow.search_runs(output_format="list")
    refused(call("evaluate", model=split.info.run_id), f"model={split.info.run_id}", "is of split", "train run")
    foreign = mlflow.MlflowClient().create_run("0").info.run_id
    refused(call("train", split_run=foreign), foreign, "no stage of this project")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/nobody/1", "nobody"),
        ("models:/nobody@champion", "nobody"),
        ("models:/nobody", "expected models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("models:/", "expected models:/NAME/VERSION"),
    ],
)
def test_a_model_that_is_not_there(tracking_store: str, call: Callable, uri: str, words: str) -> None:
    refused(call("evaluate", model=uri), f"model={uri}", words)


def test_a_device_that_is_not_there(tracking_store: str, call: Callable, phantom_folder: Path) -> None:
    refused(call("train", data=phantom_folder, device="cuda:77"), "device=cuda:77", "not usable here")


def test_a_store_that_cannot_be_made(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path
) -> None:
    (tmp_path / "file").write_text("")
    refused(call("train", data=phantom_folder, store=tmp_path / "file", **TINY), "store=", "cannot be made")
    refused(call("split", data="phantom", store=tmp_path / "file"), "store=", "cannot be made")


def test_a_learning_rate_that_diverges_fails_the_run_and_registers_nothing(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr.training import objective

    sound = objective.binary_cross_entropy
    monkeypatch.setattr(
        objective, "binary_cross_entropy", lambda logits, labels: sound(logits * float("nan"), labels)
    )
    done = call("train", data=phantom_folder, store=tmp_path / "store", lr=10, **TINY)
    refused(done, "The training loss is nan", "epoch 1", "smaller lr")
    (train,) = mlflow.search_runs(filter_string="tags.stage = 'train'", output_format="list")
    assert train.info.status == "FAILED"
    assert "training loss is nan" in train.data.tags["failure"]
    assert "fingerprint" not in train.data.tags
    assert mlflow.search_registered_models() == []


def test_a_tracking_server_that_does_not_answer(
    call: Callable, monkeypatch: pytest.MonkeyPatch, phantom_folder: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(None)
    refused(call("split", data=phantom_folder), f"MLFLOW_TRACKING_URI={uri}", "no tracking server answers")


def test_an_interrupt_ends_the_run_as_killed(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr.training.loop import Trainer

    def interrupted(self: Trainer, checkpoint_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "epochs", interrupted)
    assert call("train", data=phantom_folder, store=tmp_path / "store", **TINY).code == 130
    (train,) = mlflow.search_runs(filter_string="tags.stage = 'train'", output_format="list")
    assert train.info.status == "KILLED"
    assert train.data.tags["failure"] == "interrupted"


def test_an_error_of_mlflow_itself_is_a_message_and_not_a_traceback(
    tracking_store: str, call: Callable, phantom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise mlflow.exceptions.MlflowException("API request failed: the server went away")

    monkeypatch.setattr(mlflow, "log_input", gone)
    monkeypatch.setattr(mlflow.MlflowClient, "set_tag", gone)  # nor can the reason be written down
    refused(call("split", data=phantom_folder), "MLflow: API request failed: the server went away")


def test_a_link_to_nowhere_is_a_missing_image(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path
) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(phantom_folder, folder)
    gone = sorted((folder / "images").glob("*.png"))[3]
    gone.unlink()
    gone.symlink_to(tmp_path / "nowhere.png")
    refused(call("split", data=folder), gone.name, "images=present keeps")


def test_the_same_image_in_two_folders_is_refused(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path
) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(phantom_folder, folder)
    twice = sorted((folder / "images").glob("*.png"))[3]
    (folder / "images_001" / "images").mkdir(parents=True)
    shutil.copy(twice, folder / "images_001" / "images")
    refused(call("split", data=folder), twice.name, "in two folders")


def test_a_table_that_is_not_whole_is_refused_by_name(
    tracking_store: str, call: Callable, tmp_path: Path, phantom_folder: Path
) -> None:
    call("split", data=phantom_folder)
    (split,) = mlflow.search_runs(output_format="list")
    (tmp_path / "cohort.parquet").write_bytes(b"PAR1 and no more")
    mlflow.MlflowClient().log_artifact(split.info.run_id, str(tmp_path / "cohort.parquet"))
    refused(call("train", split_run=split.info.run_id), "cohort.parquet", "is not a whole table")
