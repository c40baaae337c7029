"""Sections on what the data is and how the model was made of it: cohort, protocol, training."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from cxr.report import tabled
from cxr.report.blocks import Block, Missing, Points, Section, Table, Text, source
from cxr.report.picture import curves, picture
from cxr.report.records import Record, Records
from cxr.report.words import columns, listed, number, percent, spoken

_LOSSES = {"training": "train/loss", "validation": "val/loss"}
_AUROC = "val/auroc/macro_14"
_RECIPE = (
    "recipe", "arch", "image_size", "epochs", "batch_size", "lr", "weight_decay", "warmup_epochs", "final_lr",
    "ema", "loss", "sync_batch_norm", "rotate", "rescale", "shift", "flip", "seed", "pretrained", "processes",
    "without",    "on_bad_image",
)  # fmt: skip
_SPLIT = ("dataset", "edition", "split", "val_fraction", "seed", "limit", "uncertain", "images")


def data(found: Records) -> Section:
    """Tables 1 and 2 of the paper, what the parts share, and how test differs from training."""
    split = found.split
    blocks: list[Block] = []
    if found.home:
        blocks.append(Text(text="The model was trained on other data than it is measured on here. These are the "
                           "images that it is measured on; the training's own follow below."))  # fmt: skip
    blocks += [*_who(split), *_leakage(split), *_pictures(split)]
    parts = []
    if found.home:
        parts.append(Section(key="home", title="The training's own data", blocks=_who(found.home),
                             runs=[found.home]))  # fmt: skip
    return Section(key="data", title="Data", blocks=blocks, parts=parts, runs=[split])


def _who(split: Record) -> list[Block]:
    note = next((part for part in split.paragraphs if "Column `paper`" in part), "")
    note = note[note.find("Column `paper`") :] if note else ""
    people, positives = split.table("table1_demographics"), split.table("table2_positives")
    parts = [name for name in ("train", "val", "test", "all") if name in people.columns]
    heads = {"train": "training", "val": "validation", "test": "test", "all": "all", "paper": "paper"}
    shown = people.astype(object)
    for place, row in enumerate(shown.to_dict("records")):
        digits = 0 if row["measure"] in ("images", "patients") else 1
        for name in (*parts, "paper"):
            if name in shown.columns:
                shown.loc[shown.index[place], name] = number(
                    None if pd.isna(row[name]) else float(row[name]), digits
                )
    names = {"measure": ("measure", tabled.words)} | {
        name: (heads[name], str) for name in (*parts, "paper") if name in people.columns
    }
    first = tabled.shown(split, "table1_demographics", names, rows=shown, note=note,
                         caption="Cohort (the paper's Table 1): images, patients, age, sex and view")  # fmt: skip
    return [first, _prevalences(split, positives, people, heads)]


def _prevalences(
    split: Record, positives: pd.DataFrame, people: pd.DataFrame, heads: dict[str, str]
) -> Table | Missing:
    caption = "Positive images of each class (the paper's Table 2), and their share of the part's images"
    parts = [name for name in ("train", "val", "test", "all") if name in positives.columns]
    if not columns(positives, ["finding"]):
        return Missing(what=caption, why="this split run left no table2_positives.csv")
    sizes = {}
    if columns(people, ["measure"]):
        images = people[people["measure"] == "images"]
        sizes = {name: float(images[name].iloc[0]) for name in parts if name in images.columns and len(images)}
    metrics = split.metrics

    def cell(row: Mapping[Hashable, Any], part: str) -> str:
        value = row[part]
        if value is None or pd.isna(value):
            return number(None)
        share = metrics.get(f"split/{part}/prevalence/{row['finding']}")
        if share is None and sizes.get(part):
            share = float(value) / sizes[part]
        return tabled.whole(value) + (f" ({percent(share)})" if share is not None else "")

    paper = "paper" in positives.columns
    rows = [
        [spoken(row["finding"]), *(cell(row, part) for part in parts),
         *([tabled.whole(row["paper"])] if paper else [])]
        for row in positives.to_dict("records")
    ]  # fmt: skip
    return Table(caption=caption, columns=["finding", *(heads[name] for name in parts), *(["paper"] * paper)],
                 rows=rows, source=source(split, "table2_positives.csv"))  # fmt: skip


def _leakage(split: Record) -> list[Block]:
    table = split.table("leakage")
    if not columns(table, ["measure", "all"]):
        return [Missing(what="Leakage between the parts", why="this split run left no leakage.csv")]
    shared = table.set_index("measure")["all"]
    said = [f"Patients in more than one part: {tabled.whole(shared.get('patients_shared'))}."]
    wide = table[~table["measure"].isin(["patients_shared", "identical_images", "images", "patients"])]
    wide = wide[~wide["measure"].str.startswith("prevalence/")]
    block = tabled.shown(
        split, "leakage",
        {"measure": ("measure", tabled.words), "train": ("training", tabled.three),
         "val": ("validation", tabled.three), "test": ("test", tabled.three),
         "test_over_train": ("test / training", tabled.three)},
        rows=wide, caption="Shift: what differs between the parts, as the test list was drawn",
        note="Shares from 0 to 1. The prevalences of each class are in the same artifact and in the pictures.",
    )  # fmt: skip
    return [Text(text=" ".join(said), source=source(split, "leakage.csv")), block]


def _pictures(split: Record) -> list[Block]:
    table = split.table("leakage")
    alt = "Bars: the share of images with each class, in each part of the split."
    shift = "Ratios of test to training."
    if columns(table, ["measure", "test", "test_over_train"]):
        own = table[table["measure"].str.startswith("prevalence/") & table["test"].notna()]
        own = own.assign(name=own["measure"].str.removeprefix("prevalence/")).sort_values("test")
        if len(own):
            most, least = own.iloc[-1], own.iloc[0]
            alt += (
                f" In test from {percent(least['test'])} ({spoken(least['name'])}) to {percent(most['test'])} "
                f"({spoken(most['name'])})."
            )
        ratios = own[own["test_over_train"].notna()].sort_values("test_over_train")
        if len(ratios):
            low, high = ratios.iloc[0], ratios.iloc[-1]
            shift = (
                f"Ratios of test to training. Prevalences: from {low['test_over_train']:.2f} times training's "
                f"({spoken(low['name'])}) to {high['test_over_train']:.2f} times ({spoken(high['name'])})."
            )
    blocks = [
        picture(split, "prevalence.png", caption="Prevalence of each class by part", alt=alt),
        picture(split, "shift.png", caption="How the test images differ from the training images", alt=shift),
    ]
    return [block for block in blocks if block]


def protocol(found: Records) -> Section:
    """Recipe, parameters, seeds, commit and environment."""
    train, config = found.train, found.train.config
    tags = train.tags
    blocks: list[Block] = []
    chosen = tags.get("best_epoch")
    if chosen:
        counted = tags.get("val_macro_14_classes", "")
        over = f", over {counted} findings" if counted and tags.get("best_by") == _AUROC else ""
        blocks.append(Text(
            text=f"The model is that of epoch {chosen} of {config.get('epochs', '?')}, chosen by "
            f"`{tags.get('best_by', '?')}` on validation{over}. Test images decided nothing.",
            source=source(train),
        ))  # fmt: skip
    if tags.get("pretrained"):
        blocks.append(
            Text(text=f"Its training began from the weights `{tags['pretrained']}`.", source=source(train))
        )
    rows = [[spoken(name), config[name] or "none"] for name in _RECIPE if name in config]
    rows += [[spoken(name), value] for name, value in config.items() if name not in _RECIPE]
    blocks.append(Table(caption="Training: every resolved parameter", columns=["parameter", "value"], rows=rows,
                        source=source(train, "config.json")))  # fmt: skip
    own = (found.home or found.split).config
    blocks.append(Table(
        caption="Split: what decided who is in which part", columns=["parameter", "value"],
        rows=[[spoken(name), own[name]] for name in _SPLIT if name in own],
        source=source(found.home or found.split, "config.json"),
    ))  # fmt: skip
    engine = {
        key.removeprefix("engine."): value for key, value in train.params.items() if key.startswith("engine.")
    }
    made = [["git commit", tags.get("git_commit", "unknown")], ["code digest", tags.get("code_digest", "unknown")]]
    made += [[f"engine: {spoken(key)}", value] for key, value in engine.items()]
    made += [
        [spoken(key), tags[key]] for key in ("split_digest", "images_digest", "weights_digest") if key in tags
    ]
    packages = [line.partition("==") for line in found.requirements.splitlines() if "==" in line]
    made += [[f"package: {name}", pin] for name, _, pin in packages]
    note = "" if packages else "The model's list of packages could not be read."
    blocks.append(Table(caption="Code, data and environment of the training", columns=["what", "value"], rows=made,
                        source=source(train), note=note))  # fmt: skip
    return Section(key="protocol", title="Protocol", blocks=blocks, runs=[train, found.home or found.split])


def training(found: Records) -> Section:
    """Curves of loss and validation AUROC."""
    train = found.train
    blocks: list[Block] = []
    losses = {name: train.history[key] for name, key in _LOSSES.items() if train.history.get(key)}
    if losses:
        told = "; ".join(
            f"{name} from {line[0][1]:.4g} in epoch {line[0][0]} to {line[-1][1]:.4g} in epoch {line[-1][0]}"
            + (f", lowest {min(value for _, value in line):.4g}" if len(line) > 2 else "")
            for name, line in losses.items()
        )
        blocks.append(curves(losses, caption="Loss", alt=f"Loss by epoch: {told}.",
                             given=source(train, f"metrics "
                                                 f"{listed(_LOSSES[name] for name in losses)}")))  # fmt: skip
    if line := train.history.get(_AUROC):
        best = max(line, key=lambda pair: pair[1])
        classes = train.tags.get("val_macro_14_classes", "?")
        blocks.append(curves(
            {"validation": line}, caption=f"Macro AUROC on validation, mean of {classes} findings that have "
                                          f"enough "
            "patients there", given=source(train, f"metric {_AUROC}"),
            alt=f"Validation macro AUROC by epoch: from {line[0][1]:.3f} in epoch {line[0][0]} to "
            f"{line[-1][1]:.3f} in epoch {line[-1][0]}, highest {best[1]:.3f} in epoch {best[0]}.",
        ))  # fmt: skip
    else:
        blocks.append(Missing(what="Validation AUROC by epoch", why="no finding has enough validation patients"))
    blocks += _seeds(found)
    return Section(key="training", title="Training", blocks=blocks, runs=[train])


def _seeds(found: Records) -> list[Block]:
    if not found.seeds:
        return [Missing(what="Several seeds", why="this is one training; `seeds=5` gives the spread between them")]
    table = found.seeds.table("seeds")
    caption = "Several seeds: test AUROC over trainings that differ in the seed alone"
    block = tabled.shown(
        found.seeds, "seeds",
        {"finding": ("finding", spoken), "mean": ("mean", tabled.three), "sd": ("SD", tabled.three),
         "lowest": ("lowest", tabled.three), "highest": ("highest", tabled.three),
         "seeds": ("seeds", tabled.whole)},
        caption=caption, note="SD between trainings, on the same test patients.",
    )  # fmt: skip
    alt = "Test AUROC of each class, a mark a seed."
    own = table[table["finding"] == "macro_14"] if columns(table, ["finding", "mean", "sd"]) else table[:0]
    if len(own):
        row = own.iloc[0]
        alt += (
            f" Macro of the findings: mean {row['mean']:.3f}, SD {row['sd']:.3f} between {row['seeds']:.0f} seeds."
        )
    drawn = picture(found.seeds, "seeds.png", caption="Test AUROC by seed", alt=alt)
    points: list[Block] = [Points(head="Runs that hold the seeds:", points=[f"run `{found.seeds.run_id}`"])]
    return [block, *([drawn] if drawn else []), *points]
