"""numbering.py: which id of the masks is which class."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from folders import error_message, write

from s4former.new_config import numbering
from s4former.new_config.class_files import read_classes, read_palette
from s4former.new_config.contents import Contents


def masks(counts):
    return [Contents((1, sum(counts.values())), "RGB", pixels=dict(counts), mask="data/m.png")]


def ids(*values):
    return masks({value: 10 for value in values})


def number_classes(masks, names, ignored):
    return numbering.number_classes(masks, names, dict.fromkeys(ignored, "--ignore"))


def read_names(folder):
    return read_classes(folder, [], "").names or []


def test_masks_of_0_and_255_are_one_thing_and_a_background():
    found = number_classes(ids(0, 255), [], [])
    assert found.data_keys() == {"classes": ["background", "foreground"], "id_map": {"0": 0, "255": 1}, "ignore_index": 254}
    assert "255 is read as class 1, foreground (data.id_map), and not as no label" in found.remarks
    assert number_classes(ids(0, 255), ["road", "crack"], []).classes == ("road", "crack")
    assert error_message(number_classes, ids(0, 255), ["one"], []) == "the masks hold 0 and 255 alone, and 1 name are given; give two"


def test_255_beside_other_ids_is_no_label():
    found = number_classes(ids(0, 1, 2, 255), ["a", "b", "c"], [])
    assert found.data_keys() == {"classes": ["a", "b", "c"]}
    assert found.remarks == ("id 255 is taken as no label: 25.00% of the pixels of all masks, neither learned nor tested",)


def test_an_id_without_a_name_wants_one_or_is_ignored_by_the_user():
    assert error_message(number_classes, ids(0, 1, 2), ["a", "b"], []) == (
        "the masks have the id 2 (the first in m.png), and 2 names are given, for 0, 1; name every id, or say that it means"
        " no label: --ignore 2"
    )
    found = number_classes(ids(0, 1, 2), ["a", "b"], [2])
    assert found.data_keys() == {"classes": ["a", "b"], "id_map": {"2": 255}} and "id 2" in found.remarks[0]
    assert "the masks have the ids 3, 4 (the first in m.png), and 3 names are given, for 0, 1, 2; name every id" in error_message(
        number_classes, ids(0, 1, 2, 3, 4), ["a", "b", "c"], []
    )


@pytest.mark.parametrize("names, ignored", [(["void", "sky", "sea"], []), ([], [0])])
def test_a_class_called_void_or_named_by_the_user_is_no_label_and_the_others_move_up(names, ignored):
    found = number_classes(ids(0, 1, 2), names, ignored)
    assert found.data_keys()["id_map"] == {"1": 0, "2": 1, "0": 255} and "ignore_index" not in found.data_keys()
    assert found.classes == (("sky", "sea") if names else ("class 1", "class 2"))


def test_several_ids_may_mean_no_label():
    found = number_classes(ids(0, 1, 7, 9, 255), [], [7, 9])
    assert found.data_keys() == {"classes": ["class 0", "class 1"], "id_map": {"7": 255, "9": 255}}


def test_ids_with_gaps_are_numbered_in_their_order_and_take_the_names_in_it():
    assert number_classes(ids(0, 50, 100), [], []).data_keys()["id_map"] == {"0": 0, "50": 1, "100": 2}
    found = number_classes(ids(0, 50, 100), ["a", "b", "c"], [])
    assert found.classes == ("a", "b", "c") and "given the names in their order" in found.remarks[0]


@pytest.mark.parametrize("values", [(1, 2, 3), (0, 128, 255), (0, 127, 254), (7, 9, 1000), (-1, 1, 2, 3), (1, 2, 3, 255)])
def test_n_ids_and_n_names_are_n_classes_in_order_whatever_the_ids_are(values):
    found = number_classes(ids(*values), ["a", "b", "c"], [])
    classes = [raw for raw in values if raw != -1][:3]
    assert found.classes == ("a", "b", "c") and [found.class_of[raw] for raw in classes] == [0, 1, 2]
    assert all(found.class_of[raw] == 255 for raw in values if raw not in classes)
    assert "-1" not in found.data_keys()["id_map"]
    assert any("given the names in their order" in remark for remark in found.remarks)


def test_where_255_may_be_no_label_or_the_last_class_both_ways_are_named():
    message = error_message(number_classes, ids(0, 1, 255), ["a", "b", "c"], [])
    assert message == (
        "the masks hold the ids 0, 1, 255, and 3 names are given: 255 may mean no label, or be c; say which:"
        " --ignore 255, or --classes 0=a 1=b 255=c"
    )
    void = number_classes(ids(0, 1, 255), ["a", "b", "c"], [255])
    assert void.classes == ("a", "b", "c") and void.class_of[255] == 255
    last = number_classes(ids(0, 1, 255), {0: "a", 1: "b", 255: "c"}, [])
    assert last.data_keys() == {"classes": ["a", "b", "c"], "id_map": {"0": 0, "1": 1, "255": 2}, "ignore_index": 254}
    assert number_classes(ids(0, 1, 255), ["a", "b", "void"], []).classes == ("a", "b")


def test_greys_at_equal_distances_are_classes_where_no_names_are_given():
    assert number_classes(ids(0, 128, 255), [], []).classes == ("class 0", "class 128", "class 255")
    assert number_classes(ids(0, 1, 2, 255), [], []).classes == ("class 0", "class 1", "class 2")


def test_an_ignored_id_takes_no_name_away_and_a_name_that_goes_is_said():
    found = number_classes(ids(0, 1, 2, 3), ["a", "b", "c"], [0])
    assert found.classes == ("a", "b", "c") and found.class_of == {1: 0, 2: 1, 3: 2, 0: 255}
    found = number_classes(ids(0, 1, 2), {0: "a", 1: "b", 2: "c"}, [1])
    assert found.classes == ("a", "c") and found.remarks == (
        "id 1 is taken as no label (--ignore, and with it the name b): 33.33% of the pixels of all masks, neither learned nor tested",
    )


def test_names_that_fit_with_the_ignored_ids_and_without_a_class_are_refused():
    assert error_message(number_classes, ids(0, 1, 2), ["a", "b", "c"], [0]) == (
        "the masks hold the ids 0, 1, 2, of which some are ignored, and 3 names are given: they may be those of all ids, or of the"
        " classes alone; say which: --classes 1=b 2=c, or --classes 1=a 2=b 3=c"
    )


def test_numbered_objects_are_one_class_or_refused():
    objects = [mask for last in range(2, 20, 2) for mask in ids(*range(last + 1))]
    assert "objects seem to be numbered in them, not classes; give two names" in error_message(number_classes, objects, [], [])
    found = number_classes([*objects, *ids(0, 255)], ["ground", "cell"], [])
    assert found.classes == ("ground", "cell") and found.class_of == {0: 0, 255: 255} | dict.fromkeys(range(1, 19), 1)
    assert found.data_keys()["id_map"] == {"0": 0} | {str(index): 1 for index in range(1, 19)}
    classes = [mask for last in range(1, 6) for mask in ids(*range(last + 1))] + ids(0, 7, 15) + ids(0, 1, 9)
    assert len(number_classes(classes, [], []).classes) == 9


def test_names_given_by_id_belong_to_those_ids_alone():
    assert number_classes(ids(3, 5), {3: "a", 4: "b", 5: "c"}, []).class_of == {3: 0, 4: 1, 5: 2}
    assert "the masks have the id 6 (the first in m.png), and 2 names are given, for 3, 5" in error_message(
        number_classes, ids(3, 5, 6), {3: "a", 5: "b"}, []
    )


def test_a_name_without_a_pixel_stays_a_class():
    assert number_classes(ids(0, 2), ["a", "b", "c"], []).data_keys() == {"classes": ["a", "b", "c"]}


def test_grey_values_are_no_classes():
    smooth = Counter({value: 1 for value in range(256)}) + Counter({0: 9000, 255: 3000})
    message = error_message(number_classes, masks(smooth), [], [])
    assert "they look like grey values, not class ids (97.9% of the pixels are 0 or 255" in message


def test_one_class_is_too_few():
    assert "the masks show 1 class only (4)" in error_message(number_classes, ids(4), [], [])


def test_names_are_read_from_a_text_or_from_json(tmp_path):
    assert read_names(tmp_path) == []
    write(tmp_path / "classes.txt", "sky", " road ", "")
    assert read_names(tmp_path) == ["sky", "road"]
    (tmp_path / "classes.json").write_text(json.dumps({"0": "a", "1": "b"}))
    assert read_names(tmp_path) == ["a", "b"]
    (tmp_path / "classes.json").write_text(json.dumps({"0": "a", "255": "b"}))
    assert read_names(tmp_path) == {0: "a", 255: "b"}


@pytest.mark.parametrize(
    "name, lines",
    [
        ("label_colors.txt", ["128 64 128\t\tRoad", "0 0 0\t\tVoid"]),
        ("class_dict.csv", ["name,r,g,b", "Road, 128, 64, 128", "Void, 0, 0, 0"]),
        ("labelmap.txt", ["# label:color_rgb:parts:actions", "Road:128,64,128::", "Void:0,0,0::"]),
        ("class_dict.csv", ["id;name;red;green;blue", "1;Road;128;64;128", "2;Void;0;0;0"]),
        ("class_dict.csv", ["\ufeffRoad,128,64,128", "Void,0,0,0"]),
        ("palette.json", ['{"Road": "#804080",', '"Void": "#000000"}']),
    ],
)
def test_palettes_are_read_as_the_usual_tools_write_them(tmp_path, name, lines):
    write(tmp_path / name, *lines)
    assert read_palette(tmp_path / name) == {"#804080": "Road", "#000000": "Void"}


@pytest.mark.parametrize("name", ["Grade1", "Grade 1", "2 m"])
@pytest.mark.parametrize("line, file", [("{},128,64,0", "p.csv"), ("{}:128,64,0::", "p.txt"), ("{} 128 64 0", "p.txt"), ("128 64 0 {}", "p.txt")])
def test_names_with_numbers_keep_them(tmp_path, name, line, file):
    write(tmp_path / file, line.format(name))
    assert read_palette(tmp_path / file) == {"#804000": name}


def test_a_palette_in_json_may_hold_numbers(tmp_path):
    (tmp_path / "p.json").write_text('{"sky": [128, 128, 192], "road": "#00FF00"}')
    assert read_palette(tmp_path / "p.json") == {"#8080c0": "sky", "#00ff00": "road"}


@pytest.mark.parametrize(
    "lines, names",
    [
        (("# mine", "sky", "", "road"), ["sky", "road"]),
        (("2: bud", "0: sky", "7: far road"), {2: "bud", 0: "sky", 7: "far road"}),
        (("0 sky", "1 far road"), {0: "sky", 1: "far road"}),
        (("1 euro", "2 euro"), ["1 euro", "2 euro"]),
        (("2 wheels", "4 legs"), ["2 wheels", "4 legs"]),
    ],
)
def test_names_a_line_may_have_their_ids_before_them(tmp_path, lines, names):
    write(tmp_path / "classes.txt", *lines)
    assert read_names(tmp_path) == names


def test_names_in_json_may_be_the_keys(tmp_path):
    (tmp_path / "classes.json").write_text('{"sky": 0, "road": 7}')
    assert read_names(tmp_path) == {0: "sky", 7: "road"}
    (tmp_path / "classes.json").write_text('{"sky": 7, "road": 7}')
    assert "two names have one id" in error_message(read_names, tmp_path)


@pytest.mark.parametrize("options", [["0=sky", "road"], ["1=sky", "1=road"]])
def test_classes_are_given_by_id_all_or_none_and_each_id_once(tmp_path, options):
    said = error_message(read_classes, tmp_path, options, "")
    assert said == f"--classes is {' '.join(options)}; write ID=NAME for every class, each id once, or names alone in the order of ids"


@pytest.mark.parametrize("name, content", [("p.json", '{"sky": "#010203", "road": [1, 2, 3]}'), ("p.txt", "sky 1 2 3\nroad 1 2 3\nroad 1 2 3")])
def test_two_names_of_one_colour_are_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert "sky and road have one colour, #010203; give one of them another" in error_message(read_palette, tmp_path / name)


def test_binary_masks_of_two_kinds_are_refused():
    mixed = [*ids(0, 1), *ids(0, 255), *ids(0)]
    said = error_message(number_classes, mixed, ["ground", "leaf"], set())
    assert said == (
        "1 mask with the id 1, 1 others with 255, none with both (the first with 1: m.png): if they mean the same, save all masks alike;"
        " if 255 means no label, add --ignore 255"
    )
    assert number_classes(mixed, ["ground", "leaf"], {255}).class_of == {0: 0, 1: 1, 255: 255}
    assert number_classes([*mixed, *ids(0, 1, 255)], ["ground", "leaf"], set()).class_of == {0: 0, 1: 1, 255: 255}


def test_a_mask_of_one_bit_beside_greys_is_refused():
    bit = [replace(mask, mask_mode="1") for mask in ids(0, 1)]
    assert "1 mask with the id 1, 1 others with 255" in error_message(number_classes, [*bit, *ids(0, 128, 255)], list("abc"), [])
    assert number_classes([*bit, *ids(0, 1, 2, 255)], list("abc"), []).class_of == {0: 0, 1: 1, 2: 2, 255: 255}


def test_names_of_roboflow_are_read_by_their_ids(tmp_path):
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "_classes.csv", "Pixel Value, Class", "0, background", "3, red")
    assert read_names(tmp_path) == {0: "background", 3: "red"}


@pytest.mark.parametrize("name, line", [("p.json", '{"sky": "blue"}'), ("p.txt", "sky blue"), ("p.txt", "sky 300 0 0")])
def test_what_is_no_palette_is_told_how_one_looks(tmp_path, name, line):
    write(tmp_path / name, line)
    message = error_message(read_palette, tmp_path / name)
    assert message.startswith(f"{tmp_path / name}") and message.endswith(
        '; write {"sky": "#8080c0", ...}, or a line for each class with its name, red, green and blue'
    )


@pytest.mark.parametrize("content, reason", [("{", "Invalid JSON: EOF while parsing"), ("[1]", "Input should be a valid string")])
def test_json_that_holds_no_names_or_colours_is_told_with_its_reason(tmp_path, content, reason):
    (tmp_path / "classes.json").write_text(content)
    assert f"classes.json: {reason}" in error_message(read_names, tmp_path)


def test_a_colour_that_is_none_is_told_with_its_name(tmp_path):
    (tmp_path / "palette.json").write_text('{"sky": "blue"}')
    assert "palette.json: sky: String should match pattern" in error_message(read_palette, tmp_path / "palette.json")


def test_names_beside_a_palette_have_to_be_those_of_the_palette(tmp_path):
    write(tmp_path / "labelmap.txt", "sky:0,0,0::", "road:9,9,9::", "Void:1,1,1::")
    for names in (["road", "sky"], ["sky", "road", "Void"]):
        assert dict(read_classes(tmp_path, names, "").names) == {0: "sky", 1: "road", 2: "Void"}
    assert error_message(read_classes, tmp_path, ["sky", "way"], "") == (
        "--classes names sky, way, and labelmap.txt names sky, road, Void; leave out --classes, or mend the file"
    )


@pytest.mark.parametrize("name", ["meta.json", "dataset.json"])
def test_a_file_with_a_name_that_many_have_is_let_be(tmp_path, name):
    (tmp_path / name).write_text('{"something": "else"}')
    assert read_names(tmp_path) == []
