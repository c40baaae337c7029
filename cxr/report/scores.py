"""Section on how the model ranks the test images: AUROC beside the paper's, curves, operating points."""

import pandas as pd

from cxr.published import AHMED_2025_AUROC
from cxr.report import tabled
from cxr.report.blocks import Block, Missing, Points, Section, Text, source
from cxr.report.picture import picture
from cxr.report.records import Record, Records
from cxr.report.words import columns, interval, listed, percent, spoken

_MACROS = {"macro_14": "macro, the findings", "macro_15": "macro, with No Finding"}
_RULES = {"youden": "Youden's index", "sensitivity_90": "90 % sensitivity", "specificity_90": "90 % specificity"}


def macro(record: Record) -> str:
    """The macro AUROC with its interval, as an evaluate run left it; empty where it has none."""
    table = record.table("macro_auroc")
    if not columns(table, ["finding", "auroc", "auroc_low", "auroc_high"]):
        return ""
    row = table[table["finding"] == "macro_14"].iloc[0]
    return "" if pd.isna(row["auroc"]) else interval(row["auroc"], row["auroc_low"], row["auroc_high"])


def ranking(found: Records) -> Section:
    """AUROC of each class with its interval, beside the paper's where the data is the same; curves."""
    run, table = found.evaluate, found.evaluate.table("table3_auroc")
    blocks: list[Block] = [_beside(found, table)]
    blocks.append(_auroc(run, table))
    if columns(table, ["finding", "few"]):
        few = [row["finding"] for row in table.to_dict("records") if tabled.yes(row["few"])]
        if few:
            blocks.append(Text(
                text=f"**Few patients**: {listed(few)}. The effective number of positive or negative "
                     f"patients is small "
                "there: intervals come out too narrow, and a difference shown by them alone is not shown.",
                source=source(run, "table3_auroc.csv"),
            ))  # fmt: skip
    blocks += [block for block in _pictures(run, table) if block]
    blocks.append(_operating(run))
    return Section(key="auroc", title="How well it ranks: AUROC on the test images", blocks=blocks, runs=[run])


def _beside(found: Records, table: pd.DataFrame) -> Text:
    if "paper" in table.columns:
        theirs = sum(AHMED_2025_AUROC.values()) / len(AHMED_2025_AUROC)
        return Text(
            text="Training and test are NIH's official split, as the paper's were: its Table 3 stands "
            "beside ours. Its "
            f"14 rows average {theirs:.3f}; the paper prints 0.744, without intervals.",
            source=source(found.evaluate, "table3_auroc.csv"),
        )
    scope = found.evaluate.tags.get("scope_line") or found.evaluate.tags.get("scope", "unknown data")
    return Text(
        text="The paper's AUROC is not shown beside these: it was measured on NIH's official test list, after "
        f"training on its official training list. Here: {scope}"
    )


def _auroc(run: Record, table: pd.DataFrame) -> Block:
    macros = run.table("macro_auroc")
    rows = table
    if columns(table, ["finding", "auroc"]):
        rows = table.sort_values("auroc", ascending=False, kind="stable")
        if columns(macros, ["finding", "auroc"]):
            rows = pd.concat([rows, macros.assign(finding=macros["finding"].replace(_MACROS))], ignore_index=True)
    shown = tabled.with_interval(rows, {
        "shown": ("auroc", "auroc_low", "auroc_high"),
        "precision": ("average_precision", "average_precision_low", "average_precision_high"),
    })  # fmt: skip
    return tabled.shown(
        run, "table3_auroc",
        {"finding": ("finding", spoken), "shown": ("AUROC (95 %)", str), "paper": ("paper", tabled.three),
         "precision": ("average precision (95 %)", str), "prevalence": ("prevalence", percent),
         "positives": ("positive images", tabled.whole), "positive_patients": ("positive patients", tabled.whole),
         "few": ("few patients", tabled.yes), "note": ("note", tabled.words)},
        rows=shown, caption="AUROC and average precision of each class with 95 % intervals by patient "
        "(the paper's Table 3)",
        note="Percentile bootstrap over patients. The macro averages are in macro_auroc.csv; a macro takes "
             "the classes "
        "that 10 positive and 10 negative patients carry.",
    )  # fmt: skip


def _pictures(run: Record, table: pd.DataFrame) -> list[Block | None]:
    if not columns(table, ["finding", "auroc"]):
        return [Missing(what="Pictures of AUROC and curves", why="no class has a number")]
    known = table[table["auroc"].notna()].sort_values("auroc")
    ends = ""
    if len(known):
        low, high = known.iloc[0], known.iloc[-1]
        ends = (
            f"from {low['auroc']:.3f} ({spoken(low['finding'])}) to {high['auroc']:.3f} "
            f"({spoken(high['finding'])})"
        )
    precision = ""
    if "average_precision" in table.columns and table["average_precision"].notna().any():
        by = table[table["average_precision"].notna()].sort_values("average_precision")
        low, high = by.iloc[0], by.iloc[-1]
        precision = (
            f" from {low['average_precision']:.3f} ({spoken(low['finding'])}) to "
            f"{high['average_precision']:.3f} ({spoken(high['finding'])})"
        )
    over = macro(run)
    return [
        picture(run, "auroc.png", caption="AUROC of each class with its 95 % interval",
                alt=f"Points with intervals, highest first: AUROC of {len(known)} classes {ends}"
                f"{'; macro of the findings ' + over if over else ''}."),
        picture(run, "roc.png", caption="ROC curves", alt=f"One ROC curve a class; areas {ends}. "
                "Operating points chosen on validation are marked where there are any."),
        picture(run, "precision_recall.png", caption="Precision-recall curves",
                alt=f"One precision-recall curve a class; average precision{precision}. A line marks the "
                    f"prevalence, "
                "which is what chance gives."),
    ]  # fmt: skip


def _operating(run: Record) -> Block:
    table = run.table("operating_points")
    if not columns(table, ["finding", "rule"]):
        return Missing(what="Operating points", why="there are no validation rows to choose thresholds on")
    own = table[table["rule"] == "youden"]
    shown = tabled.with_interval(own, {
        "sens": ("sensitivity", "sensitivity_low", "sensitivity_high"),
        "spec": ("specificity", "specificity_low", "specificity_high"),
        "ppv_": ("ppv", "ppv_low", "ppv_high"), "npv_": ("npv", "npv_low", "npv_high"),
    }, 2)  # fmt: skip
    rules = [_RULES.get(str(rule), spoken(rule)) for rule in table["rule"].unique() if rule != "youden"]
    return tabled.shown(
        run, "operating_points",
        {"finding": ("finding", spoken), "sens": ("sensitivity (95 %)", str), "spec": ("specificity (95 %)", str),
         "ppv_": ("positive predictive value", str), "npv_": ("negative predictive value", str),
         "few": ("few patients", tabled.yes)},
        rows=shown, caption="Operating points on test, thresholds chosen on validation by Youden's index",
        note=f"The artifact also has the rules: {listed(rules)}. Predictive values hold at this test set's "
             f"prevalence.",
    )  # fmt: skip


def points_of(run: Record, head: str) -> list[Block]:
    """Lists that the run's description holds under lines that begin with `head`, as its stage wrote them."""
    parts, found = run.paragraphs, list[Block]()
    for place, part in enumerate(parts):
        if part.startswith(f"**{head}"):
            following = parts[place + 1] if place + 1 < len(parts) else ""
            lines = [line for line in [*part.splitlines()[1:], *following.splitlines()] if line.startswith("- ")]
            found.append(Points(head=part.splitlines()[0], points=[line[2:] for line in lines],
                                source=source(run, "description")))  # fmt: skip
    return found
