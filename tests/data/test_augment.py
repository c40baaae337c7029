"""Drawn maps and moved pictures: where a dot goes by hand, the limits, and who draws what."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxr.data.augment import draw, normalise, warp
from cxr.data.jitter import Augment

SIDE = 65  # odd: there is a middle pixel, number 32
MIDDLE = SIDE // 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dot(right: int, down: int) -> torch.Tensor:
    """One picture [1, SIDE, SIDE] of a soft dot, a few pixels wide, that far from its middle."""
    steps = torch.arange(SIDE) - MIDDLE
    square = (steps - right) ** 2 + ((steps - down) ** 2)[:, None]
    return (240 * torch.exp(-square / 8)).to(torch.uint8)[None]


def place(moved: torch.Tensor) -> tuple[float, float]:
    """(right, down) of the grey's centre of mass from the picture's middle, in pixels."""
    steps = torch.arange(moved.shape[-1], dtype=torch.float64) - moved.shape[-1] // 2
    grey = moved[0].double()
    return float((grey.sum(dim=0) * steps).sum() / grey.sum()), float((grey.sum(dim=1) * steps).sum() / grey.sum())


def parts(matrices: torch.Tensor) -> dict[str, np.ndarray]:
    """What was drawn, read from the maps: degrees, size, shift [n, 2] in shares of the side, mirrored."""
    back = matrices[:, :, :2].double().numpy()
    determinant = np.linalg.det(back)
    forth = np.linalg.inv(back)  # out = forth in + t
    turn = forth * np.stack([np.sign(determinant), np.ones(len(back))], axis=1)[:, None, :]  # without the mirror
    shift = -np.einsum("nij,nj->ni", forth, matrices[:, :, 2].double().numpy())
    return {
        "degrees": np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0])),
        "size": 1 / np.sqrt(np.abs(determinant)),
        "shift": shift / 2,
        "mirrored": determinant < 0,
    }


# ---------------------------------------------------------------- draw


def test_the_default_changes_nothing() -> None:
    assert not Augment()
    for limits in ({"degrees": 1.0}, {"scale": 0.1}, {"shift": 0.1}, {"flip": 0.5}):
        assert Augment(**limits)
    matrices = draw(Augment(), 3, seeded())
    assert (matrices.shape, matrices.dtype, matrices.device.type) == ((3, 2, 3), torch.float32, "cpu")
    assert torch.equal(matrices, torch.eye(2, 3).expand(3, 2, 3))


def test_limits_are_kept_and_reached() -> None:
    augment = Augment(degrees=7, scale=0.1, shift=0.05, flip=0.25)
    drawn = parts(draw(augment, 20_000, seeded()))
    for values, low, high in (
        (drawn["degrees"], -7, 7), (drawn["size"], 0.9, 1.1),
        (drawn["shift"][:, 0], -0.05, 0.05), (drawn["shift"][:, 1], -0.05, 0.05),
    ):  # fmt: skip
        width = high - low
        assert low - 1e-4 * width <= values.min() < low + 0.001 * width
        assert high - 0.001 * width < values.max() <= high + 1e-4 * width
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01 * width)
        assert values.std() == pytest.approx(width / math.sqrt(12), rel=0.02)  # uniform
    assert drawn["mirrored"].mean() == pytest.approx(0.25, abs=0.01)


def test_what_is_drawn_is_independent() -> None:
    drawn = parts(draw(Augment(degrees=7, scale=0.1, shift=0.05, flip=0.5), 20_000, seeded()))
    columns = np.column_stack([drawn["degrees"], drawn["size"], drawn["shift"], drawn["mirrored"]])
    assert np.abs(np.corrcoef(columns, rowvar=False) - np.eye(5)).max() < 0.03


def test_pictures_are_not_flipped_unless_asked() -> None:
    moved = Augment(degrees=180, scale=0.5, shift=0.5)
    assert not parts(draw(moved, 1000, seeded()))["mirrored"].any()
    assert parts(draw(Augment(flip=1.0), 1000, seeded()))["mirrored"].all()


def test_the_same_generator_draws_the_same_and_goes_on() -> None:
    augment = Augment(degrees=7, scale=0.1, shift=0.05, flip=0.5)
    generator = seeded(3)
    first, second = draw(augment, 8, generator), draw(augment, 8, generator)
    assert torch.equal(first, draw(augment, 8, seeded(3)))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, draw(augment, 8, seeded(3)))  # whatever the global generator does


def test_later_draws_do_not_depend_on_the_limits() -> None:
    states = []
    for augment in (Augment(), Augment(degrees=7), Augment(flip=1.0, shift=0.2)):
        generator = seeded()
        draw(augment, 5, generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_parts_of_a_draw_move_their_pictures_as_the_whole_does() -> None:
    pixels = torch.randint(0, 256, (6, 16, 16), dtype=torch.uint8, generator=seeded())
    matrices = draw(Augment(degrees=20, scale=0.2, shift=0.1, flip=0.5), 6, seeded(1))
    whole = warp(pixels, matrices)
    for part in (slice(0, 6, 2), slice(1, 6, 2), slice(4, 6)):
        assert torch.equal(warp(pixels[part], matrices[part]), whole[part])


# ---------------------------------------------------------------- warp


@pytest.mark.parametrize("side", [1, 2, 33, 224])
def test_maps_that_change_nothing_give_the_pixels_back(side: int) -> None:
    pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=seeded())
    before = pixels.clone()
    moved = warp(pixels, draw(Augment(), 3, seeded()))
    assert (moved.shape, moved.dtype) == ((3, side, side), torch.float32)
    torch.testing.assert_close(moved, pixels.float(), rtol=0, atol=0.01)  # of 255 greys
    assert torch.equal(pixels, before)


def test_it_is_torchs_affine_grid_and_bilinear_sampling() -> None:
    pixels = torch.randint(0, 256, (4, 32, 32), dtype=torch.uint8, generator=seeded())
    matrices = draw(Augment(degrees=30, scale=0.3, shift=0.2, flip=0.5), 4, seeded(1))
    grid = functional.affine_grid(matrices, [4, 1, 32, 32], align_corners=False)
    expected = functional.grid_sample(pixels[:, None].float(), grid, align_corners=False)[:, 0]
    torch.testing.assert_close(warp(pixels, matrices), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_a_dot_turns_by_the_drawn_angle_about_the_middle(seed: int) -> None:
    matrices = draw(Augment(degrees=60), 1, seeded(seed))
    angle = math.radians(parts(matrices)["degrees"][0])
    right, down = place(warp(dot(right=20, down=0), matrices))
    assert (right, down) == pytest.approx((20 * math.cos(angle), 20 * math.sin(angle)), abs=0.15)


def test_a_turn_of_90_degrees_by_hand() -> None:
    clockwise = torch.tensor([[[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]])  # what is seen right came from above
    pixels = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8, generator=seeded())
    expected = torch.rot90(pixels, k=-1, dims=(1, 2)).float()
    torch.testing.assert_close(warp(pixels, clockwise), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_a_dot_goes_outwards_as_the_picture_grows(seed: int) -> None:
    matrices = draw(Augment(scale=0.5), 1, seeded(seed))
    size = parts(matrices)["size"][0]
    assert 0.5 <= size <= 1.5
    assert place(warp(dot(right=16, down=-10), matrices)) == pytest.approx((16 * size, -10 * size), abs=0.15)


@pytest.mark.parametrize("seed", range(8))
def test_a_dot_shifts_by_a_share_of_the_side(seed: int) -> None:
    matrices = draw(Augment(shift=0.2), 1, seeded(seed))
    right, down = parts(matrices)["shift"][0] * SIDE
    assert max(abs(right), abs(down)) <= 0.2 * SIDE + 1e-4
    assert place(warp(dot(right=3, down=5), matrices)) == pytest.approx((3 + right, 5 + down), abs=0.05)


def test_a_flip_changes_left_and_right_alone() -> None:
    pixels = torch.randint(0, 256, (2, 9, 9), dtype=torch.uint8, generator=seeded())
    moved = warp(pixels, draw(Augment(flip=1.0), 2, seeded()))
    torch.testing.assert_close(moved, pixels.flip(2).float(), rtol=0, atol=0.01)


def test_all_together_a_dot_is_mirrored_turned_sized_and_then_shifted() -> None:
    for seed in range(8):
        matrices = draw(Augment(degrees=30, scale=0.2, shift=0.1, flip=1.0), 1, seeded(seed))
        drawn = parts(matrices)
        angle, size = math.radians(drawn["degrees"][0]), drawn["size"][0]
        x, y = -14.0, 6.0  # mirrored
        shift_right, shift_down = drawn["shift"][0] * SIDE
        expected = (
            size * (math.cos(angle) * x - math.sin(angle) * y) + shift_right,
            size * (math.sin(angle) * x + math.cos(angle) * y) + shift_down,
        )
        assert place(warp(dot(right=14, down=6), matrices)) == pytest.approx(expected, abs=0.15)


def test_what_comes_from_outside_is_black_and_greys_stay_in_their_range() -> None:
    white = torch.full((1, SIDE, SIDE), 255, dtype=torch.uint8)
    half = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]])  # half a side to the right
    moved = warp(white, half)[0]
    assert (moved[:, : MIDDLE - 1] == 0).all()
    torch.testing.assert_close(moved[:, MIDDLE + 2 :], torch.full((SIDE, MIDDLE - 1), 255.0))
    turned = warp(white.expand(50, -1, -1), draw(Augment(degrees=45, scale=0.3, shift=0.3), 50, seeded()))
    assert turned.min() == 0
    assert turned.max() <= 255.001


def test_pictures_that_are_not_square_are_refused() -> None:
    with pytest.raises(AssertionError, match="square"):
        warp(torch.zeros(1, 4, 6, dtype=torch.uint8), draw(Augment(), 1, seeded()))


def test_moved_pictures_are_normalised_by_the_same_formula_and_left_alone() -> None:
    pixels = torch.randint(0, 256, (2, 8, 8), dtype=torch.uint8, generator=seeded())
    grey = pixels.float()
    before = grey.clone()
    assert torch.equal(normalise(grey), normalise(pixels))
    assert torch.equal(grey, before)
