"""Segmentation models of transformers that are not built here: read by their own forward, or refused in one sentence."""

import json

import pytest
import torch
import transformers
from transformers import Dinov2Config

from s4former.config import Model
from s4former.errors import ConfigError
from s4former.evaluation.model_choice import CheckpointError, read_mean_std
from s4former.networks.adapters import encode, forward_logits, full_size_logits
from s4former.networks.build import load_network
from s4former.networks.start_from import start_from

VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 64}
PYRAMID = {"out_indices": [1, 2, 3, 4], "pool_scales": [1, 2], "use_relative_position_bias": True}
STAGES = {"depths": [1, 1, 1, 1], "out_features": ["stage1", "stage2", "stage3", "stage4"]}
CONVNEXT = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], **STAGES)
SWIN = transformers.SwinConfig(embed_dim=8, num_heads=[1, 1, 2, 2], window_size=4, image_size=64, **STAGES)
DINO = Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, out_indices=[1, 2, 3, 4])
UPERNET = {"hidden_size": 8, "auxiliary_channels": 8}
MODELS = {  # by name: the class before "Config" and "ForSemanticSegmentation", its config, whether it reads 50x70 too
    "upernet over swin": ("UperNet", {"backbone_config": SWIN, "auxiliary_in_channels": 32, **UPERNET}, True),
    "upernet over convnext": ("UperNet", {"backbone_config": CONVNEXT, "auxiliary_in_channels": 16, **UPERNET}, True),
    "beit": ("Beit", {**VIT, **PYRAMID}, True),
    "data2vec-vision": ("Data2VecVision", {**VIT, **PYRAMID}, False),
    "dpt": ("DPT", {**VIT, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}, False),
    "mobilevit": (
        "MobileViT",
        {"hidden_sizes": [16] * 3, "neck_hidden_sizes": [8] * 4 + [16] * 3, "num_attention_heads": 2, "aspp_out_channels": 8},
        True,
    ),
    "mobilenet_v2": ("MobileNetV2", {"depth_multiplier": 0.1, "image_size": 64}, True),
}
CLASSES = ["sky", "road", "car"]


@pytest.fixture(params=MODELS)
def saved(request, tmp_path):
    """(what it is, the model, its folder, whether it reads any size)."""
    torch.manual_seed(0)
    kind, options, free = MODELS[request.param]
    config = getattr(transformers, f"{kind}Config")(num_labels=3, **options)
    model = getattr(transformers, f"{kind}ForSemanticSegmentation")(config).eval()
    model.save_pretrained(tmp_path)
    return request.param, model, tmp_path, free


@torch.no_grad()
def test_it_is_read_by_its_own_forward_or_says_which_windows_it_reads(saved):
    what, model, folder, free = saved
    network = load_network(folder)
    for size in ((64, 64), (50, 70)):
        images = torch.randn(2, 3, *size)
        if size == (64, 64) or free:
            expected = model(images).logits
            assert (forward_logits(network, images) - expected).abs().max() <= 1e-4 * expected.abs().max()
            assert full_size_logits(network, images).shape == (2, 3, *size)
        else:
            with pytest.raises(ConfigError, match=f"a {what} of transformers cannot read images of 50x70 .*--window 64 64 --stride 42 42"):
                forward_logits(network, images)
    assert forward_logits(network, torch.randn(1, 3, 64, 64)).shape[:2] == (1, 3)
    with pytest.raises(ConfigError, match="is read by its own forward only"):
        encode(network, images)


def test_training_goes_on_from_none_of_them_and_says_so(saved):
    what, _, folder, _ = saved
    said = what.replace(" over", " of transformers over") if "over" in what else f"{what} of transformers"
    with pytest.raises(ConfigError, match=f"is a {said}; training goes on from setr, segformer, dpt, upernet, deeplabv3plus"):
        start_from(Model(start_from=str(folder)), CLASSES)


@pytest.mark.parametrize("kind", ["mask2former", "maskformer", "oneformer", "eomt"])
def test_classes_of_masks_are_no_logits_of_pixels(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ConfigError, match=f"is a {kind}, which gives masks with a class each and no logits for every pixel"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, (0.5, 0.25)),
        ({"image_mean": [1.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 127.5}, (0.5, 0.5)),  # pixels of -1 to 1
        ({"image_mean": [127.5] * 3, "image_std": [51.0] * 3, "do_rescale": False}, (0.5, 0.2)),
        ({"do_normalize": False}, (0.0, 1.0)),
        ({"image_mean": [0.75] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 400, "levels": [100, 500]}, (0.5, 0.5)),
    ],
)
def test_the_constants_of_any_processor_are_those_of_pixels_from_0_to_1(settings, expected, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    for values, value in zip(read_mean_std(str(tmp_path)), expected):
        assert values == pytest.approx([value] * 3)
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "processor_config.json")  # as processors of images and texts save them
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert read_mean_std(str(tmp_path))[1] == pytest.approx([expected[1]] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "do_flip_channel_order": True}))
    with pytest.raises(CheckpointError, match="do_flip_channel_order: the network reads BGR"):
        read_mean_std(str(tmp_path))


def test_half_precision_weights_are_read_as_float32(tmp_path):
    torch.manual_seed(0)
    config = transformers.SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=3)
    transformers.SegformerForSemanticSegmentation(config).half().save_pretrained(tmp_path)
    assert load_network(tmp_path)(torch.rand(1, 3, 64, 64)).logits.dtype == torch.float32
