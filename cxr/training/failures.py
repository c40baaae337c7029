"""What ends training before its time, said so that a person knows where to look."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from cxr.errors import TrainingError

_STANDS = "the last checkpoint stands."
_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def enough_memory(where: Callable[[], str]) -> Iterator[None]:
    """Raise TrainingError, which says where and for what, in place of what torch says of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not of_memory and not any(words in str(error) for words in _WORDS):
            raise
        raise TrainingError(
            f"Out of memory {where()}. A smaller batch_size or image_size helps; {_STANDS}"
        ) from error


def require_finite_losses(losses: Sequence[float], last: int, epoch: int, named: Callable[[int], str]) -> None:
    """Raise TrainingError at the first loss that is not finite, of steps up to `last`; `named` names images."""
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise TrainingError(
                f"The training loss is {loss} at step {last - len(losses) + 1 + index} of epoch {epoch}, on the "
                f"images {named(index)}. A smaller lr usually helps; {_STANDS}"
            )


def require_finite_validation(loss: float, epoch: int) -> None:
    """Raise TrainingError: the epoch's last step can break weights whose own loss was still finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The validation loss is {loss} after epoch {epoch}. A smaller lr usually helps; {_STANDS}"
        )


def require_finite_weights(weights: dict[str, torch.Tensor], step: int, epoch: int) -> None:
    """Raise TrainingError: a checkpoint that cannot be gone on from must not take the place of one that can."""
    # the extremes are nan where a value is, and ten times quicker to have than a look at each value
    if not all(bool(extreme.isfinite()) for tensor in weights.values() for extreme in tensor.aminmax()):
        raise TrainingError(
            f"Weights are not finite after step {step} of epoch {epoch}. A smaller lr usually helps; {_STANDS}"
        )
