"""The report as a page: what is in it, what is escaped, what is said where something is missing."""

import io
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pandas as pd
import pytest
from PIL import Image

from cxr.findings import FINDINGS
from cxr.published import AHMED_2025_AUROC
from cxr.report import Record, Records, contents, render

VOID = {"meta", "link", "img", "br", "line", "circle", "polyline"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Tags with their attributes; fails where an element is closed that is not the innermost open one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def png(width: int = 40) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 20), "red").save(out, "PNG")
    return out.getvalue()


def evaluated(**tags: str) -> Record:
    auroc = pd.DataFrame({
        "finding": FINDINGS, "auroc": [0.70 + place / 100 for place in range(14)], "auroc_low": 0.49,
        "auroc_high": 0.9, "average_precision": 0.25, "prevalence": 0.1, "positives": 40, "positive_patients": 12,
        "in_macro": True, "few": [True] + [False] * 13,
    })  # fmt: skip
    macros = pd.DataFrame({"finding": ["macro_14"], "auroc": [0.765], "auroc_low": [0.7], "auroc_high": [0.8]})
    own = {"dataset": "phantom", "scope": "phantom", "scope_line": "Drawn phantom: says nothing.",
           "headline": "test macro AUROC 0.7650 (95 % 0.7 to 0.8), mean of all 14. Drawn."} | tags  # fmt: skip
    return Record(
        stage="evaluate", run_id="e" * 32, tags=own, tables={"table3_auroc": auroc, "macro_auroc": macros},
        pictures={"auroc.png": png(), "roc.png": png(4000)}, started="2026-01-01 00:00 UTC",
    )  # fmt: skip


def trained() -> Record:
    return Record(
        stage="train", run_id="d" * 32, tags={"dataset": "phantom", "arch": "resnet18", "scope": "phantom"},
        params={"config.epochs": "2", "engine.device": "cpu"},
        history={"train/loss": [(1, 0.5), (2, 0.25)], "val/loss": [(1, 0.6), (2, 0.4)]},
    )  # fmt: skip


@pytest.fixture
def found() -> Records:
    """A split without tables, a training, an evaluation without the rest: an old or broken set of runs."""
    return Records(split=Record(stage="split", run_id="c" * 32), train=trained(), evaluate=evaluated())


def page(found: Records) -> Page:
    return Page(render(contents(found)))


def test_numbers_stand_with_interval_and_the_run_they_come_from(found: Records) -> None:
    shown = page(found)
    assert "0.765 (0.700 to 0.800), mean of all 14" in shown.text
    assert "0.830 (0.490 to 0.900)" in shown.text  # Hernia
    assert "Few patients : Atelectasis." in shown.text
    ids = {attributes.get("id") for _, attributes in shown.tags}
    links = [attributes["href"] for attributes in shown.all("a")]
    assert links
    assert {str(link)[1:] for link in links if str(link).startswith("#")} <= ids
    assert "#run-" + "e" * 32 in links
    assert shown.text.count("e" * 32) >= 2  # at the section and in the table of runs


def test_what_is_missing_is_named_and_why(found: Records) -> None:
    shown = page(found)
    for words in (
        "Not here: Attention maps: there is no finished explain run",
        "Not here: Operating points: there are no val",
        "Not here: Leakage between the parts: this split run left no leakage.csv",
        "Not here: Subgroups: this evaluate run left no subgroups.csv",
        "none: this evaluate run has no register run",
        "Not here: Several seeds:", "Not here: What was not evaluated:",
    ):  # fmt: skip
        assert words in shown.text, words


def test_stress_off_is_said(found: Records) -> None:
    said = "Drawn.\n\nStress tests were switched off (stress=off).\n\n**Edema**: 3 images."
    off = {"config.stress": "off"}
    run = Record(stage="explain", run_id="f" * 32, params=off, texts={"statement.md": said})
    shown = page(replace(found, explain=run))
    assert "Not here: Stress tests: they were switched off (stress=off)." in shown.text
    assert "Not here: Masking, the shortcut alarm: stress tests were switched off" in shown.text
    assert "Edema : 3 images." in shown.text


def test_nothing_from_a_run_becomes_markup(found: Records) -> None:
    hostile = replace(
        evaluated(headline=HOSTILE, scope_line=HOSTILE, dataset=HOSTILE), name=HOSTILE, started=HOSTILE,
        tables={"table3_auroc": pd.DataFrame({"finding": [HOSTILE], "auroc": [0.5], "note": [f"**{HOSTILE}**"]}),
                "not_evaluated": pd.DataFrame({"not evaluated": [HOSTILE], "why": [f"`{HOSTILE}`"]})},
    )  # fmt: skip
    train = replace(trained(), tags={"pretrained": HOSTILE, "arch": HOSTILE}, params={"config.recipe": HOSTILE})
    other = Record(
        stage="explain", run_id="f" * 32, texts={"statement.md": f"a\n\n**{HOSTILE}**\n\n**Edema**: {HOSTILE}"}
    )
    shown = page(
        replace(found, train=train, evaluate=hostile, explain=other, version=HOSTILE, requirements=HOSTILE)
    )
    assert shown.all("script") == []
    assert all("onerror" not in attributes for _, attributes in shown.tags)
    assert "<script>alert(1)</script>" in shown.text  # as words


def test_the_page_loads_nothing_and_every_picture_says_what_it_shows(found: Records) -> None:
    shown = page(replace(found, evaluate=evaluated(dataset="nih")))
    for tag, attributes in shown.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = str(attributes.get(name) or "#")
            assert value.startswith(("#", "data:")) or (tag, name) == ("a", "href"), value
    pictures = shown.all("img")
    assert len(pictures) == 2
    assert "14 classes from 0.700 (Atelectasis) to 0.830 (Hernia)" in str(pictures[0]["alt"])
    assert all(str(one["src"]).startswith("data:image/png;base64,") for one in pictures)
    assert pictures[1]["width"] == "1800"  # 4,000 pixels would only weigh
    (drawn,) = shown.all("svg")
    assert "training from 0.5 in epoch 1 to 0.25 in epoch 2" in str(drawn["aria-label"])
    (document,) = shown.all("html")
    assert document["lang"] == "en"
    assert all(one.get("scope") in ("row", "col") for one in shown.all("th"))
    assert len(shown.all("caption")) == len(shown.all("table"))


def test_headings_go_down_one_level_at_a_time(found: Records) -> None:
    levels = [int(tag[1]) for tag, _ in page(found).tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_drawings_are_announced_and_xrays_are_not(found: Records) -> None:
    assert "These are drawings, not X-rays." in page(found).text
    real = page(replace(found, evaluate=evaluated(dataset="nih", scope="sample")))
    assert "These are drawings" not in real.text
    assert "NIH Clinical Center" in real.text
    assert "Not a medical device." in real.text


def test_the_paper_stands_beside_the_official_split_only(found: Records) -> None:
    table = evaluated().table("table3_auroc").assign(paper=lambda rows: rows["finding"].map(AHMED_2025_AUROC))
    official = replace(evaluated(dataset="nih", scope="official"), tables={"table3_auroc": table})
    train = replace(trained(), tags={"dataset": "nih", "scope": "official"})
    shown = page(replace(found, evaluate=official, train=train))
    assert "Its 14 rows average 0.746; the paper prints 0.744" in shown.text
    assert "0.852" in shown.text  # the paper's Cardiomegaly
    assert "No comparison with figures published" not in shown.text
    assert "The paper's AUROC is not shown beside these" in page(found).text


def test_other_data_than_the_trainings_is_said(found: Records) -> None:
    people = pd.DataFrame({"measure": ["images"], "train": [78.0], "test": [float("nan")]})
    home = Record(stage="split", run_id="b" * 32, tables={"table1_demographics": people})
    shown = page(replace(found, home=home))
    assert "The model was trained on other data" in shown.text
    assert "The training's own data" in shown.text
    assert "b" * 32 in shown.text


def test_an_alarm_is_seen_at_the_head_and_no_alarm_is_not(found: Records) -> None:
    for said, seen in (
        ("Pneumothorax", True),
        ("no shortcut alarm", False),
        ("too few patients for an alarm", False),
    ):
        run = Record(stage="explain", run_id="f" * 32, tags={"shortcut_alarm": said})
        shown = page(replace(found, explain=run))
        assert said in shown.text
        assert any(one.get("class") == "alarmed" for one in shown.all("div")) == seen
