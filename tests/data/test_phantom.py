"""The phantom cohort: NIH's layout, the same bytes for the same seed, findings where their boxes say."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.data import phantom
from cxr.data.phantom import SHORTCUT_FINDING, deal, draw
from cxr.data.phantom_picture import MARKER_REGION, Visit, paint
from cxr.errors import InputError
from cxr.findings import FINDINGS, NO_FINDING

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
PATIENTS, SIZE = 24, 64


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "deep" / "phantom"
    draw(folder, seed=3, patients=PATIENTS, size=SIZE, workers=2)
    return folder


def rows_of(folder: Path) -> list[list[str]]:
    with (folder / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def names_in(path: Path) -> list[str]:
    text = path.read_text()
    assert not text.endswith("\n")
    return text.split("\n")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def visit_with(*findings: str, marked: bool = False, patient: int = 1) -> Visit:
    return Visit(patient, 0, findings, 50, "M", "PA", True, marked)


def test_table_is_in_nih_format(cohort: Path) -> None:
    assert (cohort / "Data_Entry_2017_v2020.csv").read_text().split("\n")[0] == HEADER
    rows = rows_of(cohort)
    assert {len(row) for row in rows} == {11}
    assert {int(row[3]) for row in rows} == set(range(1, PATIENTS + 1))
    for name, labels, follow_up, patient, age, sex, view, width, height, *spacing in rows:
        assert name == f"{int(patient):08d}_{int(follow_up):03d}.png"
        assert labels == NO_FINDING or set(labels.split("|")) <= set(FINDINGS)
        assert 0 < int(age) < 100
        assert sex in "MF"
        assert view in ("PA", "AP")
        assert (width, height) == (str(SIZE), str(SIZE))
        assert all(float(value) > 0 for value in spacing)


def test_pictures_are_the_tables_8_bit_grey_squares(cohort: Path) -> None:
    names = {row[0] for row in rows_of(cohort)}
    assert {path.name for path in (cohort / "images").iterdir()} == names
    for name in names:
        with Image.open(cohort / "images" / name) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (SIZE, SIZE))
            assert np.asarray(image).std() > 20


def test_lists_are_patient_wise_and_cover_every_image(cohort: Path) -> None:
    train_val, test = names_in(cohort / "train_val_list.txt"), names_in(cohort / "test_list.txt")
    assert sorted(train_val + test) == sorted(row[0] for row in rows_of(cohort))
    assert not {name[:8] for name in train_val} & {name[:8] for name in test}
    assert len({name[:8] for name in test}) == PATIENTS // 4


def test_boxes_lie_in_test_images_that_have_the_finding(cohort: Path) -> None:
    header, *lines = (cohort / "BBox_List_2017.csv").read_text().splitlines()
    assert header == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    test = set(names_in(cohort / "test_list.txt"))
    expected = {(row[0], label) for row in rows_of(cohort) if row[0] in test for label in row[1].split("|")}
    found = set()
    for line in lines:
        name, label, *box = line.split(",")
        x, y, w, h = map(float, box)
        assert min(x, y) >= 0
        assert min(w, h) >= 1
        assert max(x + w, y + h) <= SIZE
        found.add((name, "Infiltration" if label == "Infiltrate" else label))
    assert found == {(name, label) for name, label in expected if label != NO_FINDING}


def test_note_says_that_these_are_drawings(cohort: Path) -> None:
    note = (cohort / "PHANTOM.txt").read_text()
    for part in ("not X-rays", "Seed 3", f"{SIZE} x {SIZE}", SHORTCUT_FINDING):
        assert part in note


def test_same_seed_gives_the_same_bytes_whatever_the_workers(cohort: Path, tmp_path: Path) -> None:
    draw(tmp_path / "again", seed=3, patients=PATIENTS, size=SIZE, workers=1)
    assert contents(tmp_path / "again") == contents(cohort)


def test_another_seed_gives_other_rows_and_pictures() -> None:
    assert deal(0, PATIENTS) != deal(1, PATIENTS)
    assert (paint(visit_with(), 0, SIZE)[0] != paint(visit_with(), 1, SIZE)[0]).mean() > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2, 42])
def test_default_cohort_has_every_finding_in_both_splits(seed: int) -> None:
    visits = deal(seed, 640)
    patients = defaultdict(set)
    for visit in visits:
        for finding in visit.findings:
            patients[finding, visit.test].add(visit.patient)
    assert min(len(patients[finding, True]) for finding in FINDINGS) >= 12
    assert min(len(patients[finding, False]) for finding in FINDINGS) >= 25
    assert 0.35 <= np.mean([not visit.findings for visit in visits]) <= 0.45
    assert 2.2 <= len(visits) / 640 <= 2.6
    assert max(visit.follow_up for visit in visits) <= 7
    total = {finding: len(patients[finding, True] | patients[finding, False]) for finding in FINDINGS}
    assert min(total, key=total.__getitem__) in ("Hernia", "Pneumonia", "Fibrosis", "Edema")
    assert max(total, key=total.__getitem__) == "Infiltration"


def test_marker_goes_with_the_shortcut_finding_in_both_splits() -> None:
    visits = [visit for seed in range(4) for visit in deal(seed, 640)]
    for test in (True, False):
        has = [v.marked for v in visits if v.test == test and SHORTCUT_FINDING in v.findings]
        has_not = [v.marked for v in visits if v.test == test and SHORTCUT_FINDING not in v.findings]
        assert np.mean(has) == pytest.approx(0.90, abs=0.06)
        assert np.mean(has_not) == pytest.approx(0.08, abs=0.02)


def test_small_cohorts_hold_many_findings_and_test_patients_early() -> None:
    assert {finding for visit in deal(0, 24) for finding in visit.findings} == set(FINDINGS)
    for seed in range(10):
        assert len({visit.patient for visit in deal(seed, 640) if visit.test and visit.patient <= 8}) >= 2
    assert {visit.test for visit in deal(0, 4)} == {True, False}


def test_findings_mostly_stay_with_the_patient() -> None:
    pairs = [
        (a, b)
        for a, b in zip(deal(0, 640), deal(0, 640)[1:], strict=False)
        if a.patient == b.patient and a.findings and b.findings
    ]
    assert np.mean([bool(set(a.findings) & set(b.findings)) for a, b in pairs]) > 0.8


@pytest.mark.parametrize("patient", [1, 2, 3])
@pytest.mark.parametrize("finding", FINDINGS)
def test_finding_changes_the_picture_in_its_box(finding: str, patient: int) -> None:
    without, no_boxes = paint(visit_with(patient=patient), 0, 128)
    drawn, boxes = paint(visit_with(finding, patient=patient), 0, 128)
    x, y, w, h = (int(value) for value in boxes[finding])
    inside = np.zeros((128, 128), dtype=bool)
    inside[y : y + h, x : x + w] = True
    change = np.abs(drawn.astype(float) - without)
    assert no_boxes == {}
    assert (change[inside] >= 1).mean() > 0.05
    assert change[inside].mean() > 3 * change[~inside].mean()


def test_marker_is_drawn_in_its_region_and_nowhere_else() -> None:
    plain, marked = paint(visit_with(), 0, 128)[0], paint(visit_with(marked=True), 0, 128)[0]
    left, top, width, height = (round(part * 128) for part in MARKER_REGION)
    region = np.zeros((128, 128), dtype=bool)
    region[top : top + height, left : left + width] = True
    assert np.array_equal(plain[~region], marked[~region])
    assert (marked[region] >= 228).mean() > 0.2
    assert (plain[region] >= 228).mean() < 0.01


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_interrupted_drawing_leaves_nothing(
    stop: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise stop

    monkeypatch.setattr(phantom, "_note", fail)  # the last file of all
    with pytest.raises(stop):
        draw(tmp_path / "phantom", patients=4, size=32)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_appeared_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def appear(*_: object) -> str:
        (tmp_path / "phantom").mkdir()
        (tmp_path / "phantom" / "theirs").touch()
        return ""

    monkeypatch.setattr(phantom, "_note", appear)
    draw(tmp_path / "phantom", patients=4, size=32)
    assert [path.name for path in tmp_path.rglob("*")] == ["phantom", "theirs"]


@pytest.mark.parametrize(("name", "value"), [("patients", 3), ("size", 31), ("seed", -1), ("workers", 0)])
def test_bad_arguments_are_named(name: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}, expected"):
        draw(tmp_path / "phantom", **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        draw(tmp_path)
