"""held_out.py: which labelled images are held out from training, and the crops that are measured on."""

import numpy as np
import pytest
import torch

from s4former.config import from_dict
from s4former.data.held_out import split
from s4former.data.lists import hold_out
from s4former.data.sources import load_sources
from s4former.errors import DataError


def config_of(labeled, seed=0, **method):
    shapes = {"labeled": labeled, "unlabeled": 3, "validation": 2, "height": 40, "width": 56}
    data = {"source": "shapes", "crop": [32, 48], "resize": [64, 32], "shapes": shapes}
    return from_dict({"data": data, "method": {"thresholds": "calibrated", **method}, "run": {"seed": seed}})


@pytest.mark.parametrize("labeled, held", [(20, 4), (40, 4), (120, 6)])
def test_a_twentieth_is_held_out_four_images_at_least_and_the_same_whoever_asks(labeled, held):
    config = config_of(labeled)
    sources = load_sources(config.data)
    rest, crops = split(config, sources)
    assert len(crops.rows) == held and sorted([*rest.labeled["id"], *crops.rows["id"]]) == sorted(sources.labeled["id"])
    assert split(config, sources)[1].rows["id"][:] == crops.rows["id"][:] != split(config_of(labeled, seed=1), sources)[1].rows["id"][:]
    assert rest.lists == sources.lists and rest.notes[-1].startswith(f"{held} of the {labeled} labelled images are held out from training")


def test_nothing_is_held_out_where_nothing_is_calibrated():
    for keys in ({"thresholds": "per_class"}, {"teacher": "none"}):
        config = config_of(8, **keys)
        sources = load_sources(config.data)
        assert split(config, sources) == (sources, None)


def test_too_few_labelled_images_are_refused_in_words():
    config = config_of(19)
    with pytest.raises(DataError) as error:
        split(config, load_sources(config.data))
    assert str(error.value) == (
        "method.thresholds=calibrated holds a twentieth of the labelled images out, 4 at least and a fifth at most, and no class may be left"
        " without an image: of 19 that leaves 0; label more, or set method.thresholds=per_class"
    )


def test_no_class_is_left_without_an_image():
    shown = [{0, 1}, {0, 2}, {0, 1}, {0, 1, 2}, {0, 3}]
    for seed in range(20):
        held = hold_out(shown, 4, seed)
        left = set().union(*(ids for place, ids in enumerate(shown) if place not in held))
        assert left == {0, 1, 2, 3} and 4 not in held and 1 <= len(held) <= 3


def test_a_crop_is_a_function_of_its_number_and_its_labels_move_with_it():
    config = config_of(20)
    _, crops = split(config, load_sources(config.data))
    image, labels, valid = crops.crop(1, 5)
    again = crops.crop(1, 5)
    assert image.shape == (3, 32, 48) and labels.shape == valid.shape == (32, 48)
    assert all(torch.equal(a, b) for a, b in zip((image, labels, valid), again))
    assert not torch.equal(image, crops.crop(2, 5)[0]) and (labels[~valid] == 255).all() and (labels[valid] != 255).all()
    shown = {np.asarray(crops.crop(0, number)[0]).tobytes() for number in range(8)}
    assert len(shown) == 8
