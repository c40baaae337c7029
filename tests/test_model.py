"""Networks and their weights files: sizes, seeds, a strict round trip."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet34

from cxr.errors import InputError
from cxr.findings import CLASSES
from cxr.model import (
    ARCHS,
    Spec,
    build,
    file_digest,
    load_pretrained,
    load_weights,
    open_network,
    save_network,
    weights_digest,
)

SPEC = Spec(arch="resnet18", image_size=64)
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Weights of a ResNet-18 that has seen data, so that no tensor holds its initial value only."""
    network = build("resnet18", seed=3)
    network(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return network.state_dict()


@pytest.fixture
def saved(weights: Weights, tmp_path: Path) -> Path:
    save_network(tmp_path / "w.safetensors", weights, SPEC)
    return tmp_path / "w.safetensors"


def header(**changes: str) -> dict[str, str]:
    return {"arch": "resnet18", "image_size": "64", "classes": json.dumps(CLASSES)} | changes


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- building


# torchvision's published counts with 1000 outputs, less the 985 outputs that are not there
@pytest.mark.parametrize(
    ("arch", "published", "width"),
    [("resnet18", 11_689_512, 512), ("resnet34", 21_797_672, 512), ("resnet50", 25_557_032, 2048)],
)
def test_parameters_are_torchvisions_less_the_outputs_that_are_not_there(
    arch: str, published: int, width: int
) -> None:
    count = sum(parameter.numel() for parameter in build(arch, seed=0).parameters())
    assert count == published - (1000 - 15) * (width + 1)


def test_resnet50_with_15_outputs_has_the_papers_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in build("resnet50", seed=0).parameters()) == 23_538_767


def test_every_architecture_of_the_table_is_covered_here() -> None:
    assert set(ARCHS) == {"resnet18", "resnet34", "resnet50"}


def test_a_batch_gives_one_logit_a_class() -> None:
    network = build("resnet18", seed=0).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, len(CLASSES))


def test_the_seed_decides_the_weights() -> None:
    first = build("resnet18", seed=5).state_dict()
    assert equal(first, build("resnet18", seed=5).state_dict())
    other = build("resnet18", seed=6).state_dict()
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_the_global_generator_neither_moves_nor_matters() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build("resnet18", seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(first, build("resnet18", seed=5).state_dict())


# ---------------------------------------------------------------- weights files


def test_a_round_trip_gives_every_tensor_back_bit_by_bit(saved: Path, weights: Weights) -> None:
    network, spec = open_network(saved)
    assert spec == SPEC
    assert not network.training
    assert equal(network.state_dict(), weights)
    assert all(tensor.dtype == weights[name].dtype for name, tensor in network.state_dict().items())


def test_weights_in_another_memory_format_are_saved_as_they_read(weights: Weights, tmp_path: Path) -> None:
    turned = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in weights.items()
    }
    save_network(tmp_path / "w.safetensors", turned, SPEC)
    assert equal(open_network(tmp_path / "w.safetensors")[0].state_dict(), weights)


def test_the_header_says_what_the_network_is(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        said = file.metadata()
    assert (said["arch"], said["image_size"], tuple(json.loads(said["classes"]))) == ("resnet18", "64", CLASSES)


def test_opening_leaves_the_global_generator_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    open_network(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_and_an_extra_tensor_are_refused_by_name(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_network(path, {name: tensor for name, tensor in weights.items() if name != "fc.bias"}, SPEC)
    with pytest.raises(InputError, match=r"(?s)w\.safetensors: these are not.*fc\.bias"):
        open_network(path)
    save_network(path, weights | {"fc2.bias": torch.zeros(15)}, SPEC)
    with pytest.raises(InputError, match=r"(?s)w\.safetensors: these are not.*fc2\.bias"):
        open_network(path)


def test_a_tensor_of_another_shape_is_refused(weights: Weights) -> None:
    misshapen = weights | {"fc.bias": torch.zeros(14)}
    with pytest.raises(InputError, match=r"(?s)here\.pt: these are not.*fc\.bias"):
        load_weights(build("resnet18", seed=0), misshapen, "here.pt")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": json.dumps(CLASSES[:-1])}, "resnet18 with outputs"),
        ({"classes": json.dumps([*CLASSES[1:], CLASSES[0]])}, "resnet18 with outputs"),
        ({"arch": "vgg16"}, "vgg16"),
        ({"arch": "resnet50"}, "these are not this network's weights"),
        ({"image_size": "large"}, "not a weights file of this project"),
        ({"classes": "{"}, "not a weights file of this project"),
    ],
)
def test_a_header_of_another_network_is_refused(
    weights: Weights, tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(weights, path, metadata=header(**changes))
    with pytest.raises(InputError, match=rf"w\.safetensors: .*{named}"):
        open_network(path)


def test_a_safetensors_file_without_our_header_is_refused(weights: Weights, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="arch"):
        open_network(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, 1_000_000, -1])
def test_a_file_that_is_cut_short_is_refused(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"w\.safetensors: not a weights file"):
        open_network(saved)


def test_another_kind_of_file_a_folder_and_nothing_are_refused(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "pickled.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pickled", "folder", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.safetensors: not a weights file"):
            open_network(tmp_path / f"{name}.safetensors")


# ---------------------------------------------------------------- weights of others


@pytest.fixture(scope="module")
def imagenet() -> Weights:
    """A state dict of torchvision's own ResNet-18, 1000 classes, after some data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = resnet18(weights=None)
        network(torch.randn(4, 3, 64, 64))
    return network.state_dict()


def write(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors", "resnet18-f37072fd.pth"])
def test_everything_but_the_last_layer_comes_from_the_file(imagenet: Weights, tmp_path: Path, name: str) -> None:
    network = build("resnet18", seed=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_pretrained(network, write(tmp_path / name, imagenet))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("fc.") else imagenet[name]), name
    assert network.fc.weight.shape == (15, 512)
    assert not torch.equal(before["conv1.weight"], imagenet["conv1.weight"])


def test_our_own_weights_file_gives_all_but_the_last_layer(saved: Path, weights: Weights) -> None:
    network = build("resnet18", seed=9)
    load_pretrained(network, saved)
    found = network.state_dict()
    assert equal({**found, "fc.weight": weights["fc.weight"], "fc.bias": weights["fc.bias"]}, weights)
    assert torch.equal(found["fc.weight"], build("resnet18", seed=9).fc.weight)


def test_files_from_before_batch_norm_counted_its_batches_load(imagenet: Weights, tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in imagenet.items() if not name.endswith("num_batches_tracked")}
    network = build("resnet18", seed=3)
    load_pretrained(network, write(tmp_path / "old.pth", old))
    assert torch.equal(network.conv1.weight, imagenet["conv1.weight"])
    assert torch.equal(network.layer4[1].bn2.running_var, imagenet["layer4.1.bn2.running_var"])


class RunsCode:
    """A value whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def refused(path: Path, arch: str = "resnet18") -> str:
    """Why a file was refused, in one line; the network is as it was."""
    network = build(arch, seed=3)
    with pytest.raises(InputError) as why:
        load_pretrained(network, path)
    assert str(why.value).startswith(f"pretrained={path}: ")
    assert "\n" not in str(why.value)
    assert len(str(why.value)) < 800
    return str(why.value)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_another_architectures_weights_are_refused(imagenet: Weights, tmp_path: Path, name: str) -> None:
    larger = write(tmp_path / f"larger-{name}", resnet34(weights=None).state_dict())
    assert "these are not this network's weights" in refused(larger)
    assert "these are not this network's weights" in refused(write(tmp_path / name, imagenet), "resnet50")


def test_a_file_that_would_run_code_is_refused_and_runs_none(imagenet: Weights, tmp_path: Path) -> None:
    evil = imagenet | {"layer9.weight": RunsCode(tmp_path / "made")}
    assert "not a .safetensors file or a state dict saved by torch" in refused(write(tmp_path / "evil.pth", evil))
    (tmp_path / "evil.safetensors").write_bytes((tmp_path / "evil.pth").read_bytes())
    refused(tmp_path / "evil.safetensors")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kept", [1, 4, 100, 10_000, 1_000_000, -1])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_of_others_that_is_cut_short_is_refused(
    imagenet: Weights, tmp_path: Path, name: str, kept: int
) -> None:
    path = write(tmp_path / name, imagenet)
    path.write_bytes(path.read_bytes()[:kept])
    assert "not a .safetensors file or a state dict saved by torch" in refused(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "not a .safetensors file or a state dict saved by torch" in refused(tmp_path / name)


def test_weights_that_a_training_program_has_wrapped_are_found(imagenet: Weights, tmp_path: Path) -> None:
    network = build("resnet18", seed=3)
    load_pretrained(network, write(tmp_path / "w.pth", {"state_dict": imagenet, "epoch": 3}))
    assert torch.equal(network.conv1.weight, imagenet["conv1.weight"])


def test_what_is_no_state_dict_is_refused(imagenet: Weights, tmp_path: Path) -> None:
    for content in (torch.zeros(3), [imagenet], 7, None, {1: torch.zeros(3)}):
        refused(write(tmp_path / "w.pth", content))
    for content in ({}, {"model": imagenet, "epoch": 3}, imagenet | {"conv1.weight": "large"}):
        refused(write(tmp_path / "w.pth", content))
    (tmp_path / "text.pth").write_text("weights\n")
    (tmp_path / "folder.pth").mkdir()
    for name in ("text", "folder", "missing"):
        refused(tmp_path / f"{name}.pth")


# ---------------------------------------------------------------- digest


def test_a_files_digest_is_sha256_over_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()[:16]
    with pytest.raises(InputError, match=r"b: cannot be read \("):
        file_digest(tmp_path / "b")


def test_one_changed_value_changes_the_digest(weights: Weights) -> None:
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    assert weights_digest(changed) == weights_digest(weights)
    changed["fc.bias"][3] = changed["fc.bias"][3].nextafter(torch.tensor(9.0))
    assert weights_digest(changed) != weights_digest(weights)


def test_a_changed_name_changes_the_digest_and_the_order_does_not() -> None:
    one = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    assert weights_digest(one) == weights_digest(dict(reversed(one.items())))
    assert weights_digest(one) != weights_digest({"a": torch.tensor([1.0]), "c": torch.tensor([2.0])})
    assert weights_digest(one) != weights_digest({"a": torch.tensor([2.0]), "b": torch.tensor([1.0])})


def test_the_digest_is_sha256_over_names_and_values() -> None:
    expected = hashlib.sha256(b"a" + np.float32([1.5, -2]).tobytes() + b"b" + np.int64([7]).tobytes())
    given = {"b": torch.tensor([7]), "a": torch.tensor([1.5, -2.0])}
    assert weights_digest(given) == expected.hexdigest()[:16]


def test_the_digest_survives_the_weights_file(saved: Path, weights: Weights) -> None:
    assert weights_digest(open_network(saved)[0].state_dict()) == weights_digest(weights)
