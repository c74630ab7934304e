"""Images become RGB, and every error names its file."""

import numpy as np
import pytest
from folders import HEIGHT, PALETTE, WIDTH, encoded, error_message, save_image, save_mask
from PIL import Image

from s4former.config import Data
from s4former.data.images import read_image
from s4former.data.masks import read_pair


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_eight_bit_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new("RGB", (WIDTH, HEIGHT)).convert(mode).save(path)
    image = read_image(encoded(path))
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))


def test_a_palette_image_with_transparency_is_read_without_a_warning(tmp_path):
    picture = Image.new("P", (WIDTH, HEIGHT))
    picture.putpalette(PALETTE)
    picture.save(tmp_path / "x.png", transparency=b"\x00\x80")
    assert read_image(encoded(tmp_path / "x.png")).mode == "RGB"


def test_sixteen_bit_images_are_refused_without_levels(tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 9000, np.uint16)).save(tmp_path / "x.png")
    assert error_message(read_image, encoded(tmp_path / "x.png")) == (
        f"image {tmp_path}/x.png has more than 8 bits per channel (mode I;16, values 9000 to 9000); say which values are"
        " black and white in all images, for example data.levels=[0, 16383], or save them as 8-bit"
    )


def test_images_of_more_bits_are_read_between_the_levels_of_the_config(tmp_path):
    Image.fromarray(np.array([[0, 100, 2100, 4100, 60000]], np.uint16)).save(tmp_path / "x.png")
    assert np.array(read_image(encoded(tmp_path / "x.png"), (100, 4100)))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    Image.fromarray(np.array([[-1.0, 0.25, 2.0]], np.float32)).save(tmp_path / "x.tif")
    assert np.array(read_image(encoded(tmp_path / "x.tif"), (0.0, 1.0)))[0].tolist() == [[0] * 3, [64] * 3, [255] * 3]
    save_mask(tmp_path / "m.png", np.zeros((1, 5), np.uint8))
    row = {"image": encoded(tmp_path / "x.png"), "mask": encoded(tmp_path / "m.png"), "id": "x"}
    assert read_pair(row, Data(levels=(0.0, 4100.0)), 3)[0].mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 broken", b"\x89PNG\r\n\x1a\n broken"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert error_message(read_image, encoded(tmp_path / "x.jpg")).startswith(f"image {tmp_path}/x.jpg cannot be read: ")


def test_a_file_cut_short_is_named(tmp_path):
    save_image(tmp_path / "x.jpg", 160, 240)
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-200])
    assert error_message(read_image, encoded(tmp_path / "x.jpg")).startswith(f"image {tmp_path}/x.jpg cannot be read: ")


def test_a_file_that_is_gone_is_named(tmp_path):
    assert error_message(read_image, encoded(tmp_path / "x.jpg")) == f"image {tmp_path}/x.jpg does not exist"
