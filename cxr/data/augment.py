"""What is done to whole batches on the device before the network sees them."""

import math

import torch
from torch.nn import functional

from cxr.data.jitter import Augment

# Round numbers near the pixel mean and standard deviation of NIH's images, on the 0..1 scale. The
# network learns its own scale from random weights; what matters is that there is one place for it.
MEAN = 0.5
STD = 0.25


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Grey [N, H, W] -> float32 [N, 3, H, W]: (x / 255 - 0.5) / 0.25, repeated to three channels.

    Grey is uint8, or float32 in 0..255 as `warp` returns it.
    """
    grey = pixels.to(torch.float32, copy=True).div_(255.0).sub_(MEAN).div_(STD)
    return grey.unsqueeze(1).expand(-1, 3, -1, -1)


def draw(augment: Augment, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` maps of output to input coordinates: float32 [count, 2, 3] on the CPU.

    Coordinates are (x to the right, y down) from -1 to 1 between the outer edges of a square picture,
    as `functional.affine_grid` has them. Angle, size and shifts are uniform within the limits and
    independent. Five numbers an image are taken from the generator whatever the limits are, so that
    the draw for a whole batch can be divided among processes and later draws do not depend on it.
    """
    share = torch.rand(count, 5, generator=generator, dtype=torch.float32)  # [count, 5] in [0, 1)
    either_way = 2 * share - 1
    angle = either_way[:, 0] * math.radians(augment.degrees)
    size = 1 + either_way[:, 1] * augment.scale
    shift = either_way[:, 2:4] * (2 * augment.shift)  # a side is 2 long
    mirror = 1 - 2 * (share[:, 4] < augment.flip).float()  # -1: left and right change places
    # A picture is mirrored, then turned and sized about its centre, then shifted: out = S R M in + t.
    # What is asked for is the way back: in = M R^-1 (out - t) / S.
    cos, sin = angle.cos() / size, angle.sin() / size
    back = torch.stack([mirror * cos, mirror * sin, -sin, cos], dim=1).view(count, 2, 2)
    offset = -(back * shift[:, None, :]).sum(dim=2)
    return torch.cat([back, offset[:, :, None]], dim=2)


def warp(pixels: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Move square pictures: uint8 [B, S, S], matrices [B, 2, 3] of `draw` -> float32 [B, S, S] in 0..255.

    Bilinear, on the pixels' device; what comes from outside the picture is black.
    """
    size = pixels.shape[-1]
    assert pixels.shape[1:] == (size, size), "in coordinates from -1 to 1 only a square turns without a shear"
    # written out rather than `affine_grid`, whose matrix product may be rounded to TF32 on a GPU: 0.1 pixel
    centres = (2 * torch.arange(size, device=pixels.device, dtype=torch.float32) + 1) / size - 1  # [S]
    to_x, to_y, offset = matrices.to(pixels.device, non_blocking=True)[:, None, None].unbind(
        dim=-1
    )  # [B, 1, 1, 2]
    grid = to_x * centres[:, None] + to_y * centres[:, None, None] + offset  # [B, S, S, 2]
    grey = pixels.to(torch.float32).unsqueeze(1)
    moved = functional.grid_sample(grey, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.squeeze(1)
