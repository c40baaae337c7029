"""Pairs of an image and a finding: which ones are mapped, in what order, and which few the dearer tests take."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision.models import ResNet

from cxr.data.loader import Pixels, batches
from cxr.data.store import Store
from cxr.explain.gradcam import has_closed_form, head_maps, signed_maps
from cxr.findings import CLASSES

TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE = "true positive", "false negative", "false positive"
POSITIVE = "positive"  # where there is no threshold to tell the first two apart
OTHER = "not labelled"  # has a box of a finding that its labels do not name
FALSE_POSITIVES = 200  # of a finding that are mapped at most: a threshold may call a third of all images
_BATCH = 32


def choose(
    test: pd.DataFrame,
    findings: Sequence[str],
    thresholds: Mapping[str, float],
    *,
    boxed: Sequence[tuple[str, str]] = (),
    seed: int,
) -> pd.DataFrame:
    """The pairs of a scores table that are mapped: all positives, up to FALSE_POSITIVES false ones, all boxed.

    `thresholds` are logits by finding, where there are any; `boxed` are (image, finding). Columns: place (row of
    `test`), image, patient_id, finding, output, outcome; sorted by place. False positives are drawn by `seed`.
    """
    generator = np.random.default_rng([seed, len(test)])
    parts = [_pairs_of(test, finding, thresholds.get(finding), generator) for finding in findings]
    table = pd.concat(parts) if parts else pd.DataFrame(columns=["place", "finding", "outcome"])
    place_of = {image: place for place, image in enumerate(test["image"])}
    there = set(zip(table["place"], table["finding"], strict=True))
    more = [(place_of[image], finding, OTHER) for image, finding in boxed if image in place_of]
    more = sorted({pair for pair in more if pair[1] in findings and pair[:2] not in there})
    table = pd.concat([table, pd.DataFrame(more, columns=["place", "finding", "outcome"])])
    table = table.astype({"place": np.int64}).sort_values("place", kind="stable").reset_index(drop=True)
    return table.assign(
        image=test["image"].to_numpy()[table["place"]],
        patient_id=test["patient_id"].to_numpy()[table["place"]],
        output=[CLASSES.index(finding) for finding in table["finding"]],
    )


def _pairs_of(
    test: pd.DataFrame, finding: str, threshold: float | None, generator: np.random.Generator
) -> pd.DataFrame:
    positive = (test[finding] == 1).to_numpy()
    outcome = np.where(positive, POSITIVE, "")
    if threshold is not None:
        called = (test[f"logit_{finding}"] >= threshold).to_numpy()
        outcome = np.where(positive, np.where(called, TRUE_POSITIVE, FALSE_NEGATIVE), "")
        false = np.flatnonzero((test[finding] == 0).to_numpy() & called)
        few = generator.permutation(false)[:FALSE_POSITIVES]
        outcome[few] = FALSE_POSITIVE
    (places,) = np.nonzero(outcome != "")
    return pd.DataFrame({"place": places, "finding": finding, "outcome": outcome[places]})


def walk(
    network: nn.Module, layer: str, store: Store, pairs: pd.DataFrame, *, device: torch.device
) -> Iterator[tuple[pd.DataFrame, torch.Tensor]]:
    """Yield some of the pairs and their signed maps [n, h, w] float32, until all have come, in their order.

    Where Grad-CAM has a closed form each image passes the network once, whatever the number of its pairs; else
    each pair does, forwards and backwards.
    """
    if pairs.empty:
        return
    pixels = Pixels(store, device)
    if not has_closed_form(network, layer):
        rows = store.rows_of(pairs["image"].tolist())
        for positions, images in batches(pixels, rows, batch_size=_BATCH):
            here = pairs.iloc[positions.numpy()]
            yield here, signed_maps(network, layer, images, torch.tensor(here["output"].to_numpy()))
        return
    assert isinstance(network, ResNet)
    names = pairs["image"].to_numpy()
    first = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.r_[first[1:], len(names)]
    for positions, images in batches(pixels, store.rows_of(names[first].tolist()), batch_size=_BATCH):
        start, end = first[int(positions[0])], ends[int(positions[-1])]
        here = pairs.iloc[start:end]
        maps, _ = head_maps(network, images)
        image = np.searchsorted(first, np.arange(start, end), side="right") - 1 - int(positions[0])
        yield here, maps[torch.from_numpy(image), torch.tensor(here["output"].to_numpy())].clone()


def sample(pairs: pd.DataFrame, count: int, *, seed: int) -> pd.DataFrame:
    """At most `count` of the pairs that carry the finding, dealt evenly over findings, for tests that cost more.

    A patient comes once a finding at most. Drawn by `seed`; the order of the given pairs does not matter.
    """
    own = pairs[pairs["outcome"].isin([POSITIVE, TRUE_POSITIVE, FALSE_NEGATIVE])]
    own = own.sort_values(["finding", "image"], kind="stable").sample(frac=1, random_state=seed)
    own = own.drop_duplicates(["finding", "patient_id"])
    turn = own.groupby("finding").cumcount()
    return (
        own.assign(turn=turn)
        .sort_values(["turn", "finding"])
        .head(count)
        .drop(columns="turn")
        .reset_index(drop=True)
    )
