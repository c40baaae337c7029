"""Grad-CAM by captum, one signed map for each (image, class) pair.

Selvaraju et al., ICCV 2017 (https://arxiv.org/abs/1610.02391), equations 1 and 2; the paper's
equations 5 and 6. The target is the logit, not the probability. No ReLU and no scaling is applied
here: both would be lost information for whoever averages.
"""

import torch
from captum.attr import LayerGradCam
from torch import nn

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def default_layer(image_size: int) -> str:
    """The last block, or the one before it where the last map would be under 7 x 7."""
    return "layer4" if image_size >= 224 else "layer3"


def signed_maps(network: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """sum_k alpha_k A^k at the output of `layer`, in logit units, before any ReLU.

    images [N, 3, H, W] float32, targets [N] class numbers (each image its own) -> [N, h, w] float32 on
    the CPU. The network must be in eval mode, or the maps of a batch would depend on each other.
    """
    assert not network.training, "Grad-CAM needs the network in eval mode"
    assert len(images) == len(targets), (len(images), len(targets))
    cam = LayerGradCam(network, network.get_submodule(layer))
    maps = cam.attribute(images, target=targets.to(images.device), relu_attributions=False)  # [N, 1, h, w]
    detached: torch.Tensor = maps.detach().squeeze(1).float().cpu()
    return detached
