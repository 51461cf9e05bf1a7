"""Images of every kind are read as a person would see them, or refused in a line; ordinary ones as ever."""

import hashlib
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dassl.data.decoded_images import DecodedImages
from dassl.utils import UserError, read_image
from datasets.icons import unpacked

RAMP = np.linspace(0, 65535, 16).astype(np.uint16)[None].repeat(4, axis=0)
GREY = np.arange(0, 256, 17)


def row(path):
    """The red values of an image's first row."""
    return np.asarray(read_image(path))[0, :, 0]


def saved(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def png(path, depth, colours, samples, transparent):
    """A PNG of one row, byte by byte: PIL writes none of fewer bits or with a transparent colour of 16."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = len(samples) * 8 // depth // {0: 1, 2: 3}[colours]
    head = struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + samples)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks))
    return path


# Ordinary files


@pytest.mark.parametrize("mode, suffix", [
    ("RGB", "png"), ("L", "png"), ("P", "png"), ("1", "png"), ("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"),
    ("YCbCr", "jpg"), ("P", "gif"), ("RGB", "webp"), ("RGB", "bmp"), ("RGB", "tif"), ("CMYK", "tif"), ("LAB", "tif"),
])  # fmt: skip
def test_ordinary_pixels_are_pils(mode, suffix, tmp_path):
    noise = Image.merge("RGB", [Image.effect_noise((31, 17), sigma) for sigma in (20, 60, 90)])
    noise = noise if mode == "RGB" else Image.new(mode, noise.size, 70) if mode == "LAB" else noise.convert(mode)
    path = saved(tmp_path / f"a.{suffix}", noise)
    with Image.open(path) as image:
        assert np.array_equal(read_image(path), image.convert("RGB"))
    opaque = saved(tmp_path / "opaque.png", noise.convert("RGB").convert("RGBA"))
    assert np.array_equal(read_image(opaque), noise.convert("RGB")), "with nothing transparent"


def test_published_images_are_ordinary(caltech_root):
    """No image of Caltech101's has 16 bits, transparency or an orientation; their pixels are those of PIL."""
    places = [os.path.join(caltech_root, "caltech-101", "101_ObjectCategories"), unpacked()]
    paths = [os.path.join(top, f) for place in places for top, _, files in os.walk(place) for f in sorted(files)]
    paths = sorted(path for path in paths if path.endswith((".jpg", ".png")))
    assert len(paths) == 9144 + 12864
    for path in paths:
        with Image.open(path) as image:
            assert image.mode in ("RGB", "L", "P") and not image.has_transparency_data
            assert path.endswith(".png") or image.getexif().get(0x0112, 1) == 1
    for path in paths[::40]:
        with Image.open(path) as image:
            assert np.array_equal(read_image(path), image.convert("RGB"))


# More bits


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "pgm"])
def test_16_bits_are_scaled(suffix, tmp_path):
    assert row(saved(tmp_path / f"a.{suffix}", RAMP)).tolist() == GREY.tolist()


def test_tiffs_say_how_many_bits_and_which_end_is_white(tmp_path):
    path = saved(tmp_path / "white_is_zero.tif", RAMP, tiffinfo={262: 0})
    assert row(path).tolist() == GREY[::-1].tolist()
    assert row(saved(tmp_path / "float.tif", (RAMP / 65535).astype(np.float32))).tolist() == GREY.tolist()


@pytest.mark.parametrize("pixels", [
    RAMP.astype(np.float32), RAMP / np.float32(65535) - 1, np.full((4, 4), np.nan, np.float32), RAMP.astype(np.int32),
], ids=["above 1", "below 0", "NaN", "32-bit integers"])  # fmt: skip
def test_an_unknown_white_is_refused(pixels, tmp_path):
    with pytest.raises(UserError, match="cannot read the image .*a.tif .*white"):
        read_image(saved(tmp_path / "a.tif", pixels))


# Transparency


@pytest.mark.parametrize("mode, suffix", [
    ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("PA", "tif"), ("RGBA", "tif"), ("RGBA", "gif"), ("RGBA", "webp"),
    ("RGBA", "ico"),
])  # fmt: skip
def test_what_is_transparent_lies_on_white(mode, suffix, tmp_path):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (4, 0, 12, 16))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    path = saved(tmp_path / f"a.{suffix}", image, **({"lossless": True} if suffix == "webp" else {}))
    assert row(path).tolist() == [255] * 4 + [90] * 8 + [255] * 4


def test_half_transparent_is_mixed_with_white(tmp_path):
    assert row(saved(tmp_path / "a.png", Image.new("RGBA", (2, 2), (0, 0, 0, 51)))).tolist() == [204, 204]


@pytest.mark.parametrize("depth, colours, samples, transparent, expected", [
    (1, 0, b"\x50", [1], [0, 255, 0, 255, 0, 0, 0, 0]),
    (2, 0, b"\x1b", [1], [0, 255, 170, 255]),
    (4, 0, b"\x0f\x80", [8], [0, 255, 255, 0]),
    (8, 0, b"\x00\x64\xc8", [100], [0, 255, 200]),
    (16, 0, struct.pack(">3H", 0, 257, 514), [257], [0, 255, 2]),
    (8, 2, b"\x01\x02\x03\x01\x02\x04", [1, 2, 3], [255, 1]),
])  # fmt: skip
def test_a_transparent_colour_of_any_depth(depth, colours, samples, transparent, expected, tmp_path):
    key = struct.pack(f">{len(transparent)}H", *transparent)
    assert row(png(tmp_path / "a.png", depth, colours, samples, key)).tolist() == expected


def test_a_transparent_colour_that_pil_has_not_kept_is_refused(tmp_path):
    path = png(tmp_path / "a.png", 16, 2, struct.pack(">3H", 1, 2, 3), struct.pack(">3H", 1, 2, 3))
    with pytest.raises(UserError, match="its transparent colour is of 16 bits: save it with an alpha channel"):
        read_image(path)


# Orientation


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(suffix, orientation, tmp_path):
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32], upright[16:, :32] = (255, 0, 0), (0, 255, 0)
    flips = {2: [1], 3: [0, 1], 4: [0], 5: [], 6: [1], 7: [0, 1], 8: [0]}.get(orientation, [])
    stored = np.flip(upright, flips) if orientation < 5 else np.flip(upright, flips).transpose(1, 0, 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif)
    found = np.asarray(read_image(path))
    assert found.shape == upright.shape and np.abs(found[::31, ::63].astype(int) - upright[::31, ::63]).max() < 10
    kept = DecodedImages([str(path)], budget_gb=1, shared=False)
    assert len(kept) == 1 and np.array_equal(kept.read(str(path)), found)


def test_damaged_exif_is_none(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0" + bytes(range(40))):
        assert read_image(saved(tmp_path / "a.jpg", pixels, exif=exif)).size == (16, 8)


# What is refused


def test_what_is_no_file_of_pixels(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "eps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    reasons = {"pipe": "no regular file", "folder": "no regular file", "eps": "PostScript is a program"}
    for name in ("pipe", "folder", "empty", "eps", "loop"):
        with pytest.raises(UserError, match=f"cannot read the image .*{name}.jpg .*{reasons.get(name, '')}"):
            read_image(tmp_path / f"{name}.jpg")
    with pytest.raises(UserError, match="/dev/zero .it is no regular file"):
        read_image("/dev/zero")


def test_a_bomb_is_not_unpacked(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("1", (8, 8)))
    whole = bytearray(path.read_bytes())
    whole[16:24] = struct.pack(">II", 60_000, 60_000)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    path.write_bytes(whole)
    with pytest.raises(UserError, match="decompression bomb"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp", "jp2"])
def test_a_file_cut_short_is_refused(suffix, tmp_path):
    path = saved(tmp_path / f"a.{suffix}", np.asarray(Image.effect_noise((64, 64), 90)))
    whole, digest = path.read_bytes(), hashlib.sha256(read_image(path).tobytes()).digest()
    for share in (0.2, 0.5, 0.9, 0.97):
        path.write_bytes(whole[: int(share * len(whole))])
        try:
            found = read_image(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert hashlib.sha256(found.tobytes()).digest() == digest, f"{share} of the file gave other pixels"
