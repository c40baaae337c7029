"""What training tells of itself: an epoch's record, a moment between two steps, and which epoch is the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BY_MACRO, BY_LOSS = "val/auroc/macro_14", "val/loss"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch's record: `metrics` as runs carry them, and whether it is the best so far."""

    number: int  # from 1
    time_ms: int  # since 1970, when it was complete
    metrics: dict[str, float]
    is_best: bool

    def line(self, epochs: int) -> str:
        """The record in one line, for a log that is read while training runs."""
        names = ("train/loss", "val/loss", BY_MACRO, "train/images_per_second")
        known = {name: f"{name} {self.metrics[name]:.4g}" for name in names if name in self.metrics}
        if BY_MACRO in known:  # a mean of few findings must not pass for one of 14
            known[BY_MACRO] += f" (mean of {self.metrics['val/macro_14_classes']:.0f} findings)"
        told = ", ".join(known.values())
        return f"epoch {self.number} of {epochs}: {told}{'; best so far' if self.is_best else ''}"


@dataclass(frozen=True, kw_only=True)
class Midway:
    """A moment between two steps of an unfinished epoch at which a checkpoint is due."""

    epoch: int  # the unfinished one, from 1
    step: int  # steps done in it


def best_epoch(history: Sequence[dict[str, Any]], criterion: str) -> int:
    """The first epoch that none is better than: the highest macro, or the lowest loss. 0 where there is none."""
    if not history:
        return 0
    values = np.array([record["metrics"][criterion] for record in history])
    return int(values.argmin() if criterion == BY_LOSS else values.argmax()) + 1


def best(history: Sequence[dict[str, Any]], criterion: str) -> dict[str, str]:
    """The best epoch as tags: what decided it, and its validation macro_14 where there is one."""
    if not history:
        return {}
    number = best_epoch(history, criterion)
    measured = history[number - 1]["metrics"]
    macro = measured.get(BY_MACRO)
    return {
        "best_by": criterion,
        "best_epoch": str(number),
        "val_macro_14": "" if macro is None else f"{macro:.6f}",
        "val_macro_14_classes": f"{measured['val/macro_14_classes']:.0f}",
    }
