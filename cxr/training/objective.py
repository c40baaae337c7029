"""The loss, as pure functions."""

import functools
import math
from collections.abc import Callable

import torch
from torch.nn import functional

from cxr.errors import InputError
from cxr.findings import CLASSES
from cxr.training.recipe import LOSSES

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Ridnik et al.'s own values
GAMMA_NEG = 4.0
GAMMA_POS = 0.0
CLIP = 0.05


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over images and classes of the binary cross-entropy (the paper's Algorithm 1).

    logits [B, 15], labels [B, 15] 0/1 -> scalar, in nats, computed in float32.
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())


def known_binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same over the labels that are known: one that is NaN has no part in the mean.

    With no known label at all the loss is 0.
    """
    labels = labels.float()
    known = (~labels.isnan()).float()
    mean = functional.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), weight=known)
    return mean * (known.numel() / known.sum().clamp(min=1))


def weighted_binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, pos_weight: torch.Tensor
) -> torch.Tensor:
    """The same with each class's positives counted `pos_weight` [15] times; the mean is over known labels."""
    labels = labels.float()
    costs = functional.binary_cross_entropy_with_logits(
        logits.float(), labels.nan_to_num(), reduction="none",
        pos_weight=pos_weight.to(logits.device, non_blocking=True),
    )  # fmt: skip
    return _known_mean(costs, labels)


def asymmetric(
    logits: torch.Tensor, labels: torch.Tensor, *,
    gamma_neg: float = GAMMA_NEG, gamma_pos: float = GAMMA_POS, clip: float = CLIP,
) -> torch.Tensor:  # fmt: skip
    """Mean over known labels of the asymmetric loss (Ridnik et al., ICCV 2021, https://arxiv.org/abs/2009.14119).

    A positive costs -(1 - p)^gamma_pos log p, a negative -q^gamma_neg log(1 - q) with q = max(p - clip, 0):
    negatives count the less the easier they are, those below `clip` not at all. Logits [B, 15], labels
    [B, 15] 0/1/NaN -> scalar, in float32. With gammas and clip of 0 it is the binary cross-entropy.
    """
    logits, labels = logits.float(), labels.float()
    log_p, log_not_p = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    # log(1 - q) = log(min(1 - p + clip, 1)), from logarithms: 1 - p itself is 0 in float32 from a logit of 17
    floor = logits.new_full((), math.log(clip) if clip else -math.inf)
    log_not_q = torch.logaddexp(log_not_p, floor).clamp(max=0)
    positive = torch.exp(gamma_pos * log_not_p) * log_p
    negative = (-torch.expm1(log_not_q)) ** gamma_neg * log_not_q
    return _known_mean(-torch.where(labels == 1, positive, negative), labels)


def choose(train_labels: torch.Tensor, val_labels: torch.Tensor, loss: str = "bce") -> Objective:
    """The objective for a set's labels [N, 15] and [M, 15], NaN where unknown; `loss` is one of LOSSES.

    `bce` is the paper's own where all labels are known. `pos_weight` weighs a class's positives by
    negatives over positives among the training labels. It and `asymmetric` raise InputError for a class
    that has labels and no training positive: the one's weight would be infinite, the other's class empty.
    """
    assert loss in LOSSES, loss
    if loss == "bce":
        some_unknown = train_labels.isnan().any() or val_labels.isnan().any()
        return known_binary_cross_entropy if some_unknown else binary_cross_entropy
    positives, negatives = (train_labels == 1).sum(dim=0), (train_labels == 0).sum(dim=0)  # [15]
    labelled = ~(train_labels.isnan().all(dim=0) & val_labels.isnan().all(dim=0))
    if empty := [CLASSES[column] for column in torch.nonzero(labelled & (positives == 0)).flatten().tolist()]:
        raise InputError(
            f"loss={loss}: no training image is positive for {', '.join(empty)}. This loss needs one for each "
            "class that has labels; loss=bce does not."
        )
    if loss == "asymmetric":
        return asymmetric
    weight = negatives / positives.clamp(min=1)  # a class without any label: 0 / 1, and it has no part
    return functools.partial(weighted_binary_cross_entropy, pos_weight=weight)


def _known_mean(costs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    known = ~labels.isnan()
    return costs.where(known, 0.0).sum() / known.sum().clamp(min=1)
