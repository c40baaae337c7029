"""The loss, as a pure function."""

import torch
from torch.nn import functional


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over images and classes of the binary cross-entropy (the paper's Algorithm 1).

    logits [B, 15], labels [B, 15] 0/1 -> scalar, in nats, computed in float32.
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
