"""A list is known by its ids, whatever its file is called and however its lines are written."""

import os
from pathlib import Path

import pytest
from folders import data, error_message, make_folder, write

from s4former.data.lists import list_fingerprint
from s4former.data.published import (
    PUBLISHED,
    find_published_lists,
    identify_list,
    image_id,
    list_ids,
    list_named_by,
    lists_of_benchmark,
    verify_list,
)
from s4former.data.sources import load_sources

LISTS = Path(os.environ.get("S4FORMER_PUBLISHED_LISTS", "none"))
CPS, U2PL = ["2007_000001", "2007_000003"], ["2007_000002", "2007_000003"]


@pytest.fixture
def known(monkeypatch):
    """Two little families under the names of published ones."""
    for name, ids in {"voc_blend_cps/662": CPS, "voc_blend_u2pl/662": U2PL}.items():
        monkeypatch.setitem(PUBLISHED, name, list_fingerprint(ids))


@pytest.mark.parametrize(
    "line",
    [
        "2007_000032",
        "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png",
        "/JPEGImages/2007_000032.jpg",
        "VOC2012/JPEGImages/2007_000032.jpg",
    ],
)
def test_every_way_to_write_an_id_is_the_same_id(line):
    assert image_id(line) == "2007_000032"


def test_the_tag_of_cityscapes_is_no_part_of_an_id():
    line = "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png gtFine/train/jena/jena_gtFine_labelTrainIds.png"
    assert image_id(line) == image_id("train/jena/jena_000078_000019_leftImg8bit") == "jena_000078_000019"


def test_blank_lines_and_comments_are_no_ids(tmp_path):
    write(tmp_path / "list.txt", "# mine", "", "  b.jpg ", "a")
    assert list_ids(tmp_path / "list.txt") == ["b", "a"]


def test_a_list_is_recognised_in_any_order_and_not_with_one_id_more_or_twice(known):
    assert identify_list([CPS[1], f"JPEGImages/{CPS[0]}.jpg x.png"]) == "voc_blend_cps/662"
    assert identify_list(CPS + ["2007_000009"]) is None
    assert identify_list(CPS + CPS[:1]) is None
    assert identify_list([]) is None


def test_a_list_of_another_family_is_refused_by_name(known):
    assert error_message(verify_list, U2PL, "voc_blend_cps/662", "mine/662.txt") == (
        "mine/662.txt: this is not voc_blend_cps/662, of 2 ids, but voc_blend_u2pl/662; get the right list, or give yours another"
        " name"
    )
    assert verify_list(CPS, "voc_blend_cps/662", "mine/662.txt") is None


def test_a_list_that_is_none_of_them_is_refused_with_both_counts(known):
    assert error_message(verify_list, ["x"], "voc_blend_cps/662", "mine/662.txt") == (
        "mine/662.txt: this is not voc_blend_cps/662, of 2 ids, but 1 id with another SHA-256; get the right list, or give yours"
        " another name"
    )


def test_a_file_claims_to_be_a_list_by_its_name():
    assert list_named_by(Path("a/voc_classic/92.txt")) == "voc_classic/92"
    assert list_named_by(Path("a/voc_val_1449.txt")) == "voc_val_1449"
    assert list_named_by(Path("pascal/92/labeled.txt")) is None


def test_lists_in_a_folder_are_found_by_content(known, tmp_path):
    write(tmp_path / "pascal" / "1_16" / "labeled.txt", *(f"JPEGImages/{name}.jpg y.png" for name in CPS))
    write(tmp_path / "pascal" / "1_16" / "unlabeled.txt", "2007_000077")
    write(tmp_path / "coco" / "1_512.txt", "not asked for, so not looked at")
    assert find_published_lists(tmp_path, "voc") == {"voc_blend_cps/662": CPS}


def test_a_pool_is_found_as_a_labelled_and_an_unlabelled_list_together(monkeypatch, tmp_path):
    monkeypatch.setitem(PUBLISHED, "voc_train_aug_10582", list_fingerprint(CPS))
    write(tmp_path / "92" / "labeled.txt", CPS[1])
    write(tmp_path / "92" / "unlabeled.txt", CPS[0])
    assert find_published_lists(tmp_path, "voc") == {"voc_train_aug_10582": CPS}


def test_a_folder_with_a_wrong_list_is_refused(known, tmp_path):
    write(tmp_path / "voc_blend_cps" / "662.txt", *U2PL)
    assert "this is not voc_blend_cps/662, of 2 ids, but voc_blend_u2pl/662" in error_message(find_published_lists, tmp_path, "voc")


def test_every_list_is_of_one_benchmark_and_has_its_own_digest():
    assert sum(len(lists_of_benchmark(name)) for name in ("voc", "cityscapes", "coco")) == len(PUBLISHED)
    assert len({known["sha256"] for known in PUBLISHED.values()}) == len(PUBLISHED)
    for name, known in PUBLISHED.items():
        assert len(known["sha256"]) == 64
        assert name.startswith("coco/1_") or str(known["images"]) in name


def test_the_log_names_the_lists_it_recognises(monkeypatch, tmp_path):
    root = make_folder(tmp_path)
    monkeypatch.setitem(PUBLISHED, "voc_classic/92", list_fingerprint("ab"))
    monkeypatch.setitem(PUBLISHED, "voc_train_aug_10582", list_fingerprint("abcde"))
    monkeypatch.setitem(PUBLISHED, "voc_val_1449", list_fingerprint("f"))
    assert load_sources(data(root)).notes == (
        "labelled list: voc_classic/92",
        "unlabelled and labelled list together: voc_train_aug_10582",
        "evaluation list: voc_val_1449",
    )


@pytest.mark.skipif(not LISTS.is_dir(), reason="S4FORMER_PUBLISHED_LISTS names no folder with the published lists")
def test_the_lists_of_others_are_the_published_ones():
    found = [name for benchmark in ("voc", "cityscapes", "coco") for name in find_published_lists(LISTS, benchmark)]
    assert sorted(found) == sorted(PUBLISHED)
