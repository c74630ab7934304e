import os

import numpy as np
import pytest
from PIL import Image
from scripts import TINY

from s4former.config import Data, from_dict
from s4former.data.batches import StepDataset
from s4former.data.cache import CacheError, max_scale, read_labeled_pair, read_unlabeled_image
from s4former.data.images import read_image
from s4former.data.masks import read_pair
from s4former.data.sources import load_sources
from s4former.errors import DataError


def photo(path, width=320, height=240):
    """A smooth picture, as photos are, so that a smaller decoding is close to a resized one."""
    down, across = np.mgrid[:height, :width] / 40
    pixels = np.stack([np.sin(down) + np.cos(across), np.sin(across), np.cos(down + across)], axis=-1)
    Image.fromarray((127 + 60 * pixels).clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return {"path": str(path), "bytes": None}


def test_a_cached_image_is_the_decoded_one_to_the_bit_and_is_decoded_once(tmp_path, monkeypatch):
    record, data = photo(tmp_path / "a.jpg"), Data(cache=str(tmp_path / "cache"))
    plain = np.asarray(read_image(record))
    assert np.array_equal(np.asarray(read_unlabeled_image(record, data)), plain)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr("s4former.data.cache.read_image", None)  # whoever decodes again fails
    assert np.array_equal(np.asarray(read_unlabeled_image(record, data)), plain)


def test_a_cached_pair_is_the_decoded_one_and_ids_that_are_mapped_otherwise_are_read_again(tmp_path, monkeypatch):
    row = {"image": photo(tmp_path / "a.jpg", 24, 16), "mask": {"path": str(tmp_path / "a.png"), "bytes": None}}
    Image.fromarray(np.arange(16 * 24, dtype=np.uint8).reshape(16, 24) % 3).save(row["mask"]["path"])
    data = Data(source="folder", cache=str(tmp_path / "cache"))
    image, mask = read_pair(row, data, 3)
    for _ in range(2):
        cached_image, cached_mask = read_labeled_pair(row, data, 3)
        assert np.array_equal(cached_image, image) and np.array_equal(cached_mask, mask)
    assert np.array_equal(read_unlabeled_image(row["image"], data), image) and len(list((tmp_path / "cache").iterdir())) == 2
    mapped = Data(source="folder", cache=data.cache, id_map={"2": 255})
    assert (read_labeled_pair(row, mapped, 3)[1] == np.where(mask == 2, 255, mask)).all()
    with pytest.raises(DataError, match="has the id 2, but the 2 classes"):
        read_labeled_pair(row, data, 2)
    monkeypatch.setattr("s4former.data.cache.read_image", None)  # whoever decodes again fails
    monkeypatch.setattr("s4former.data.cache.read_upright_mask", None)
    assert np.array_equal(read_labeled_pair(row, data, 3)[1], mask)
    photo(row["image"]["path"], 24, 18)
    monkeypatch.undo()
    with pytest.raises(DataError, match="both must have the same size"):
        read_labeled_pair(row, data, 3)


def test_a_mask_that_is_turned_as_its_image_is_read_again_when_the_image_lies_otherwise(tmp_path):
    row = {"image": photo(tmp_path / "a.jpg", 24, 16), "mask": {"path": str(tmp_path / "a.png"), "bytes": None}}
    Image.fromarray(np.arange(16 * 24, dtype=np.uint8).reshape(16, 24) % 3).save(row["mask"]["path"])
    data, exif = Data(source="folder", exif="raw", cache=str(tmp_path / "cache")), Image.Exif()
    for exif[0x0112] in (3, 1):
        Image.open(row["image"]["path"]).save(row["image"]["path"], exif=exif)
        assert np.array_equal(read_labeled_pair(row, data, 3)[1], read_pair(row, data, 3)[1])


def test_another_file_of_the_same_name_and_a_truncated_entry_are_decoded_again(tmp_path):
    path, data = tmp_path / "a.jpg", Data(cache=str(tmp_path / "cache"))
    read_unlabeled_image(photo(path), data)
    record = photo(path, width=160, height=120)
    os.utime(path, ns=(1, 1))
    assert read_unlabeled_image(record, data).size == (160, 120)
    for entry in (tmp_path / "cache").iterdir():
        entry.write_bytes(entry.read_bytes()[:100])
    assert read_unlabeled_image(record, data).size == (160, 120)


def test_bytes_without_a_file_are_cached_by_their_content(tmp_path):
    photo(tmp_path / "a.jpg")
    record, data = {"path": None, "bytes": (tmp_path / "a.jpg").read_bytes()}, Data(cache=str(tmp_path / "cache"), draft=True)
    assert read_unlabeled_image(record, data).size == read_unlabeled_image(record, data).size == (320, 240)


def test_draft_decodes_a_large_jpeg_at_a_fraction_that_no_crop_outgrows(tmp_path):
    record = photo(tmp_path / "a.jpg")
    data = Data(resize=(1000, 30), ratio=(0.5, 2.0), draft=True)
    assert max_scale(240, 320, data) == 0.25
    small = read_unlabeled_image(record, data)
    assert small.size == (80, 60)
    whole = np.asarray(read_image(record).resize((80, 60), Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(small).astype(int) - whole).mean() < 2
    assert read_unlabeled_image(record, Data(resize=(1000, 32), draft=True)).size == (160, 120)  # a little more needs twice as much
    assert read_unlabeled_image(record, Data(resize=(1000, 30))).size == (320, 240)
    assert read_unlabeled_image(record, Data(draft=True)).size == (320, 240)


def test_a_cache_that_cannot_be_written_is_an_error_and_not_an_unreadable_image(tmp_path):
    (tmp_path / "images").mkdir(), (tmp_path / "masks").mkdir()
    for name in "abcd":
        photo(tmp_path / "images" / f"{name}.jpg", 96, 64)
        Image.fromarray(np.tile(np.arange(2, dtype=np.uint8), (64, 48))).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "one.txt").write_text("a\n"), (tmp_path / "two.txt").write_text("b\n")
    (tmp_path / "file").write_text("")
    data = {"source": "folder", "root": str(tmp_path), "labeled": "one.txt", "validation": "two.txt", "classes": ["x", "y"],
            "crop": [32, 48], "cache": str(tmp_path / "file" / "cache")}  # fmt: skip
    config = from_dict({**TINY, "data": data})
    steps = StepDataset(config, load_sources(config.data), (1, 1), 0, 1)
    with pytest.raises(CacheError, match="data.cache = .* cannot be written .* give a folder with room"):
        steps.batch(0, 0)
