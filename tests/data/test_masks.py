"""Masks keep their ids, and every error names its file."""

import numpy as np
import pytest
from folders import HEIGHT, WIDTH, encoded, error_message, ids, save_mask
from PIL import Image

from s4former.config import Data
from s4former.data.images import read_header
from s4former.data.masks import check_palettes_of, class_table, raw_ids, read_mask, read_pair
from s4former.evaluation.pictures import palette_png


def test_palette_masks_keep_their_ids(tmp_path):
    save_mask(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "P"
    assert np.array_equal(read_mask(encoded(tmp_path / "m.png"), Data(), 3), ids())


def test_exif_orientation_turns_the_image_and_a_mask_that_stands_upright_fits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "x.jpg", exif=exif)
    save_mask(tmp_path / "x.png")
    row = {"image": encoded(tmp_path / "x.jpg"), "mask": encoded(tmp_path / "x.png"), "id": "x"}
    assert read_pair(row, Data(), 3)[0].size == (WIDTH, HEIGHT)
    assert read_header(row["image"]).size == (HEIGHT, WIDTH)


def test_the_message_about_sizes_mentions_an_exif_orientation_that_may_be_the_cause(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "x.jpg", exif=exif)
    save_mask(tmp_path / "x.png")
    row = {"image": encoded(tmp_path / "x.jpg"), "mask": encoded(tmp_path / "x.png"), "id": "x"}
    assert error_message(read_pair, row, Data(), 3) == (
        f"image {tmp_path}/x.jpg is 16x24 and its mask {tmp_path}/x.png is 24x16 (width x height); both must have the"
        " same size, and the image is turned by its EXIF orientation (data.exif=raw turns masks with it)"
    )


def save_colours(path, colours):
    Image.fromarray(np.array([colours], np.uint8)).save(path)


def test_masks_in_colours_are_refused_without_a_palette(tmp_path):
    save_colours(tmp_path / "m.png", [(90, 90, 90), (90, 91, 90)])
    assert error_message(read_mask, encoded(tmp_path / "m.png"), Data(), 3) == (
        f"mask {tmp_path}/m.png holds colours (mode RGB), not class ids; say which colour is which id with"
        ' data.palette={"#5a5a5a": 0, ...}, or save it as a palette or grey PNG whose pixel values are the ids'
    )


def test_a_palette_turns_colours_into_ids_and_then_the_map_counts(tmp_path):
    save_colours(tmp_path / "m.png", [(0, 0, 0), (128, 64, 128), (128, 64, 0), (255, 255, 255)])
    palette = {"#000000": 7, "#804080": 1, "#804000": 1, "#FFFFFF": 255}
    assert read_mask(encoded(tmp_path / "m.png"), Data(palette=palette, id_map={"7": 0}), 2).tolist() == [[0, 1, 1, 255]]
    assert "has the id 7, but" in error_message(read_mask, encoded(tmp_path / "m.png"), Data(palette=palette), 2)


def test_indexed_masks_go_by_colour_where_there_is_a_palette(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
    palette = {"#000000": 2, "#800000": 0, "#008000": 1}
    assert read_mask(encoded(tmp_path / "m.png"), Data(palette=palette), 3).tolist() == [[2, 0, 1]]
    assert read_mask(encoded(tmp_path / "m.png"), Data(), 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_greys_are_colours_where_the_palette_names_them_all_and_ids_else(tmp_path, mode):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert(mode).save(tmp_path / "m.png")
    palette = {"#00ff00": 0, "#000000": 1, "#ffffff": 2}
    assert read_mask(encoded(tmp_path / "m.png"), Data(palette=palette), 3).tolist() == [[1, 2]]
    assert read_mask(encoded(tmp_path / "m.png"), Data(palette={"#000000": 1}), 3).tolist() == [[0, 1 if mode == "1" else 255]]


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_three_equal_channels_and_a_full_alpha_are_ids(tmp_path, mode):
    grey = Image.fromarray(ids())
    grey.convert(mode).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(encoded(tmp_path / "m.png"), Data(), 3), ids())
    if mode != "RGB":
        picture = grey.convert(mode)
        picture.putalpha(grey)
        picture.save(tmp_path / "m.png")
        assert "holds colours" in error_message(read_mask, encoded(tmp_path / "m.png"), Data(), 3)


def test_a_mask_that_is_a_jpeg_inside_is_refused_whatever_its_name(tmp_path):
    Image.fromarray(ids()).save(tmp_path / "m.png", format="JPEG")
    assert error_message(read_mask, encoded(tmp_path / "m.png"), Data(), 3) == (
        f"mask {tmp_path}/m.png is a JPEG inside, which smears the ids of neighbours; save it anew as PNG, from what it was made of"
    )


@pytest.mark.parametrize(
    "changes, own",
    [
        ({}, [0, 1, 255]), ({"id_map": {"255": 1}, "ignore_index": 254}, [0, 255, 254]),
        ({"id_map": {"1": 0, "2": 1, "0": 255}}, [1, 2, 255]), ({"ignore_index": 7}, [0, 1, 7]),
    ],
)  # fmt: skip
def test_the_ids_of_the_data_stand_for_their_classes(changes, own):
    data = Data(**changes)
    table = class_table(data, 2, "")
    raw = raw_ids(data, 2)
    assert [int(table[raw[place]]) for place in (0, 1, 255)] == [0, 1, 255] and raw[[0, 1, 255]].tolist() == own


def test_whole_numbers_in_floating_point_are_ids_and_what_is_no_number_is_no_label(tmp_path):
    Image.fromarray(np.array([[0, 1, np.nan, np.inf]], np.float32)).save(tmp_path / "m.tif")
    assert read_mask(encoded(tmp_path / "m.tif"), Data(), 2).tolist() == [[0, 1, 255, 255]]
    Image.fromarray(np.array([[0, 0.5]], np.float32)).save(tmp_path / "m.tif")
    assert "holds colours (mode F), not class ids" in error_message(read_mask, encoded(tmp_path / "m.tif"), Data(), 2)


def test_a_mask_that_states_its_ids_is_read_in_no_others(tmp_path):
    palette_png(np.array([[0, 255, 254]]), tmp_path / "m.png", {"ground": 0, "leaf": 255, "": 254})
    same = Data(id_map={"255": 1}, ignore_index=254)
    assert read_mask(encoded(tmp_path / "m.png"), same, 2).tolist() == [[0, 1, 255]]
    assert "was written with the id 255 for leaf, and the config reads this id otherwise" in error_message(
        read_mask, encoded(tmp_path / "m.png"), Data(ignore_index=255), 2
    )


def test_colours_that_the_palette_does_not_name_are_listed_by_frequency(tmp_path):
    save_colours(tmp_path / "m.png", [(0, 0, 0), (9, 9, 9), (1, 2, 3), (1, 2, 3)])
    assert error_message(read_mask, encoded(tmp_path / "m.png"), Data(palette={"#000000": 0}), 2) == (
        f"mask {tmp_path}/m.png has 2 colours that data.palette does not name, on 75.0% of its pixels: #010203, #090909;"
        " add them, with data.ignore_index as the id of what is no class"
    )
    save_colours(tmp_path / "m.png", [(i, i, i) for i in range(60)])
    assert "come from a JPEG or from smoothed edges" in error_message(
        read_mask, encoded(tmp_path / "m.png"), Data(palette={"#000000": 0}), 2
    )


def test_ids_beyond_the_classes_are_refused(tmp_path):
    mask = ids()
    mask[0, 1:3] = 3, 9
    save_mask(tmp_path / "m.png", mask, palette=False)
    assert error_message(read_mask, encoded(tmp_path / "m.png"), Data(), 3) == (
        f"mask {tmp_path}/m.png has the ids 3, 9, but the 3 classes have ids 0, 1, 2 and 255 is ignored; map ids with"
        " data.id_map, or set data.classes or data.ignore_index"
    )


def test_the_ignored_id_of_the_masks_becomes_255(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
    assert read_mask(encoded(tmp_path / "m.png"), Data(ignore_index=2), 2).tolist() == [[0, 1, 255]]
    assert "has the id 2, but" in error_message(read_mask, encoded(tmp_path / "m.png"), Data(), 2)


def test_255_is_an_id_like_any_other_when_something_else_is_ignored(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 255]], np.uint8))
    assert "has the id 255, but" in error_message(read_mask, encoded(tmp_path / "m.png"), Data(ignore_index=2), 2)
    assert read_mask(encoded(tmp_path / "m.png"), Data(id_map={"255": 1}), 2).tolist() == [[0, 1, 1]]


def test_id_map_moves_ids_and_may_ignore_some(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2, 7, 255]], np.uint8))
    mapped = Data(id_map={"0": 255, "1": 0, "2": 1, "7": 1})
    assert read_mask(encoded(tmp_path / "m.png"), mapped, 2).tolist() == [[255, 0, 1, 1, 255]]


def test_ids_that_a_map_of_every_class_lacks_are_refused(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
    said = error_message(read_mask, encoded(tmp_path / "m.png"), Data(id_map={"1": 0, "2": 1}), 2)
    assert "has the id 0, but the 2 classes have ids 1, 2 and 255 is ignored; map ids with data.id_map" in said
    assert read_mask(encoded(tmp_path / "m.png"), Data(id_map={"2": 1}), 2).tolist() == [[0, 1, 1]]


def test_with_zero_ignored_and_the_rest_moved_down_a_map_to_zero_means_class_zero(tmp_path):
    save_mask(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint8))
    mapped = Data(ignore_index=0, id_map={"1": 0, "2": 1})
    assert read_mask(encoded(tmp_path / "m.png"), mapped, 2).tolist() == [[255, 0, 1]]


def test_an_id_map_that_cannot_be_is_refused(tmp_path):
    save_mask(tmp_path / "m.png")
    record = encoded(tmp_path / "m.png")
    assert error_message(read_mask, record, Data(id_map={"1": 3}), 3) == (
        "data.id_map.1 is 3; use a class id from 0 to 2, or 255 to ignore it"
    )
    assert error_message(read_mask, record, Data(id_map={"sky": 1}), 3) == (
        "data.id_map has the key 'sky'; keys are the ids in the masks, 0 to 65535"
    )


def test_sixteen_bit_masks_are_read_through_the_map(tmp_path):
    Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)).save(tmp_path / "m.png")
    mapped = Data(ignore_index=65535, id_map={"1000": 1})
    assert read_mask(encoded(tmp_path / "m.png"), mapped, 2).tolist() == [[0, 1, 255]]


def test_negative_ids_are_no_label_and_ids_of_more_than_16_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 1, -1, -9]], np.int32)).save(tmp_path / "m.tif")
    assert read_mask(encoded(tmp_path / "m.tif"), Data(), 2).tolist() == [[0, 1, 255, 255]]
    Image.fromarray(np.array([[0, 1, 70000]], np.int32)).save(tmp_path / "m.tif")
    assert "has the id 70000, but" in error_message(read_mask, encoded(tmp_path / "m.tif"), Data(ignore_index=65535), 2)


def test_a_bilevel_mask_has_the_ids_0_and_1(tmp_path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "m.png")
    assert read_mask(encoded(tmp_path / "m.png"), Data(), 2).tolist() == [[0, 1]]


def indexed(path, values, *colours):
    picture = Image.fromarray(np.array([values], np.uint8))
    picture.putpalette([part for colour in colours for part in colour])
    picture.save(path)
    return encoded(path)


def test_indexed_masks_that_show_an_id_in_two_colours_are_refused(tmp_path):
    black, red, green = (0, 0, 0), (128, 0, 0), (0, 128, 0)
    files = [indexed(tmp_path / f"{name}.png", values, *colours) for name, values, colours in (
        ("a", [0, 1, 1], (black, red, green)),
        ("b", [0, 1, 2], (black, red, green)),
        ("c", [0, 1, 1], (black, red)),  # a shorter palette with the same colours
        ("d", [0, 0, 1], [(index, index, index) for index in range(256)]),  # a grey PNG in other clothes
    )]  # fmt: skip
    check_palettes_of(files, Data())
    files.append(indexed(tmp_path / "e.png", [1, 2, 2], black, green, red))
    assert error_message(check_palettes_of, files, Data()).startswith(
        f"the id 1 is #800000 in {tmp_path}/a.png and #008000 in {tmp_path}/e.png: each has a palette of its own, so the ids do not say"
        " what is meant; name the colours, in a config with data.palette, for new-config with --palette FILE"
    )
    check_palettes_of(files, Data(palette={"#000000": 0, "#800000": 1, "#008000": 2}))
    check_palettes_of([{"path": str(tmp_path / "gone.png"), "bytes": None}], Data())  # told by whoever opens it
