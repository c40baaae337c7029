"""Files -> a table: every file a row in its place, the network's own numbers, nothing half written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr import prediction
from cxr.data import image
from cxr.data.augment import normalise
from cxr.errors import InputError
from cxr.evaluation import recalibration
from cxr.findings import CLASSES
from cxr.model import build
from cxr.prediction import Batch, Meaning, Output
from tests.data.test_dicom import write as write_dicom

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """150 files: PNG, JPEG, DICOM with and without an ending, in folders; some are broken, some are no images."""
    rng, place = np.random.default_rng(0), tmp_path / "in"
    for number in range(140):
        path = place / f"{number % 3}" / f"{number:03}{'.png' if number % 2 else '.JPG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30)).astype(np.uint8)).save(path)
    write_dicom(place / "a.dcm")
    write_dicom(place / "IM0001")
    write_dicom(place / "1.2.840.10008.17")
    (place / "1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (place / "notes.doc").write_text("no image")
    (place / "archive.7").write_text("no DICOM")
    (place / "README").write_text("no DICOM")
    return place


def test_every_file_is_a_row_with_the_networks_own_numbers(folder: Path) -> None:
    network = build("resnet18", seed=0).eval()
    where, names = prediction.find(folder)
    assert where == folder
    assert len(names) == 144
    assert names == sorted(names)
    batches = list(prediction.predict(network, where, names, size=64, device=CPU))
    assert [name for batch in batches for name in batch.names] == names
    reasons = {n: r for batch in batches for n, r in zip(batch.names, batch.reasons, strict=True) if r}
    assert list(reasons) == ["1/broken.png"]
    assert reasons["1/broken.png"] == "not a PNG or JPEG image."
    assert str(folder) not in reasons["1/broken.png"]
    logits = dict(zip(names, np.concatenate([batch.logits for batch in batches]), strict=True))
    assert np.isnan(logits["1/broken.png"]).all()
    for name in ("0/000.JPG", "1/139.png", "2/050.JPG"):
        with torch.inference_mode():
            alone = network(normalise(torch.from_numpy(image.decode(folder / name, 64))[None]))
        np.testing.assert_allclose(logits[name], alone[0].numpy(), atol=1e-5)


def test_one_file_and_a_list_of_files(folder: Path, tmp_path: Path) -> None:
    assert prediction.find(folder / "a.dcm") == (folder, ["a.dcm"])
    (tmp_path / "list.txt").write_text(f"in/1/broken.png\n\n{folder}/a.dcm\nin/nowhere.png\nin/\0.png\n")
    where, names = prediction.find(tmp_path / "list.txt")
    (batch,) = prediction.predict(build("resnet18", seed=0).eval(), where, names, size=64, device=CPU)
    assert batch.names == ["in/1/broken.png", f"{folder}/a.dcm", "in/nowhere.png", "in/\0.png"]
    assert [bool(reason) for reason in batch.reasons] == [True, False, True, True]
    assert "No such file" in batch.reasons[2]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("nothing", None, "no such file or folder"), ("empty.txt", b"\n", "the list is empty"),
     ("image.txt", b"\x89PNG\xff", "not a list of files")],
)  # fmt: skip
def test_an_input_without_files_is_refused(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        prediction.find(tmp_path / name)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("no image")
    with pytest.raises(InputError, match=r"no file there ends in \.png, .* or is DICOM"):
        prediction.find(tmp_path)


# ---------------------------------------------------------------- the table


def batch() -> Batch:
    logits = np.zeros((2, 15))
    logits[0, 0], logits[0, 1], logits[1] = 2.0, -1.0, np.nan
    return Batch(
        names=["a.png", "b.png"], pixels=np.zeros((2, 8, 8), np.uint8), logits=logits, reasons=["", "broken"]
    )


def test_probabilities_are_sigmoids_and_what_is_unknown_is_empty() -> None:
    rows = prediction.table(batch(), Meaning(learned=["Atelectasis", "Cardiomegaly"]))
    assert list(rows.columns) == ["image", *CLASSES, "reason"]
    assert rows.loc[0, "Atelectasis"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert rows.loc[0, ["Effusion", "No Finding"]].isna().all()
    assert rows.loc[1, list(CLASSES)].isna().all()
    assert rows["reason"].tolist() == ["", "broken"]


def test_maps_move_probabilities_and_thresholds_call_by_the_logits_as_they_were() -> None:
    empty = dict.fromkeys(recalibration.COLUMNS) | {"positive_patients": 30, "note": ""}
    maps = recalibration.from_dict({"Atelectasis": empty | {"platt_slope": 0.5, "platt_intercept": -1.0}})
    thresholds = pd.Series({"Atelectasis": 2.0, "Cardiomegaly": -0.5, "Hernia": 0.0})
    learned = [name for name in CLASSES if name != "Hernia"]
    rows = prediction.table(batch(), Meaning(learned=learned, maps=maps, thresholds=thresholds))
    assert rows.loc[0, "Atelectasis"] == 0.5
    assert rows.loc[0, "Cardiomegaly"] == pytest.approx(1 / (1 + np.e))
    assert rows["Atelectasis_positive"].tolist() == [1, pd.NA]
    assert rows["Cardiomegaly_positive"].tolist() == [0, pd.NA]
    assert rows["Hernia_positive"].isna().all()


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_table_grows_and_has_its_name_only_once_it_is_whole(tmp_path: Path, name: str) -> None:
    rows = prediction.table(batch(), Meaning(learned=CLASSES))
    with Output(tmp_path / name, overwrite=False) as output:
        output.add(rows)
        assert not (tmp_path / name).exists()
        output.add(rows)
    read = pd.read_csv(tmp_path / name) if name.endswith("csv") else pd.read_parquet(tmp_path / name)
    assert read["image"].tolist() == ["a.png", "b.png"] * 2
    np.testing.assert_allclose(read.loc[[0, 2], list(CLASSES)], rows.loc[[0, 0], list(CLASSES)])
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_what_is_interrupted_leaves_the_table_that_was_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("before")
    output = Output(tmp_path / name, overwrite=True)
    rows = prediction.table(batch(), Meaning(learned=CLASSES))

    def interrupted() -> None:
        with output:
            output.add(rows)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / name).read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("there.csv", "it is there already; overwrite=true"), ("no/out.csv", "there is no folder"),
     ("folder.csv", "a folder of that name"), ("out.xlsx", r"ends in \.csv or \.parquet")],
)  # fmt: skip
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "there.csv").write_text("")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=reason):
        Output(tmp_path / name, overwrite=name == "folder.csv")


def test_a_full_disk_is_said_by_name() -> None:
    output = Output(Path("/dev/shm/out.csv"), overwrite=True)
    output._growing = Path("/dev/full")
    with pytest.raises(InputError, match=r"out\.csv: cannot be written \(No space left"):
        output.add(prediction.table(batch(), Meaning(learned=CLASSES)))
