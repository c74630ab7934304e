"""Images become RGB, and every error names its file."""


import struct

import numpy as np
import pytest
from folders import HEIGHT, PALETTE, WIDTH, encoded, error_message, png_chunk, save_deep_colour, save_image, save_mask, save_photo
from PIL import Image, ImageOps, PngImagePlugin

from s4former.config import Data
from s4former.data.images import check_contrast, check_end, is_deep, measured_values, read_header, read_image, turn_upright
from s4former.data.masks import read_mask, read_pair
from s4former.errors import DataError


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


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_colour_of_16_bits_is_read_at_its_depth(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    save_deep_colour(tmp_path / name, values)
    assert is_deep(read_header(encoded(tmp_path / name)).mode)
    assert "has more than 8 bits per channel (mode RGB, values" in error_message(read_image, encoded(tmp_path / name))
    found = np.asarray(read_image(encoded(tmp_path / name), (0, 4095)))
    assert np.array_equal(found, (values * (255 / 4095) + 0.5).astype(np.uint8))
    assert "has 16 bits per colour" in error_message(read_mask, encoded(tmp_path / name), Data(), 3)


def test_grey_of_16_bits_with_alpha_is_read_at_its_depth(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH, 2)).astype(np.uint16)
    save_deep_colour(tmp_path / "x.png", values)
    assert is_deep(read_header(encoded(tmp_path / "x.png")).mode)
    found = np.asarray(read_image(encoded(tmp_path / "x.png"), (0, 4095)))
    assert np.array_equal(found, np.repeat((values[..., :1] * (255 / 4095) + 0.5).astype(np.uint8), 3, axis=2))


def test_what_is_no_number_is_black_and_no_data_sets_no_levels(tmp_path):
    Image.fromarray(np.array([[np.nan, -np.inf, np.inf, 0.25, 1.0]], np.float32)).save(tmp_path / "x.tif")
    assert np.array(read_image(encoded(tmp_path / "x.tif"), (0.0, 1.0)))[0, :, 0].tolist() == [0, 0, 0, 64, 255]
    values = np.array([np.nan, np.inf, -9999, -9999, 300, 1200, 2850])
    assert measured_values(values).tolist() == [300, 1200, 2850]
    assert measured_values(np.array([0.0, 0, 300, 1200, 65535, 65535])).tolist() == [0, 0, 300, 1200]
    assert measured_values(np.array([0.0, 0, 300, 2850])).tolist() == [0, 0, 300, 2850]


def test_an_image_of_one_colour_is_named(tmp_path):
    save_image(tmp_path / "x.png")
    image = read_image(encoded(tmp_path / "x.png"))
    assert error_message(check_contrast, image, encoded(tmp_path / "x.png")).startswith(
        f"image {tmp_path}/x.png is one colour, (90, 90, 90); look at data.levels"
    )


@pytest.mark.parametrize("read", [read_image, read_header])
def test_an_image_over_the_limit_of_pillow_is_to_be_cut(tmp_path, monkeypatch, read):
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"large.png has more pixels than Pillow opens, .* million; cut it into tiles"):
        read({"path": str(tmp_path / "large.png"), "bytes": None})


def save_tiff(path, bands):
    """A photo of 8 bits and so many bands, as Pillow does not write it."""
    extra, height, width = bands - (3 if bands > 2 else 1), 4, 5
    start, size = 8 + 2 * bands + 2 * extra, height * width * bands
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, bands, 8 if bands > 2 else 0x80008), (259, 3, 1, 1), (262, 3, 1, 2 if bands > 2 else 1),
            (273, 4, 1, start), (277, 3, 1, bands), (278, 3, 1, height), (279, 4, 1, size),
            *([(338, 3, extra, 8 + 2 * bands if extra > 2 else 0)] if extra else [])]  # fmt: skip
    head = b"II*\0" + struct.pack("<I", start + size) + struct.pack(f"<{bands}H", *[8] * bands) + bytes(2 * extra)
    pixels = bytes(index % 251 for index in range(size))
    path.write_bytes(head + pixels + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4))


@pytest.mark.parametrize("bands, said", [(2, ""), (5, ""), (8, "it is a TIFF of 8 bands in a form that is not read; save it anew with 1, 3 or 4")])
def test_tiffs_of_other_bands_than_one_three_or_four_are_told_apart(tmp_path, bands, said):
    save_tiff(tmp_path / "x.tif", bands)
    file = encoded(tmp_path / "x.tif")
    if said:
        assert said in error_message(read_image, file) and said in error_message(read_header, file)
    else:
        assert read_header(file).part == f"the first {3 if bands == 5 else 1} of {bands} bands"
    for odd in (3, 4):
        save_tiff(tmp_path / "y.tif", odd)
        assert not read_header(encoded(tmp_path / "y.tif")).part


def test_pages_of_a_tiff_are_counted_and_overviews_are_not(tmp_path):
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for others, part in (([image, image], "the first of 3 pages"), ([image.resize((12, 8))], "")):
        image.save(tmp_path / "x.tif", save_all=True, append_images=others)
        assert read_header(encoded(tmp_path / "x.tif")).part == part


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_a_photo_cut_short_is_found_by_its_end(tmp_path, name):
    save_photo(tmp_path / name, 0, 64, 96)
    content = (tmp_path / name).read_bytes()
    check_end(encoded(tmp_path / name))
    (tmp_path / name).write_bytes(content + b"a trailer that some cameras write")
    check_end(encoded(tmp_path / name))
    (tmp_path / name).write_bytes(content[:-200])
    assert f"{name} cannot be read: " in error_message(check_end, encoded(tmp_path / name))


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("turn", [3, 6])
def test_the_header_has_the_size_of_the_image_once_it_is_upright(tmp_path, ending, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"x{ending}", exif=exif)
    header, image = read_header(encoded(tmp_path / f"x{ending}")), read_image(encoded(tmp_path / f"x{ending}"))
    assert header.turn == turn and header.size == (image.height, image.width) == ((HEIGHT, WIDTH) if turn == 3 else (WIDTH, HEIGHT))


def exif_bytes(kind, value):
    """EXIF data of one entry, an orientation of a type: 2 text, 3 number."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x112, kind, 2 if kind == 2 else 1) + value + bytes(6)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF", exif_bytes(3, b"\t\0"), exif_bytes(3, b"\0\0"), exif_bytes(2, b"6\0")])
def test_an_image_whose_orientation_is_broken_is_upright(tmp_path, ending, exif):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"x{ending}", exif=exif)
    header, image = read_header(encoded(tmp_path / f"x{ending}")), read_image(encoded(tmp_path / f"x{ending}"))
    assert header.turn == 1 and header.size == (image.height, image.width) == (HEIGHT, WIDTH)


def test_the_header_of_a_png_is_read_without_its_pixels_unless_exif_data_stands_behind_them(tmp_path, monkeypatch):
    save_photo(tmp_path / "x.png", 0)
    content = (tmp_path / "x.png").read_bytes()
    xmp = b"XML:com.adobe.xmp" + bytes(5) + b'<a tiff:Orientation="6">'
    for name, chunk in {"exif": png_chunk(b"eXIf", exif_bytes(3, b"\x06\0")[6:]), "xmp": png_chunk(b"iTXt", xmp)}.items():
        (tmp_path / f"{name}.png").write_bytes(content[:-12] + png_chunk(b"tEXt", b"date\0" + bytes(40)) + chunk + content[-12:])
        assert read_header(encoded(tmp_path / f"{name}.png")) == ((WIDTH, HEIGHT), "RGB", 6, "")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert read_header(encoded(tmp_path / "x.png")) == ((HEIGHT, WIDTH), "RGB", 1, "")


@pytest.mark.parametrize("turn", range(1, 9))
def test_images_and_masks_are_turned_as_pillow_turns_them(tmp_path, turn):
    save_photo(tmp_path / "x.png", 0)
    with Image.open(tmp_path / "x.png") as picture:
        pixels, picture.getexif()[0x0112] = np.asarray(picture), turn
        expected = np.asarray(ImageOps.exif_transpose(picture))
        picture.save(tmp_path / "y.png", exif=picture.getexif())
    image = read_image(encoded(tmp_path / "y.png"))
    assert np.array_equal(turn_upright(pixels, turn), expected) and np.array_equal(image, expected)
    assert image.getexif().get(0x0112, 1) == 1


def test_an_image_whose_other_exif_data_is_odd_is_turned(tmp_path):
    two = exif_bytes(3, b"\x06\0")[:28].replace(b"\x01\0\x12", b"\x02\0\x12")  # of two entries
    text = struct.pack("<HHI", 0x11A, 2, 2) + b"x" + bytes(7)  # a resolution that is no number
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "x.jpg", exif=two + text)
    assert read_header(encoded(tmp_path / "x.jpg")).turn == 6 and read_image(encoded(tmp_path / "x.jpg")).size == (HEIGHT, WIDTH)
