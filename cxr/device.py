"""Which device the tensors live on, and how it computes: chosen here and nowhere else."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from cxr.errors import InputError

# What makes training faster on some devices; each can be left out by its name.
SPEEDUPS = ("bfloat16", "channels_last", "fused", "compile", "resident")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How training computes. The plain one, with everything left out, is float32, without TF32."""

    device: torch.device
    bfloat16: bool = False  # convolutions and products under autocast; weights, sums and the loss stay float32
    channels_last: bool = False  # the layout of images and weights in memory
    fused: bool = False  # one kernel for the optimiser's whole step
    compile: bool = False  # torch.compile, of training steps only
    resident: bool = False  # all packed pixels on the device, else batches travel there

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in the layout."""
        network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network


def choose(name: str) -> torch.device:
    """`auto` takes the first GPU, else the CPU. Raises InputError for a device that is not there.

    From then on float32 is float32 in this process: torch lets a GPU's convolutions round to TF32, whose 10 bits
    moved maps by 2e-3 of their largest value and let closed form and captum differ by as much (NVIDIA H100).
    """
    torch.backends.cudnn.allow_tf32 = False
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


def engine(device: torch.device, *, without: Collection[str] = (), pixel_bytes: int = 0) -> Engine:
    """What pays on a device, less what is named in `without`.

    `pixel_bytes` is what all packed pixels take: they go to a GPU where they fit into half of its free memory.
    Raises InputError for a name that is none of SPEEDUPS.
    """
    if unknown := [name for name in without if name not in SPEEDUPS]:
        raise InputError(f"without={','.join(unknown)}: expected some of {', '.join(SPEEDUPS)}.")
    on_gpu = device.type == "cuda"
    pays = {
        # a CPU without bfloat16 units emulates them, many times slower than float32
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_has_bfloat16(),
        "channels_last": True,
        "fused": True,
        "compile": on_gpu,  # on a CPU 2 % faster steps never pay for the minute that it takes
        "resident": on_gpu and 0 < pixel_bytes < torch.cuda.mem_get_info(device)[0] / 2,
    }
    return Engine(device=device, **{name: pays[name] and name not in without for name in SPEEDUPS})


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))
