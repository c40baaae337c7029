"""NIH's folder: both editions read right, everything that is wrong named by file, line and value."""

import gzip
import os
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.data import nih
from cxr.data.cohort import Cohort, digest, limited, require_images
from cxr.data.nih import image_files
from cxr.errors import InputError
from cxr.findings import CLASSES, FINDINGS, NO_FINDING, SPELLINGS

NEW, OLD = "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
# Counted by NIH and by hand in the shipped files: v2020, in the order of FINDINGS, then No Finding.
WHOLE = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227, 60361)
TEST = (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86, 9861)
TRAIN_VAL = (8280, 1707, 8659, 13782, 4034, 4708, 876, 2637, 2852, 1378, 1423, 1251, 2242, 141, 50500)


@dataclass
class Files:
    """A folder in NIH's layout, sound until a test spoils one of its parts."""

    rows: list[str] = field(
        default_factory=lambda: [
            "00000001_000.png,Cardiomegaly|Emphysema,0,1,57,M,PA,2682,2749,0.143,0.143",
            "00000001_001.png,No Finding,1,1,58,M,AP,2682,2749,0.143,0.143",
            "00000002_000.png,Pleural_Thickening,0,2,81,F,PA,2500,2048,0.171,0.171",
            "00000003_000.png,Hernia|Infiltration,4,3,0,F,AP,2500,2048,0.168,0.168",
        ]
    )
    train_val: list[str] = field(
        default_factory=lambda: ["00000001_000.png", "00000001_001.png", "00000003_000.png"]
    )
    test: list[str] = field(default_factory=lambda: ["00000002_000.png"])
    header: str = HEADER
    newline: str = "\n"

    def text(self) -> str:
        return self.newline.join([self.header, *self.rows]) + self.newline

    def write(self, folder: Path, name: str = NEW) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        raw = self.text().encode()
        (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        (folder / "train_val_list.txt").write_text("\n".join(self.train_val))
        (folder / "test_list.txt").write_text("\n".join(self.test))
        return folder


def many(count: int, *, sex: str = "M") -> Files:
    """`count` patients of one image each, the first one in the test list."""
    names = [f"{patient:08d}_000.png" for patient in range(1, count + 1)]
    rows = [f"{name},Mass,0,{int(name[:8])},50,{sex},PA,1,1,0.1,0.1" for name in names]
    return Files(rows=rows, train_val=names[1:], test=names[:1])


def read(folder: Path) -> Cohort:
    """A hand-written folder, with the lists that it has."""
    return nih.read(folder, split="custom")


def refusal(folder: Path, split: str = "custom") -> str:
    with pytest.raises(InputError) as caught:
        nih.read(folder, split=split)
    return str(caught.value)


# ---------------------------------------------------------------- what is read


def test_every_cell_of_the_new_edition_is_where_it_belongs(tmp_path: Path) -> None:
    table = read(Files().write(tmp_path)).table
    assert list(table.columns) == [
        "image",
        "patient_id",
        "age_years",
        "sex",
        "view",
        "follow_up",
        "split",
        *CLASSES,
    ]
    about = table[["image", "patient_id", "age_years", "sex", "view", "follow_up", "split"]]
    assert about.to_numpy().tolist() == [
        ["00000001_000.png", 1, 57.0, "M", "PA", 0, "train_val"],
        ["00000001_001.png", 1, 58.0, "M", "AP", 1, "train_val"],
        ["00000002_000.png", 2, 81.0, "F", "PA", 0, "test"],
        ["00000003_000.png", 3, 0.0, "F", "AP", 4, "train_val"],
    ]
    positive = [[name for name in CLASSES if row[name]] for _, row in table.iterrows()]
    assert positive == [
        ["Cardiomegaly", "Emphysema"],
        [NO_FINDING],
        ["Pleural_Thickening"],
        ["Infiltration", "Hernia"],
    ]
    assert {str(table[name].dtype) for name in CLASSES} == {"uint8"}


def test_first_edition_with_its_line_ends_trailing_comma_and_age_units(tmp_path: Path) -> None:
    files = Files(header=HEADER + ",", newline="\r\n")
    files.rows = [
        "00000001_000.png,Cardiomegaly|Emphysema,000,00000001,058Y,M,PA,2682,2749,0.143,0.143",
        "00000001_001.png,No Finding,001,00000001,011M,M,AP,2682,2749,0.143,0.143",
        "00000002_000.png,Pleural_Thickening,000,00000002,001D,F,PA,2500,2048,0.171,0.171",
        "00000003_000.png,Hernia|Infiltration,004,00000003,120Y,F,AP,2500,2048,0.168,0.168",
    ]
    got = read(files.write(tmp_path, OLD))
    assert got.edition == "unknown edition"
    assert got.table["age_years"].tolist() == pytest.approx([58, 11 / 12, 1 / 365.25, 120], abs=1e-12)
    assert got.table["patient_id"].tolist() == [1, 1, 2, 3]
    assert got.table["follow_up"].tolist() == [0, 1, 0, 4]
    assert got.table[list(CLASSES)].sum().sum() == 6
    assert got.metrics["split/implausible_ages"] == 0


@pytest.mark.parametrize("header", [HEADER, HEADER + ","])
def test_rows_that_end_in_a_comma_read_the_same(header: str, tmp_path: Path) -> None:
    ends = Files(header=header)
    ends.rows = [row + "," for row in ends.rows]
    plain = read(Files().write(tmp_path / "plain")).table
    pd.testing.assert_frame_equal(read(ends.write(tmp_path / "ends")).table, plain)


def test_ages_that_nobody_reaches_become_missing_and_are_counted(tmp_path: Path) -> None:
    files = Files()
    files.rows = [row.replace(",57,", ",414Y,").replace(",81,", ",121,") for row in files.rows]
    got = read(files.write(tmp_path))
    assert np.isnan(got.table["age_years"]).tolist() == [True, False, True, False]
    assert got.metrics == {"split/implausible_ages": 2, "split/follow_up_differs_from_name": 1}
    assert limited(got, 1).metrics["split/implausible_ages"] == 1  # of the rows that are left


@pytest.mark.parametrize("name", [NEW, f"{NEW}.gz", OLD, f"{OLD}.gz"])
def test_metadata_reads_plain_and_gzipped(name: str, tmp_path: Path) -> None:
    got = read(Files().write(tmp_path, name))
    assert len(got.table) == 4


def test_new_edition_is_taken_where_both_are(tmp_path: Path) -> None:
    old = Files()
    old.rows = [row.replace("Hernia", "Edema") for row in old.rows]
    old.write(tmp_path, OLD)
    got = read(Files().write(tmp_path, f"{NEW}.gz"))
    assert got.table["Hernia"].sum() == 1


def test_limit_keeps_the_first_patients_by_number_with_all_their_images(tmp_path: Path) -> None:
    folder = Files().write(tmp_path)
    assert limited(read(folder), 2).table["image"].tolist() == [
        "00000001_000.png",
        "00000001_001.png",
        "00000002_000.png",
    ]
    assert limited(read(folder), 99).table["patient_id"].nunique() == 3


def test_digest_does_not_depend_on_the_order_of_rows_and_lists(tmp_path: Path) -> None:
    files = Files()
    table = read(files.write(tmp_path)).table
    assert len(digest(table)) == 16
    for rows in permutations(files.rows):
        other = Files(rows=list(rows), train_val=files.train_val[::-1])
        again = read(other.write(tmp_path)).table
        pd.testing.assert_frame_equal(again, table)
        assert digest(again) == digest(table)


@pytest.mark.parametrize(
    ("old", "new"), [(",57,", ",59,"), ("Hernia|", ""), (",81,F,", ",81,M,"), (",4,3,", ",5,3,")]
)
def test_digest_changes_with_any_cell(old: str, new: str, tmp_path: Path) -> None:
    other = Files()
    other.rows = [row.replace(old, new) for row in other.rows]
    sound = read(Files().write(tmp_path / "a")).table
    assert digest(read(other.write(tmp_path / "b")).table) != digest(sound)


def test_phantom_folder_says_that_it_is_one(phantom_folder: Path) -> None:
    drawn = read(phantom_folder)
    assert (drawn.dataset, drawn.scope, drawn.edition, drawn.is_phantom) == ("phantom", "phantom", "drawn", True)
    assert "not X-rays" in drawn.describe()
    assert f"of {drawn.table['patient_id'].nunique()} patients" in drawn.describe()
    assert require_images(drawn, "all", image_files(phantom_folder)).left_out == {"no file": 0}


def test_hand_written_folder_is_custom_and_says_so(tmp_path: Path) -> None:
    got = read(Files().write(tmp_path))
    assert (got.dataset, got.scope) == ("nih", "custom")
    assert got.describe() == (
        "Not as NIH publishes it: NIH ChestX-ray14 (unknown edition): 4 images of 3 patients"
    )


# ---------------------------------------------------------------- what is refused


def test_missing_folder_is_named_with_what_was_expected(tmp_path: Path) -> None:
    said = refusal(tmp_path / "nowhere")
    assert f"data={tmp_path}/nowhere" in said
    assert all(name in said for name in (NEW, "train_val_list.txt", "test_list.txt", "images/"))


def test_folder_without_metadata_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path)
    assert str(tmp_path) in said
    assert NEW in said
    assert OLD in said


@pytest.mark.parametrize("name", ["train_val_list.txt", "test_list.txt"])
def test_missing_list_is_named(name: str, tmp_path: Path) -> None:
    Files().write(tmp_path)
    (tmp_path / name).unlink()
    assert f"{tmp_path}/{name} is missing" in refusal(tmp_path)


def test_missing_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    header = HEADER.replace("Patient Gender", "Sex").replace("Follow-up #", "Visit")
    said = refusal(Files(header=header).write(tmp_path))
    assert f"{tmp_path}/{NEW}: columns ['Follow-up #', 'Patient Gender'] are missing" in said
    assert "'Visit'" in said


# which part of the sound row of line 3 is spoiled -> what the message says of it
SPOILED = {
    "finding": ("No Finding", "No Finging", "labels is not names of Atelectasis, ", "line 3: 'No Finging'"),
    "no_label": ("No Finding", "", "labels is not names of ", "line 3: ''"),
    "both": ("No Finding", "Mass|No Finding", "No Finding alone or findings", "line 3: 'Mass|No Finding'"),
    "sex": (",M,AP", ",m,AP", "sex is not M or F", "line 3: 'm'"),
    "no_sex": (",M,AP", ",,AP", "sex is not M or F", "line 3: ''"),
    "view": (",M,AP", ",M,LL", "view is not PA or AP", "line 3: 'LL'"),
    "age": (",58,", ",58W,", "age_years is not years such as 57", "line 3: '58W'"),
    "negative_age": (",58,", ",-1,", "age_years is not years such as 57", "line 3: '-1'"),
    "no_age": (",58,", ",,", "age_years is not years such as 57", "line 3: ''"),
    "patient": (",1,1,58", ",1,P1,58", "patient_id is not a whole number", "line 3: 'P1'"),
    "fraction": (",1,1,58", ",1,1.5,58", "patient_id is not a whole number", "line 3: '1.5'"),
    "follow_up": (",1,1,58", ",x,1,58", "follow_up is not a whole number", "line 3: 'x'"),
    "path": ("00000001_001.png", "../00000001_001.png", "image is not a PNG file name", "line 3: '../0000"),
    "no_png": (
        "00000001_001.png",
        "00000001_001.jpg",
        "image is not a PNG file name",
        "line 3: '00000001_001.jpg'",
    ),
    "twice": (
        "00000001_001",
        "00000001_000",
        "image is not each image once",
        "line 2: '00000001_000.png', line 3: ",
    ),
    "cut_short": (",1,1,58,M,AP,2682,2749,0.143,0.143", "", "rows have 11 cells, but not in", "line 3: 2"),
    "too_long": ("0.143,0.143", "0.143,0.143,7", "rows have 11 cells, but not in", "line 3: 12"),
    "same_twice": ("No Finding", "Mass|Mass", "labels is not each finding once", "line 3: 'Mass|Mass'"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_cell_is_refused_by_file_line_and_value(kind: str, tmp_path: Path) -> None:
    old, new, expected, place = SPOILED[kind]
    files = Files()
    assert files.rows[1].count(old) == 1
    files.rows[1] = files.rows[1].replace(old, new)
    said = refusal(files.write(tmp_path))
    assert said.startswith(f"{tmp_path}/{NEW}: ")
    assert expected in said
    assert place in said


def test_patient_that_contradicts_the_images_name_is_refused(tmp_path: Path) -> None:
    files = Files()
    files.rows[1] = files.rows[1].replace(",1,1,58", ",1,2,58")
    said = refusal(files.write(tmp_path))
    assert "patient_id is not the number in the image's name in line 3: '2 of 00000001_001.png'" in said


def test_lists_are_read_from_gz_and_never_from_a_pipe(tmp_path: Path) -> None:
    plain = read(Files().write(tmp_path / "plain")).table
    Files().write(tmp_path)
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    pd.testing.assert_frame_equal(read(tmp_path).table, plain)
    (tmp_path / "test_list.txt.gz").unlink()
    os.mkfifo(tmp_path / "test_list.txt")
    assert "test_list.txt is missing" in refusal(tmp_path)


def test_blank_lines_do_not_shift_the_line_numbers(tmp_path: Path) -> None:
    files = Files()
    files.rows[2:2] = ["", ""]
    files.rows[4] = files.rows[4].replace("Pleural_Thickening", "Thick")
    assert "line 6: 'Thick'" in refusal(files.write(tmp_path))


def test_other_spellings_of_a_finding_are_the_finding(tmp_path: Path) -> None:
    files = Files()
    files.rows = [
        row.replace("Pleural_Thickening", "Pleural Thickening").replace("Infiltration", "Infiltrate")
        for row in files.rows
    ]
    pd.testing.assert_frame_equal(
        read(files.write(tmp_path / "a")).table, read(Files().write(tmp_path / "b")).table
    )


def test_first_ten_problems_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    said = refusal(many(12, sex="X").write(tmp_path))
    assert all(f"line {line}: 'X'" in said for line in range(2, 12))
    assert "line 12" not in said
    assert "(12 in all)" in said


def test_ten_problems_are_all_shown_without_a_count(tmp_path: Path) -> None:
    said = refusal(many(10, sex="X").write(tmp_path))
    assert said.count("line ") == 10
    assert "in all" not in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (NEW, b""),
        (NEW, HEADER.encode() + b"\n"),
        (NEW, (HEADER + "\n").encode() + b"\xe1.png,Mass,0,1,57,M,PA,1,1,1,1\n"),
        (NEW, (HEADER + "\n").encode() + b"a.png,Mass,0,1,57,M,PA,1,1,1,1\n" * 2 + b"," * 20),
        (f"{NEW}.gz", HEADER.encode()),
        (f"{NEW}.gz", gzip.compress(Files().text().encode())[:-30]),
        (f"{NEW}.gz", gzip.compress(Files().text().encode() * 50)[:60] + b"damaged" * 9),
    ],
    ids=["empty", "header only", "not utf-8", "too many cells", "not gzipped", "gzip cut short", "gzip damaged"],
)
def test_unreadable_metadata_is_refused_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    Files().write(tmp_path, name)
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path).startswith(f"{tmp_path}/{name}: ")


def test_unreadable_list_is_refused_by_name(tmp_path: Path) -> None:
    Files().write(tmp_path)
    (tmp_path / "test_list.txt").write_bytes(b"\xff\xfe0\x000\x00")
    assert refusal(tmp_path).startswith(f"{tmp_path}/test_list.txt: ")


def test_image_in_both_lists_is_named(tmp_path: Path) -> None:
    files = Files()
    files.test.append("00000003_000.png")
    said = refusal(files.write(tmp_path))
    assert said == f"In both train_val_list.txt and test_list.txt of {tmp_path}: 00000003_000.png."


def test_image_in_neither_list_is_named(tmp_path: Path) -> None:
    files = Files()
    files.train_val.remove("00000001_001.png")
    said = refusal(files.write(tmp_path))
    assert said == f"In neither train_val_list.txt nor test_list.txt of {tmp_path}: 00000001_001.png."


def test_list_that_names_an_unknown_image_is_refused(tmp_path: Path) -> None:
    files = Files()
    files.test.append("00009999_000.png")
    assert refusal(files.write(tmp_path)) == f"{tmp_path}/test_list.txt: not in {NEW}: 00009999_000.png."


def test_list_that_names_an_image_twice_is_refused(tmp_path: Path) -> None:
    files = Files()
    files.train_val.append("00000003_000.png")
    assert refusal(files.write(tmp_path)) == f"{tmp_path}/train_val_list.txt: named twice: 00000003_000.png."


def test_patient_in_both_lists_is_refused(tmp_path: Path) -> None:
    files = Files(test=["00000002_000.png", "00000001_001.png"])
    files.train_val.remove("00000001_001.png")
    said = refusal(files.write(tmp_path))
    assert said.startswith(f"{tmp_path}: 1 patients have images in both")
    assert "patients 1." in said
    assert "split=random-patient" in said


def test_list_with_labels_behind_the_names_is_refused_by_line(tmp_path: Path) -> None:
    files = Files(test=["00000002_000.png 0 0 1"])
    assert refusal(files.write(tmp_path)) == (
        f"{tmp_path}/test_list.txt: not one image name a line in line 1: '00000002_000.png 0 0 1'."
    )


def test_list_under_the_official_name_that_is_not_official_is_refused_with_what_to_do(tmp_path: Path) -> None:
    said = refusal(Files().write(tmp_path), split="official")
    assert said.startswith(f"{tmp_path}/train_val_list.txt: this is not NIH's official list. It names 3 images")
    assert "NIH's names 86,524" in said
    assert "split=custom" in said
    assert "images=present" in said


@pytest.mark.parametrize("split", ["random-patient", "test"])
def test_without_lists_no_split_is_made_up(split: str, tmp_path: Path) -> None:
    Files().write(tmp_path)
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / name).unlink()
    assert set(nih.read(tmp_path, split=split).table["split"]) == {""}


# ---------------------------------------------------------------- the boxes beside it

BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


def boxes_of(folder: Path, *rows: str) -> pd.DataFrame | None:
    (folder / "BBox_List_2017.csv").write_text("\n".join([BOX_HEADER, *rows]))
    return nih.read_boxes(folder)


def test_boxes_are_read_under_the_metadatas_name_of_the_finding(tmp_path: Path) -> None:
    boxes = boxes_of(tmp_path, "a.png,Infiltrate,1.5,2,30,40,,,", "b.png,Mass,0,0,1,1")
    assert boxes is not None
    assert boxes.to_numpy().tolist() == [
        ["a.png", "Infiltration", 1.5, 2, 30, 40], ["b.png", "Mass", 0, 0, 1, 1],
    ]  # fmt: skip
    assert list(boxes.columns) == ["image", "finding", "x", "y", "width", "height"]


def test_boxes_under_other_headers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "BBox_List_2017.csv").write_text("Image Index,Finding Label,w,h,x,y\na.png,Mass,1,2,3,4")
    with pytest.raises(InputError, match=r"columns .* are missing"):
        nih.read_boxes(tmp_path)


def test_folder_without_boxes_has_none(tmp_path: Path) -> None:
    assert nih.read_boxes(tmp_path) is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.png,Infiltrat,1,2,3,4", "finding is not one of Atelectasis, "),
        ("a.png,Mass,-1,2,3,4", "x is not a number of pixels in line 2: '-1'"),
        ("a.png,Mass,1,2,0,4", "width is not a number of pixels in line 2: '0'"),
        ("a.png,Mass,1,nan,3,4", "y is not a number of pixels in line 2: 'nan'"),
        ("a.png,Mass,1,2,3,inf", "height is not a number of pixels in line 2: 'inf'"),
        ("a.png,Mass,1,2,3", "line 2: 5"),
    ],
)
def test_spoiled_box_is_refused_by_line_and_value(row: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        boxes_of(tmp_path, row)
    assert str(caught.value).startswith(f"{tmp_path}/BBox_List_2017.csv: ")
    assert said in str(caught.value)


# ---------------------------------------------------------------- the images beside it


def with_images(folder: Path, *places: str) -> Cohort:
    Files().write(folder)
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    return read(folder)


def test_images_are_found_in_one_folder_or_in_the_archives_folders(tmp_path: Path) -> None:
    here = ("images/a.png", "images_001/images/b.png", "images_012/images/c.png")
    elsewhere = (
        "images_001/d.png",
        "images/deeper/e.png",
        "other/f.png",
        "images/g.txt",
        "images_old/h.png",
        "images/images/i.png",
    )
    with_images(tmp_path, *here, *elsewhere)
    assert image_files(tmp_path) == {path[-5:]: tmp_path / path for path in here}


def test_all_refuses_a_missing_image_and_says_what_would_do(tmp_path: Path) -> None:
    got = with_images(tmp_path, "images/00000001_000.png", "images_002/images/00000002_000.png")
    with pytest.raises(InputError) as caught:
        require_images(got, "all", image_files(tmp_path))
    said = str(caught.value)
    assert said.startswith(f"2 of 4 images are not in {tmp_path}")
    assert "00000001_001.png, 00000003_000.png" in said
    assert "images=present" in said


def test_present_drops_the_rows_without_a_file_and_counts_them(tmp_path: Path) -> None:
    got = with_images(tmp_path, "images/00000001_001.png", "images_002/images/00000002_000.png")
    kept = require_images(got, "present", image_files(tmp_path))
    assert kept.table["image"].tolist() == ["00000001_001.png", "00000002_000.png"]
    assert kept.table.index.tolist() == [0, 1]
    assert kept.metrics["split/left_out/no_file"] == 2
    assert kept.metrics["split/follow_up_differs_from_name"] == 0  # that of a row that was left out
    assert kept.describe().endswith("2 images of 2 patients; 2 left out: no file")
    assert len(got.table) == 4


def test_present_refuses_when_nothing_is_left(tmp_path: Path) -> None:
    got = with_images(tmp_path, "images/another.png")
    with pytest.raises(InputError, match="none of the 4 images is in"):
        require_images(got, "present", image_files(tmp_path))


def test_all_passes_when_every_image_is_there(tmp_path: Path) -> None:
    names = [*Files().train_val, *Files().test]
    got = with_images(tmp_path, *(f"images/{name}" for name in names))
    kept = require_images(got, "all", image_files(tmp_path))
    pd.testing.assert_frame_equal(kept.table, got.table)
    assert kept.left_out == {"no file": 0}


# ---------------------------------------------------------------- NIH's own files


@pytest.fixture(scope="module")
def whole(real_data: Path) -> Cohort:
    return nih.read(real_data / "nih")


def linked(folder: Path, source: Path, *names: str) -> Path:
    for name in names:
        (folder / name).symlink_to(source / name)
    return folder


def test_whole_of_nih_reads_with_its_published_counts(whole: Cohort) -> None:
    table = whole.table
    assert (len(table), table["patient_id"].nunique()) == (112_120, 30_805)
    assert tuple(table[list(CLASSES)].sum()) == WHOLE
    assert table["sex"].value_counts().to_dict() == {"M": 63_340, "F": 48_780}
    assert table["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    assert (table["age_years"].min(), table["age_years"].max()) == (0, 95)
    assert (table["age_years"] == 0).sum() == 14
    assert (whole.edition, whole.scope, whole.dataset) == ("v2020", "official", "nih")
    assert whole.metrics == {"split/implausible_ages": 0, "split/follow_up_differs_from_name": 24_106}
    assert whole.describe() == "NIH ChestX-ray14 (v2020): 112,120 images of 30,805 patients"


def test_official_lists_are_kept_with_their_published_counts(whole: Cohort) -> None:
    parts = dict(iter(whole.table.groupby("split")))
    assert {split: len(part) for split, part in parts.items()} == {"train_val": 86_524, "test": 25_596}
    assert parts["train_val"]["patient_id"].nunique() == 28_008
    assert parts["test"]["patient_id"].nunique() == 2_797
    assert tuple(parts["test"][list(CLASSES)].sum()) == TEST
    assert tuple(parts["train_val"][list(CLASSES)].sum()) == TRAIN_VAL


def test_a_part_of_nih_is_a_sample(whole: Cohort) -> None:
    part = limited(whole, 30_804)
    assert part.scope == "sample"
    assert part.describe().startswith("A sample of NIH ChestX-ray14 (v2020): ")
    assert limited(whole, 30_805).scope == "official"


def test_first_edition_of_nih_reads_and_differs_as_known(whole: Cohort, real_data: Path, tmp_path: Path) -> None:
    names = (f"{OLD}.gz", "train_val_list.txt", "test_list.txt")
    first = nih.read(linked(tmp_path, real_data / "nih", *names))
    assert (first.edition, first.scope) == ("2017", "official")
    assert first.table["Pneumonia"].sum() == 1_353
    assert first.metrics == {"split/implausible_ages": 16, "split/follow_up_differs_from_name": 0}
    assert first.table["age_years"].isna().sum() == 16
    assert first.table["age_years"].min() == pytest.approx(1 / 365.25)
    assert first.table["image"].equals(whole.table["image"])
    relabelled = (first.table[list(CLASSES)] != whole.table[list(CLASSES)]).any(axis=1)
    assert relabelled.sum() == 181
    assert (first.table["follow_up"] != whole.table["follow_up"]).sum() == 24_106
    assert digest(first.table) != digest(whole.table)


def test_the_edition_is_told_by_the_content_whatever_the_files_name(real_data: Path, tmp_path: Path) -> None:
    linked(tmp_path, real_data / "nih", "train_val_list.txt", "test_list.txt")
    (tmp_path / f"{NEW}.gz").symlink_to(real_data / "nih" / f"{OLD}.gz")
    assert nih.read(tmp_path).edition == "2017"


def test_whole_metadata_with_one_label_changed_is_not_official(real_data: Path, tmp_path: Path) -> None:
    linked(tmp_path, real_data / "nih", "train_val_list.txt", "test_list.txt")
    text = gzip.decompress((real_data / "nih" / f"{NEW}.gz").read_bytes()).decode()
    (tmp_path / NEW).write_text(text.replace("00000001_000.png,Cardiomegaly,", "00000001_000.png,Effusion,"))
    changed = nih.read(tmp_path)
    assert (changed.edition, changed.scope, len(changed.table)) == ("unknown edition", "custom", 112_120)


def test_another_split_under_the_official_file_names_needs_to_be_asked_for(
    whole: Cohort, real_data: Path, tmp_path: Path
) -> None:
    scores = pd.read_csv(real_data / "predictions/jrzech/preds.csv.gz", usecols=["Image Index"])
    images = set(whole.table["image"])
    test = sorted(images & set(scores["Image Index"]))
    assert len(test) > 22_000
    linked(tmp_path, real_data / "nih", f"{NEW}.gz")
    (tmp_path / "test_list.txt").write_text("\n".join(test))
    (tmp_path / "train_val_list.txt").write_text("\n".join(sorted(images - set(test))))
    assert "is not NIH's official list" in refusal(tmp_path, split="official")
    other = nih.read(tmp_path, split="custom")
    assert (len(other.table), other.scope) == (112_120, "custom")


def test_all_boxes_of_nih_are_read_and_lie_on_official_test_images(whole: Cohort, real_data: Path) -> None:
    boxes = nih.read_boxes(real_data / "nih")
    assert boxes is not None
    assert (len(boxes), boxes["image"].nunique()) == (984, 880)
    test = whole.table.loc[whole.table["split"] == "test", "image"]
    assert boxes["image"].isin(test).all()
    assert boxes["finding"].value_counts().to_dict() == {
        "Atelectasis": 180, "Effusion": 153, "Cardiomegaly": 146, "Infiltration": 123, "Pneumonia": 120,
        "Pneumothorax": 98, "Mass": 85, "Nodule": 79,
    }  # fmt: skip
    assert (boxes["x"] + boxes["width"]).max() <= 1024
    assert (boxes["y"] + boxes["height"]).max() <= 1024


def test_shipped_images_of_nih_are_found_and_the_rest_left_out(whole: Cohort) -> None:
    files = image_files(whole.folder)
    kept = require_images(whole, "present", files)
    assert (len(kept.table), kept.table["patient_id"].nunique()) == (200, 187)
    assert kept.table["split"].value_counts().to_dict() == {"test": 109, "train_val": 91}
    assert (kept.left_out, kept.scope) == ({"no file": 111_920}, "sample")
    with pytest.raises(InputError, match="111,920 of 112,120 images are not in"):
        require_images(whole, "all", files)


def test_findings_stand_in_the_published_order() -> None:
    assert CLASSES[:14] == FINDINGS
    assert CLASSES[14:] == (NO_FINDING,) == ("No Finding",)
    assert (len(FINDINGS), FINDINGS[0], FINDINGS[6], FINDINGS[-1]) == (14, "Atelectasis", "Pneumonia", "Hernia")
    assert set(SPELLINGS.values()) < set(CLASSES)
    assert not set(SPELLINGS) & set(CLASSES)
