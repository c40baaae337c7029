"""Small changes of the picture: does the map stay where it was as long as the logit does?

Changes that no reader would mind, done to the 8-bit picture, as another detector, another position or another file
format would: what goes in is again a picture of whole grey levels from 0 to 255. Beside them stand captum's own
measures, which change what they need (Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS
2019, https://arxiv.org/abs/1901.09392).
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from captum.metrics import infidelity, sensitivity_max
from scipy.fft import dctn, idctn
from torch import nn
from torch.nn import functional

from cxr.data.augment import normalise, warp
from cxr.explain.gradcam import has_closed_form, maps_of
from cxr.explain.similarity import BATCH, compare, maps_of_pixels

# pixels uint8 [N, S, S], a generator -> changed pixels uint8 [N, S, S]
Change = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

NOISE = 0.02 * 255  # grey levels, SD
RADIUS = 0.02 * 255  # grey levels either way, of `captum_measures`
SQUARE = 0.25  # of the picture's side, of `captum_measures`
# JPEG's table for brightness (ITU-T T.81, table K.1) [8, 1, 8], and its steps at quality 75 as libjpeg scales it
TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)[:, None]  # fmt: skip
STEPS = ((TABLE * (200 - 2 * 75) + 50) // 100).astype(np.float32)


def _noise(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return _grey(pixels + NOISE * torch.randn(pixels.shape, generator=generator))


def _rotated(pixels: torch.Tensor, _generator: torch.Generator, *, degrees: float) -> torch.Tensor:
    return _grey(warp(pixels, _turn(degrees, len(pixels))))


def _brightness(pixels: torch.Tensor, _generator: torch.Generator, *, factor: float) -> torch.Tensor:
    return _grey(pixels * factor)


def _jpeg(pixels: torch.Tensor, _generator: torch.Generator) -> torch.Tensor:
    """What JPEG loses of a grey picture: the cosine transform of blocks of 8 x 8 is rounded, nothing else.

    So no file is written, and no codec is needed.
    """
    count, size = pixels.shape[:2]
    whole = np.pad(pixels.numpy().astype(np.float32), ((0, 0), (0, -size % 8), (0, -size % 8)), mode="edge")
    blocks = whole.reshape(count, -(-size // 8), 8, -(-size // 8), 8) - 128
    steps = dctn(blocks, axes=(2, 4), norm="ortho") / STEPS
    levels = np.copysign(np.floor(np.abs(steps) + 0.5001), steps)  # halves are common, and libjpeg rounds them up
    back = idctn(levels * STEPS, axes=(2, 4), norm="ortho") + 128
    return _grey(torch.from_numpy(back.reshape(whole.shape)[:, :size, :size]))


# Each picture turns about its centre, counter-clockwise for positive degrees; brightness is a factor.
TURNS = {"rotated +2": 2.0, "rotated -2": -2.0}
PERTURBATIONS: dict[str, Change] = {
    "noise": _noise,
    **{name: partial(_rotated, degrees=degrees) for name, degrees in TURNS.items()},
    "brighter": partial(_brightness, factor=1.05),
    "darker": partial(_brightness, factor=0.95),
    "jpeg": _jpeg,
}


def perturb(
    network: nn.Module, layer: str, pixels: np.ndarray, targets: torch.Tensor, *, seed: int
) -> pd.DataFrame:
    """Similarity of maps before and after each change, beside what the change does to the target's logit.

    pixels uint8 [N, S, S], targets [N] -> perturbation, pair, ssim, spearman, top_overlap, logit (of the picture
    as it is), logit_change and probability_change (changed - as it is). The map of the picture as it is is
    turned along before it is compared with that of a turned picture; what comes from outside a turned picture is
    black, as in training (`augment.warp`), and outside a map its edge goes on, as it does when it is scaled up.

    Cost: a pair passes 7 times for its maps, and where Grad-CAM has no closed form 7 times backwards and 7 more
    times for its logit.
    """
    assert len(pixels) == len(targets) > 0, (len(pixels), len(targets))
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for start in range(0, len(pixels), BATCH):
        picture, classes = torch.tensor(pixels[start : start + BATCH]), targets[start : start + BATCH]
        before, logit = _maps_and_logits(network, layer, picture, classes)
        for name, change in PERTURBATIONS.items():
            after, changed = _maps_and_logits(network, layer, change(picture, generator), classes)
            here = rotate_maps(before, TURNS[name]) if name in TURNS else before
            table = compare(here, after, picture.shape[1]).assign(perturbation=name)
            table["pair"] += start
            table["logit"] = logit.numpy()
            table["logit_change"] = (changed - logit).numpy()
            table["probability_change"] = (changed.sigmoid() - logit.sigmoid()).numpy()
            tables.append(table)
    return pd.concat(tables).set_index("perturbation").loc[list(PERTURBATIONS)].reset_index()


def captum_measures(
    network: nn.Module, layer: str, pixels: np.ndarray, targets: torch.Tensor, *, seed: int, samples: int = 10
) -> pd.DataFrame:
    """captum's `sensitivity_max` and `infidelity` of the maps after ReLU, by pair.

    pixels uint8 [N, S, S], targets [N] -> pair, sensitivity_max, infidelity, infidelity_shuffled, infidelity_flat,
    infidelity_none. All NaN for a zero map.

    sensitivity_max: the largest |map - map'| / |map| (Frobenius norms, at the network's resolution) among
    `samples` pictures whose grey levels differ by up to RADIUS each, drawn evenly and cut to 0..255.

    infidelity: a square of SQUARE of the side at a random place gets the picture's mean grey. The map scaled up
    and summed over the square, times the one factor that fits the pair's samples best (captum's `normalize`, as
    in the authors' code: Grad-CAM has no unit of its own in pixels), is held against the drop of the logit: the
    mean squared difference, in logits squared. Grad-CAM is activation times gradient, so a share of the logit,
    and the square counts as 1 or 0 rather than by its change in grey (sensitivity-n in Yeh et al., section 2.3).
    Beside it, from the same squares: infidelity_shuffled of the map with its positions permuted, infidelity_flat
    of a map that is the same everywhere, infidelity_none of a zero map, the largest value possible. With few
    samples the fitted factor makes any map fit somewhat, random ones too: a single value says little, and what
    counts is how far maps lie below their shuffled selves over many pairs.

    Cost: a pair passes 2 + samples times for maps (as often backwards where there is no closed form) and
    4 + 2 samples times for logits, or a little more with over 32 samples.
    """
    assert len(pixels) == len(targets) > 0, (len(pixels), len(targets))
    assert samples > 0, samples
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    few = max(BATCH // samples, 1)  # pairs at a time; captum repeats each `samples` times
    tables = []
    for start in range(0, len(pixels), few):
        picture = torch.tensor(pixels[start : start + few], dtype=torch.float32, device=device)
        classes = targets[start : start + few].to(device)
        maps = maps_of_pixels(network, layer, pixels[start : start + few], targets[start : start + few])
        table = pd.DataFrame({"pair": start + np.arange(len(picture))})
        table["sensitivity_max"] = _sensitivity(network, layer, picture, classes, samples, generator)
        squares = generator.get_state()
        table = table.assign(**_infidelity(network, maps, picture, classes, samples, generator))
        shuffled = _shuffled(maps, torch.Generator().manual_seed(seed + start))
        generator.set_state(squares)  # the very same
        again = _infidelity(network, shuffled, picture, classes, samples, generator)
        table.insert(3, "infidelity_shuffled", again["infidelity"])
        table.loc[~(maps > 0).flatten(1).any(dim=1).numpy(), table.columns[1:]] = np.nan
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def rotate_maps(maps: torch.Tensor, degrees: float) -> torch.Tensor:
    """Maps [N, h, w] after ReLU, turned as the pictures are; bilinear, going on beyond the frame as at it."""
    grid = functional.affine_grid(_turn(degrees, len(maps)), [len(maps), 1, *maps.shape[1:]], align_corners=False)
    positive = maps.clamp(min=0).unsqueeze(1)
    turned = functional.grid_sample(positive, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return turned.squeeze(1)


def _maps_and_logits(
    network: nn.Module, layer: str, pixels: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed maps [N, h, w] and the targets' logits [N] of pictures, on the CPU."""
    device = next(network.parameters()).device
    images = normalise(pixels.to(device))
    maps = maps_of(network, layer, images, targets)
    if has_closed_form(network, layer):  # there a map sums up to its logit less the head's bias
        bias = network.get_parameter("fc.bias").detach().cpu()
        return maps, maps.sum(dim=(1, 2)) + bias[targets]
    with torch.inference_mode():
        logits = network(images).float().cpu()
    return maps, logits[torch.arange(len(logits)), targets].clone()


def _sensitivity(
    network: nn.Module, layer: str, pixels: torch.Tensor, targets: torch.Tensor, samples: int,
    generator: torch.Generator,
) -> np.ndarray:  # fmt: skip
    """pixels float32 [N, S, S] in grey levels -> [N]."""

    def explain(
        grey: torch.Tensor | tuple[torch.Tensor], target: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor]:
        # captum passes the pictures as they are in a tuple and wants one back, the changed ones plainly; and it
        # repeats the target with them only where there are several pairs
        plain = grey[0] if isinstance(grey, tuple) else grey
        maps = maps_of(network, layer, normalise(plain), target.expand(len(plain)) if len(target) == 1 else target)
        return (maps.clamp(min=0),) if isinstance(grey, tuple) else maps.clamp(min=0)

    def near(grey: torch.Tensor) -> torch.Tensor:
        change = RADIUS * (2 * torch.rand(grey.shape, generator=generator) - 1)
        return (grey + change.to(grey.device)).clamp(0, 255)

    found = sensitivity_max(
        explain, pixels, perturb_func=near, n_perturb_samples=samples, target=targets,
        max_examples_per_batch=_limit(samples),
    )  # fmt: skip
    values: np.ndarray = found.double().cpu().numpy()
    return values


def _infidelity(
    network: nn.Module, maps: torch.Tensor, pixels: torch.Tensor, targets: torch.Tensor, samples: int,
    generator: torch.Generator,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Maps [N, h, w] and pixels float32 [N, S, S] in grey levels -> the three infidelities, each [N]."""
    size = pixels.shape[1]
    large = functional.interpolate(maps.clamp(min=0).unsqueeze(1), (size, size), mode="bilinear").squeeze(1)
    drops: list[torch.Tensor] = []

    def logit(grey: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(normalise(grey)).gather(1, target.unsqueeze(1)).squeeze(1)
        return logits

    def noted(grey: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # captum also asks for the pictures as they are; their drop is 0 and adds nothing to the sums below
        logits = logit(grey, target)
        drops.append((as_it_is.repeat_interleave(len(grey) // len(as_it_is)) - logits).view(len(as_it_is), -1))
        return logits

    def covered(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        square = _squares(len(grey), size, generator).to(grey.device)
        return square, torch.where(square > 0, grey.mean(dim=(1, 2), keepdim=True), grey)

    with torch.no_grad():
        as_it_is = logit(pixels, targets)
    found = infidelity(
        noted, covered, pixels, large.to(pixels.device), additional_forward_args=targets,
        n_perturb_samples=samples, max_examples_per_batch=_limit(samples), normalize=True,
    )  # fmt: skip
    all_drops = torch.cat(drops, dim=1).double().cpu()  # [N, at least samples]
    none = all_drops.square().sum(dim=1) / samples
    flat = none - (all_drops.sum(dim=1) / samples).square()  # all squares are equally large: the mean fits best
    # the differences of large sums may come out a rounding error below 0
    return {
        "infidelity": found.double().cpu().clamp(min=0).numpy(),
        "infidelity_flat": flat.clamp(min=0).numpy(),
        "infidelity_none": none.numpy(),
    }


def _shuffled(maps: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Maps [N, h, w] with the positions of each permuted."""
    flat = maps.flatten(1)
    order = torch.rand(flat.shape, generator=generator).argsort(dim=1)
    return flat.gather(1, order).view_as(maps)


def _squares(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """A square of ones at a random place inside each picture of zeros: float32 [count, size, size]."""
    side = max(round(SQUARE * size), 1)
    corner = torch.randint(0, size - side + 1, (count, 2), generator=generator)
    place = torch.arange(size)
    rows, columns = (
        (place >= corner[:, axis, None]) & (place < corner[:, axis, None] + side) for axis in (0, 1)
    )  # [count, size] each
    return (rows[:, :, None] & columns[:, None, :]).float()


def _limit(samples: int) -> int | None:
    """captum's max_examples_per_batch: it warns of a limit where none is needed."""
    return BATCH if samples > BATCH else None


def _grey(values: torch.Tensor) -> torch.Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _turn(degrees: float, count: int) -> torch.Tensor:
    """Maps of output to input coordinates [count, 2, 3] for `augment.warp`, counter-clockwise as one sees it."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(count, 2, 3)
