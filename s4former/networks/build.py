"""The networks: built from a config, saved and loaded.

A network is a `transformers` model for semantic segmentation: stock (SegFormer) or one of our own in files saved beside
its weights (`export.MODEL_FILES`). How one is made is a row of `BUILDERS`; what the method needs to know of it is a row of
`adapters.ADAPTERS`.
"""

from pathlib import Path
from typing import Callable, Iterable

import safetensors
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerForSemanticSegmentation,
    ViTConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
)

from ..config import Model
from ..errors import ConfigError
from .adapters import use_activation_checkpointing
from .deeplab import DeepLabConfig, DeepLabForSemanticSegmentation
from .dpt import UNIMATCH_V2, DinoDptConfig, DinoDptForSemanticSegmentation, default_out_indices
from .encoder_weights import fit_resnet, read_encoder_config, read_resnet, read_tensors
from .hub import HUB_ERRORS, check_reachable, describe_hub_error
from .image_processor import PIPELINES, save_processor
from .known_encoders import PYRAMIDS
from .low_rank import merge_adapters
from .setr import SetrConfig, SetrForSemanticSegmentation, resize_positions
from .upernet import DinoUperNetConfig, DinoUperNetForSemanticSegmentation

for config_class, network_class in (
    (SetrConfig, SetrForSemanticSegmentation),
    (DinoDptConfig, DinoDptForSemanticSegmentation),
    (DinoUperNetConfig, DinoUperNetForSemanticSegmentation),
    (DeepLabConfig, DeepLabForSemanticSegmentation),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForSemanticSegmentation.register(config_class, network_class, exist_ok=True)

MASK_CLASSIFIERS = MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES.keys() | MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES.keys()


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
    network = BUILDERS[model.architecture](model, label_maps(id2label.values()), crop)
    if model.activation_checkpointing:
        use_activation_checkpointing(network)
    return network


def label_maps(classes: Iterable[str]) -> dict[str, dict]:
    id2label = dict(enumerate(classes))
    return {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}


def build_setr(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """SETR over a ViT; the stored positions are resized to the grid of the crop."""
    encoder_config, tensors = read_encoder(model, crop)
    patch = encoder_config.patch_size
    stored = position_grid(encoder_config)
    try:
        config = SetrConfig(
            backbone_config=encoder_config,
            grid=(crop[0] // patch, crop[1] // patch),
            out_indices=model.out_indices or setr_out_indices(encoder_config.num_hidden_layers),
            decoder_channels=model.decoder_channels,
            decoder_stages=model.decoder_stages,
            **labels,
        )
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    # Blocks after the main head's would never get a gradient, at which distributed training stops.
    config.backbone_config.num_hidden_layers = config.out_indices[-1] + 1
    network = SetrForSemanticSegmentation(config)
    if tensors is not None:
        positions = "embeddings.position_embeddings"
        tensors[positions] = resize_positions(tensors[positions], stored, config.grid)
    load_encoder(network.vit, tensors)
    return network


def build_segformer(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """The stock SegFormer."""
    config, tensors = read_encoder(model)
    config.update(labels)
    network = SegformerForSemanticSegmentation(config)
    load_encoder(network.segformer, tensors)
    return network


def build_dpt(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """DPT over a plain ViT; the stored positions stay as they are, and are resized for every image as transformers does."""
    encoder_config, tensors = read_encoder(model, crop)
    encoder_config = truncate_config(encoder_config, model.out_indices)
    try:
        config = DinoDptConfig(
            backbone_config=encoder_config,
            out_indices=tuple(index - 1 for index in encoder_config.out_indices),
            decoder_channels=model.decoder_channels,
            head_version=UNIMATCH_V2,
            **labels,
        )
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    network = DinoDptForSemanticSegmentation(config)
    load_encoder(network.encoder, tensors)
    return network


def build_upernet(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """UperNet over a DINO, all levels on the grid of the patches, or over the four stages of a Swin, Hiera or ConvNeXt."""
    backbone_config, tensors = read_encoder(model, crop)
    if backbone_config.model_type not in PYRAMIDS:
        backbone_config = truncate_config(backbone_config, model.out_indices)
    elif model.out_indices:
        raise ConfigError(
            f"model.out_indices is {list(model.out_indices)}; UperNet reads the four stages of a {backbone_config.model_type}: leave it out"
        )
    config = DinoUperNetConfig(backbone_config=backbone_config, hidden_size=model.decoder_channels, **labels)
    network = DinoUperNetForSemanticSegmentation(config)
    load_encoder(network.backbone, tensors)
    return network


def build_deeplab(model: Model, labels: dict, crop: tuple[int, int]) -> PreTrainedModel:
    """DeepLabV3+ over a ResNet, as UniMatch has it; weights of a deep stem (three 3x3 convolutions, as theirs) give one."""
    name, tensors = read_resnet(model)
    options = model.encoder_config
    if tensors is not None and "conv1.0.weight" in tensors:
        options = {"stem_type": "deep", "stem_width": len(tensors["conv1.0.weight"]), **options}
    config = DeepLabConfig(
        resnet=name, resnet_options=options, decoder_channels=model.decoder_channels, align_corners=True, **labels
    )
    try:
        network = DeepLabForSemanticSegmentation(config)
    except TypeError as error:  # a keyword that timm does not know
        raise ConfigError(f"model.encoder_config is {model.encoder_config}; timm says: {error}") from error
    if tensors is not None:
        network.backbone.load_state_dict(fit_resnet(model, tensors, network.backbone.state_dict()))
    return network


def read_encoder(model: Model, crop: tuple[int, int] | None = None) -> tuple[PreTrainedConfig, dict[str, Tensor] | None]:
    """Config and tensors of an encoder, None for random ones; with `crop`, whole patches must fit into it."""
    config = read_encoder_config(model)
    if crop:
        patch = config.patch_stride[0] if config.model_type == "hiera" else config.patch_size  # whose patches overlap
        if crop[0] % patch or crop[1] % patch:
            raise ConfigError(f"data.crop is {list(crop)}; model.encoder = {model.encoder!r} needs multiples of {patch}")
    return config, read_tensors(model, config) if model.pretrained else None


def load_encoder(encoder: nn.Module, tensors: dict[str, Tensor] | None) -> None:
    """Loads those of the tensors that the encoder has; None = it keeps its random ones."""
    if tensors is not None:
        encoder.load_state_dict({name: tensors[name] for name in encoder.state_dict()})


def truncate_config(config: PreTrainedConfig, out_indices: tuple[int, ...]) -> PreTrainedConfig:
    """The config of a plain ViT that ends at the last of these blocks and returns the outputs of all; () = the default ones."""
    depth = config.num_hidden_layers
    blocks = out_indices or default_out_indices(depth)
    if list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < depth:
        raise ConfigError(f"model.out_indices is {list(blocks)}; write rising block numbers from 0 to {depth - 1}")
    derived = ("stage_names", "out_features", "model_type")
    options = {key: value for key, value in config.to_dict().items() if key not in derived}
    outputs = [index + 1 for index in blocks]  # stage 0 is the embedding
    return type(config)(**{**options, "num_hidden_layers": outputs[-1], "out_indices": outputs})


def position_grid(config: ViTConfig) -> tuple[int, int]:
    """(h, w) of the position embedding that belongs to a ViT config."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return height // config.patch_size, width // config.patch_size


def setr_out_indices(depth: int) -> tuple[int, ...]:
    """The blocks that feed the heads: the usual ones of depths 12 and 24, else the same fractions of the depth."""
    if depth == 24:
        return (9, 14, 19, 23)
    return tuple(sorted({max(round((index + 1) * depth / 12), 1) - 1 for index in (4, 7, 9, 11)}))


BUILDERS: dict[str, Callable[[Model, dict, tuple[int, int]], PreTrainedModel]] = {  # by model.architecture
    "setr": build_setr,
    "segformer": build_segformer,
    "dpt": build_dpt,
    "upernet": build_upernet,
    "deeplabv3plus": build_deeplab,
}


# ---- reading and writing whole networks


def save_network(
    network: PreTrainedModel, folder: str | Path, mean: Iterable[float], std: Iterable[float], short_side: int, *,
    long_side: int = 0, levels: tuple[float, float] = (0.0, 0.0),
) -> None:  # fmt: skip
    """Writes config, weights and image processor, for `from_pretrained` and the image-segmentation pipeline.

    Args: see `save_processor`.
    """
    network = merge_adapters(network)
    vars(network.config).pop("custom_pipelines", None)  # of the folder that training started from
    if levels[0] != levels[1]:
        network.config.custom_pipelines = PIPELINES
    network.save_pretrained(folder)
    save_processor(folder, mean, std, short_side=short_side, long_side=long_side, levels=levels)


def load_network(source: str | Path) -> PreTrainedModel:
    """A segmentation network from a folder or the Hub, complete, float32, in eval mode; our own need no remote code here.

    Raises:
        ConfigError: nothing there, not a segmentation network, or weights that do not fit its config.
    """
    try:
        check_reachable(source)
        kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        if kind in MASK_CLASSIFIERS:
            raise ConfigError(
                f"{str(source)!r} is a {kind}, which gives masks with a class each and no logits for every pixel; give one of the"
                " models that AutoModelForSemanticSegmentation of transformers loads"
            )
        network, report = AutoModelForSemanticSegmentation.from_pretrained(  # without trust_remote_code the user is asked
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    except ConfigError:
        raise
    except (*HUB_ERRORS, RuntimeError, safetensors.SafetensorError) as error:
        parts = [str(Path(source) / role) for role in ("student", "teacher") if (Path(source) / role).is_dir()]
        place = f"a model of that run, {' or '.join(parts)}" if parts else "a folder that training wrote"
        raise ConfigError(
            f"{str(source)!r} cannot be loaded as a segmentation network ({describe_hub_error(error)}); give {place},"
            " or the Hub id of a model for semantic segmentation"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"{str(source)!r} is no complete segmentation network: {len(missing)} tensors are missing, such as"
            f" {missing[0]}; an encoder alone belongs into model.encoder"
        )
    return network
