"""The model card: what it must say of which data, what it must not, and that PostgreSQL takes it."""

from dataclasses import replace

import pytest
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

from cxr.card import MAX_LENGTH, Card, Row, text
from cxr.findings import CLASSES, FINDINGS

DIGEST = "0123456789abcdef" * 2
NIH = Card(
    name="cxr-resnet50",
    version="3",
    dataset="nih",
    edition="v2020",
    arch="ResNet-50",
    image_size="224",
    classes=CLASSES,
    training="Recipe paper from random weights, seed 123; epoch 9 chosen by `val/auroc/macro_14` on validation.",
    headline="test macro AUROC 0.7512 (95 % 0.7401 to 0.7622), mean of all 14. NIH ChestX-ray14, official test "
    "list (25,596 test images of 2,797 patients).",
    validation="Validation macro AUROC 0.8012 (95 % 0.7901 to 0.8122; it also chose the epoch).",
    rows=tuple(
        Row(finding=name, auroc=0.6 + 0.02 * place, low=0.55, high=0.93, few=name == "Hernia")
        for place, name in enumerate(CLASSES)
    ),
    thresholds="Tag `thresholds`.",
    calibration="The sigmoid of the logits. Risks are misstated on test for 9 of 14 classes.",
    maps="Masking: shortcut alarm for Pneumothorax.",
    not_evaluated=(("race or ethnicity", "not in the metadata"), ("use in a clinic", "no reader was involved")),
    decision="version 3 is champion: its validation macro_14 0.8012 differs by +0.0100 (95 % of the patient "
    "bootstrap: +0.0020 to +0.0180) from 0.7912 of champion version 2",
    decided="2026-11-26",
    runs=tuple((stage, DIGEST) for stage in ("split", "train", "evaluate", "explain")),
    git_commit=DIGEST + "01234567",
)


def test_it_begins_with_what_it_is_and_its_number_with_interval_and_scope() -> None:
    first, second, third = text(NIH).split("\n\n")[:3]
    assert first.startswith("ResNet-50, 224 px: an image in, 15 probabilities out")
    assert second == f"**T{NIH.headline[1:]}**"
    assert third.startswith("**Use.** Research")
    assert "**Not a medical device**: not for diagnosis, triage or any other decision about a patient" in third


def test_it_says_what_a_stranger_asks_next() -> None:
    written = text(NIH)
    for said in (NIH.training, NIH.validation, NIH.thresholds, NIH.calibration, NIH.maps, NIH.git_commit):
        assert said in written
    assert "**At registration (2026-11-26).** Version 3 is champion: its validation macro_14" in written
    assert "+0.0020 to +0.0180" in written
    assert "- race or ethnicity: not in the metadata\n- use in a clinic: no reader was involved" in written
    assert 'mlflow.pyfunc.load_model("models:/cxr-resnet50/3")' in written
    assert f"evaluate `{DIGEST}`, explain `{DIGEST}`" in written


def test_nihs_data_carries_its_acknowledgement_and_no_others_does() -> None:
    assert "NIH Clinical Center (https://nihcc.app.box.com/v/ChestXray-NIHCC)" in text(NIH)
    assert "IEEE CVPR 2017, pp. 3462-3471" in text(NIH)
    assert "**Data.** padchest (one hospital), under its owners' terms of use." in text(
        replace(NIH, dataset="padchest", edition="one hospital")
    )
    for dataset in ("phantom", "padchest"):
        assert "NIH Clinical Center" not in text(replace(NIH, dataset=dataset))


def test_a_phantom_is_never_taken_for_x_rays() -> None:
    written = text(replace(NIH, dataset="phantom"))
    assert "**Data.** A drawn phantom, not X-rays: nothing here says anything about real chests." in written
    assert "lesions drawn on phantoms" in written
    assert "frontal chest X-rays" not in written


def test_the_table_is_sorted_and_flags_few_patients() -> None:
    rows = [
        line for line in text(NIH).splitlines() if line.startswith("| ") and line[2:8] not in ("findin", "--- | ")
    ]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(reversed(CLASSES))
    assert [row for row in rows if row.endswith("| yes |")] == ["| Hernia | 0.860 | 0.550 to 0.930 | yes |"]


def test_a_row_without_an_interval_says_so() -> None:
    nan = float("nan")
    rows = (Row(finding="Hernia", auroc=0.5, low=nan, high=nan, few=True),)
    assert "| Hernia | 0.500 | none | yes |" in text(replace(NIH, rows=rows))
    assert "No finding has enough patients for a number." in text(replace(NIH, rows=()))


def test_outputs_that_were_not_learned_are_named() -> None:
    assert "Not learned" not in text(NIH)
    some = tuple(name for name in CLASSES if name not in ("Mass", "Hernia"))
    assert "**Not learned, so their outputs mean nothing:** Mass, Hernia." in text(replace(NIH, classes=some))


def test_the_limit_is_the_databases() -> None:
    assert SqlModelVersion.__table__.c.description.type.length == MAX_LENGTH


@pytest.mark.parametrize("times", [1, 8, 40, 400, 40_000])
def test_whatever_it_is_given_it_fits_and_keeps_what_matters(times: int) -> None:
    absent = tuple((f"subgroups by {name} {place}", "unknown for every image " * 3)
                   for place in range(times) for name in FINDINGS[:2])  # fmt: skip
    long = replace(
        NIH, not_evaluated=absent, decision=f"{NIH.decision} {'because ' * times}", training="lr=0.1, " * times,
        dataset="a set of one's own",
    )  # fmt: skip
    written = text(long)
    assert len(written) <= MAX_LENGTH
    for said in (
        "Not a medical device",
        "0.7401 to 0.7622",
        "is champion",
        "load_model",
        "| Hernia | 0.860",
        DIGEST,
    ):
        assert said in written


def test_reasons_go_before_anything_else_does() -> None:
    absent = tuple((f"thing {place}", "a long reason " * 10) for place in range(30))
    written = text(replace(NIH, not_evaluated=absent))
    assert "thing 29: `not_evaluated.csv` of the evaluate run says why." in written
    assert "a long reason" not in written
    assert "thing 0" in written


def test_values_without_end_are_cut() -> None:
    assert len(text(replace(NIH, edition="x" * 9_000))) == MAX_LENGTH
