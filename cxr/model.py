"""torchvision's ResNets with 15 outputs, one logit a class.

The paper's network is ResNet-50 (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385) with random
initial weights and its 1000-way layer replaced by one of 15 outputs: 23,538,767 parameters.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import ResNet, resnet18, resnet34, resnet50

from cxr.errors import InputError, first_line
from cxr.findings import CLASSES

ARCHS = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}


def build(arch: str, *, seed: int) -> ResNet:
    """A network with random weights drawn from `seed`: float32 [N, 3, H, W] -> logits [N, 15]."""
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        network: ResNet = ARCHS[arch](weights=None, num_classes=len(CLASSES))
    return network


def load_weights(network: nn.Module, weights: dict[str, torch.Tensor], origin: str) -> None:
    """Put weights into a network, strictly: a missing, extra or misshapen tensor is an InputError."""
    own = network.state_dict()
    problems = {
        # torch itself fills in the count that batch norm did not have once
        "missing": [name for name in own if name not in weights and not name.endswith("num_batches_tracked")],
        "not known": [name for name in weights if name not in own],
        "of another shape": [name for name in own if name in weights and weights[name].shape != own[name].shape],
    }
    told = [f"{len(names)} tensors {what}, such as {names[0]}" for what, names in problems.items() if names]
    if told:
        raise InputError(f"{origin}: these are not this network's weights ({'; '.join(told)}).")
    network.load_state_dict(weights, strict=True)


def load_pretrained(network: ResNet, path: Path) -> None:
    """Put weights that somebody else trained into a network; its last layer keeps its random ones.

    `path` is a .safetensors file, or a state dict that torch saved (as torchvision's are), of the same
    architecture. Raises InputError for any other file.
    """
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = weights.get("state_dict", weights)  # as many training programs wrap it
        body = {name: tensor.detach() for name, tensor in weights.items() if not name.startswith("fc.")}
    except Exception as error:  # torch raises many kinds for a broken file
        raise InputError(
            f"pretrained={path}: not a .safetensors file or a state dict saved by torch ({first_line(error)})."
        ) from error
    load_weights(network, body | network.fc.state_dict(prefix="fc."), f"pretrained={path}")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a weights file says of its network: enough to build it and to feed it."""

    arch: str
    image_size: int  # pixels a side


def save_network(path: Path, weights: dict[str, torch.Tensor], spec: Spec) -> None:
    """Write weights as safetensors, with the spec and the class names in the file's header."""
    header = {"arch": spec.arch, "image_size": str(spec.image_size), "classes": json.dumps(CLASSES)}
    save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, path, metadata=header)


def open_network(path: Path, *, device: str | torch.device = "cpu") -> tuple[ResNet, Spec]:
    """Read a weights file: the network on the device, in eval mode, and its spec.

    Raises InputError for a file that is not a whole safetensors file of this project.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        weights = load_file(path)
        spec = Spec(arch=header["arch"], image_size=int(header["image_size"]))
        classes = tuple(json.loads(header["classes"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a weights file of this project ({error!r}).") from error
    if spec.arch not in ARCHS or classes != CLASSES:
        raise InputError(
            f"{path}: {spec.arch} with outputs {classes}; expected one of {list(ARCHS)} with {CLASSES}."
        )
    network = build(spec.arch, seed=0)
    load_weights(network, weights, str(path))
    return network.to(torch.device(device)).eval(), spec


def file_digest(path: Path) -> str:
    """16 hexadecimal digits over a file's bytes. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """16 hexadecimal digits over names and values of all tensors."""
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode())
        state.update(weights[name].cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:16]
