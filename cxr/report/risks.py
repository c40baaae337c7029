"""Sections on probabilities, subgroups and controls."""

import pandas as pd

from cxr.report import tabled
from cxr.report.blocks import Block, Missing, Section
from cxr.report.picture import picture
from cxr.report.records import Record, Records
from cxr.report.scores import points_of
from cxr.report.words import columns, count, interval, percent, spoken

_WORDS = {"images": "number of images that the patient has"}


def calibration(found: Records) -> Section:
    """Whether probabilities come true: as they are, and after validation's maps."""
    run = found.evaluate
    blocks = [*points_of(run, "Probabilities"), _calibration(run, "calibration", "as the model gives them")]
    table = run.table("calibration")
    alt = "One panel a class: observed share of positives against predicted probability."
    if columns(table, ["finding", "ece"]) and table["ece"].notna().any():
        known = table[table["ece"].notna()].sort_values("ece")
        low, high = known.iloc[0], known.iloc[-1]
        alt += (
            f" Expected calibration error from {low['ece']:.3f} ({spoken(low['finding'])}) to {high['ece']:.3f} "
            f"({spoken(high['finding'])})."
        )
    blocks.append(picture(run, "reliability.png", caption="Reliability of the probabilities", alt=alt) or Missing(
        what="Reliability", why="no class has labels on test"))  # fmt: skip
    if "calibration_platt" in run.tables:
        blocks.append(_calibration(run, "calibration_platt", "after Platt maps fitted on validation"))
        blocks += _prior_shift(run)
    else:
        blocks.append(_missing(run, "recalibration, prior shift", "Recalibration and prior shift"))
    return Section(key="calibration", title="Calibration: do probabilities come true?", blocks=blocks, runs=[run])


def _calibration(run: Record, name: str, words: str) -> Block:
    table = run.table(name)
    rows = tabled.with_interval(
        table,
        {"a": ("intercept", "intercept_low", "intercept_high"), "b": ("slope", "slope_low", "slope_high")},
        2,
    )
    return tabled.shown(
        run, name,
        {"finding": ("finding", spoken), "brier": ("Brier score", tabled.three),
         "ece": ("expected calibration error", tabled.three), "a": ("intercept (95 %), 0 is right", str),
         "b": ("slope (95 %), 1 is right", str), "mean_probability": ("mean probability", percent),
         "prevalence": ("observed", percent), "few": ("few patients", tabled.yes)},
        rows=rows, caption=f"Calibration on test, probabilities {words}",
    )  # fmt: skip


def _prior_shift(run: Record) -> list[Block]:
    table = run.table("prior_shift")
    alt = (
        "Calibration with validation's prevalence, with one estimated from the test scores, and with the true one."
    )
    if columns(table, ["finding", "ratio"]) and table["ratio"].notna().any():
        known = table[table["ratio"].notna()].to_dict("records")
        row = max(known, key=lambda own: abs(own["ratio"] - 1))
        alt += (
            f" Test prevalence over validation's differs most for {spoken(row['finding'])}: {row['ratio']:.2f} "
            "times."
        )
    block = tabled.shown(
        run, "prior_shift",
        {"finding": ("finding", spoken), "validation_prevalence": ("prevalence in validation", percent),
         "test_prevalence": ("in test", percent), "em_prevalence": ("estimated from test scores", percent),
         "ece_as_is": ("calibration error as is", tabled.three), "ece_em": ("by the estimate", tabled.three),
         "ece_oracle": ("by the true prevalence", tabled.three)},
        caption="Prior shift: the test set has other prevalences than validation",
    )  # fmt: skip
    drawn = picture(run, "prior_shift.png", caption="What the shift of prevalences costs", alt=alt)
    return [block, *([drawn] if drawn else [])]


def subgroups(found: Records) -> Section:
    """Macro AUROC of each group, where it has one; the hundreds of other rows are in the artifact."""
    run = found.evaluate
    table = run.table("subgroups")
    if not columns(table, ["attribute", "level", "finding", "auroc"]):
        return Section(key="subgroups", title="Subgroups", runs=[run],
                       blocks=[Missing(what="Subgroups", why="this evaluate run left no "
                       "subgroups.csv")])  # fmt: skip
    own = table[(table["finding"] == "macro_14") & (table["images"] > 0)]
    measured = (
        table[(table["finding"] != "macro_14") & table["auroc"].notna()].groupby(["attribute", "level"]).size()
    )
    rows = tabled.with_interval(own, {"shown": ("auroc", "auroc_low", "auroc_high")})
    counts = [int(measured.get((row["attribute"], row["level"]), 0)) for row in own.to_dict("records")]
    rows = rows.assign(group=own["attribute"].map(lambda name: _WORDS.get(name, name)) + ": "
    "" + own["level"].map(str),
                       measured=counts)  # fmt: skip
    blocks: list[Block] = [
        tabled.shown(
            run, "subgroups",
            {"group": ("group", str), "images": ("images", tabled.whole), "patients": ("patients", tabled.whole),
             "measured": ("classes with an AUROC", tabled.whole),
             "shown": ("macro AUROC over the classes that all groups can measure (95 %)", str)},
            rows=rows, caption="Subgroups in brief",
            note=f"The artifact has {count(len(table), 'row')}: every class in every group, with true and false "
            "positive rates; contrasts.csv has the differences. Groups are not adjusted for one another.",
        ),
        *points_of(run, "Differences of AUROC"),
    ]  # fmt: skip
    for attribute in own["attribute"].unique():
        words = _WORDS.get(attribute, attribute)
        levels = own[(own["attribute"] == attribute)].to_dict("records")
        told = "; ".join(
            f"{row['level']} {interval(row['auroc'], row['auroc_low'], row['auroc_high'])}"
            if not pd.isna(row["auroc"])
            else f"{row['level']} no macro, too few patients"
            for row in levels
        )
        name = f"subgroups/{attribute}_auroc.png"
        drawn = picture(run, name, caption=f"AUROC by {words}",
                        alt=f"AUROC of each class by {words}. Macro: {told}.")  # fmt: skip
        blocks.append(drawn or _missing(run, f"subgroups by {attribute}", f"Subgroups by {words}"))
    return Section(key="subgroups", title="Subgroups", blocks=blocks, runs=[run])


def controls(found: Records) -> Section:
    """What the AUROC is held against: metadata alone, radiologists, the model's own test images."""
    run = found.evaluate
    blocks = [*_metadata(run), *_experts(run), *_elsewhere(run)]
    return Section(key="controls", title="Controls: what is the AUROC worth?", blocks=blocks, runs=[run])


def _metadata(run: Record) -> list[Block]:
    table = run.table("metadata_only")
    if not columns(table, ["finding", "auroc", "metadata_auroc", "difference"]):
        return [_missing(run, "a model of age, sex and view alone", "A model of age, sex and view alone")]
    rows = tabled.with_interval(table, {
        "own": ("auroc", "auroc_low", "auroc_high"), "alone": ("metadata_auroc", "metadata_low", "metadata_high"),
        "more": ("difference", "difference_low", "difference_high"),
    })  # fmt: skip
    fitted = run.tags.get("metadata_only_fitted_on", "")
    block = tabled.shown(
        run, "metadata_only",
        {"finding": ("finding", spoken), "own": ("this model (95 %)", str),
         "alone": ("age, sex and view alone (95 %)", str), "more": ("difference (95 %)", str),
         "few": ("few patients", tabled.yes)},
        rows=rows, caption="How much does the picture add to age, sex and view?",
        note=f"Logistic regression, fitted on {fitted}." if fitted else "",
    )  # fmt: skip
    means = table[table["finding"] == "macro_14"].to_dict("records")
    told = ""
    if means and not pd.isna(means[0]["difference"]):
        row = means[0]
        told = f" Macro {row['auroc']:.3f} against {row['metadata_auroc']:.3f}."
    drawn = picture(run, "metadata_only.png", caption="This model beside age, sex and view alone",
                    alt=f"AUROC of each class by this model and by a model of age, sex and view "
                        f"alone.{told}")  # fmt: skip
    return [block, *([drawn] if drawn else [])]


def _experts(run: Record) -> list[Block]:
    table = run.table("expert_labels")
    if not columns(table, ["study", "finding", "auroc_expert"]):
        return [_missing(run, "agreement with radiologists", "Agreement with radiologists")]
    names = {
        "study": ("study", spoken), "finding": ("finding", spoken), "images": ("images", tabled.whole),
        "agreement": ("agreement of the labels", tabled.three), "kappa": ("kappa", tabled.three),
        "auroc_text": ("AUROC by text-mined labels", tabled.three),
        "auroc_expert": ("AUROC by radiologists", tabled.three), "difference": ("difference", tabled.three),
    }  # fmt: skip
    blocks: list[Block] = [
        tabled.shown(run, "expert_labels", names, caption="The same scores by radiologists' labels")
    ]
    for study in table["study"].unique():
        known = table[(table["study"] == study) & table["auroc_expert"].notna()].to_dict("records")
        told = ", ".join(f"{spoken(row['finding'])} {row['auroc_expert']:.3f}" for row in known)
        drawn = picture(
            run, f"expert_labels_{study}.png", caption=f"Radiologists' labels: {spoken(study)}",
            alt=f"AUROC by radiologists' and by text-mined labels. By radiologists: {told or 'none measured'}.",
        )  # fmt: skip
        blocks += [drawn] if drawn else []
    return blocks


def _elsewhere(run: Record) -> list[Block]:
    table = run.table("out_of_distribution")
    key = next((name for name in ("finding", "index") if name in table.columns), "")
    if not key or not columns(table, ["here", "home"]):
        return [_missing(run, "out of distribution", "Other data than the training's")]
    rows = tabled.with_interval(
        table, {"a": ("here", "here_low", "here_high"), "b": ("home", "home_low", "home_high")}
    )
    block = tabled.shown(
        run, "out_of_distribution",
        {key: ("finding", spoken), "a": ("here (95 %)", str), "b": ("on its own test images (95 %)", str)},
        rows=rows, caption="The same model here and at home: pictures, patients and labels differ",
    )  # fmt: skip
    told = "; ".join(f"{spoken(row[key])} {row['here']:.3f} here, {row['home']:.3f} at home"
                     for row in table.to_dict("records"))  # fmt: skip
    drawn = picture(
        run, "out_of_distribution.png", caption="Here and at home", alt=f"AUROC of each class. {told}."
    )
    return [block, *([drawn] if drawn else [])]


def _missing(run: Record, key: str, what: str) -> Missing:
    """What the evaluate run says it did not evaluate, with its own reason."""
    table = run.table("not_evaluated")
    reasons = {}
    if columns(table, ["not evaluated", "why"]):
        reasons = dict(zip(table["not evaluated"], table["why"], strict=True))
    return Missing(what=what, why=str(reasons.get(key, "this evaluate run left nothing on it")))
