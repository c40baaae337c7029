"""Which device the tensors live on: chosen here and nowhere else."""

import torch

from cxr.errors import InputError


def choose(name: str) -> torch.device:
    """`auto` takes the first GPU, else the CPU. Raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # the meta device takes tensors, but gives none back
    except (RuntimeError, AssertionError) as error:
        # torch's own messages run over many lines; the first says what is missing
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name}: not usable here ({reason}). Expected auto, cpu or cuda:N.") from error
    return device
