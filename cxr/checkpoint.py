"""Checkpoints: everything that training needs to go on, written whole or not at all.

A checkpoint is one file of tensors and plain values, read with `weights_only=True`, so that opening
one never runs code. Beside it stands `<name>.json` with what a person wants to know of it.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cxr.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State after `epoch` epochs; `history` holds one record of metrics an epoch."""

    epoch: int
    weights: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    generators: dict[str, torch.Tensor]  # name -> state of a torch.Generator
    history: list[dict[str, float]]
    metadata: dict[str, str]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: under a temporary name, synced to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".unfinished")
    try:
        with temporary.open("wb") as file:
            torch.save({field: getattr(checkpoint, field) for field in checkpoint.__dataclass_fields__}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    readable = checkpoint.metadata | {"epoch": checkpoint.epoch, "last_record": checkpoint.history[-1:]}
    path.with_suffix(".json").write_text(json.dumps(readable, indent=2))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU. Raises InputError for a file that is missing, cut short or another's."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(**content)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such checkpoint.") from error
    except Exception as error:  # torch raises many kinds for a broken file
        raise InputError(f"{path}: not a whole checkpoint of this project ({error}).") from error
