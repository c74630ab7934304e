"""What a list may hold, and the messages for names that are not found."""

import difflib
import hashlib
import os
import unicodedata
from dataclasses import replace
from functools import partial

import pytest
from folders import data, encoded, error_message, make_folder, save_image, save_mask, write

from s4former.data.layouts import folder_layout
from s4former.data.lists import find_duplicates, read_list
from s4former.data.sources import load_sources


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path)


def test_lists_may_name_ids_files_paths_or_pairs_of_paths(root):
    write(root / "all.txt", "# four ways", "a", "", "b.jpg", "images/c.jpg", "/images/d.jpg /masks/a.png")
    found = load_sources(data(root, unlabeled="all.txt", labeled="labeled.txt"))
    assert found.unlabeled["id"][:] == ["c", "d"]
    assert found.notes == ("taken out of the pool: 2 labelled images of data.unlabeled",)


def test_a_list_of_pairs_needs_no_folders_of_our_names(tmp_path):
    save_image(tmp_path / "photos/2007 one.jpg")
    save_image(tmp_path / "photos/two.JPG")
    save_mask(tmp_path / "truth/two_ids.png")
    write(tmp_path / "labeled.txt", "photos/two.JPG truth/two_ids.png")
    write(tmp_path / "pool.txt", "photos/2007 one.jpg")
    found = load_sources(data(tmp_path, unlabeled="pool.txt", validation="labeled.txt"), training=False)
    assert found.validation[0]["mask"] == encoded(tmp_path / "truth/two_ids.png") and len(found.labeled) == 0


def test_ids_may_lie_in_subfolders_and_may_be_named_without_them(tmp_path):
    for half, name in (("train", "a"), ("train", "b"), ("test", "f")):
        save_image(tmp_path / "images" / half / f"{name}.png")
        save_mask(tmp_path / "masks" / half / f"{name}.png")
    write(tmp_path / "labeled.txt", "a")
    write(tmp_path / "test.txt", "test/f")
    found = load_sources(data(tmp_path))
    assert found.labeled["id"][:] == ["train/a"] and found.unlabeled["id"][:] == ["train/b"]
    by_folder = load_sources(data(tmp_path, labeled="train", validation="test"))
    assert by_folder.labeled["id"][:] == ["a", "b"]
    assert by_folder.labeled[0]["mask"] == encoded(tmp_path / "masks/train/a.png")


def test_an_id_of_another_folder_is_not_found_by_its_name_alone(tmp_path):
    save_image(tmp_path / "images/train/a.jpg")
    write(tmp_path / "labeled.txt", "test/a")
    assert error_message(load_sources, data(tmp_path)) == (
        f"data.labeled: {tmp_path}/labeled.txt names 1 id without an image in {tmp_path}, the first: test/a"
    )


def test_the_hash_of_a_list_is_that_of_its_sorted_ids(root):
    expected = hashlib.sha256(b"a\nb\n").hexdigest()
    assert load_sources(data(root)).lists["labeled"] == {"images": 2, "sha256": expected}


def test_a_missing_folder_is_refused_with_the_nearest_name(root):
    assert error_message(load_sources, data(root.with_name("flower"))) == (
        f"data.root is '{root.parent}/flower', but there is no such folder; did you mean {root}?"
    )
    write(root.with_name("file"), "no folder")
    assert error_message(load_sources, data(root.with_name("file"))).endswith("/file', but there is no such folder")


def test_a_missing_list_is_refused_with_the_names_near_it(root):
    assert error_message(load_sources, data(root, labeled="labelled.txt")) == (
        f"data.labeled is 'labelled.txt', but there is no such list or folder in {root} or {root}/images; near it are"
        " labeled.txt"
    )


def test_an_id_without_a_file_is_refused(root):
    write(root / "labeled.txt", "a", "fa", "x/y")
    assert error_message(load_sources, data(root)) == (
        f"data.labeled: {root}/labeled.txt names 2 ids without an image in {root}, the first: fa (the nearest name is f)"
    )


def test_a_labelled_image_without_a_mask_is_refused(root):
    write(root / "labeled.txt", "a", "c")
    assert error_message(load_sources, data(root)) == (
        f"data.labeled: 1 image of {root}/labeled.txt without a mask in {root}/masks, the first: c; a mask has the name"
        " of its image and one of the endings .png, .tif, .tiff, .bmp, .gif"
    )


def test_a_jpeg_is_no_mask(root):
    save_image(root / "masks" / "c.jpg")
    write(root / "labeled.txt", "c")
    assert "without a mask in" in error_message(load_sources, data(root))


def test_duplicate_ids_are_refused(root):
    write(root / "labeled.txt", "a", "b", "a.jpg")
    assert error_message(load_sources, data(root)) == (
        f"data.labeled: {root}/labeled.txt names 1 id more than once, the first: a"
    )


def test_lists_may_hold_the_paths_of_windows(root):
    write(root / "labeled.txt", "images\\b.jpg", "images\\a.jpg\tmasks\\a.png")
    assert load_sources(data(root)).labeled["id"][:] == ["a", "b"]
    write(root / "labeled.txt", "..\\images\\b.jpg")
    assert "which leaves the data folder" in error_message(load_sources, data(root))


def test_a_list_finds_files_whose_names_are_in_the_unicode_form_of_a_mac(root):
    save_image(root / unicodedata.normalize("NFD", "more/é.jpg"))
    save_mask(root / unicodedata.normalize("NFD", "drawn/é.png"))
    write(root / "labeled.txt", "more/é.jpg\tdrawn/é.png")
    assert load_sources(data(root)).labeled["id"][:] == ["more/é"]


@pytest.mark.parametrize("mark", ["\x1e", "\x85", "\u2028", "\x0b"])
def test_only_line_breaks_end_a_line(root, mark):
    save_image(root / "images" / f"x{mark}y.jpg")
    write(root / "pool.txt", f"x{mark}y", "c")
    write(root / "pool.csv", "image", f"x{mark}y", "c")
    for name in ("pool.txt", "pool.csv"):
        assert load_sources(data(root, unlabeled=name)).unlabeled["id"][:] == ["c", f"x{mark}y"]


def test_a_folder_that_cannot_be_read_is_refused(root, monkeypatch):
    (root / "images" / "secret").mkdir()
    scandir = os.scandir

    def refused(path):
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    said = error_message(load_sources, data(root))
    assert said == f"the folder {root}/images/secret cannot be read: Permission denied; make it readable, or move it elsewhere"


def test_the_nearest_name_is_looked_for_among_2000_that_begin_alike(root, monkeypatch):
    layout = folder_layout(root, root)
    many = replace(layout, images={f"{place:06d}/{place}": "" for place in range(5000)} | layout.images)
    compared = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda name, names, n: compared.append(names) or names[:1])
    write(root / "labeled.txt", "004999/49990")
    assert "(the nearest name is 004999/4999)" in error_message(partial(read_list, masks=False), "data.labeled", root / "labeled.txt", many)
    assert len(compared[0]) == 2000


@pytest.mark.parametrize("header, rows", [("Label;File", "masks/b.png;b.jpg"), ("filename,mask", "b,masks/b.png"), ("path", "b")])
def test_a_csv_goes_by_what_its_heading_says(root, header, rows):
    write(root / "labeled.csv", header, rows)
    assert load_sources(data(root, labeled="labeled.csv")).labeled["id"][:] == ["b"]


def test_a_name_that_is_no_utf8_is_told_with_the_program_that_renames_it(root):
    os.rename(root / "images" / "c.jpg", os.fsencode(root / "images") + b"/caf\xe9.jpg")
    assert "holds a name that is no UTF-8, caf\\udce9.jpg; rename it (convmv" in error_message(load_sources, data(root))


def test_a_link_that_leads_back_through_another_is_not_followed(root, tmp_path):
    (tmp_path / "disk").mkdir()
    save_image(tmp_path / "disk" / "x.jpg")
    (root / "images" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(root)
    assert load_sources(data(root)).unlabeled["id"][:] == ["c", "d", "e", "more/x"]


def test_an_empty_list_is_refused(root):
    write(root / "labeled.txt", "", "# nothing")
    assert error_message(load_sources, data(root)) == f"data.labeled: the list {root}/labeled.txt is empty"


@pytest.mark.parametrize("line", ["../other/a", "images/../../a.jpg", "a ../masks/a.png"])
def test_a_list_cannot_leave_the_data_folder(root, line):
    write(root / "labeled.txt", line)
    assert error_message(load_sources, data(root)) == (
        f"data.labeled: {root}/labeled.txt has the line {line!r}, which leaves the data folder {root}; use ids below it"
    )


@pytest.mark.parametrize(
    "name, lines",
    [
        ("l.txt", ["ROOT/images/a.jpg\tROOT/masks/a.png", "ROOT/images/b.jpg"]),
        ("l.csv", ["image,mask", "images/a.jpg,masks/a.png", "ROOT/images/b.jpg,masks/b.png"]),
        ("l.csv", ["id;mask;image", "1;masks/a.png;images/a.jpg", "2;masks/b.png;images/b.jpg"]),
        ("l.csv", ["images/a.jpg,masks/a.png", "images/b.jpg,masks/b.png"]),
    ],
)
def test_lists_may_hold_absolute_paths_below_the_root_and_be_csv(tmp_path, name, lines):
    root = make_folder(tmp_path)
    write(root / name, *(line.replace("ROOT", str(root)) for line in lines))
    found = read_list("data.labeled", root / name, folder_layout(root, root), masks=True)
    assert [sample.id for sample in found] == ["a", "b"]
    assert [sample.mask for sample in found] == [str(root / "masks/a.png"), str(root / "masks/b.png")]


def test_files_of_one_content_are_grouped_in_the_order_given(tmp_path):
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"three", "e": b"two", "f": b"six"}.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in "fedcba"]
    assert find_duplicates(paths) == [[str(tmp_path / name) for name in pair] for pair in ("eb", "ca")]


def test_a_file_that_is_not_there_has_no_duplicates(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    assert find_duplicates([tmp_path / "a", tmp_path / "gone", tmp_path / "gone too"]) == []
