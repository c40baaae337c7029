"""The learning rate as a pure function of how far training has come."""

import math

WARMUP_FROM = 0.01  # share of the peak that the first step takes: a rate of 0 would waste it


def learning_rate(
    progress_epochs: float, *, peak: float, warmup_epochs: float, final: float, epochs: int
) -> float:
    """The rate after `progress_epochs` of `epochs`, a fraction of an epoch included.

    Up to `warmup_epochs` w it rises in a line: peak (0.01 + 0.99 progress / w). Then it falls from peak
    to final * peak along half a cosine: peak (final + (1 - final) (1 + cos(pi t)) / 2), where t goes
    from 0 to 1 (Loshchilov and Hutter, ICLR 2017, https://arxiv.org/abs/1608.03983, without restarts).
    With w = 0 and final = 1 it is `peak` at every step, to the bit.
    """
    if progress_epochs < warmup_epochs:
        return peak * (WARMUP_FROM + (1 - WARMUP_FROM) * progress_epochs / warmup_epochs)
    t = (progress_epochs - warmup_epochs) / (epochs - warmup_epochs)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * t)) / 2)
