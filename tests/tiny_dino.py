"""Small random networks over DINOv2, DINOv2 with registers and DINOv3, and images for them."""

import inspect
from pathlib import Path

import pytest
import torch
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

from s4former.config import Model
from s4former.networks.build import build_network

CONFIGS = Path(__file__).parent.parent / "configs"
CLASSES = 5
SHAPE = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "patch_size": 14}
SMALL = {
    "dinov2-small": {**SHAPE, "mlp_ratio": 2},
    "dinov2-reg-small": {**SHAPE, "mlp_ratio": 2},
    "dinov3-small": {**SHAPE, "intermediate_size": 64},
}
PREFIX = {"dinov2-small": 1, "dinov2-reg-small": 5, "dinov3-small": 5}
encoders = pytest.mark.parametrize("encoder", SMALL)


def model_of(architecture="dpt", encoder="dinov2-small", **changes):
    options = {"encoder_config": SMALL[encoder], "decoder_channels": 16, "out_indices": (0, 1, 2, 3), **changes}
    return Model(architecture=architecture, encoder=encoder, pretrained=False, **options)


def build(model, crop=(28, 42)):
    torch.manual_seed(0)
    return build_network(model, id2label={index: f"class {index}" for index in range(CLASSES)}, crop=crop)


def tiny(architecture="dpt", encoder="dinov2-small", **changes):
    return build(model_of(architecture, encoder, **changes)).eval()


def images(height=28, width=42, batch=2, **kwargs):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1), **kwargs)


def needs_keywords(encoder):
    """Skips where transformers (5.17) hands no keyword to the blocks of a DINOv2; `check_bias_has_effect` refuses PASA there."""
    if "dinov2" in encoder and "kwargs" not in inspect.signature(Dinov2Layer.forward).parameters:
        pytest.skip("this transformers passes no keyword to the blocks of a DINOv2")
