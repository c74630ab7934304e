"""The networks: built from a config, loaded, saved, and read through one small set of functions.

A network is a `transformers` model for semantic segmentation, SETR (setr.py) or SegFormer. What the method needs to
know of one, where its encoder ends, which token grids it has, is a row of `FAMILIES`.
"""

import itertools
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable

import safetensors
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    ViTConfig,
)

from .config import ConfigError, Model
from .setr import SetrConfig, SetrForSemanticSegmentation, resize_positions
from .weights import read_encoder_config, read_tensors

AutoConfig.register("setr", SetrConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(SetrConfig, SetrForSemanticSegmentation, exist_ok=True)


# ---- building


def build_network(model: Model, *, id2label: dict[int, str], crop: tuple[int, int]) -> PreTrainedModel:
    """The segmentation network of a config: encoder with its weights, decoder random, all float32.

    Args:
        model: the section `model` of the config.
        id2label: class names by id, 0 to K-1.
        crop: height and width of the training crop; a ViT stores its position embedding at this grid.

    Raises:
        ConfigError: weights that cannot be reached, or do not fit; anything in `model` that cannot be built.
    """
    encoder_config = read_encoder_config(model)
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    if model.architecture == "setr":
        network = build_setr(model, encoder_config, labels, crop)
    else:
        network = build_segformer(model, encoder_config, labels)
    if model.activation_checkpointing:
        use_activation_checkpointing(network)
    return network


def build_setr(model: Model, encoder_config: ViTConfig, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """SETR over a ViT; the stored positions are resized to the grid of the crop."""
    patch = encoder_config.patch_size
    if crop[0] % patch or crop[1] % patch:
        raise ConfigError(f"data.crop is {list(crop)}; model.encoder = {model.encoder!r} needs multiples of {patch}")
    tensors = read_tensors(model, encoder_config) if model.pretrained else None
    stored = grid_of(encoder_config)
    try:
        config = SetrConfig(
            backbone_config=encoder_config,
            grid=(crop[0] // patch, crop[1] // patch),
            out_indices=model.out_indices or default_out_indices(encoder_config.num_hidden_layers),
            decoder_channels=model.decoder_channels,
            decoder_stages=model.decoder_stages,
            **labels,
        )
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    # Blocks after the main head's would never get a gradient, which distributed training does not forgive.
    config.backbone_config.num_hidden_layers = config.out_indices[-1] + 1
    network = SetrForSemanticSegmentation(config)
    if tensors is not None:
        positions = "embeddings.position_embeddings"
        tensors[positions] = resize_positions(tensors[positions], stored, config.grid)
        network.vit.load_state_dict({name: tensors[name] for name in network.vit.state_dict()})
    return network


def build_segformer(model: Model, config: SegformerConfig, labels: dict) -> PreTrainedModel:
    """The stock SegFormer."""
    tensors = read_tensors(model, config) if model.pretrained else None
    for key, value in labels.items():
        setattr(config, key, value)
    network = SegformerForSemanticSegmentation(config)
    if tensors is not None:
        network.segformer.load_state_dict(tensors)
    return network


def grid_of(config: ViTConfig) -> tuple[int, int]:
    """(h, w) of the position embedding that belongs to a ViT config."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return height // config.patch_size, width // config.patch_size


def default_out_indices(depth: int) -> tuple[int, ...]:
    """The blocks that feed the heads: the usual ones of depths 12 and 24, else the same fractions of the depth."""
    if depth == 24:
        return (9, 14, 19, 23)
    return tuple(sorted({max(round((index + 1) * depth / 12), 1) - 1 for index in (4, 7, 9, 11)}))


def use_activation_checkpointing(network: PreTrainedModel) -> None:
    """Recomputes every encoder block in the backward pass; never the re-entrant way, which loses keyword arguments."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable({"use_reentrant": False})


# ---- reading and writing whole networks


def save_network(
    network: PreTrainedModel, folder: str | Path, mean: Iterable[float], std: Iterable[float], short_side: int
) -> None:
    """Writes config, weights and image processor, for `from_pretrained` and the stock image-segmentation pipeline.

    Args:
        mean, std: of RGB in 0..1, those the network was trained with.
        short_side: to which the processor resizes an image; 0 = it keeps its size.
    """
    network.save_pretrained(folder)
    resize = {"size": {"shortest_edge": short_side}} if short_side else {"do_resize": False}
    processor = SegformerImageProcessor(do_reduce_labels=False, image_mean=list(mean), image_std=list(std), **resize)
    processor.save_pretrained(folder)


def load_network(source: str | Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """A segmentation network from a folder or the Hub, complete, in eval mode; SETR needs no remote code here.

    Raises:
        ConfigError: nothing there, not a segmentation network, or weights that do not fit its config.
    """
    try:
        network, report = AutoModelForSemanticSegmentation.from_pretrained(
            source, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{str(source)!r} cannot be loaded as a segmentation network ({reason}); give a folder that training wrote,"
            " or the Hub id of a model for semantic segmentation"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"{str(source)!r} is no complete segmentation network: {len(missing)} tensors are missing, such as"
            f" {missing[0]}; an encoder alone belongs into model.encoder"
        )
    return network


# ---- what the method asks of a network


@dataclass(frozen=True)
class Family:
    """How one family of networks is taken apart; the functions below say what each part returns."""

    encoder: str  # name of the attribute
    prefix_tokens: int  # before the patches in an attention layer
    encode: Callable[..., tuple[Tensor, ...]]
    decode: Callable[[PreTrainedModel, tuple[Tensor, ...]], Tensor]
    strides: Callable[[PreTrainedModel], list[int]]
    reductions: Callable[[PreTrainedModel], list[int]]


def encode(network: PreTrainedModel, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
    """The feature maps (B, C, h, w), finest first, that decoder and auxiliary heads read.

    Keyword arguments go down to the attention function of every block.
    """
    return FAMILIES[network.config.model_type].encode(network, pixel_values, **attention_kwargs)


def decode(network: PreTrainedModel, features: tuple[Tensor, ...]) -> Tensor:
    """Logits (B, K, h', w') at the resolution of the head; `decode(encode(x))` is the stock forward."""
    return FAMILIES[network.config.model_type].decode(network, features)


def encoder_parameters(network: PreTrainedModel) -> list[nn.Parameter]:
    return list(getattr(network, FAMILIES[network.config.model_type].encoder).parameters())


def prefix_tokens(network: PreTrainedModel) -> int:
    """Tokens before those of the patches in every attention layer: the class token."""
    return FAMILIES[network.config.model_type].prefix_tokens


def token_grids(network: PreTrainedModel, height: int, width: int) -> list[tuple[int, int]]:
    """(h, w) of the feature maps that the decoder uses, finest first, for an image of height x width pixels."""
    return [(-(-height // s), -(-width // s)) for s in FAMILIES[network.config.model_type].strides(network)]


def attention_grids(network: PreTrainedModel, height: int, width: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """For each of `token_grids`, the (query grid, key grid) of its attention layers; SegFormer reduces its keys."""
    reductions = FAMILIES[network.config.model_type].reductions(network)
    return [((h, w), (h // r, w // r)) for (h, w), r in zip(token_grids(network, height, width), reductions)]


def coarsest_stride(network: PreTrainedModel) -> int:
    """Pixels per token of the coarsest grid the decoder uses."""
    return FAMILIES[network.config.model_type].strides(network)[-1]


def logits_at(network: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Logits (B, K, H, W) float32 of images (B, 3, H, W) of any size, by the stock forward and a bilinear resize.

    An image smaller than one cell of the coarsest grid is padded with zeros, which SegFormer does not do by itself.
    """
    height, width = pixel_values.shape[-2:]
    least = coarsest_stride(network)
    padded = F.pad(pixel_values, (0, max(0, least - width), 0, max(0, least - height)))
    logits = network(pixel_values=padded).logits.float()
    logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
    return logits[..., :height, :width]


def encode_segformer(network: PreTrainedModel, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
    return network.segformer(pixel_values, output_hidden_states=True, **attention_kwargs).hidden_states


FAMILIES: dict[str, Family] = {
    "setr": Family(
        encoder="vit",
        prefix_tokens=1,
        encode=lambda network, pixel_values, **kwargs: network.encode(pixel_values, **kwargs),
        decode=lambda network, features: network.decode(features),
        strides=lambda network: [network.config.backbone_config.patch_size],
        reductions=lambda network: [1],
    ),
    "segformer": Family(
        encoder="segformer",
        prefix_tokens=0,
        encode=encode_segformer,
        decode=lambda network, features: network.decode_head(features),
        strides=lambda network: list(itertools.accumulate(network.config.strides, operator.mul)),
        reductions=lambda network: list(network.config.sr_ratios),
    ),
}
