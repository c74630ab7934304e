"""What the method needs to know of a network: where its encoder ends, which token grids it has, how it is frozen or compiled.

What differs between networks is a row of `ADAPTERS`; the functions read that row.
"""

import itertools
import operator
import re
from dataclasses import dataclass
from typing import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from ..errors import ConfigError
from .deeplab import STRIDES
from .plain_vit import enlarge

COMPILER = "inductor"  # backend of torch.compile
GRAPHS = 256  # at most of one function: a SegFormer has three for every block, since each drops paths at a rate of its own

# A block of an encoder by the beginning of its parameters' names: layers.3. of a ViT, encoder.layer.3. of DINOv2,
# stages.1.blocks.0. or encoder.block.1.0. of SegFormer, layers.1.blocks.0. of Swin, layer1.0. of a ResNet.
BLOCK = re.compile(r"(?:.*?\.)??(?:layers?\d?|blocks?)\.\d+\.(?!blocks|downsample)(?:\d+\.)?")


@dataclass(frozen=True)
class Adapter:
    """How one kind of network is taken apart; the functions below say what each part returns.

    The defaults are those of a ViT: several blocks may be read, but all on the grid of the patches, which stands once.
    """

    encoder: str  # name of the attribute
    encode: Callable[..., tuple[Tensor, ...]] = lambda network, pixel_values, **kwargs: network.encode(pixel_values, **kwargs)
    decode: Callable[[PreTrainedModel, tuple[Tensor, ...]], Tensor] = lambda network, features: network.decode(features)
    decodes_last: bool = False  # the decoder reads the last feature map alone; the others are for auxiliary heads
    prefix_tokens: Callable[[PreTrainedModel], int] = lambda network: 1 + getattr(
        network.config.backbone_config, "num_register_tokens", 0
    )
    strides: Callable[[PreTrainedModel], list[int]] = lambda network: [network.config.backbone_config.patch_size]
    reductions: Callable[[PreTrainedModel], list[int]] = lambda network: [1]  # of the keys; empty: there is no attention


def encode_segformer(network: PreTrainedModel, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
    return network.segformer(pixel_values, output_hidden_states=True, **attention_kwargs).hidden_states


def decode_segformer(network: PreTrainedModel, features: tuple[Tensor, ...]) -> Tensor:
    """Logits by `decode_by_level` under autocast; in float32 by the stock head, whose digits it would move."""
    if torch.is_autocast_enabled(features[0].device.type) and all(maps.dim() == 4 for maps in features):
        return decode_by_level(network.decode_head, features)
    return network.decode_head(features)


def decode_by_level(head: nn.Module, features: tuple[Tensor, ...]) -> Tensor:
    """What a SegFormer's head computes, in less time and memory.

    The head projects every level, enlarges all to the finest, concatenates their channels, and mixes these by a 1x1 convolution. All
    of it is linear, and a bilinear resize leaves constants as they are: so a level is projected and mixed by one product before
    it is enlarged, and the levels are added up.
    """
    mixing = head.linear_fuse.weight.flatten(1).chunk(len(features), dim=1)[::-1]  # the coarsest level comes first
    joint = None
    for maps, projection, mix in zip(features, head.linear_projections, mixing):
        product = F.linear(maps.movedim(1, -1), mix @ projection.proj.weight, mix @ projection.proj.bias).movedim(-1, 1)
        joint = product if joint is None else joint + enlarge(product, joint.shape[-2:])
    return head.classifier(head.dropout(head.activation(head.batch_norm(joint))))


ADAPTERS: dict[str, Adapter] = {  # by model.architecture
    "setr": Adapter(encoder="vit", decodes_last=True),
    "segformer": Adapter(
        encoder="segformer",
        encode=encode_segformer,
        decode=decode_segformer,
        prefix_tokens=lambda network: 0,
        strides=lambda network: list(itertools.accumulate(network.config.strides, operator.mul)),
        reductions=lambda network: list(network.config.sr_ratios),
    ),
    "dpt": Adapter(encoder="encoder", prefix_tokens=lambda network: network.config.prefix_tokens),
    "upernet": Adapter(
        encoder="backbone",
        strides=lambda network: network.config.strides,
        reductions=lambda network: [1] if len(network.config.strides) == 1 else [],  # windows and convolutions take no bias
    ),
    "deeplabv3plus": Adapter(
        encoder="backbone",
        prefix_tokens=lambda network: 0,
        strides=lambda network: list(STRIDES),
        reductions=lambda network: [],
    ),
}


# By model type; transformers has a "dpt" and an "upernet" of its own.
ARCHITECTURES = {
    "setr": "setr", "segformer": "segformer", "dino_dpt": "dpt", "dino_upernet": "upernet", "deeplabv3plus": "deeplabv3plus",
}  # fmt: skip


def architecture_of(network: PreTrainedModel) -> str:
    """`model.architecture` of a network; empty for one that cannot be trained here."""
    return ARCHITECTURES.get(network.config.model_type, "")


def adapter_of(network: PreTrainedModel) -> Adapter:
    if not architecture_of(network):
        raise ConfigError(
            f"a {network.config.model_type} of transformers is read by its own forward only; what looks into encoder and decoder"
            f" knows {', '.join(ADAPTERS)}"
        )
    return ADAPTERS[architecture_of(network)]


# ---- forward


def encode(network: PreTrainedModel, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
    """The feature maps (B, C, h, w), finest first, that decoder and auxiliary heads read.

    Keyword arguments go down to the attention function of every block.
    """
    return adapter_of(network).encode(network, pixel_values, **attention_kwargs)


def decoder_inputs(network: PreTrainedModel, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Those of the encoder's feature maps that the decoder reads; the others are for auxiliary heads."""
    return features[-1:] if adapter_of(network).decodes_last else features


def decoder_channels(network: PreTrainedModel) -> list[int]:
    """How many channels each of the `decoder_inputs` has, by a small pass in eval mode."""
    mode, some = network.training, next(network.parameters())
    side = 4 * coarsest_stride(network)
    with torch.no_grad():
        features = encode(network.eval(), torch.zeros(1, 3, side, side, device=some.device, dtype=some.dtype))
    network.train(mode)
    return [x.shape[1] for x in decoder_inputs(network, features)]


def decode(network: PreTrainedModel, features: tuple[Tensor, ...]) -> Tensor:
    """Logits (B, K, h', w') at the resolution of the head; `decode(encode(x))` is the stock forward.

    Args:
        features: what `encode` returns, or of that the `decoder_inputs`.
    """
    return adapter_of(network).decode(network, features)


def forward_logits(network: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Logits (B, K, h, w) float32 of images (B, 3, H, W) of any size: those of the network's own forward.

    Raises:
        ConfigError: a network that is none of those built here cannot read images of this size.
    """
    try:
        if min(pixel_values.shape[-2:]) < smallest_side(network):
            return full_size_logits(network, pixel_values)
        return network(pixel_values=pixel_values).logits.float()
    except (RuntimeError, ValueError) as error:
        if architecture_of(network) or isinstance(error, torch.OutOfMemoryError):
            raise
        size, own = "{}x{}".format(*pixel_values.shape[-2:]), getattr(network.config, "image_size", None) or 512
        height, width = own if isinstance(own, (list, tuple)) else (own, own)
        raise ConfigError(
            f"a {network.config.model_type} of transformers cannot read images of {size} ({str(error).strip().splitlines()[0]});"
            f" give it windows of one size: --sliding-window --window {height} {width} --stride {height * 2 // 3} {width * 2 // 3}"
        ) from error


def full_size_logits(network: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Logits (B, K, H, W) float32 of images (B, 3, H, W) of any size, by the network's own forward and a bilinear resize.

    An image smaller than `smallest_side` is padded with zeros, which SegFormer does not do by itself.
    """
    height, width = pixel_values.shape[-2:]
    least = smallest_side(network)
    padded = F.pad(pixel_values, (0, max(0, least - width), 0, max(0, least - height)))
    logits = network(pixel_values=padded).logits.float()
    logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
    return logits[..., :height, :width]


def smallest_side(network: PreTrainedModel) -> int:
    """Pixels of the smallest image that is not padded: one cell of the coarsest grid."""
    return coarsest_stride(network) if architecture_of(network) else 32


# ---- token grids


def prefix_tokens(network: PreTrainedModel) -> int:
    """Tokens before those of the patches in every attention layer: the class token and registers."""
    return adapter_of(network).prefix_tokens(network)


def token_grids(network: PreTrainedModel, height: int, width: int) -> list[tuple[int, int]]:
    """(h, w) of the feature maps that the decoder uses, finest first, for an image of height x width pixels."""
    return [(-(-height // s), -(-width // s)) for s in adapter_of(network).strides(network)]


def attention_grids(network: PreTrainedModel, height: int, width: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """For each of `token_grids`, the (query grid, key grid) of its attention layers; SegFormer reduces its keys.

    Empty where there is no attention.
    """
    reductions = adapter_of(network).reductions(network)
    return [((h, w), (h // r, w // r)) for (h, w), r in zip(token_grids(network, height, width), reductions)]


def coarsest_stride(network: PreTrainedModel) -> int:
    """Pixels per token of the coarsest grid the decoder uses."""
    return adapter_of(network).strides(network)[-1]


# ---- the encoder: its parameters, freezing, activation checkpointing, compiling


def encoder_of(network: PreTrainedModel) -> nn.Module:
    return getattr(network, adapter_of(network).encoder)


def encoder_depths(network: PreTrainedModel) -> list[tuple[nn.Parameter, int]]:
    """Every parameter of the encoder with the number of its block, counted from 1 at the input.

    What lies between blocks (a norm, the patch embedding of a stage) belongs to the one before; 0 is before the first.
    """
    blocks: dict[str, int] = {}
    depths = []
    for name, parameter in encoder_of(network).named_parameters():
        block = BLOCK.match(name)
        depth = blocks.setdefault(block[0], len(blocks) + 1) if block else len(blocks)
        depths.append((parameter, depth))
    return depths


def freeze_encoder(network: PreTrainedModel, blocks: int, train_only: Sequence[str] = ()) -> None:
    """Takes the first blocks of the encoder, and what is before them, out of training; -1 takes all of it.

    No graph is built below the first parameter that is trained, and no gradient computed for what is frozen above it.

    Args:
        train_only: regular expressions; of the rest, parameters in whose name none is found are frozen too. () = none.

    Raises:
        ConfigError: there are fewer blocks, or batch norms, whose statistics would go on changing; or an expression that
            is none or fits no name.
    """
    depths = encoder_depths(network)
    last = max(depth for _, depth in depths)
    if blocks > last:
        raise ConfigError(f"model.freeze is {blocks}; this encoder has {last} blocks, and -1 freezes all of it")
    if (blocks or train_only) and any(isinstance(module, _BatchNorm) for module in encoder_of(network).modules()):
        key = f"freeze is {blocks}" if blocks else f"train_only is {list(train_only)}"
        raise ConfigError(
            f"model.{key}; the statistics of an encoder with batch norms would go on changing: write {'0' if blocks else '[]'}"
        )
    names = [name for name, _ in encoder_of(network).named_parameters()]
    chosen = {name for pattern in train_only for name in matching_names(pattern, names)}
    for name, (parameter, depth) in zip(names, depths):
        if blocks < 0 or blocks and depth <= blocks or train_only and name not in chosen:
            parameter.requires_grad_(False)


def matching_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Those in which an expression of `model.train_only` is found."""
    examples = f"parameters of this encoder are {', '.join([*names[:2], *names[-8::3]])}, ..."
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise ConfigError(f"model.train_only has {pattern!r}, which is no regular expression ({error}); {examples}") from error
    if not found:
        raise ConfigError(f"model.train_only has {pattern!r}, which is found in no name; {examples}")
    return found


def use_activation_checkpointing(network: PreTrainedModel) -> None:
    """Recomputes every encoder block in the backward pass; never the re-entrant way, which loses keyword arguments."""
    encoder = encoder_of(network)
    if not isinstance(encoder, PreTrainedModel):
        raise ConfigError(
            "model.activation_checkpointing = true would run the batch norms of a ResNet twice; write false, and more"
            " run.batch.rounds where memory is short"
        )
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def compile_network(network: PreTrainedModel) -> None:
    """Lets torch compile every block of the encoder and the decoder, in place: parameters, their names and what is saved stay.
    The head of a SegFormer is not compiled under autocast, where `decode_by_level` stands for it.

    Blocks that differ in nothing but their weights share their graphs. Static: there is a graph for each kind of pass
    (teacher, plain views, view with a bias), all traced in the first step. A deep copy of the network is not compiled.
    """
    encoder = encoder_of(network)
    blocks = [m for name, m in encoder.named_modules() if BLOCK.fullmatch(f"{name}.") and not isinstance(m, nn.ModuleList)]
    compile_each([*blocks, *(child for child in network.children() if child is not encoder)])


def compile_each(modules: Iterable[nn.Module]) -> None:
    """Compiles modules in place, those left out whose batch norms wait for other processes."""
    torch._dynamo.config.recompile_limit = GRAPHS
    for module in modules:
        if not any(isinstance(part, nn.SyncBatchNorm) for part in module.modules()):
            module.compile(backend=COMPILER, dynamic=False)
