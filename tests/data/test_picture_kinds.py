"""Pictures of every kind of pixels: read as people see them, or left out by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from captioned_files import opened, picture, write_folder
from PIL import Image

from t2i_backdoor_bench.data.image_files import (
    ANIMATED,
    BROKEN,
    DEEP,
    NOT_READ,
    PIXELS,
    TRANSPARENT,
    Look,
    decode,
    look,
)

SIDE = 16


def written(image: Image.Image, kind: str = "png", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def ramp() -> np.ndarray:
    return np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    data = written(Image.fromarray(ramp().astype(np.uint16)), kind)
    found = np.asarray(decode(data))
    assert np.array_equal(found[..., 0], np.round(ramp().astype(np.uint16) / 257))
    assert abs(found.mean() - 127.5) < 1
    assert look(data) == Look("", (DEEP,))


def test_one_bit_palette_gray_and_cmyk() -> None:
    shown = np.asarray(picture(3, (SIDE, SIDE)))
    for mode in ("1", "L", "P", "CMYK"):
        image = Image.fromarray(shown).convert(mode)
        data = written(image, "tiff")
        assert look(data) == Look(), mode
        assert np.array_equal(np.asarray(decode(data)), np.asarray(image.convert("RGB"))), mode
    red = written(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "jpeg", quality=95)
    assert np.abs(np.asarray(decode(red)).astype(int)[0, 0] - [255, 0, 0]).max() < 6


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_shown_on_white(mode: str) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (SIDE, SIDE, len(mode)), dtype=np.uint8)
    data = written(Image.fromarray(pixels, mode))
    right = over_white(np.broadcast_to(pixels[..., :-1], (SIDE, SIDE, 3)), pixels[..., -1])
    assert np.abs(np.asarray(decode(data)) - right).max() <= 1
    assert look(data) == Look("", (TRANSPARENT,))
    pixels[..., -1] = 255
    opaque = written(Image.fromarray(pixels, mode))
    assert look(opaque) == Look(), "nothing of it is transparent"
    assert np.array_equal(np.asarray(decode(opaque))[..., 0], pixels[..., 0])


def test_a_transparent_colour_of_a_palette_or_of_gray() -> None:
    gray = np.full((SIDE, SIDE), 40, np.uint8)
    gray[:4] = 90
    for kind, image in (("png", Image.fromarray(gray)), ("gif", Image.fromarray(gray))):
        data = written(image, kind, transparency=90)
        found = np.asarray(decode(data))
        assert found[0, 0].tolist() == [255, 255, 255]
        assert found[-1, -1].tolist() == [40, 40, 40]
        assert look(data) == Look("", (TRANSPARENT,))


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), c) for c in ("red", "blue", "green")]
    more = {} if kind == "tiff" else {"duration": 50}
    data = written(frames[0], kind, save_all=True, append_images=frames[1:], **more)
    assert np.abs(np.asarray(decode(data))[0, 0].astype(int) - [255, 0, 0]).max() < 10
    assert look(data) == Look("", (ANIMATED,))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_stands_upright(turn: int) -> None:
    """As `exif_transpose` of PIL has it: what a viewer shows is what a model learns from."""
    upright = np.asarray(picture(1, (SIDE, 24)))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    data = written(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(np.asarray(decode(data)), upright)
    assert look(data) == Look()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (written(Image.new("RGB", (8, 8)), "ppm"), "PNM"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (written(Image.new("RGB", (8, 8)), "ico"), "ICO"),
    ],
)
def test_formats_that_are_not_read_are_named(data: bytes, name: str) -> None:
    assert look(data) == Look(f"{NOT_READ}{name}")


def test_pixels_whose_range_is_not_known_are_left_out() -> None:
    for values in (ramp().astype(np.int32), ramp().astype(np.float32)):
        assert look(written(Image.fromarray(values), "tiff")).problem.startswith(PIXELS)
    assert look(b"no picture") == Look(BROKEN)
    assert look(written(picture(0))[:200]) == Look(BROKEN)


def test_what_is_done_to_pictures_is_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", 12)
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(folder / "0.png")
    (folder / "1.png").write_bytes(written(Image.fromarray(ramp().astype(np.uint16))))
    (folder / "2.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (folder / "3.png").write_bytes(written(Image.fromarray(ramp().astype(np.float32)), "tiff"))
    data, said = opened(folder)
    assert sum(map(len, data.rows.values())) == 10
    assert "2 of 12 rows are left out: 1 in a format that is not read, HEIC (2.png);" in said[0]
    assert "1 with pixels that are not read, F (3.png)" in said[0]
    assert "1 pictures with transparency, shown on white (0.png)" in said[1]
    assert "1 pictures of 16 bits, scaled to 8 (1.png)" in said[2]


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "tiff", "bmp"])
def test_damaged_files_are_pictures_or_broken(kind: str) -> None:
    """Every byte of the head, and some of the rest, at random: no other end."""
    whole = written(picture(2, (SIDE, SIDE)), kind)
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), 3):
            data[place] = rng.integers(256)
        seen = look(bytes(data))
        if not seen.problem:
            assert decode(bytes(data)).mode == "RGB"
