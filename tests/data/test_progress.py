"""Every long look at files shows a bar on a terminal, and a line now and then elsewhere."""

import io
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from folders import data, make_folder, save_mask, save_photo

from s4former.config import Evaluation
from s4former.data import progress
from s4former.data.lists import find_duplicates
from s4former.data.sources import check_masks, load_sources
from s4former.evaluation.inference import Setting, predictions
from s4former.new_config.contents import read_contents
from s4former.new_config.pairs import find_photos
from s4former.rasterize.annotations import read_annotations
from s4former.rasterize.readers import images_of
from s4former.training.preflight import Report, check_pairs


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """The function calls something on a terminal and returns what that shows."""

    def show(call, terminal=True, delay=0):
        monkeypatch.setattr(progress, "DELAY", delay)
        monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
        call()
        return sys.stderr.getvalue()

    return show


def looks(tmp_path):
    """What a look at files is called -> the look."""
    root = make_folder(tmp_path)
    found, read = data(root), load_sources(data(root))
    for index in range(2):
        save_photo(tmp_path / "photos" / "images" / f"{index}.png", index)
        save_mask(tmp_path / "photos" / "masks" / f"{index}.png")
    (root / "a.json").write_text("{}")
    item = SimpleNamespace(image=torch.zeros(3, 8, 8, dtype=torch.uint8))
    setting = Setting(evaluation=Evaluation(short_side=0), crop=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    return {
        "labelled masks": lambda: check_masks(read, found),
        "evaluation masks": lambda: check_masks(read, found),
        "duplicates": lambda: find_duplicates((root / "images").iterdir()),
        "images and masks": lambda: read_contents(find_photos(tmp_path / "photos", tmp_path), {}),
        "evaluation images": lambda: check_pairs(read, SimpleNamespace(data=found), Report()),
        "evaluation": lambda: list(predictions({"model": lambda images: images}, [item] * 3, setting)),
        "annotations": lambda: read_annotations("LabelMe", images_of(root, root / "masks"), root / "masks", False, defaultdict(list)),
    }


@pytest.mark.parametrize("name", ["labelled masks", "evaluation masks", "duplicates", "images and masks", "evaluation images", "evaluation", "annotations"])
def test_a_look_at_files_shows_a_bar_on_a_terminal(name, tmp_path, shown):
    text = shown(looks(tmp_path)[name])
    assert f"\r{name}: " in text and max(map(len, text.split("\r"))) <= 80


def test_no_bar_for_what_is_short_nor_without_a_terminal_nor_in_other_processes(shown, monkeypatch):
    look = lambda: list(progress.progress(range(3), "files"))  # noqa: E731
    assert look() == [0, 1, 2] and "files: " in shown(look)
    assert shown(look, delay=60) == shown(look, terminal=False) == ""
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    monkeypatch.setenv("RANK", "1")
    assert shown(look) == shown(look, terminal=False) == ""


def test_a_long_look_without_a_terminal_prints_a_line_now_and_then(shown, monkeypatch):
    clock = iter(range(0, 100, 11))  # seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert shown(lambda: list(progress.progress(range(4), "photos")), terminal=False) == "photos: 2 of 4\n"
