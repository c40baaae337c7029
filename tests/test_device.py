"""The choice of a device and of how it computes: what pays there is taken, what is not there is refused."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cxr import device
from cxr.device import SPEEDUPS, Engine, engine
from cxr.errors import InputError
from entrypoints import options

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    assert device.choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_asks_torch_whether_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, there: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device.choose("auto").type == expected


def test_cpu_is_always_there() -> None:
    assert device.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "nonsense", "", "cuda:-1", "cuda:x", "CPU", "meta"])
def test_what_is_not_there_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as refused:
        device.choose(name)
    message = str(refused.value)
    assert message.startswith(f"device={name}: not usable here (")
    assert message.endswith("Expected auto, cpu or cuda:N.")
    assert "\n" not in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_refused_for_that_reason() -> None:
    with pytest.raises(InputError, match=r"device=cuda: .*(NVIDIA|CUDA)"):
        device.choose("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_that_is_there_is_taken() -> None:
    assert device.choose("cuda:0") == torch.device("cuda", 0)


def test_float32_is_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device.choose("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


# ---------------------------------------------------------------- how it computes


def taken(chosen: Engine) -> set[str]:
    return {name for name in SPEEDUPS if getattr(chosen, name)}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What torch says of the machine; a test changes it. 8 GB are free on the GPU."""
    says = SimpleNamespace(gpu_bfloat16=True, cpu={"avx512_bf16": True}, free=8_000_000_000, asked=[])

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return says.gpu_bfloat16 or including_emulation

    def mem_get_info(where: torch.device) -> tuple[int, int]:
        says.asked.append(where)
        return says.free, 80_000_000_000

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: says.cpu)
    return says


def test_speed_ups_are_the_engines_switches_and_the_commands_names() -> None:
    assert SPEEDUPS == options.SPEEDUPS
    assert tuple(field.name for field in fields(Engine) if field.name != "device") == SPEEDUPS


def test_the_plain_engine_has_none() -> None:
    assert taken(Engine(device=CPU)) == set()
    assert Engine(device=CPU) == engine(CPU, without=SPEEDUPS)


@pytest.mark.parametrize("unknown", [["bf16"], ["fused", "tf32", "Compile"], [""]])
def test_an_unknown_name_is_refused_with_those_that_are_known(unknown: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        engine(CPU, without=unknown)
    wrong = ",".join(name for name in unknown if name not in SPEEDUPS)
    assert str(refused.value) == (
        f"without={wrong}: expected some of bfloat16, channels_last, fused, compile, resident."
    )


@pytest.mark.parametrize("name", SPEEDUPS)
@pytest.mark.parametrize("where", [CPU, GPU])
def test_each_can_be_left_out_and_nothing_else_goes_with_it(
    machine: SimpleNamespace, where: torch.device, name: str
) -> None:
    everything = taken(engine(where, pixel_bytes=1_000))
    assert taken(engine(where, without=(name,), pixel_bytes=1_000)) == everything - {name}


def test_all_of_them_pay_on_a_gpu_with_bfloat16_and_room(machine: SimpleNamespace) -> None:
    chosen = engine(GPU, pixel_bytes=1_000)
    assert (chosen.device, taken(chosen)) == (GPU, set(SPEEDUPS))
    assert taken(engine(GPU, without=SPEEDUPS, pixel_bytes=1_000)) == set()


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(machine: SimpleNamespace) -> None:
    machine.gpu_bfloat16 = False
    assert taken(engine(GPU, pixel_bytes=1_000)) == set(SPEEDUPS) - {"bfloat16"}


@pytest.mark.parametrize(
    ("pixel_bytes", "resident"),
    [(0, False), (1, True), (3_999_999_999, True), (4_000_000_000, False), (9_000_000_000, False)],
)
def test_pixels_live_on_a_gpu_where_they_take_less_than_half_of_its_free_memory(
    machine: SimpleNamespace, pixel_bytes: int, resident: bool
) -> None:
    second = torch.device("cuda", 1)
    assert engine(second, pixel_bytes=pixel_bytes).resident is resident
    assert set(machine.asked) <= {second}  # another GPU's memory does not matter


@pytest.mark.parametrize(
    ("capabilities", "bfloat16"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True), ({"amx_bf16": True}, True), ({"arm_bf16": True}, True),
        ({"avx512_bf16": False, "avx512_f": True}, False), ({}, False),
    ],
)  # fmt: skip
def test_a_cpu_computes_in_bfloat16_where_it_has_units_for_it(
    machine: SimpleNamespace, capabilities: dict[str, bool], bfloat16: bool
) -> None:
    machine.cpu = capabilities
    expected = {"channels_last", "fused"} | ({"bfloat16"} if bfloat16 else set())
    assert taken(engine(CPU, pixel_bytes=1_000)) == expected
    assert machine.asked == []


def test_a_cpu_is_asked_in_words_that_torch_knows() -> None:
    known = torch.cpu.get_capabilities()
    assert {"avx512_bf16", "amx_bf16"} <= known.keys() or "arm_bf16" in known


@pytest.mark.parametrize("bfloat16", [True, False])
def test_autocast_decides_the_precision_of_products_and_of_nothing_else(bfloat16: bool) -> None:
    chosen = Engine(device=CPU, bfloat16=bfloat16)
    network = chosen.place(nn.Conv2d(3, 4, 3))
    images = torch.ones(2, 3, 8, 8)
    with chosen.autocast():
        output = network(images)
        assert output.float().exp().dtype == torch.float32
    assert output.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert network(images).dtype == torch.float32


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_of_weights_changes_and_their_values_do_not(channels_last: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parameters = list(network.parameters())
    placed = Engine(device=CPU, channels_last=channels_last).place(network)
    assert placed is network
    assert all(one is other for one, other in zip(placed.parameters(), parameters, strict=True))
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert all(torch.equal(tensor, before[name]) for name, tensor in placed.state_dict().items())
