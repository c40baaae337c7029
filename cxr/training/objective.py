"""The loss, as pure functions."""

from collections.abc import Callable

import torch
from torch.nn import functional

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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


def choose(labels: torch.Tensor) -> Objective:
    """The objective for a set's labels [N, 15]: the paper's own where all are known."""
    return known_binary_cross_entropy if labels.isnan().any() else binary_cross_entropy
