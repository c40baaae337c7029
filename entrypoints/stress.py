"""What is done to the maps, on the active run: weights made random, images disturbed, regions masked."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch

from cxr import figures, tracking
from cxr.explain import adversarial, consistency, faithfulness, pairs, perturbation, randomisation, shortcuts
from cxr.explain.similarity import MEASURES, OTHER_IMAGE, maps_of_pixels, summary
from entrypoints import masking
from entrypoints.explained import Explained


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much the tests take. Pairs are of an image and a finding that it has, dealt evenly over the findings."""

    pairs: int  # of randomisation, perturbation and consistency
    dear: int  # of captum's measures, the attack, deletion and insertion: tens of passes each
    steps: int  # of the attack
    samples: int  # of captum's measures
    shares: int  # of the picture at which deletion and insertion are looked at
    masked: int  # test images at most that are masked: all images of patients drawn at random
    regions: tuple[str, ...]


EFFORTS = {
    # Some 1,500 forward passes (1,900, and backwards, without a closed form) and two of each masked image: a third
    # of what scoring NIH's 34 thousand images of validation and test takes.
    "quick": Effort(pairs=14, dear=14, steps=6, samples=10, shares=8, masked=5_000,
                    regions=("corners", "outside_thorax")),
    "full": Effort(pairs=280, dear=140, steps=30, samples=20, shares=20, masked=10**9,
                   regions=tuple(shortcuts.REGIONS)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Stressed:
    """What the stress tests found, for whoever tells it."""

    effects: pd.DataFrame  # of masking, see shortcuts.effects
    lines: list[str]


class _Sample:
    """Pairs that a test takes, with their pictures; its tables get image, patient and finding from here."""

    def __init__(self, subject: Explained, chosen: pd.DataFrame) -> None:
        self.network, self.layer, self.pairs = subject.network, subject.layer, chosen
        self.measured = subject.measured
        self.pixels = subject.store.pixels[subject.store.rows_of(chosen["image"].tolist())]
        self.targets = torch.tensor(chosen["output"].to_numpy())
        self.scope = (
            f"{subject.scope} Maps at {subject.layer} of {len(chosen):,} pairs of an image and a finding it has, "
            f"{chosen['patient_id'].nunique():,} patients, drawn with seed {subject.seed}."
        )

    @property
    def given(self) -> "tuple[torch.nn.Module, str, np.ndarray, torch.Tensor]":
        """What every test takes first."""
        return self.network, self.layer, self.pixels, self.targets

    def shown(self) -> np.ndarray:
        """Which pairs have a map that is not zero: bool [N]."""
        positive: np.ndarray = (maps_of_pixels(*self.given) > 0).flatten(1).any(dim=1).numpy()
        return positive

    def named(self, table: pd.DataFrame) -> pd.DataFrame:
        """A test's table with the pair's image, patient_id and finding in place of its number."""
        own = self.pairs[["image", "patient_id", "finding"]]
        return own.merge(table, left_index=True, right_on="pair").drop(columns="pair").sort_index()


def log(subject: Explained, wanted: pd.DataFrame, effort: Effort) -> Stressed:
    """Run and log every stress test; `wanted` are the pairs that were mapped."""
    effects = masking.log(subject, effort.regions, most=effort.masked)
    lines = [masking.line(effects)]
    chosen = pairs.sample(wanted, effort.pairs, seed=subject.seed)
    if chosen.empty:
        return Stressed(effects=effects, lines=[*lines, "No test image has a finding: no map was put to stress."])
    many, few = _Sample(subject, chosen), _Sample(subject, chosen.head(effort.dear))
    limits = np.array([subject.thresholds.get(name, np.nan) for name in few.pairs["finding"]])
    lines += [
        _randomisation(many, subject.seed),
        _perturbations(many, subject.seed),
        _captum(few, subject.seed, effort.samples),
        _consistency(many, subject),
        _attack(few, subject.seed, effort.steps, limits),
        _faithfulness(few, subject.seed, effort.shares),
    ]
    return Stressed(effects=effects, lines=lines)


# ---------------------------------------------------------------- is it the map of this network and this image?


def _randomisation(sample: _Sample, seed: int) -> str:
    table = sample.named(randomisation.cascade(*sample.given, seed=seed))
    by_depth = summary(table, ["depth"])
    _log_summary(sample, by_depth, "randomisation", "depth")
    flags = randomisation.unchanged(table, ["finding"])
    tracking.log_frame(flags.set_index("finding"), "randomisation_by_finding")
    wide = _wide(by_depth, "depth")
    mlflow.log_figure(figures.randomisation(wide, subtitle=sample.scope), "randomisation.png")
    stays = flags.loc[flags["unchanged"].fillna(False).astype(bool), "finding"].tolist()
    unknown = flags.loc[flags["unchanged"].isna(), "finding"].tolist()
    full, other = (float(wide["spearman"].loc[name]) for name in (randomisation.FULL, OTHER_IMAGE))
    verdict = (
        f"FLAGGED, their maps do not depend on what was learned: {', '.join(stays)}" if stays else "none stays"
    )
    if unknown:
        verdict += f"; not defined (zero maps) for {', '.join(unknown)}"
    return (
        "Weights made random from the head down: rank correlation with the trained network's map "
        f"{_two(full)} at the end (maps of different images: {_two(other)}{_over(by_depth)}); {verdict}."
    )


def _perturbations(sample: _Sample, seed: int) -> str:
    table = sample.named(perturbation.perturb(*sample.given, seed=seed))
    found = summary(table, ["perturbation"])
    _log_summary(sample, found, "perturbation", "perturbation")
    change = table.assign(change=table["probability_change"].abs()).groupby("perturbation", sort=False)["change"]
    wide = _wide(found, "perturbation").assign(probability_change=change.mean())
    title = "Small disturbances of the image: does the map stay where the prediction does?"
    mlflow.log_figure(figures.similarities(wide, title=title, subtitle=sample.scope), "perturbation.png")
    tracking.log_frame(table.set_index("image"), "perturbation_pairs")
    known = wide["ssim"].dropna()
    if known.empty:
        return "Small disturbances of the image: no map to compare, all are zero."
    return (
        f"Small disturbances of the image: SSIM with the undisturbed map {known.min():.2f} ({known.idxmin()}) to "
        f"{known.max():.2f}; the probability changes by {wide['probability_change'].max():.3f} in the mean "
        f"at most{_over(found)}."
    )


def _captum(sample: _Sample, seed: int, samples: int) -> str:
    table = sample.named(perturbation.captum_measures(*sample.given, seed=seed, samples=samples))
    tracking.log_frame(table.set_index("image"), "captum_measures")
    gain = (table["infidelity_shuffled"] - table["infidelity"]) / table["infidelity_none"]
    found = summary(
        table.assign(kind="map", infidelity_gain=gain), ["kind"], ("sensitivity_max", "infidelity_gain")
    ).set_index("measure")
    if found["mean"].isna().all():
        return "captum's measures: undefined, all maps are zero."
    sample.measured.update({f"explain/{name}": float(value) for name, value in found["mean"].dropna().items()})
    gained = found.reset_index().to_dict("records")[1]
    return (
        f"captum: sensitivity_max {_two(found['mean'].loc['sensitivity_max'])} in the mean; infidelity below that "
        f"of the same maps shuffled by {gained['mean']:.0%} of what the logits vary{_ends(gained, '.0%')}"
        f"{_over(found)}."
    )


def _consistency(sample: _Sample, subject: Explained) -> str:
    if not subject.others:
        return "Other checkpoints and seeds of the same split: none on this server to compare with."
    networks = {"this model": subject.network} | dict(subject.others)
    table = sample.named(consistency.between(networks, *sample.given[1:]))
    found = summary(table, ["other"])
    _log_summary(sample, found, "consistency", "other")
    wide = _wide(found, "other")
    title = "The same images, other checkpoints and seeds: does the map stay?"
    mlflow.log_figure(figures.similarities(wide, title=title, subtitle=sample.scope), "consistency.png")
    told = ", ".join(f"{name} {_two(row['top_overlap'])}" for name, row in wide.iterrows())
    return f"Overlap of the strongest tenth of the map with: {told}{_over(found)}."


# ---------------------------------------------------------------- can it be fooled, and does it say what counts?


def _attack(sample: _Sample, seed: int, steps: int, thresholds: np.ndarray) -> str:
    table = sample.named(adversarial.attack(*sample.given, steps=steps, seed=seed, thresholds=thresholds))
    found = summary(table, ["kind"], (*MEASURES, "moved"))
    _log_summary(sample, found, "attack", "kind")
    tracking.log_frame(table.set_index("image"), "attack_pairs")
    wide = _wide(found, "kind")
    own = table[table["kind"] == "attack"]
    own = own[sample.shown()]
    wiped = int(own["ssim"].isna().sum())
    if own.empty:
        return "Attack: no map to move, all are zero."
    moved = (own["probability_change"] != 0).mean()  # else the original was taken
    sample.measured.update({"explain/attack/wiped_out": float(wiped), "explain/attack/found": float(moved)})
    return (
        f"Attacked by changes of at most {adversarial.EPS} grey levels that keep the prediction (found for "
        f"{moved:.0%} of {len(own)} maps): rank correlation with the map before "
        f"{_two(wide['spearman'].loc['attack'])}, under as much noise {_two(wide['spearman'].loc['noise'])}; "
        f"{wiped} maps wiped out, which are not in the mean. A longer attack may go farther."
    )


def _faithfulness(sample: _Sample, seed: int, shares: int) -> str:
    areas, curves = faithfulness.curves(*sample.given, seed=seed, steps=shares)
    table = sample.named(areas)
    table = table.assign(
        deletion_gain=table["deletion_random"] - table["deletion"],
        insertion_gain=table["insertion"] - table["insertion_random"],
    )
    tracking.log_frame(table.set_index("image"), "faithfulness_pairs")
    gains = ("deletion_gain", "insertion_gain")
    found = summary(table.assign(kind="map against random order"), ["kind"], gains)
    tracking.log_frame(found, "faithfulness")
    told = {}
    for row in found.to_dict("records"):
        told[row["measure"]] = f"{row['mean']:.3f}{_ends(row, '.3f')}"
        if not np.isnan(row["mean"]):
            sample.measured[f"explain/faithfulness/{row['measure']}"] = row["mean"]
    if curves["deletion"].notna().any():
        mlflow.log_figure(figures.faithfulness(curves, subtitle=sample.scope, gains=found), "faithfulness.png")
    if table["deletion"].isna().all():
        return "Deletion and insertion: no order to follow, all maps are zero."
    return (
        f"Cells taken away in the map's order lower the probability more than in random order by "
        f"{told['deletion_gain']}, put back raise it more by {told['insertion_gain']} (areas under the curves"
        f"{_over(found)})."
    )


# ---------------------------------------------------------------- tables


def _log_summary(sample: _Sample, table: pd.DataFrame, name: str, by: str) -> None:
    """A summary as a table, its means as `explain/<name>/<measure>/<group>`."""
    tracking.log_frame(table.set_index(by), name)
    values = {
        f"explain/{name}/{row['measure']}/{_plain(row[by])}": row["mean"] for row in table.to_dict("records")
    }
    sample.measured.update({key: float(value) for key, value in values.items() if not np.isnan(value)})


def _wide(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """A summary with a row a group: the mean of each measure, its low and high, and n."""
    parts = []
    for measure, own in table.groupby("measure", sort=False):
        own = own.set_index(by)
        parts.append(own[["mean", "low", "high"]].set_axis([measure, f"{measure}_low", f"{measure}_high"], axis=1))
        counts = own["n"] - own["undefined"]
    return pd.concat(parts, axis=1).assign(n=counts)


def _ends(row: dict[Hashable, Any], form: str) -> str:
    """The interval of a summary's row in brackets, or nothing where there is none."""
    return "" if np.isnan(row["low"]) else f" (95 % {row['low']:{form}} to {row['high']:{form}})"


def _over(table: pd.DataFrame) -> str:
    """How many maps a summary rests on, where some are undefined: zero maps have no likeness."""
    left = int((table["n"] - table["undefined"]).min())
    return f", over {left} of {int(table['n'].max())} maps, the rest zero" if table["undefined"].any() else ""


def _two(value: float) -> str:
    """A number as sentences say it."""
    return "undefined" if np.isnan(value) else f"{value:.2f}"


def _plain(name: object) -> str:
    """A name as MLflow takes it in a metric's."""
    return str(name).replace("+", "plus ").replace(" ", "_")
