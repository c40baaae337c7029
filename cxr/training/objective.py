"""The loss, as a pure function."""

import torch
from torch.nn import functional


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over images and classes of the binary cross-entropy (the paper's Algorithm 1).

    logits [B, 15], labels [B, 15] 0, 1 or NaN -> scalar, in nats, computed in float32. A label that is NaN (a
    class that the set says nothing about) has no part in the mean; with none at all the loss is 0.
    """
    labels = labels.float()
    known = (~labels.isnan()).float()
    mean = functional.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), weight=known)
    # over all labels; exactly 1 where all are known, so that the paper's loss is computed as it always is
    return mean * (known.numel() / known.sum().clamp(min=1))
