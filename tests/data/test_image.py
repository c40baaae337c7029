"""One encoded image -> grey pixels: every mode against its own arithmetic, every broken file refused by name."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from cxr.data.image import MAX_PIXELS, Geometry, _grey, decode, example_png, read
from cxr.errors import InputError

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (24, 24), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


def refusal(source: Path | bytes) -> str:
    with pytest.raises(InputError) as caught:
        decode(source, 16)
    return str(caught.value)


# ---------------------------------------------------------------- modes


def test_grey_png_at_its_own_size_comes_back_as_it_is() -> None:
    pixels = decode(encoded(Image.fromarray(GREY)), 24)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (24, 24))
    assert np.array_equal(pixels, GREY)


@pytest.mark.parametrize("size", [17, 24, 60])
def test_square_grey_is_scaled_as_pillow_scales_it(size: int) -> None:
    expected = np.asarray(Image.fromarray(GREY).resize((size, size), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(encoded(Image.fromarray(GREY)), size), expected)


def smooth(side: int) -> np.ndarray:
    """Waves that are long beside a pixel of the scaled image."""
    y, x = np.mgrid[:side, :side] / side * 2 * np.pi
    return np.round(127 + 60 * np.sin(3 * x) + 60 * np.cos(5 * y + x)).astype(np.uint8)


@pytest.mark.parametrize("size", [100, 224, 320, 500])
def test_large_images_are_scaled_as_antialiased_bilinear_does(size: int) -> None:
    image = Image.fromarray(smooth(1024))
    expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode(encoded(image), size) - expected).max() <= 3


@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("size", [32, 100, 165, 221, 224, 249])
def test_finer_patterns_than_fit_become_grey_and_not_other_patterns(size: int, period: int) -> None:
    board = np.add.outer(np.arange(1024) // period, np.arange(1024) // period) % 2 * 255
    pixels = decode(encoded(Image.fromarray(board.astype(np.uint8))), size)[3:-3, 3:-3]
    assert abs(pixels.mean() - 127.5) < 1
    assert pixels.std() < 7


@pytest.mark.parametrize("size", [9, 24, 50])
def test_rgba_with_equal_channels_gives_the_pixels_of_the_grey_file(size: int) -> None:
    opaque = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])
    as_grey = decode(encoded(Image.fromarray(GREY)), size)
    assert np.array_equal(decode(encoded(Image.fromarray(opaque)), size), as_grey)
    assert np.array_equal(decode(encoded(Image.fromarray(opaque[..., :3].copy())), size), as_grey)


def test_colour_becomes_luma() -> None:
    luma = COLOUR.astype(float) @ [0.299, 0.587, 0.114]
    pixels = decode(encoded(Image.fromarray(COLOUR)), 24)
    assert np.abs(pixels - luma).max() <= 1


@pytest.mark.parametrize("channels", ["LA", "RGBA"])
def test_alpha_is_dropped_even_where_it_hides_all(channels: str) -> None:
    alpha = RNG.integers(0, 2, (24, 24), dtype=np.uint8) * 255
    layers = [GREY] * (len(channels) - 1)
    assert np.array_equal(decode(encoded(Image.fromarray(np.dstack([*layers, alpha]), channels)), 24), GREY)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(64))], ids=["opaque", "one index", "alpha table"])
def test_palette_is_looked_up_whatever_its_transparency(transparency: object) -> None:
    palette = RNG.integers(0, 256, 64, dtype=np.uint8)
    index = RNG.integers(0, 64, (24, 24), dtype=np.uint8)
    image = Image.fromarray(index, "L")
    image.putpalette(np.repeat(palette, 3).tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    data = encoded(image, **options)
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert np.array_equal(decode(data, 24), palette[index])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparent_colour_of_a_plain_png_is_ignored(mode: str) -> None:
    transparency = 5 if mode == "L" else (5, 5, 5)
    data = encoded(Image.fromarray(GREY).convert(mode), transparency=transparency)
    assert "transparency" in Image.open(io.BytesIO(data)).info
    assert np.array_equal(decode(data, 24), GREY)


def test_one_bit_becomes_black_and_white() -> None:
    bits = GREY > 127
    assert np.array_equal(decode(encoded(Image.fromarray(bits)), 24), bits * np.uint8(255))


def test_sixteen_bits_are_scaled_from_their_full_range() -> None:
    wide = np.array([[0, 128, 129, 257], [32_896, 32_639, 65_534, 65_535], [256, 385, 386, 514], [1, 2, 3, 4]])
    data = encoded(Image.fromarray(wide.astype(np.uint16)))
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    pixels = decode(data, 4)
    assert pixels.tolist()[:2] == [[0, 0, 1, 1], [128, 127, 255, 255]]
    assert np.array_equal(pixels, np.floor(wide / 257 + 0.5))


def test_sixteen_bit_copy_of_a_grey_image_gives_its_pixels() -> None:
    data = encoded(Image.fromarray(GREY.astype(np.uint16) * 257))
    assert np.array_equal(decode(data, 24), GREY)


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "<i4")])
def test_wide_pixels_are_scaled_in_every_byte_order(mode: str, kind: str) -> None:
    wide = RNG.integers(0, 65_536, (24, 24))
    image = Image.frombytes(mode, (24, 24), wide.astype(kind).tobytes())
    assert np.array_equal(np.asarray(_grey(image)), np.floor(wide / 257 + 0.5))


def test_wide_pixels_out_of_range_are_clipped() -> None:
    image = Image.fromarray(np.array([[-5, 70_000]], dtype=np.int32))
    assert np.asarray(_grey(image)).tolist() == [[0, 255]]


def test_palette_with_alpha_loses_its_alpha() -> None:
    palette = RNG.integers(0, 256, 256, dtype=np.uint8)
    image = Image.frombytes("PA", (24, 24), np.dstack([GREY, 255 - GREY]).tobytes())
    image.putpalette(np.repeat(palette, 3).tobytes())
    assert np.array_equal(np.asarray(_grey(image)), palette[GREY])


def test_jpeg_is_read_in_grey_colour_and_cmyk() -> None:
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 3
    grey = Image.fromarray(smooth)
    inks = np.dstack([np.zeros((32, 32, 3), np.uint8), 255 - smooth])
    for image in (grey, grey.convert("RGB"), Image.fromarray(inks, "CMYK")):
        data = encoded(image, "JPEG", quality=95)
        assert Image.open(io.BytesIO(data)).mode == image.mode
        assert np.abs(decode(data, 32).astype(int) - smooth).max() <= 4


def test_png_under_a_jpeg_name_is_read_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(GREY)))
    assert np.array_equal(decode(path, 24), GREY)


def test_path_and_bytes_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(COLOUR)))
    assert np.array_equal(decode(path, 15), decode(path.read_bytes(), 15))


def test_example_is_a_png_that_decodes_to_its_ramp() -> None:
    pixels = decode(example_png(), 64)
    assert (pixels[0, 0], pixels[10, 20], pixels[63, 63]) == (0, 30, 126)


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("width", "height", "inside"),
    [
        (40, 20, np.s_[5:15, :]),
        (20, 40, np.s_[:, 5:15]),
        (30, 20, np.s_[3:16, :]),  # 13.3 rows become 13, three black above and four below
        (1000, 1, np.s_[9:10, :]),
        (1, 1, np.s_[:, :]),
        (19, 20, np.s_[:, 0:19]),
    ],
)
def test_longer_side_fills_the_square_and_the_image_is_centred_on_black(
    width: int, height: int, inside: tuple[slice, slice]
) -> None:
    expected = np.zeros((20, 20), dtype=np.uint8)
    expected[inside] = 200
    assert np.array_equal(decode(encoded(Image.new("L", (width, height), 200)), 20), expected)


@pytest.mark.parametrize("side", [(1, 4_000), (4_000, 1), (1, 1), (2, 3_000), (7_000, 9_000)])
def test_extreme_shapes_are_read_with_their_size(side: tuple[int, int]) -> None:
    found = read(encoded(Image.new("L", side, 90)), 224)
    place = Geometry(width=side[0], height=side[1], size=224)
    assert (found.width, found.height) == side
    assert max(place.scaled) == 224
    assert min(place.scaled) >= 1
    inside = found.pixels[place.top : place.top + place.scaled[1], place.left : place.left + place.scaled[0]]
    assert (inside == 90).all()
    assert found.pixels.sum(dtype=int) == 90 * inside.size


def test_read_gives_the_pixels_that_decode_gives_and_the_files_size() -> None:
    data = encoded(Image.fromarray(COLOUR[:10]))
    found = read(data, 16)
    assert (found.width, found.height) == (24, 10)
    assert np.array_equal(found.pixels, decode(data, 16))


@pytest.mark.parametrize("side", [(300, 200), (200, 300), (301, 199), (100, 100), (40, 30)])
def test_box_is_where_the_packed_pixels_show_it(side: tuple[int, int]) -> None:
    x, y, width, height = 0.25 * side[0], 0.5 * side[1], 0.5 * side[0], 0.2 * side[1]
    drawn = np.zeros(side[::-1], dtype=np.uint8)
    drawn[round(y) : round(y + height), round(x) : round(x + width)] = 255
    rows, columns = np.nonzero(decode(encoded(Image.fromarray(drawn)), 64) > 127)
    left, top, across, down = Geometry(width=side[0], height=side[1], size=64).to_square((x, y, width, height))
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(seen, (left, top, left + across, top + down))).max() <= 1


def test_whole_image_is_a_box_from_edge_to_edge() -> None:
    assert Geometry(width=1024, height=1024, size=224).to_square((0, 0, 1024, 1024)) == (0, 0, 224, 224)
    assert Geometry(width=1024, height=1024, size=256).to_square((512, 256, 64, 32)) == (128, 64, 16, 8)
    wide = Geometry(width=300, height=200, size=20)  # 13.3 rows become 13, three black above
    assert wide.to_square((0, 0, 300, 200)) == (0, 3, 20, 13)
    assert (wide.scaled, wide.left, wide.top) == ((20, 13), 0, 3)


def test_aspect_is_kept_and_not_stretched() -> None:
    wide = np.zeros((100, 200), dtype=np.uint8)
    wide[25:75, 75:125] = 255  # a square of 50 x 50, in the middle
    pixels = decode(encoded(Image.fromarray(wide)), 40)
    expected = np.zeros((40, 40), dtype=np.uint8)
    expected[15:25, 15:25] = 255  # 10 x 10, in the middle
    assert np.abs(pixels.astype(int) - expected).sum() < 0.15 * expected.sum()
    assert (pixels[16:24, 16:24] == 255).all()
    assert pixels[15:25, 15:25].min() > 120


@pytest.mark.parametrize("value", [0, 1, 127, 255])
@pytest.mark.parametrize("size", [1, 7, 224])
def test_constants_stay_constant(value: int, size: int) -> None:
    assert (decode(encoded(Image.new("L", (50, 50), value)), size) == value).all()


# ---------------------------------------------------------------- what is refused


def test_text_under_a_png_name_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("Patient was seen on Monday.\n" * 40)
    assert refusal(path) == f"{path}: not a PNG or JPEG image."


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"], ids=["empty", "png", "jpeg"])
def test_empty_file_or_bare_signature_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: ")
    assert refusal(content).startswith(f"{len(content)} bytes: ")


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_other_image_formats_are_refused(form: str) -> None:
    assert refusal(encoded(Image.fromarray(GREY), form)).endswith("not a PNG or JPEG image.")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_image_cut_short_is_refused_by_name(form: str, share: float, tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (80, 80), dtype=np.uint8)), form)
    path = tmp_path / "a.png"
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_png_cut_at_any_place_is_refused(mode: str) -> None:
    noise = RNG.integers(0, 256, (20, 20), dtype=np.uint8)
    image = Image.fromarray(noise.astype(np.uint16)) if mode == "I;16" else Image.fromarray(noise).convert(mode)
    whole = encoded(image)
    end = whole.index(b"IDAT") + 4 + struct.unpack(">I", whole[whole.index(b"IDAT") - 4 :][:4])[0]
    for length in range(end - 12):  # the last bytes of the pixels are their checksum, which adds nothing
        assert refusal(whole[:length])


def test_missing_file_and_folder_are_refused_by_name(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.png").startswith(f"{tmp_path}/none.png: ")
    assert refusal(tmp_path).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize("side", [8_001, 10_000, 12_000, 50_000])
@pytest.mark.parametrize("strict", [True, False])
def test_more_pixels_than_are_read_are_refused_before_decoding(side: int, strict: bool, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(header_of(side, side))
    with warnings.catch_warnings():  # Pillow warns of the middle sizes: as an error or not, they are refused
        warnings.simplefilter("error" if strict else "ignore")
        said = refusal(path)
    assert said.startswith(f"{path}: ")
    assert "pixels" in said.removeprefix(str(path))


def test_largest_size_is_not_a_bomb() -> None:
    assert MAX_PIXELS == 64_000_000
    assert "cannot be decoded" in refusal(header_of(8_000, 8_000))  # cut short, not too large


def test_chunk_that_trips_pillow_is_refused() -> None:
    data = encoded(Image.fromarray(GREY))
    end = data.index(b"IEND") - 4
    assert "cannot be decoded" in refusal(data[:end] + chunk(b"iCCP", b"") + data[end:])


def test_damaged_png_is_decoded_or_refused_and_nothing_else() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b" * 50, zip=True)
    plain = Image.fromarray(GREY)
    wholes = [
        encoded(plain, pnginfo=info, dpi=(72, 72)),
        encoded(plain.convert("P"), transparency=3),
        encoded(plain.convert("RGBA")),
        encoded(Image.fromarray(GREY.astype(np.uint16))),
    ]
    rng = np.random.default_rng(0)
    outcomes = {"decoded": 0, "refused": 0}
    for turn in range(800):
        try:
            pixels = decode(damaged(wholes[turn % len(wholes)], rng), 16)
        except InputError:
            outcomes["refused"] += 1
        else:
            assert (pixels.shape, pixels.dtype) == ((16, 16), np.uint8)
            outcomes["decoded"] += 1
    assert min(outcomes.values()) > 50


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG with one chunk changed, cut, or doubled, its checksums right again."""
    chunks, at = [], len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], bytearray(data[at + 8 : at + 8 + length])))
        at += 12 + length
    kind, body = chunks[rng.integers(len(chunks))]
    harm = rng.integers(3)
    if harm == 0 and body:
        body[rng.integers(len(body))] = rng.integers(256)
    elif harm == 1 and body:
        del body[rng.integers(len(body)) :]
    else:
        noise = bytearray(rng.integers(0, 256, rng.integers(20), dtype=np.uint8).tobytes())
        chunks.insert(rng.integers(1, len(chunks)), (kind, noise))
    return SIGNATURE + b"".join(chunk(kind, bytes(body)) for kind, body in chunks)


# ---------------------------------------------------------------- real files


def test_all_shipped_nih_images_decode_and_rgba_ones_equal_their_luma(real_data: Path) -> None:
    modes = pd.read_csv(real_data / "nih/images_manifest.csv").set_index("image")["mode"]
    assert modes.value_counts().to_dict() == {"L": 190, "RGBA": 10}
    for name, mode in modes.items():
        path = real_data / "nih/images" / str(name)
        pixels = decode(path, 224)
        assert (pixels.shape, pixels.dtype) == ((224, 224), np.uint8)
        assert pixels.std() > 20
        if mode == "RGBA":
            with Image.open(path) as image:
                red = image.getchannel("R")
            assert np.array_equal(pixels, decode(encoded(red), 224))


def test_all_covid_chestxray_images_decode(real_data: Path) -> None:
    paths = sorted((real_data / "external/covid-chestxray/images").iterdir())
    assert len(paths) == 46
    for path in paths:
        pixels = decode(path, 224)
        assert (pixels.shape, pixels.dtype) == ((224, 224), np.uint8)
        assert pixels.std() > 10
        with Image.open(path) as image:
            width, height = image.size
        upright = pixels if width > height else pixels.T  # the shorter side runs downwards
        black = (224 - round(224 * min(width, height) / max(width, height))) // 2
        assert not upright[:black].any()
        assert not upright[224 - black :].any()
