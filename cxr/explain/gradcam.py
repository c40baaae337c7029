"""Grad-CAM: one signed map for each (image, class) pair, by captum, or by the closed form where there is one.

Selvaraju et al., ICCV 2017 (https://arxiv.org/abs/1610.02391), equations 1 and 2; the paper's
equations 5 and 6. The target is the logit, not the probability. No ReLU and no scaling is applied
here: both would be lost information for whoever averages.

Where the head is a global average and one linear layer, the gradient of a logit at the last block's output is the
head's weight over the number of positions, whatever the image. So the maps of all classes follow from one forward
pass without any gradient (the class activation maps of Zhou et al., CVPR 2016, https://arxiv.org/abs/1512.04150,
over the number of positions).
"""

import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn import functional
from torchvision.models import ResNet

LAYERS = ("layer1", "layer2", "layer3", "layer4")
LAST = "layer4"


def default_layer(image_size: int) -> str:
    """The last block, or the one before it where the last map would be under 7 x 7."""
    return LAST if image_size >= 224 else "layer3"


def has_closed_form(network: nn.Module, layer: str) -> bool:
    """Whether `head_maps` holds: torchvision's ResNet as it was built, in eval mode, float32, at its last block.

    A compiled network, a subclass, another pooling or head, or a hook on a block is left to captum.
    """
    if type(network) is not ResNet or layer != LAST or network.training or network._compiled_call_impl is not None:
        return False
    pool, head = network.avgpool, network.fc
    plain = type(pool) is nn.AdaptiveAvgPool2d and pool.output_size in (1, (1, 1)) and type(head) is nn.Linear
    parts: tuple[nn.Module, ...] = (network, *network.children())
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    return plain and not hooked and all(tensor.dtype == torch.float32 for tensor in network.parameters())


def fast(network: ResNet) -> ResNet:
    """The network with its weights laid out as convolutions like them best (channels last): 1.1 to 1.4 times."""
    laid: ResNet = network.to(memory_format=torch.channels_last)
    return laid


def head_maps(network: ResNet, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every class's signed map at the last block, and the logits, from one forward pass in inference mode.

    images [N, 3, H, W] float32 -> maps [N, 15, h, w] and logits [N, 15], float32 on the network's device. Only
    where `has_closed_form`; a map sums up to its logit less the head's bias.
    """
    assert has_closed_form(network, LAST), "this network has no closed form of Grad-CAM"
    # as the weights lie where they were prepared (`fast`): the other way round would be turned in every layer
    layout = torch.channels_last if network.conv1.weight.is_contiguous(memory_format=torch.channels_last) else None
    with torch.inference_mode():
        images = images.contiguous(memory_format=layout or torch.contiguous_format)
        features = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        for block in LAYERS:
            features = network.get_submodule(block)(features)  # [N, K, h, w]
        positions = features.shape[2] * features.shape[3]
        maps = functional.conv2d(features, network.fc.weight[:, :, None, None]) / positions
        return maps, maps.sum(dim=(2, 3)) + network.fc.bias


def maps_of(network: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`signed_maps` by the fastest way that there is for this network and layer."""
    if not has_closed_form(network, layer):
        return signed_maps(network, layer, images, targets)
    assert isinstance(network, ResNet)
    assert len(images) == len(targets), (len(images), len(targets))
    maps, _ = head_maps(network, images)
    return maps[torch.arange(len(maps)), targets.to(maps.device)].float().cpu().clone()


def signed_maps(network: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """sum_k alpha_k A^k at the output of `layer`, in logit units, before any ReLU: the reference, by captum.

    images [N, 3, H, W] float32, targets [N] class numbers (each image its own) -> [N, h, w] float32 on
    the CPU. The network must be in eval mode, or the maps of a batch would depend on each other.
    """
    assert not network.training, "Grad-CAM needs the network in eval mode"
    assert len(images) == len(targets), (len(images), len(targets))
    cam = LayerGradCam(network, network.get_submodule(layer))
    maps = cam.attribute(images, target=targets.to(images.device), relu_attributions=False)  # [N, 1, h, w]
    detached: torch.Tensor = maps.detach().squeeze(1).float().cpu()
    return detached
