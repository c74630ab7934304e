"""Plain transformers reads images of more than 8 bits as `evaluate.py` does, from an exported folder."""

import json

import numpy as np
import pytest
import torch
from folders import save_deep_colour
from PIL import Image
from tiny_networks import CLASSES, SETR
from transformers import AutoImageProcessor, pipeline

from s4former.commands.evaluate import main
from s4former.config import from_dict, to_dict
from s4former.networks.build import build_network, save_network
from s4former.networks.encoder_weights import IMAGENET

LEVELS = (300, 4000)


def values_of(seed, colours=()):
    """Smooth, (H, W, *colours), from below black to above white."""
    rough = torch.rand(1, max(1, *colours, 0), 4, 5, generator=torch.Generator().manual_seed(seed)) * 4400
    smooth = torch.nn.functional.interpolate(rough, (61, 83), mode="bicubic").clamp(0, 65535)[0].permute(1, 2, 0)
    return (smooth if colours else smooth[..., 0]).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a model, and one with photos of every kind."""
    root = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    network = build_network(SETR, id2label=CLASSES, crop=(32, 64)).eval()
    for name, parameter in network.named_parameters():
        if not name.startswith("vit."):
            torch.nn.init.normal_(parameter, std=0.3)
    config = from_dict({"data": {"levels": LEVELS}, "evaluation": {"short_side": 40}})
    save_network(network, root / "model", *IMAGENET, short_side=40, long_side=config.evaluation.long_side, levels=LEVELS)
    (root / "model" / "s4former.json").write_text(json.dumps(to_dict(config)))
    photos = root / "photos"
    photos.mkdir()
    for name in ("grey_png.png", "grey_tif.tif"):
        Image.fromarray(values_of(0).astype(np.uint16)).save(photos / name)
    holes = values_of(1)
    holes[5:9, 7:30], holes[50], holes[:, 3] = np.nan, np.inf, -np.inf
    Image.fromarray(holes).save(photos / "float.tif")
    for name in ("colour_png.png", "colour_tif.tif"):
        save_deep_colour(photos / name, values_of(2, (3,)).astype(np.uint16))
    return root


def test_the_pipeline_of_the_folder_gives_the_maps_of_evaluate(exported, tmp_path):
    assert main(["--checkpoint", str(exported / "model"), "--images", str(exported / "photos"), "--save-predictions", str(tmp_path)]) == 0
    segment = pipeline("image-segmentation", model=str(exported / "model"), trust_remote_code=True)
    for path in sorted((exported / "photos").iterdir()):
        with Image.open(tmp_path / "masks" / f"{path.stem}.png") as mask:
            theirs = np.asarray(mask)
        found = np.full_like(theirs, 99)
        for part in segment(str(path)):
            found[np.asarray(part["mask"]) > 0] = segment.model.config.label2id[part["label"]]
        assert len(np.unique(theirs)) > 1, "one class everywhere would prove nothing"
        assert (found == theirs).mean() >= 0.9995, path.name


def test_values_of_a_file_are_those_that_were_saved(exported):
    processor = AutoImageProcessor.from_pretrained(exported / "model", trust_remote_code=True)
    read_values = __import__(type(processor).__module__, fromlist=["read_values"]).read_values
    for name in ("colour_png.png", "colour_tif.tif"):
        assert np.array_equal(read_values(str(exported / "photos" / name)), values_of(2, (3,)).astype(np.uint16))
    grey = read_values(str(exported / "photos" / "grey_tif.tif"))
    assert all(np.array_equal(grey[..., channel], values_of(0).astype(np.uint16)) for channel in range(3))


def test_images_of_8_bits_are_refused(exported):
    processor = AutoImageProcessor.from_pretrained(exported / "model", trust_remote_code=True)
    with pytest.raises(ValueError, match="of which 300 is black and 4000 white, and this one has 8; give the values of the file"):
        processor(Image.new("RGB", (20, 30)), return_tensors="pt")
