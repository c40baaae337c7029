"""Grad-CAM of all findings: captum's, a call a finding, and the closed form, which takes one forward pass for all.

Both map the same images at the last block, after the head's global average. The pixels are noise and the weights
random: what is in them does not change what a map costs.
"""

import copy
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torchvision.models import ResNet

from cxr import model
from cxr.benchmarks.table import Row
from cxr.data.augment import normalise
from cxr.explain import gradcam
from cxr.findings import CLASSES

_AGREED = 1e-5  # of the largest value of captum's maps


def measure(
    *, arch: str = "resnet50", size: int = 224, images: int = 16, device: torch.device, rounds: int = 3
) -> Iterator[Row]:
    """Images a second of both ways and of a bare forward pass, and how the closed form compares with the others.

    The three take turns. A rate is that of the fastest turn, a ratio the rounds' median ratio. Both ways must
    agree, in float32 without TF32, or an assertion fails.
    """
    network = model.build(arch, seed=0).to(device).eval()
    drawn = np.random.default_rng(0).integers(0, 256, (images, size, size), dtype=np.uint8)
    batch = normalise(torch.from_numpy(drawn).to(device))  # [N, 3, H, W]
    apart = _apart(network, batch)
    assert apart <= _AGREED, apart
    turns = _turns(network, batch, rounds)
    captum, ours, bare = images / turns.min(axis=0)
    what = f"{len(CLASSES)} maps an image, {arch}, {size} px"
    at_once = f"{images} images at once"
    yield Row(part="explain", measure=f"captum, {what}", value=captum, unit="images/s", against=at_once)
    yield Row(part="explain", measure=f"ours, {what}", value=ours, unit="images/s", against=at_once)
    yield Row(part="explain", measure=f"bare forward pass, {arch}, {size} px", value=bare, unit="images/s",
              against=f"inference mode, no maps, {at_once}")  # fmt: skip
    low, middle, high = _quartiles(turns[:, 0] / turns[:, 1])
    yield Row(
        part="explain", measure="ours over captum", value=middle, unit="ratio", goal=20.0,
        against=f"{rounds} rounds, half of them {low:.1f} to {high:.1f}; values within {apart:.0e} of the largest",
    )  # fmt: skip
    low, middle, high = _quartiles(turns[:, 2] / turns[:, 1])
    yield Row(part="explain", measure="ours over bare forward pass", value=middle, unit="ratio",
              against=f"{rounds} rounds, half of them {low:.2f} to {high:.2f}")  # fmt: skip


def looped(network: ResNet, batch: torch.Tensor) -> torch.Tensor:
    """Every class's map by captum, a call a class: [N, 3, H, W] -> [N, 15, h, w] on the CPU."""
    calls = (torch.full((len(batch),), output) for output in range(len(CLASSES)))
    return torch.stack([gradcam.signed_maps(network, gradcam.LAST, batch, each) for each in calls], dim=1)


def at_once(network: ResNet, batch: torch.Tensor) -> torch.Tensor:
    """The same by the closed form."""
    return gradcam.head_maps(network, batch)[0].cpu()


def _apart(network: ResNet, batch: torch.Tensor) -> float:
    """The largest difference of both ways, over captum's largest value."""
    # TF32 has 10 bits: which of a GPU's kernels use it would be compared, and not the two ways
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        reference, maps = looped(network, batch), at_once(gradcam.fast(copy.deepcopy(network)), batch)
    assert maps.shape == reference.shape, (maps.shape, reference.shape)
    return float((maps - reference).abs().max() / reference.abs().max())


def _turns(network: ResNet, batch: torch.Tensor, rounds: int) -> np.ndarray:
    """Seconds [rounds, 3] of captum, the closed form and a bare pass, in an order that turns each round.

    The closed form and the bare pass as the explain stage runs them, on weights that `gradcam.fast` has laid out.
    """
    laid = gradcam.fast(copy.deepcopy(network))

    @torch.inference_mode()
    def bare() -> object:
        return laid(batch)

    ways: list[Callable[[], object]] = [lambda: looped(network, batch), lambda: at_once(laid, batch), bare]
    for way in ways[1:]:
        _seconds(way, batch.device)  # warm; captum's way was when the two were compared
    turns = np.empty((rounds, len(ways)))
    for turn in range(rounds):
        for place in range(len(ways)):
            number = (turn + place) % len(ways)
            turns[turn, number] = _seconds(ways[number], batch.device)
    return turns


def _seconds(way: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    way()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _quartiles(ratios: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)
