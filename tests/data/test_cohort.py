"""The cohort: what leaves it is counted, and what its numbers are worth is said."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.data.cohort import COLUMNS, SCOPES, Cohort, limited, ordered, patient_digest
from cxr.findings import CLASSES


def cohort(scope: str = "official", *, patients: tuple[object, ...] = (1, 1, 2, 3)) -> Cohort:
    count = len(patients)
    table = pd.DataFrame({"image": [f"{at}.png" for at in range(count)], "patient_id": patients})
    table = table.assign(
        age_years=50.0, sex="M", view="PA", follow_up=0, split="test", **dict.fromkeys(CLASSES, 0)
    )
    flags = pd.DataFrame({"implausible_ages": [True] + [False] * (count - 1)})
    return Cohort(
        table=ordered(table), folder=Path("/x"), dataset="nih", edition="v2020", scope=scope, flags=flags
    )


def test_rows_that_leave_are_counted_under_their_reason_with_their_flags() -> None:
    whole = cohort()
    part = whole.keep(whole.table["patient_id"] != 1, "no file")
    assert part.table["image"].tolist() == ["2.png", "3.png"]
    assert part.table.index.tolist() == part.flags.index.tolist() == [0, 1]
    assert part.metrics == {"split/left_out/no_file": 2, "split/implausible_ages": 0}
    again = part.keep(part.table["patient_id"] != 2, "no file")
    assert again.left_out == {"no file": 3}
    assert whole.metrics == {"split/implausible_ages": 1}  # the given one stays as it was


@pytest.mark.parametrize("scope", SCOPES)
def test_part_of_the_official_set_is_a_sample_and_others_stay_what_they_are(scope: str) -> None:
    whole = cohort(scope)
    assert whole.keep(whole.table["patient_id"] > 0).scope == scope
    assert whole.keep(whole.table["patient_id"] > 1).scope == ("sample" if scope == "official" else scope)


def test_limit_takes_whole_patients_by_number_or_name() -> None:
    assert limited(cohort(patients=(10, 9, 9, 1)), 2).table["patient_id"].tolist() == [9, 9, 1]
    assert limited(cohort(patients=("p2", "p1", "p1", "p3")), 1).table["patient_id"].tolist() == ["p1", "p1"]
    assert limited(cohort(), None).table.shape[0] == 4


def test_each_scope_is_said_in_its_line() -> None:
    lines = {scope: cohort(scope).describe() for scope in SCOPES}
    assert len(set(lines.values())) == len(SCOPES)
    assert "not X-rays" in lines["phantom"]
    assert lines["official"] == "NIH ChestX-ray14 (v2020): 4 images of 3 patients"
    assert lines["random-patient"].startswith("Split at random: a sample of NIH")
    assert all(word in lines[scope] for scope, word in (("sample", "A sample"), ("random-patient", "at random")))


def test_order_of_rows_and_columns_does_not_depend_on_the_source() -> None:
    table = cohort().table
    mixed = table.sample(frac=1, random_state=3)[list(table.columns)[::-1]].assign(more=np.nan)
    pd.testing.assert_frame_equal(ordered(mixed), table)
    assert list(ordered(mixed).columns) == list(COLUMNS)


def test_patient_digest_is_sha256_of_set_and_patient() -> None:
    assert patient_digest("nih", 13) == hashlib.sha256(b"nih:13").hexdigest()[:16]
    assert patient_digest("nih", np.int64(13)) == patient_digest("nih", "13")
    assert patient_digest("padchest", 13) != patient_digest("nih", 13)
