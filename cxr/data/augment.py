"""What is done to whole batches on the device before the network sees them."""

import torch

# Round numbers near the pixel mean and standard deviation of NIH's images, on the 0..1 scale. The
# network learns its own scale from random weights; what matters is that there is one place for it.
MEAN = 0.5
STD = 0.25


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Grey uint8 [N, H, W] -> float32 [N, 3, H, W]: (x / 255 - 0.5) / 0.25, repeated to three channels."""
    grey = pixels.to(torch.float32).div_(255.0).sub_(MEAN).div_(STD)
    return grey.unsqueeze(1).expand(-1, 3, -1, -1)
