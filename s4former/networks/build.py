"""The networks: built from a config, loaded, saved, and read through one small set of functions.

A network is a `transformers` model for semantic segmentation: stock (SegFormer, UperNet) or one of our own in a file
that travels with it (setr.py, dpt.py, deeplab.py). What the method needs to know of one, where its encoder ends, which
token grids it has, is a row of `FAMILIES`; how one is made is a row of `BUILDERS`.
"""

import itertools
import operator
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable

import safetensors
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
)

from ..config import Model
from ..errors import ConfigError
from .deeplab import STRIDES, DeepLabConfig, DeepLabForSemanticSegmentation
from .dpt import DinoDptConfig, DinoDptForSemanticSegmentation, quarters
from .encoder_weights import fit_resnet, read_encoder_config, read_resnet, read_tensors
from .hub import UNREACHABLE, knock, reason
from .setr import SetrConfig, SetrForSemanticSegmentation, resize_positions

COMPILER = "inductor"  # backend of torch.compile

for config_class, network_class in (
    (SetrConfig, SetrForSemanticSegmentation),
    (DinoDptConfig, DinoDptForSemanticSegmentation),
    (DeepLabConfig, DeepLabForSemanticSegmentation),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForSemanticSegmentation.register(config_class, network_class, exist_ok=True)


# A block of an encoder by the beginning of its parameters' names: layers.3. of a ViT, encoder.layer.3. of DINOv2,
# stages.1.blocks.0. or encoder.block.1.0. of SegFormer, layer1.0. of a ResNet.
BLOCK = re.compile(r"(?:.*?\.)??(?:layers?\d?|blocks?)\.\d+\.(?:\d+\.)?")


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
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    network = BUILDERS[model.architecture](model, labels, crop)
    if model.activation_checkpointing:
        use_activation_checkpointing(network)
    return network


def build_setr(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """SETR over a ViT; the stored positions are resized to the grid of the crop."""
    encoder_config = read_config_for(model, crop)
    patch = encoder_config.patch_size
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


def build_segformer(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """The stock SegFormer."""
    config = read_encoder_config(model)
    tensors = read_tensors(model, config) if model.pretrained else None
    for key, value in labels.items():
        setattr(config, key, value)
    network = SegformerForSemanticSegmentation(config)
    if tensors is not None:
        network.segformer.load_state_dict(tensors)
    return network


def build_dpt(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """DPT over a DINO; the stored positions stay as they are, and are resized for every image as DINOv2 does."""
    encoder_config = read_config_for(model, crop)
    tensors = read_tensors(model, encoder_config) if model.pretrained else None
    encoder_config = up_to(encoder_config, model.out_indices or quarters(encoder_config.num_hidden_layers))
    try:
        config = DinoDptConfig(
            backbone_config=encoder_config,
            out_indices=tuple(index - 1 for index in encoder_config.out_indices),
            decoder_channels=model.decoder_channels,
            **labels,
        )
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    network = DinoDptForSemanticSegmentation(config)
    if tensors is not None:
        network.encoder.load_state_dict({name: tensors[name] for name in network.encoder.state_dict()})
    return network


def build_upernet(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """The stock UperNet over a DINO, without its auxiliary head; every level has the grid of the patches."""
    encoder_config = read_config_for(model, crop)
    tensors = read_tensors(model, encoder_config) if model.pretrained else None
    config = UperNetConfig(
        backbone_config=up_to(encoder_config, model.out_indices or quarters(encoder_config.num_hidden_layers)),
        hidden_size=model.decoder_channels,
        use_auxiliary_head=False,
        **labels,
    )
    network = settled(UperNetForSemanticSegmentation(config))
    if tensors is not None:
        network.backbone.load_state_dict({name: tensors[name] for name in network.backbone.state_dict()})
    return network


def settled(network: PreTrainedModel) -> PreTrainedModel:
    """The same network; an UperNet with what its stock class leaves open."""
    if network.config.model_type == "upernet":
        network.base_model_prefix = "backbone"  # the stock class names none, and the student asks for the encoder by it
        network.auxiliary_head = None  # of supervised training alone; DDP does not forgive a lack of gradient
        if network.backbone.embeddings.mask_token is not None:  # nor is this one ever used
            network.backbone.embeddings.mask_token.requires_grad_(False)
    return network


def build_deeplab(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """DeepLabV3+ over a ResNet."""
    name, tensors = read_resnet(model)
    config = DeepLabConfig(
        resnet=name, resnet_options=model.encoder_config, decoder_channels=model.decoder_channels, **labels
    )
    try:
        network = DeepLabForSemanticSegmentation(config)
    except TypeError as error:  # a keyword that timm does not know
        raise ConfigError(f"model.encoder_config is {model.encoder_config}; timm says: {error}") from error
    if tensors is not None:
        network.backbone.load_state_dict(fit_resnet(model, tensors, network.backbone.state_dict()))
    return network


def read_config_for(model: Model, crop: tuple[int, int]) -> PreTrainedConfig:
    """The config of an encoder that reads whole patches, and a crop that is made of them."""
    config = read_encoder_config(model)
    patch = config.patch_size
    if crop[0] % patch or crop[1] % patch:
        raise ConfigError(f"data.crop is {list(crop)}; model.encoder = {model.encoder!r} needs multiples of {patch}")
    return config


def up_to(config: PreTrainedConfig, blocks: tuple[int, ...]) -> PreTrainedConfig:
    """The config of a DINO that ends at the last of these blocks and gives the outputs of all of them."""
    depth = config.num_hidden_layers
    if list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < depth:
        raise ConfigError(f"model.out_indices is {list(blocks)}; write rising block numbers from 0 to {depth - 1}")
    derived = ("stage_names", "out_features", "model_type")
    options = {key: value for key, value in config.to_dict().items() if key not in derived}
    outputs = [index + 1 for index in blocks]  # stage 0 is the embedding
    return type(config)(**{**options, "num_hidden_layers": outputs[-1], "out_indices": outputs})


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
    encoder = getattr(network, family(network).encoder)
    if not isinstance(encoder, PreTrainedModel):
        raise ConfigError(
            "model.activation_checkpointing = true would run the batch norms of a ResNet twice; write false, and more"
            " run.batch.rounds where memory is short"
        )
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def compile_encoder(network: PreTrainedModel) -> None:
    """Lets torch compile the encoder's forward, in place: parameters, their names and what is saved stay as they are.

    Static: a run has a graph for each kind of pass (teacher, plain views, steered view), all traced in its first step.
    A deep copy of the network is not compiled.
    """
    getattr(network, family(network).encoder).compile(backend=COMPILER, dynamic=False)


BUILDERS: dict[str, Callable[[Model, dict, tuple[int, int]], PreTrainedModel]] = {  # by model.architecture
    "setr": build_setr,
    "segformer": build_segformer,
    "dpt": build_dpt,
    "upernet": build_upernet,
    "deeplabv3plus": build_deeplab,
}


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
    """A segmentation network from a folder or the Hub, complete, in eval mode; our own need no remote code here.

    Raises:
        ConfigError: nothing there, not a segmentation network, or weights that do not fit its config.
    """
    try:
        knock(source)
        network, report = AutoModelForSemanticSegmentation.from_pretrained(
            source, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
        )
    except (*UNREACHABLE, RuntimeError, safetensors.SafetensorError) as error:
        parts = [str(Path(source) / role) for role in ("student", "teacher") if (Path(source) / role).is_dir()]
        place = f"a model of that run, {' or '.join(parts)}" if parts else "a folder that training wrote"
        raise ConfigError(
            f"{str(source)!r} cannot be loaded as a segmentation network ({reason(error)}); give {place},"
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
    prefix_tokens: Callable[[PreTrainedModel], int]  # before the patches in an attention layer
    encode: Callable[..., tuple[Tensor, ...]]
    decode: Callable[[PreTrainedModel, tuple[Tensor, ...]], Tensor]
    strides: Callable[[PreTrainedModel], list[int]]
    reductions: Callable[[PreTrainedModel], list[int]]  # empty: there is no attention


def family(network: PreTrainedModel) -> Family:
    """The row of a network; transformers has a "dpt" of its own, so the model type of ours is "dino_dpt"."""
    return FAMILIES[network.config.model_type.replace("dino_dpt", "dpt")]


def encode(network: PreTrainedModel, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
    """The feature maps (B, C, h, w), finest first, that decoder and auxiliary heads read.

    Keyword arguments go down to the attention function of every block.
    """
    return family(network).encode(network, pixel_values, **attention_kwargs)


def decode(network: PreTrainedModel, features: tuple[Tensor, ...]) -> Tensor:
    """Logits (B, K, h', w') at the resolution of the head; `decode(encode(x))` is the stock forward."""
    return family(network).decode(network, features)


def encoder_parameters(network: PreTrainedModel) -> list[nn.Parameter]:
    return list(getattr(network, family(network).encoder).parameters())


def encoder_depths(network: PreTrainedModel) -> list[tuple[nn.Parameter, int]]:
    """Every parameter of the encoder with the number of its block, counted from 1 at the input.

    What lies between blocks (a norm, the patch embedding of a stage) belongs to the one before; 0 is before the first.
    """
    blocks: dict[str, int] = {}
    depths = []
    for name, parameter in getattr(network, family(network).encoder).named_parameters():
        block = BLOCK.match(name)
        depth = blocks.setdefault(block[0], len(blocks) + 1) if block else len(blocks)
        depths.append((parameter, depth))
    return depths


def freeze_encoder(network: PreTrainedModel, blocks: int) -> None:
    """Takes the first blocks of the encoder, and what is before them, out of training; -1 takes all of it.

    Raises:
        ConfigError: there are fewer blocks, or batch norms, whose statistics would go on changing.
    """
    encoder, depths = getattr(network, family(network).encoder), encoder_depths(network)
    last = max(depth for _, depth in depths)
    if blocks > last:
        raise ConfigError(f"model.freeze is {blocks}; this encoder has {last} blocks, and -1 freezes all of it")
    if blocks and any(isinstance(module, _BatchNorm) for module in encoder.modules()):
        raise ConfigError(
            f"model.freeze is {blocks}; the statistics of an encoder with batch norms would go on changing: write 0"
        )
    frozen = encoder_parameters(network) if blocks < 0 else [part for part, depth in depths if blocks and depth <= blocks]
    for parameter in frozen:
        parameter.requires_grad_(False)


def prefix_tokens(network: PreTrainedModel) -> int:
    """Tokens before those of the patches in every attention layer: the class token and registers."""
    return family(network).prefix_tokens(network)


def token_grids(network: PreTrainedModel, height: int, width: int) -> list[tuple[int, int]]:
    """(h, w) of the feature maps that the decoder uses, finest first, for an image of height x width pixels."""
    return [(-(-height // s), -(-width // s)) for s in family(network).strides(network)]


def attention_grids(network: PreTrainedModel, height: int, width: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """For each of `token_grids`, the (query grid, key grid) of its attention layers; SegFormer reduces its keys.

    Empty where there is no attention.
    """
    reductions = family(network).reductions(network)
    return [((h, w), (h // r, w // r)) for (h, w), r in zip(token_grids(network, height, width), reductions)]


def coarsest_stride(network: PreTrainedModel) -> int:
    """Pixels per token of the coarsest grid the decoder uses."""
    return family(network).strides(network)[-1]


def logits_at(network: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Logits (B, K, H, W) float32 of images (B, 3, H, W) of any size, by the stock forward and a bilinear resize.

    An image smaller than one cell of the coarsest grid is padded with zeros, which SegFormer does not do by itself. For
    UperNet every image is padded to whole patches: it would squeeze what is left over into the last of them.
    """
    height, width = pixel_values.shape[-2:]
    least = coarsest_stride(network)
    if network.config.model_type == "upernet":
        right, bottom = -width % least, -height % least
    else:
        right, bottom = max(0, least - width), max(0, least - height)
    padded = F.pad(pixel_values, (0, right, 0, bottom))
    logits = network(pixel_values=padded).logits.float()
    logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
    return logits[..., :height, :width]


def encode_segformer(network: PreTrainedModel, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
    return network.segformer(pixel_values, output_hidden_states=True, **attention_kwargs).hidden_states


def decode_upernet(network: PreTrainedModel, features: tuple[Tensor, ...]) -> Tensor:
    """The stock forward's logits, at the size of the image."""
    patch = network.config.backbone_config.patch_size
    size = [side * patch for side in features[0].shape[-2:]]
    return F.interpolate(network.decode_head(features), size=size, mode="bilinear", align_corners=False)


def registers(network: PreTrainedModel) -> int:
    """Register tokens of a DINO."""
    return getattr(network.config.backbone_config, "num_register_tokens", 0)


# SETR, DPT and UperNet read several blocks, but all on the grid of the patches, which therefore stands once.
FAMILIES: dict[str, Family] = {
    "setr": Family(
        encoder="vit",
        prefix_tokens=lambda network: 1,
        encode=lambda network, pixel_values, **kwargs: network.encode(pixel_values, **kwargs),
        decode=lambda network, features: network.decode(features),
        strides=lambda network: [network.config.backbone_config.patch_size],
        reductions=lambda network: [1],
    ),
    "segformer": Family(
        encoder="segformer",
        prefix_tokens=lambda network: 0,
        encode=encode_segformer,
        decode=lambda network, features: network.decode_head(features),
        strides=lambda network: list(itertools.accumulate(network.config.strides, operator.mul)),
        reductions=lambda network: list(network.config.sr_ratios),
    ),
    "dpt": Family(
        encoder="encoder",
        prefix_tokens=lambda network: 1 + registers(network),
        encode=lambda network, pixel_values, **kwargs: network.encode(pixel_values, **kwargs),
        decode=lambda network, features: network.decode(features),
        strides=lambda network: [network.config.backbone_config.patch_size],
        reductions=lambda network: [1],
    ),
    "upernet": Family(
        encoder="backbone",
        prefix_tokens=lambda network: 1 + registers(network),
        encode=lambda network, pixel_values, **kwargs: network.backbone(pixel_values, **kwargs).feature_maps,
        decode=decode_upernet,
        strides=lambda network: [network.config.backbone_config.patch_size],
        reductions=lambda network: [1],
    ),
    "deeplabv3plus": Family(
        encoder="backbone",
        prefix_tokens=lambda network: 0,
        encode=lambda network, pixel_values: network.encode(pixel_values),
        decode=lambda network, features: network.decode(features),
        strides=lambda network: list(STRIDES),
        reductions=lambda network: [],
    ),
}
