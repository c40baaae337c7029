"""Grad-CAM against hand-written gradients and, for a linear head over an average, the closed form."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import ResNet

from cxr.explain.gradcam import LAYERS, default_layer, fast, has_closed_form, head_maps, maps_of, signed_maps
from cxr.findings import CLASSES
from cxr.model import build

TARGETS = torch.tensor(
    [3, 0, 14, 3, 9]
)  # each image its own: https://github.com/jacobgil/pytorch-grad-cam/issues/328
SIDES = {"layer1": 16, "layer2": 8, "layer3": 4, "layer4": 2}


@pytest.fixture(scope="module")
def network() -> ResNet:
    """A ResNet-18 whose BatchNorm has seen data, in eval mode; float64, so that processors do not differ."""
    built = build("resnet18", seed=1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        built(torch.randn(8, 3, 64, 64, generator=generator))
    return built.double().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(len(TARGETS), 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()


def features(network: nn.Module, layer: str, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of a layer [N, K, h, w] and the logits [N, 15], with their graph."""
    kept: list[torch.Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda *seen: kept.append(seen[2]))
    logits = network(images)
    handle.remove()
    return kept[0], logits


def by_hand(network: nn.Module, layer: str, image: torch.Tensor, target: int) -> torch.Tensor:
    """Selvaraju et al., equations 1 and 2 without the ReLU, for one image: sum_k mean_ij(dy/dA_k) A_k."""
    maps, logits = features(network, layer, image[None])
    (gradient,) = torch.autograd.grad(logits[0, target], maps)
    alpha = gradient.mean(dim=(2, 3), keepdim=True)
    return (alpha * maps).sum(dim=1)[0].detach()


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0.0, atol=1e-5 * float(expected.abs().max())
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_of_mixed_targets_equals_gradients_by_hand_image_by_image(
    network: ResNet, images: torch.Tensor, layer: str
) -> None:
    maps = signed_maps(network, layer, images, TARGETS)
    assert maps.shape == (len(TARGETS), SIDES[layer], SIDES[layer])
    for image, target, found in zip(images, TARGETS.tolist(), maps, strict=True):
        assert_close(found, by_hand(network, layer, image, target))


def test_layer4_equals_the_closed_form_of_a_linear_head_over_an_average(
    network: ResNet, images: torch.Tensor
) -> None:
    maps, _ = features(network, "layer4", images)
    expected = torch.einsum("nk,nkhw->nhw", network.fc.weight[TARGETS], maps).detach() / (2 * 2)
    assert_close(signed_maps(network, "layer4", images, TARGETS), expected)


def test_the_sum_of_a_layer4_map_is_the_logit_less_its_bias(network: ResNet, images: torch.Tensor) -> None:
    with torch.inference_mode():
        logits = network(images).gather(1, TARGETS[:, None])[:, 0] - network.fc.bias[TARGETS]
    sums = signed_maps(network, "layer4", images, TARGETS).double().sum(dim=(1, 2))
    torch.testing.assert_close(sums, logits.clone(), rtol=1e-4, atol=1e-5)


def test_maps_keep_the_evidence_against_the_class(network: ResNet, images: torch.Tensor) -> None:
    every = torch.cat(
        [signed_maps(network, "layer4", images, torch.full((5,), target)) for target in range(len(CLASSES))]
    )
    assert (every < 0).any()
    assert (every > 0).any()


def test_an_images_map_does_not_depend_on_its_batch(network: ResNet, images: torch.Tensor) -> None:
    together = signed_maps(network, "layer3", images, TARGETS)
    alone = signed_maps(network, "layer3", images[2:3], TARGETS[2:3])
    assert_close(alone[0], together[2])


def test_maps_are_plain_float32_tensors_of_the_cpu(network: ResNet, images: torch.Tensor) -> None:
    maps = signed_maps(network, "layer4", images, TARGETS)
    assert (maps.dtype, maps.device.type, maps.requires_grad) == (torch.float32, "cpu", False)


def test_a_network_in_training_mode_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match="eval mode"):
        signed_maps(build("resnet18", seed=0).train(), "layer4", images, TARGETS)


def test_as_many_targets_as_images_are_needed(network: ResNet, images: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match=r"\(5, 1\)"):
        signed_maps(network, "layer4", images, TARGETS[:1])


def test_nothing_is_left_on_the_network(network: ResNet, images: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    given = images.clone()
    signed_maps(network, "layer3", given, TARGETS)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for module in network.modules():
        for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
        ):  # fmt: skip
            assert len(hooks) == 0
    assert torch.equal(given, images)
    assert not given.requires_grad


def test_hooks_are_gone_after_an_error_too(network: ResNet, images: torch.Tensor) -> None:
    with pytest.raises((RuntimeError, IndexError, AssertionError)):
        signed_maps(network, "layer4", images, torch.full((5,), 99))
    assert len(network.layer4._forward_hooks) == len(network.layer4._forward_pre_hooks) == 0


@pytest.mark.parametrize(("size", "layer"), [(64, "layer3"), (223, "layer3"), (224, "layer4"), (512, "layer4")])
def test_the_default_layer_keeps_maps_of_7_by_7_where_it_can(size: int, layer: str) -> None:
    assert default_layer(size) == layer


# ---------------------------------------------------------------- the closed form


@pytest.fixture(scope="module")
def plain(network: ResNet) -> ResNet:
    """The same network in float32, as it is trained and served."""
    return copy.deepcopy(network).float().eval()


def test_one_forward_pass_gives_the_maps_of_all_classes_as_captum_does(
    plain: ResNet, images: torch.Tensor
) -> None:
    small = images.float()
    maps, logits = head_maps(plain, small)
    assert maps.shape == (len(images), len(CLASSES), 2, 2)
    for output in range(len(CLASSES)):
        expected = signed_maps(plain, "layer4", small, torch.full((len(images),), output))
        assert_close(maps[:, output], expected)
    with torch.inference_mode():
        assert_close(logits, plain(small))


def test_weights_laid_out_for_speed_give_the_same_maps(plain: ResNet, images: torch.Tensor) -> None:
    laid = fast(copy.deepcopy(plain))
    assert laid.layer4[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(head_maps(laid, images.float())[0], head_maps(plain, images.float())[0])
    assert_close(
        signed_maps(laid, "layer3", images.float(), TARGETS), signed_maps(plain, "layer3", images.float(), TARGETS)
    )


@pytest.mark.parametrize("arch", ["resnet34", "resnet50"])
def test_other_depths_have_it_too(arch: str) -> None:
    network = build(arch, seed=3).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    maps, _ = head_maps(network, images)
    assert_close(maps[:, 5], signed_maps(network, "layer4", images, torch.tensor([5, 5])))


@pytest.mark.parametrize("layer", LAYERS)
def test_the_fastest_way_gives_each_image_its_own_target_at_any_layer(
    plain: ResNet, images: torch.Tensor, layer: str
) -> None:
    found = maps_of(plain, layer, images.float(), TARGETS)
    assert_close(found, signed_maps(plain, layer, images.float(), TARGETS))
    assert (found.dtype, found.device.type, found.is_inference()) == (torch.float32, "cpu", False)


def test_the_closed_form_is_taken_only_where_it_holds(plain: ResNet, network: ResNet) -> None:
    class Own(ResNet):
        pass

    assert has_closed_form(plain, "layer4")
    assert not has_closed_form(plain, "layer3")
    assert not has_closed_form(network, "layer4")  # float64
    own = copy.deepcopy(plain)
    own.__class__ = Own
    assert not has_closed_form(own, "layer4")
    assert not has_closed_form(copy.deepcopy(plain).train(), "layer4")
    compiled = copy.deepcopy(plain)
    compiled.compile()
    assert not has_closed_form(compiled, "layer4")
    assert not has_closed_form(torch.compile(plain), "layer4")
    for name, other in (
        ("fc", nn.Sequential(nn.Linear(512, 15))), ("avgpool", nn.AdaptiveMaxPool2d(1)),
        ("avgpool", nn.AdaptiveAvgPool2d(2)),
    ):  # fmt: skip
        changed = copy.deepcopy(plain)
        setattr(changed, name, other)
        assert not has_closed_form(changed, "layer4")
        with pytest.raises(AssertionError, match="no closed form"):
            head_maps(changed, torch.zeros(1, 3, 64, 64))
    hooked = copy.deepcopy(plain)
    hooked.fc.register_forward_hook(lambda *seen: 2 * seen[2])
    assert not has_closed_form(hooked, "layer4")
