"""Section on Grad-CAM: the maps, boxes, shortcuts and stress tests, and what was said of each finding."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from cxr.findings import FINDINGS
from cxr.report import tabled
from cxr.report.blocks import Block, Missing, Points, Section, Text, source
from cxr.report.picture import picture
from cxr.report.records import Record, Records
from cxr.report.words import columns, count, flagged, listed, percent, spoken

DOES_NOT_FOLLOW = "**What does not follow.**"
_METHODS = {"gradcam": "Grad-CAM", "shuffled": "the map shuffled", "centre": "the image's centre",
            "class_mean": "other patients' mean map"}  # fmt: skip


def attention(found: Records) -> Section:
    """Everything that the explain run left, or why there is nothing."""
    run = found.explain
    if not run:
        return Section(key="maps", title="Attention maps", blocks=[
            Missing(what="Attention maps", why="there is no finished explain run of this evaluate "
                                               "run")])  # fmt: skip
    layer = run.config.get("layer", "the mapped layer")
    method = run.config.get("method", "Grad-CAM")
    head: list[Block] = [Text(
        text=f"{method}, at `{layer}`. A map shows where the network's evidence for a finding lies, not that the "
        "evidence is sound.", source=source(run),
    )]  # fmt: skip
    parts = [
        Section(key="averages", title="Class averages, outcomes, single images", blocks=_maps(found, run)),
        Section(key="boxes", title="Localisation against boxes", blocks=_boxes(run)),
        Section(key="shortcuts", title="Shortcuts", blocks=_shortcuts(run)),
        Section(key="stress", title="Stress tests of the maps", blocks=_stress(run)),
        Section(key="by-finding", title="Finding by finding", blocks=_statements(run)),
    ]
    return Section(
        key="maps", title="Attention maps, and what they are worth", blocks=head, parts=parts, runs=[run]
    )


def paragraphs(run: Record) -> list[str]:
    """What the explain run said, paragraph by paragraph; from its description in runs without statement.md."""
    text = run.texts.get("statement.md", "")
    return [part.strip() for part in text.split("\n\n") if part.strip()] if text else run.paragraphs


def _of_findings(run: Record) -> list[str]:
    heads = tuple(f"**{spoken(name)}**:" for name in FINDINGS)
    return [part for part in paragraphs(run) if part.startswith(heads)]


def _maps(found: Records, run: Record) -> list[Block]:
    table = run.table("class_maps")
    names = list(table["finding"]) if columns(table, ["finding"]) else []
    top, lowest = _extremes(found, names)
    told = "; ".join(_counted(row) for row in table.to_dict("records")) if names else "none"
    blocks = [
        picture(run, "gradcam_top3.png", caption="Class averages, three highest AUROC (the paper's Figure 2)",
                alt=f"Mean image, mean map and its standard deviation for {_with(table, top)}."),
        picture(run, "gradcam_lowest3.png", caption="Class averages, three lowest AUROC (the paper's Figure 3)",
                alt=f"Mean image, mean map and its standard deviation for {_with(table, lowest)}."),
        picture(run, "gradcam_all.png", caption="Class averages, all findings",
                alt=f"Mean map over the mean image of each finding. Positives mapped: {told}."),
        picture(run, "gradcam_outcomes.png", caption="Found, missed and falsely alarmed apart",
                alt=f"Mean maps of true positives, false negatives and false positives. {_outcomes(run)}"),
        picture(run, "gradcam_top3_images.png", caption="Single images by rule, three highest AUROC",
                alt=f"Images with the highest, median and lowest score, with their maps, of {listed(top)}."),
        picture(run, "gradcam_lowest3_images.png", caption="Single images by rule, three lowest AUROC",
                alt=f"Images with the highest, median and lowest score, with their maps, of {listed(lowest)}."),
    ]  # fmt: skip
    there: list[Block] = [block for block in blocks if block]
    return there or [Missing(what="Maps", why="this explain run left no pictures: no test image has a finding")]


def _extremes(found: Records, names: list[str]) -> tuple[list[str], list[str]]:
    """Which findings the pictures of the highest and lowest AUROC show, by the rule that chose them."""
    table = found.evaluate.table("table3_auroc")
    if not columns(table, ["finding", "auroc", "in_macro"]):
        return [], []
    own = table[table["finding"].isin(names)].sort_values("auroc", ascending=False, kind="stable")
    carried = own[own["in_macro"].map(flagged) & own["auroc"].notna()]
    ranked = list((carried if len(carried) >= 3 else own)["finding"])
    return ranked[:3], ranked[-3:]


def _with(table: pd.DataFrame, names: list[str]) -> str:
    rows = {row["finding"]: row for row in table.to_dict("records")} if len(table) else {}
    return "; ".join(_counted(rows[name]) for name in names if name in rows) or "the findings named in it"


def _counted(row: Mapping[Hashable, Any]) -> str:
    images, patients = int(float(str(row["images"]))), int(float(str(row["patients"])))
    return f"{spoken(row['finding'])} ({count(images, 'image')} of {count(patients, 'patient')})"


def _outcomes(run: Record) -> str:
    table = run.table("outcomes")
    if not columns(table, ["outcome", "images"]):
        return ""
    sums = table.groupby("outcome", sort=False)["images"].sum()
    return "Over all findings: " + ", ".join(f"{value:,.0f} {name} maps" for name, value in sums.items()) + "."


def _boxes(run: Record) -> list[Block]:
    table = run.table("localisation")
    if not columns(table, ["finding", "stratum", "method", "measure", "value"]):
        return [Missing(what="Localisation", why="no boxes come with these images, so where the maps point "
                                                 "was not "
                        "measured")]  # fmt: skip
    whole = table[table["stratum"] == "all"]
    hits = whole[whole["measure"] == "pointing"]
    by = {(row["finding"], row["method"]): row["value"] for row in hits.to_dict("records")}
    own = {row["finding"]: row for row in hits[hits["method"] == "gradcam"].to_dict("records")}
    rows = pd.DataFrame([
        {"finding": name, "images": own[name]["images"],
         **{method: percent(by.get((name, method))) for method in _METHODS},
         "gradcam": _ends(own[name]), "iou": _value(whole, name, "iou_0.1"),
         "iobb": _value(whole, name, "iobb_0.1"),
         "energy": _value(whole, name, "energy")}
        for name in FINDINGS if name in own
    ])  # fmt: skip
    block = tabled.shown(
        run, "localisation",
        {"finding": ("finding", spoken), "images": ("boxed images", tabled.whole),
         "gradcam": ("map's maximum in the box (95 %)", str),
         **{method: (f"baseline: {words}", str) for method, words in _METHODS.items() if method != "gradcam"},
         "energy": ("share of the map in the box", str), "iou": ("found, IoU 0.1", str),
         "iobb": ("found, IoBB 0.1", str)},
        rows=rows, caption="Where the maps point: share of boxed images, beside three baselines",
        note=f"All sizes of boxes. The artifact has {count(len(table), 'row')}: other measures and sizes; "
        "localisation_differences.csv has the differences to each baseline.",
    )  # fmt: skip
    better = _better(run)
    pointed = "; ".join(f"{spoken(row['finding'])} {row['gradcam']}" for row in rows.to_dict("records"))
    drawn = [
        picture(run, "pointing.png", caption="The pointing game, beside its baselines",
                alt=f"Share of boxed images whose map has its maximum in the box: {pointed}."),
        picture(run, "localisation.png", caption="Share of boxes found, by overlap",
                alt="Share of boxes that a region of the map overlaps, by threshold. At IoU 0.1: "
                + "; ".join(f"{spoken(row['finding'])} {row['iou']}" for row in rows.to_dict("records")) + "."),
        picture(run, "gradcam_boxed.png", caption="Single images with boxes",
                alt=f"Images with map and box outline, of {listed(rows['finding'])}."),
    ]  # fmt: skip
    return [*better, block, *(one for one in drawn if one)]


def _better(run: Record) -> list[Block]:
    """For which findings the map points better, or worse, than every baseline."""
    table = run.table("localisation_differences")
    if not columns(table, ["finding", "stratum", "measure", "low", "high"]):
        return []
    own = table[(table["stratum"] == "all") & (table["measure"] == "pointing")]
    known = own[own["low"].notna()]
    grouped = known.groupby("finding", sort=False)
    ahead = [str(name) for name, rows in grouped if (rows["low"] > 0).all()]
    behind = [str(name) for name, rows in grouped if (rows["high"] < 0).any()]
    return [Text(
        text=f"The map points into the box more often than **every** baseline for: {listed(ahead)}. Less "
             f"often than at "
        f"least one baseline for: {listed(behind)}. (95 % intervals of the differences; the image's centre "
        f"alone finds "
        "what lies in the middle.)",
        source=source(run, "localisation_differences.csv"),
    )]  # fmt: skip


def _ends(row: Mapping[Hashable, Any]) -> str:
    ends = "" if pd.isna(row["low"]) else f" ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
    return f"{percent(row['value'])}{ends}"


def _value(table: pd.DataFrame, finding: str, measure: str) -> str:
    own = table[(table["finding"] == finding) & (table["measure"] == measure) & (table["method"] == "gradcam")]
    return percent(own["value"].iloc[0]) if len(own) else percent(float("nan"))


def _shortcuts(run: Record) -> list[Block]:
    table = run.table("masking")
    if not columns(table, ["finding", "region", "drop"]):
        off = run.config.get("stress") == "off"
        why = "stress tests were switched off (stress=off)" if off else "this explain run left no masking.csv"
        first: list[Block] = [Missing(what="Masking, the shortcut alarm", why=why)]
    else:
        first = _masking(run, table)
    shares = run.table("attention")
    alt = "Share of the maps of positive images that lies in corners, border and outside the thorax."
    if columns(shares, ["finding", "region", "share", "area"]):
        own = shares[(shares["region"] == "corners") & shares["share"].notna()].sort_values("share")
        if len(own):
            low, high = own.iloc[0], own.iloc[-1]
            alt += (
                f" Corners, {percent(own['area'].iloc[0])} of the area, hold from {percent(low['share'])} "
                f"({spoken(low['finding'])}) to {percent(high['share'])} ({spoken(high['finding'])})."
            )
    drawn = picture(run, "attention.png", caption="Where the maps look: attention is no proof of use", alt=alt)
    return [*first, *([drawn] if drawn else [])]


def _masking(run: Record, table: pd.DataFrame) -> list[Block]:
    line = next((part for part in paragraphs(run) if part.startswith(("**Shortcut alarm", "No shortcut "
    "alarm", "Masking"))),
                "")  # fmt: skip
    rows = tabled.with_interval(table, {"shown": ("drop", "low", "high")})
    block = tabled.shown(
        run, "masking",
        {"finding": ("finding", spoken), "region": ("masked region", spoken), "auroc": ("AUROC", tabled.three),
         "masked_auroc": ("masked", tabled.three), "shown": ("fall (95 %)", str), "few": ("few "
         "patients", tabled.yes),
         "alarm": ("alarm", lambda value: "ALARM" if flagged(value) else "")},
        rows=rows, caption="What each AUROC loses when a region of the test images is masked",
    )  # fmt: skip
    alarms = table[table["alarm"].map(flagged)] if "alarm" in table.columns else table[:0]
    known = table[table["drop"].notna()].sort_values("drop")
    alt = "Fall of AUROC with its interval, by finding and masked region."
    if len(known):
        most = known.iloc[-1]
        alt += f" Largest: {spoken(most['finding'])}, {spoken(most['region'])}, {most['drop']:.3f}."
    drawn = picture(run, "masking.png", caption="Masking", alt=alt)
    said: list[Block] = (
        [Text(text=line, alarm=len(alarms) > 0, source=source(run, "statement.md"))] if line else []
    )
    return [*said, block, *([drawn] if drawn else [])]


def _stress(run: Record) -> list[Block]:
    if run.config.get("stress") == "off":
        return [Missing(what="Stress tests", why="they were switched off (stress=off)")]
    scope = run.tags.get("scope_line", "")
    skipped = (DOES_NOT_FOLLOW, "**Shortcut alarm", "No shortcut alarm", "Masking")
    own = [part for part in paragraphs(run) if not part.startswith(skipped) and part not in _of_findings(run)]
    lines = [part for part in own[1:] if part != scope and not part.startswith("|")]
    first: list[Block] = [Points(head="What was done to the maps, and what came of it:", points=lines,
                                 source=source(run, "statement.md"))] if lines else []  # fmt: skip
    drawn = [
        picture(run, "randomisation.png", caption="Weights made random from the head down",
                alt=f"Likeness of the map to the trained network's. {_means(run, 'randomisation', 'depth')}"),
        picture(run, "perturbation.png", caption="Small disturbances of the image",
                alt=f"Likeness of the map to the undisturbed image's. "
                    f"{_means(run, 'perturbation', 'perturbation')}"),
        picture(run, "consistency.png", caption="Other checkpoints and seeds",
                alt=f"Likeness of this model's maps to others'. {_means(run, 'consistency', 'other')}"),
        picture(run, "faithfulness.png", caption="Deletion and insertion",
                alt=f"Probability while cells are taken away or put back. {_gains(run)}"),
    ]  # fmt: skip
    there: list[Block] = [one for one in drawn if one]
    return [*first, *there] or [Missing(what="Stress tests", why="no map was put to stress in this explain run")]


def _means(run: Record, name: str, by: str) -> str:
    table = run.table(name)
    if not columns(table, [by, "measure", "mean"]):
        return ""
    own = table[(table["measure"] == "spearman") & table["mean"].notna()].to_dict("records")
    return "Mean rank correlation: " + ", ".join(f"{row[by]} {row['mean']:.2f}" for row in own) + "."


def _gains(run: Record) -> str:
    table = run.table("faithfulness")
    if not columns(table, ["measure", "mean"]):
        return ""
    own = table[table["mean"].notna()].to_dict("records")
    return "Against random order: " + ", ".join(f"{spoken(row['measure'])} {row['mean']:.3f}" for row in own) + "."


def _statements(run: Record) -> list[Block]:
    said = _of_findings(run)
    if not said:
        return [Missing(what="Statements on each finding", why="no finding was mapped")]
    return [
        Points(head="What was measured on each finding's maps:", points=said, source=source(run, "statement.md"))
    ]
