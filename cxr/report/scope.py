"""Head and scope: what the report is of, what may be inferred from what was run, and what may not."""

from dataclasses import dataclass

import pandas as pd

from cxr.report import tabled
from cxr.report.attention import DOES_NOT_FOLLOW, paragraphs
from cxr.report.blocks import Block, Missing, Points, Section, Table, Text, source
from cxr.report.records import Records
from cxr.report.scores import macro
from cxr.report.words import columns, flagged, interval, listed, spoken

NIH_PAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
_CITATION = (
    'X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. Summers, "ChestX-ray8: Hospital-scale Chest X-ray '
    "Database and "
    'Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases", IEEE CVPR '
    "2017, pp. "
    "3462-3471."
)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a reader sees first."""

    title: str
    scope: str
    banner: str  # empty where these are X-rays
    facts: list[tuple[str, str]]
    alarms: frozenset[str] = frozenset()  # facts that shall be seen


def head(found: Records) -> Head:
    """Model, scope, macro AUROC, version and decision, date."""
    run, train = found.evaluate, found.train
    config = train.config
    arch, size = (train.tags.get(key) or config.get(key, "?") for key in ("arch", "image_size"))
    data = run.tags.get("dataset", "?")
    value = macro(run)
    headline, alarms = run.tags.get("headline", ""), frozenset[str]()
    over = next((part for part in headline.split(". ")[0].split(", ") if part.startswith("mean of")), "")
    facts = [("Model", f"{arch}, {size} px, recipe {config.get('recipe', '?')}, trained on "
                       f"{train.tags.get('dataset', '?')}"),
             ("Macro AUROC on test (95 %)", f"{value}{', ' + over if over else ''}" if value else
              "not defined: no finding has enough patients")]  # fmt: skip
    facts.append(("Registered as", found.version or "not registered"))
    decision = found.register.tags.get("decision", "") if found.register else ""
    facts.append(("Decision at registration", decision or "none: this evaluate run has no register run"))
    if found.explain and (alarm := found.explain.tags.get("shortcut_alarm")):
        facts.append(("Shortcut alarm", spoken(alarm.replace("|", ", "))))
        if not alarm.startswith(("no ", "too few")):
            alarms = frozenset({"Shortcut alarm"})
    facts += [("Measured", run.started), ("Report made", found.reported)]
    banner = (
        "These are drawings, not X-rays. Nothing here says anything about real X-rays, patients or diseases."
        if found.is_phantom
        else ""
    )
    scope = run.tags.get("scope_line") or f"Data: {data}."
    return Head(title=f"{arch} on {data}: report", scope=scope, banner=banner, facts=facts, alarms=alarms)


def scope(found: Records) -> Section:
    """Valid and invalid inferences, made of what was measured and of what was not."""
    parts = [
        Section(key="valid", title="What follows from what was run", blocks=[_valid(found)]),
        Section(key="invalid", title="What does not follow", blocks=_invalid(found)),
    ]
    blocks: list[Block] = [Text(text="**Not a medical device.** No reader, patient or clinic was involved; "
                                     "nothing here "
                                "is for diagnosis.")]  # fmt: skip
    if found.is_nih:
        blocks.append(Text(text=f"The data was provided by the NIH Clinical Center ({NIH_PAGE}). {_CITATION}"))
    return Section(key="scope", title="Scope", blocks=blocks, parts=parts)


def _valid(found: Records) -> Block:
    run = found.evaluate
    value, said = macro(run), []
    where = "these drawings" if found.is_phantom else "these test images"
    scope_line = run.tags.get("scope_line", "").rstrip(".")
    if value:
        said.append(f"On {where} the macro AUROC is {value}. Other patients of the same kind would give a "
                    f"value like "
                    f"it; the interval says how like. ({scope_line}.)")  # fmt: skip
    table = run.table("table3_auroc")
    if columns(table, ["finding", "auroc", "auroc_low", "auroc_high"]):
        known = table[table["auroc_low"].notna()]
        above = known[known["auroc_low"] > 0.5]["finding"]
        open_ = known[(known["auroc_low"] <= 0.5) & (known["auroc_high"] >= 0.5)]["finding"]
        said.append(f"Ranked better than by chance, by an interval that excludes 0.5: {listed(above)}.")
        if len(open_):
            said.append(f"Not shown to be ranked better than by chance: {listed(open_)}.")
    said += _added(found)
    plain = run.table("calibration")
    if columns(plain, ["mean_probability", "prevalence"]) and (line := _judged(run.paragraphs)):
        said.append(line)
    if found.seeds and (own := found.seeds.table("seeds")) is not None and columns(own, ["finding", "sd"]):
        rows = own[own["finding"] == "macro_14"].to_dict("records")
        if rows and not pd.isna(rows[0]["sd"]):
            said.append(f"Between {rows[0]['seeds']:.0f} seeds the macro AUROC has an SD of {rows[0]['sd']:.3f}.")
    if found.explain:
        masked = found.explain.table("masking")
        if columns(masked, ["finding", "alarm"]):
            alarms = masked[masked["alarm"].map(flagged)]["finding"].unique()
            said.append(
                f"{listed(alarms)}: ranked in part by what lies outside the chest. Its AUROC is a warning, "
                f"not a success."
                if len(alarms)
                else "No fall of AUROC above 0.02 was shown when the regions named above were masked."
            )
    return Points(head="From the tables above, and only of what they were measured on:", points=said)


def _added(found: Records) -> list[str]:
    table = found.evaluate.table("metadata_only")
    if not columns(table, ["finding", "difference", "difference_low", "difference_high"]):
        return []
    rows = table[table["finding"] == "macro_14"].to_dict("records")
    if not rows or pd.isna(rows[0]["difference"]):
        return []
    row = rows[0]
    more = interval(row["difference"], row["difference_low"], row["difference_high"])
    return (
        [f"The picture adds to what age, sex and view say: the macro AUROC is higher by {more}."]
        if row["difference_low"] > 0
        else [f"It is not shown that the picture adds to age, sex and view: {more}."]
    )


def _judged(parts: list[str]) -> str:
    line = next((part.splitlines()[0] for part in parts if part.startswith("**Probabilities as")), "")
    return line.replace("**", "") + "." if line else ""


def _invalid(found: Records) -> list[Block]:
    table = found.evaluate.table("not_evaluated")
    blocks: list[Block] = []
    answered = ({"where the model looks"} if found.explain else set()) | (
        {"other trainings"} if found.seeds else set()
    )
    if columns(table, ["not evaluated", "why"]):
        rows = table[~table["not evaluated"].isin(answered)]
        blocks.append(tabled.shown(
            found.evaluate, "not_evaluated",
            {"not evaluated": ("not evaluated", tabled.words), "why": ("why", str)},
            rows=rows, caption="Not evaluated, so nothing can be said of it",
        ))  # fmt: skip
    else:
        blocks.append(Missing(what="What was not evaluated", why="this evaluate run left no not_evaluated.csv"))
    points = []
    if found.is_phantom:
        points.append("Nothing follows for X-rays: these are drawings.")
    elif found.is_nih:
        points.append("NIH's labels were mined from reports by text processing: an AUROC is of those "
                      "labels, not of the "
                      "disease.")  # fmt: skip
    if not found.official:
        points.append("No comparison with figures published on NIH's official test list.")
    if "out_of_distribution" not in found.evaluate.tables:
        points.append("Nothing follows for other hospitals, devices or label sets: none was measured here.")
    points.append("A higher AUROC than another model's is not a better model unless the difference was "
                  "measured on the "
                  "same patients (`compare`).")  # fmt: skip
    points.append(
        "Subgroups are not adjusted for one another: a difference between them is not caused by what names them."
    )
    blocks.append(Points(head="Also:", points=points))
    if found.explain:
        blocks += [Text(text=part, source=source(found.explain, "statement.md"))
                   for part in paragraphs(found.explain) if part.startswith(DOES_NOT_FOLLOW)]  # fmt: skip
    return blocks


def runs(found: Records) -> Table:
    """All runs with their whole ids, and where the tracking server shows them."""
    rows = [
        [record.stage, record.name, record.run_id, record.experiment_id, record.started,
         _commit(record.tags.get("git_commit", "unknown"))]
        for record in found.all
    ]  # fmt: skip
    return Table(
        caption="The runs whose numbers these are",
        columns=["stage", "name", "run id", "experiment", "started", "git commit"],
        rows=rows, source=source(found.evaluate), anchors=[f"run-{record.run_id}" for record in found.all],
        note="On the tracking server a run is at #/experiments/EXPERIMENT/runs/RUN after its address, such as "
        "http://localhost:5000/ with `mlflow ui`.",
    )  # fmt: skip


def _commit(name: str) -> str:
    """The commit's first digits; the protocol has it whole."""
    return name[:12] + ("-dirty" if name.endswith("-dirty") else "")
