"""What the stock UperNet of transformers needs beside it to be trained over a DINO."""

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel


def prepare_upernet(network: PreTrainedModel) -> PreTrainedModel:
    """The same network with what the stock class leaves open; a network of another kind is returned as it is."""
    if network.config.model_type == "upernet":
        network.base_model_prefix = "backbone"  # the stock class names none, and the student asks for the encoder by it
        network.auxiliary_head = None  # of supervised training alone; DDP stops at parameters without a gradient
        if network.backbone.embeddings.mask_token is not None:  # never used either
            network.backbone.embeddings.mask_token.requires_grad_(False)
    return network


def decode_upernet(network: PreTrainedModel, features: tuple[Tensor, ...]) -> Tensor:
    """The stock forward's logits, at the size of the image."""
    patch = network.config.backbone_config.patch_size
    size = [side * patch for side in features[0].shape[-2:]]
    return F.interpolate(network.decode_head(features), size=size, mode="bilinear", align_corners=False)
