"""sbd.py: masks from MATLAB files or from a ready folder, counted."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from folders import error_message, ids, save_image, save_mask
from PIL import Image
from web_server import packed

from s4former.errors import WriteError
from s4former.prepare import sbd


@pytest.fixture
def tree(tmp_path):
    """A VOC2012 with two images, one of them with an original mask."""
    tree = tmp_path / "VOC2012"
    for name in "ab":
        save_image(tree / "JPEGImages" / f"{name}.jpg")
    save_mask(tree / "SegmentationClass" / "a.png")
    return tree


@pytest.fixture
def scipy(monkeypatch):
    """As much of scipy as is asked for: a MATLAB file is the bytes of 16 x 24 ids here."""

    def loadmat(path):
        values = np.frombuffer(path.read_bytes(), np.uint8).reshape(16, 24)
        return {"GTcls": np.array([[{"Segmentation": values}]], object)}

    package, room = ModuleType("scipy"), ModuleType("scipy.io")
    room.loadmat = loadmat
    monkeypatch.setitem(sys.modules, "scipy", package)
    monkeypatch.setitem(sys.modules, "scipy.io", room)


def test_a_ready_folder_is_copied_once_and_counted(tree, tmp_path):
    for name in "ab":
        save_mask(tmp_path / "given" / "SegmentationClassAug" / f"{name}.png")
    sbd.add_masks(tmp_path / "given", tree, images=2)
    sbd.add_masks(tmp_path / "given" / "SegmentationClassAug", tree, images=2)
    assert sorted(path.name for path in (tree / "SegmentationClassAug").iterdir()) == ["a.png", "b.png"]


def test_a_copy_that_was_interrupted_is_made_again(tree, tmp_path, monkeypatch):
    for name in "ab":
        save_mask(tmp_path / "given" / f"{name}.png")

    def half(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sbd.shutil, "copyfile", half)
    with pytest.raises(WriteError):
        sbd.add_masks(tmp_path / "given", tree, images=2)
    monkeypatch.undo()
    sbd.add_masks(tmp_path / "given", tree, images=2)
    assert all((tree / "SegmentationClassAug" / f"{name}.png").read_bytes() == (tmp_path / "given" / f"{name}.png").read_bytes() for name in "ab")


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_matlab_files_become_masks(tree, tmp_path, scipy, kind):
    source = tmp_path / "benchmark_RELEASE"
    (source / "dataset" / "cls").mkdir(parents=True)
    (source / "dataset" / "cls" / "b.mat").write_bytes(ids().tobytes())
    if kind == "archive":
        files = {"benchmark_RELEASE/dataset/cls/b.mat": ids().tobytes(), "benchmark_RELEASE/dataset/inst/b.mat": b"x"}
        source = packed(tmp_path / "benchmark.tgz", files)
    sbd.add_masks(source, tree, images=2)
    with Image.open(tree / "SegmentationClassAug" / "b.png") as mask:
        assert np.array_equal(np.asarray(mask), ids())


def test_too_few_masks_are_refused_with_both_counts(tree, tmp_path):
    save_mask(tmp_path / "given" / "a.png")
    assert error_message(sbd.add_masks, tmp_path / "given", tree) == (
        f"with the masks of {tmp_path}/given, 1 images of {tree} have a mask; it must be 12,031; give the complete SBD"
        f" with --sbd: {sbd.KINDS}"
    )


def test_without_scipy_the_way_out_is_said(tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    source = packed(tmp_path / "benchmark.tgz", {"benchmark_RELEASE/dataset/cls/b.mat": b"x"})
    assert "scipy is not installed; pip install scipy, or give a ready SegmentationClassAug folder" in error_message(
        sbd.add_masks, source, tree
    )


def test_what_is_no_sbd_is_refused(tree, tmp_path, scipy):
    assert "but there are neither PNGs nor files cls/*.mat" in error_message(sbd.add_masks, tmp_path / "gone", tree)
    (tmp_path / "benchmark.tgz").write_bytes(b"<html>")
    assert "benchmark.tgz cannot be unpacked" in error_message(sbd.add_masks, tmp_path / "benchmark.tgz", tree)
    source = packed(tmp_path / "other.tgz", {"x/cls/b.mat": b"x"})
    assert f"the SBD file {tmp_path / 'other/x/cls/b.mat'} cannot be read" in error_message(sbd.add_masks, source, tree)
