"""start.py: going on from a whole network, with its head where the classes fit."""

from pathlib import Path

import pytest
import torch
from tiny_networks import SEGFORMER, SETR
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    Dinov2Config,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from s4former.config import Model
from s4former.errors import ConfigError
from s4former.networks.adapters import decode, encode, freeze_encoder, full_size_logits
from s4former.networks.build import build_network, save_network
from s4former.networks.encoder_weights import normalization
from s4former.networks.start_from import start_from

CLASSES = ["sky", "road", "car"]


@pytest.fixture(params=["setr", "segformer"])
def saved(request, tmp_path):
    """A network of three classes in a folder, and the model section that goes on from it."""
    torch.manual_seed(0)
    model = SETR if request.param == "setr" else SEGFORMER
    network = build_network(model, id2label=dict(enumerate(CLASSES)), crop=(32, 64))
    save_network(network, tmp_path / "own", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 32)
    return network.eval(), Model(architecture=request.param, start_from=str(tmp_path / "own"))


def test_with_the_same_classes_everything_is_kept_and_the_colours_are_those_of_the_checkpoint(saved):
    network, model = saved
    again, summary = start_from(model, ["Sky", "road", "car"])
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(full_size_logits(network, images), full_size_logits(again.eval(), images))
    assert "all of it, with its 3 classes" in summary and again.config.id2label[0] == "Sky"
    assert normalization(model) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    Path(model.start_from, "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="own' has no preprocessor_config.json with image_mean and image_std; save its image processor"):
        normalization(model)


@pytest.mark.parametrize("classes", [["sky", "road"], ["sky", "car", "road"], ["a", "b", "c", "d"]])
def test_with_other_classes_or_another_order_the_last_layer_alone_is_new(saved, classes):
    network, model = saved
    other, summary = start_from(model, classes)
    assert "all but the last layer of its head, which had 3 classes (sky, road, car, ...)" in summary
    assert other.config.num_labels == len(classes) and list(other.config.id2label.values()) == classes
    before, after = network.state_dict(), other.state_dict()
    new = {name for name in after if not torch.equal(before[name], after[name])} if len(classes) == 3 else {
        name for name in after if before[name].shape != after[name].shape
    }  # fmt: skip
    assert new and all("classifier" in name for name in new)
    assert all(torch.equal(before[name], after[name]) for name in after.keys() - new)


def test_what_is_said_wrongly_or_cannot_be_trained_is_refused_in_words(saved, tmp_path):
    _, model = saved
    wrong = Model(architecture="dpt", start_from=model.start_from)
    with pytest.raises(ConfigError, match=f"is a {model.architecture}, and model.architecture is 'dpt'; write model.architecture="):
        start_from(wrong, CLASSES)
    with pytest.raises(ConfigError, match="cannot be loaded as a segmentation network"):
        start_from(Model(start_from=str(tmp_path / "nothing")), CLASSES)
    tiny = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 32}
    BeitForSemanticSegmentation(BeitConfig(**tiny, out_indices=[1, 2, 3, 4])).save_pretrained(tmp_path / "beit")
    with pytest.raises(ConfigError, match="is a beit of transformers; training goes on from setr, segformer, dpt"):
        start_from(Model(start_from=str(tmp_path / "beit")), CLASSES)


def test_a_stock_upernet_comes_without_its_auxiliary_head(tmp_path):
    torch.manual_seed(0)
    backbone = Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, out_indices=[1, 2, 3, 4])
    config = UperNetConfig(backbone_config=backbone, hidden_size=8, auxiliary_channels=8, num_labels=3)
    UperNetForSemanticSegmentation(config).save_pretrained(tmp_path / "upernet")
    network, summary = start_from(Model(architecture="upernet", start_from=str(tmp_path / "upernet")), CLASSES)
    assert "all of it" in summary, "LABEL_0, LABEL_1, ... are no names, so their number decides"
    decode(network, encode(network, torch.randn(2, 3, 56, 56))).sum().backward()
    unused = [name for name, part in network.named_parameters() if part.requires_grad and part.grad is None]
    assert unused == []


def test_the_encoder_of_a_whole_network_can_stay_frozen(saved):
    network, _ = start_from(saved[1], CLASSES)
    freeze_encoder(network, -1)
    assert {name.split(".")[0] for name, part in network.named_parameters() if part.requires_grad} in ({"head"}, {"decode_head"})
