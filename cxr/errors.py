"""What a user got wrong, told apart from what we got wrong.

Every message names the value, the place it came from and what was expected. Entry points print an
InputError or a TrainingError as one paragraph without a traceback; any other exception is a bug and keeps its own.
"""

from collections.abc import Sequence


class InputError(ValueError):
    """A file, value or run that a user gave and that cannot be used as it is."""


class TrainingError(RuntimeError):
    """Training cannot go on; what was reached before stands in the last checkpoint."""


class NotDeliveredError(InputError):
    """Records or a checkpoint stand on disk and did not reach the tracking server."""

    only_checkpoints = False  # whether all but checkpoints is there, which the server refuses


def first_line(error: BaseException) -> str:
    """The first line of what a library says; torch's runs over pages, and advises to open a file unsafely."""
    text = str(error).strip() or repr(error)
    if "weights_only" in text.lower() or "weights only" in text.lower():
        return "it holds more than tensors and plain values"
    line = text.splitlines()[0]
    return line if " " in line else f"{type(error).__name__} {line}"  # a KeyError says no more than the key


def first_ten(items: Sequence[object]) -> str:
    """All problems of one kind in one message: the first ten, and how many there are."""
    shown = ", ".join(str(item) for item in items[:10])
    return shown if len(items) <= 10 else f"{shown}, ... ({len(items):,} in all)"
