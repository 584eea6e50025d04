"""Decoded pixels are Pillow's, of every kind of file, and what Pillow refuses is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from stablerep.data.decode import decode_image, image_size
from stablerep.data.files import DAMAGED


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((80, 48)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "jpeg": encoded("JPEG", quality=95),
    "jpeg without subsampling": encoded("JPEG", quality=80, subsampling=0),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "grey jpeg": encoded("JPEG", "L"),
    "CMYK jpeg": encoded("JPEG", "CMYK"),
    "png": encoded("PNG"),
    "png of a palette": encoded("PNG", "P"),
    "webp": encoded("WEBP"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_numbers_are_pillows(name):
    with Image.open(io.BytesIO(FILES[name])) as image:
        wanted = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(FILES[name]), wanted)
    assert image_size(FILES[name]) == wanted.shape[:2]
    place, other = np.zeros_like(wanted), np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(FILES[name], place), wanted)
    assert (decode_image(FILES[name], place) is place) == ("jpeg" in name and "CMYK" not in name)
    np.testing.assert_array_equal(decode_image(FILES[name], other), wanted)
    assert not other.any()


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "png", "webp"])
def test_a_file_that_ends_early_is_damaged(name):
    with pytest.raises(DAMAGED):
        decode_image(FILES[name][: len(FILES[name]) // 2])
    with pytest.raises(DAMAGED):
        decode_image(b"\xff\xd8 no image")
    with pytest.raises(DAMAGED):
        image_size(b"\xff\xd8 no image")


def test_a_file_that_claims_to_be_huge_is_refused_before_memory_is_taken():
    """64,000 x 64,000 pixels would be 12 GB."""
    data = bytearray(FILES["jpeg"])
    place = data.index(b"\xff\xc0") + 5  # height and width of the frame
    data[place : place + 4] = (64_000).to_bytes(2) * 2
    with pytest.raises(Image.DecompressionBombError):
        decode_image(bytes(data))
    with pytest.raises(Image.DecompressionBombError):
        image_size(bytes(data))
