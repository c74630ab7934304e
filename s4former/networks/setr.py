"""SETR-PUP: a plain vision transformer under a head of convolutions and up-sampling (paper; Zheng et al., CVPR 2021).

transformers has no such class, so here is one. The file imports torch, transformers and plain_vit.py only: `save_pretrained`
copies both beside the weights, and the folder then loads with `trust_remote_code=True` where this package is not installed.

    network = SetrForSemanticSegmentation(SetrConfig(grid=(32, 32), num_labels=21))
    logits = network(pixel_values).logits  # (B, 21, H, W)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.versions import require_version

require_version("transformers>=5.17", "pip install -U transformers")

from transformers import AutoConfig, PreTrainedConfig, ViTConfig, ViTModel
from transformers import initialization as init
from transformers.models.vit.modeling_vit import ViTEmbeddings

from .plain_vit import PlainVitForSegmentation, enlarge


class SetrConfig(PreTrainedConfig):
    """What a SETR is made of.

    Args:
        backbone_config: of the encoder, a transformers ViT config or its dict.
        grid: (h, w) of the stored position embedding; the encoder reads images of any other grid too.
        out_indices: blocks, from 0, whose outputs `encode` returns; the last one feeds the head. Empty: the last block.
        decoder_channels: of the head.
        decoder_stages: x2 up-sampling stages of the head; 0 = up to the input size.
        kwargs: those of every config, such as `num_labels` or `id2label`.
    """

    model_type = "setr"
    sub_configs = {"backbone_config": AutoConfig}

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict | None = None,
        grid: tuple[int, int] = (14, 14),
        out_indices: tuple[int, ...] = (),
        decoder_channels: int = 256,
        decoder_stages: int = 0,
        **kwargs,
    ):
        if backbone_config is None:
            backbone_config = ViTConfig(layer_norm_eps=1e-6)
        if isinstance(backbone_config, dict):
            options = dict(backbone_config)
            backbone_config = AutoConfig.for_model(options.pop("model_type", "vit"), **options)
        patch, depth = backbone_config.patch_size, backbone_config.num_hidden_layers
        backbone_config.image_size = [grid[0] * patch, grid[1] * patch]
        out_indices = tuple(out_indices) or (depth - 1,)
        if list(out_indices) != sorted(set(out_indices)) or not 0 <= out_indices[0] <= out_indices[-1] < depth:
            raise ValueError(f"out_indices is {list(out_indices)}; write rising block numbers from 0 to {depth - 1}")
        most = int(math.log2(patch))
        if decoder_stages == 0 and 2**most != patch:
            raise ValueError(f"decoder_stages is 0, to full size, but {patch} px is no power of 2; give 1 to {most}")
        if not 0 <= decoder_stages <= most:
            raise ValueError(f"decoder_stages is {decoder_stages}; patches of {patch} px allow at most {most}")
        self.backbone_config = backbone_config
        self.grid = tuple(grid)
        self.out_indices = out_indices
        self.decoder_channels = decoder_channels
        self.decoder_stages = decoder_stages
        super().__init__(**kwargs)

    @property
    def head_stages(self) -> int:
        return self.decoder_stages or int(math.log2(self.backbone_config.patch_size))

    @property
    def scale(self) -> int:
        """Logits per patch and side."""
        return 2**self.head_stages


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings (1, P + h*w, D) of one grid, bilinearly resized to another; the P prefix tokens stay.

    Bilinear, align_corners False (released code). transformers would do it bicubically, and for square grids only.
    """
    if tuple(old) == tuple(new):
        return positions
    prefix, patches = positions.split([positions.shape[1] - old[0] * old[1], old[0] * old[1]], dim=1)
    maps = patches.transpose(1, 2).reshape(1, -1, *old)
    maps = F.interpolate(maps, size=tuple(new), mode="bilinear", align_corners=False)
    return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)


class SetrEmbeddings(ViTEmbeddings):
    """Patch, class and position embeddings for any grid of whole patches; parameter names are those of the parent."""

    def forward(self, pixel_values: Tensor, bool_masked_pos=None, interpolate_pos_encoding=None) -> Tensor:
        """(B, 3, H, W) to (B, 1 + h*w, D)."""
        maps = self.patch_embeddings.projection(pixel_values)
        stored = [side // kernel for side, kernel in zip(self.image_size, self.patch_embeddings.projection.kernel_size)]
        positions = resize_positions(self.position_embeddings, tuple(stored), maps.shape[-2:])
        tokens = torch.cat([self.cls_token.expand(maps.shape[0], -1, -1), maps.flatten(2).transpose(1, 2)], dim=1)
        tokens = self.dropout(tokens + positions)
        return tokens.bfloat16() if in_bfloat16(tokens) else tokens  # and so all blocks: half the bytes of their additions and norms


class AutocastLayerNorm(nn.LayerNorm):
    """Layer norm that under bfloat16 autocast takes and returns bfloat16, where autocast casts to float32 and back.

    The kernel computes in float32. float16 would overflow between the blocks, so there only the output is cast, once.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not in_bfloat16(input):
            return to_autocast(super().forward(input))
        states = (x.to(torch.bfloat16) for x in (input, self.weight, self.bias))
        with torch.autocast(input.device.type, enabled=False):
            return F.layer_norm(next(states), self.normalized_shape, *states, self.eps)


def in_bfloat16(x: Tensor) -> bool:
    """Whether autocast to bfloat16 is on where a tensor is."""
    device = x.device.type
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16


def to_autocast(x: Tensor) -> Tensor:
    """A tensor in the type of autocast; without autocast as it is."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class SetrEncoder(ViTModel):
    """A `ViTModel` whose output is that of its last block: no final norm and no pooler.

    The heads read the blocks before that norm; parameters that get no gradient would stop distributed training.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config, add_pooling_layer=False)
        self.embeddings = SetrEmbeddings(config)
        self.layernorm = nn.Identity()
        for layer in self.layers:
            layer.layernorm_before = AutocastLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            layer.layernorm_after = AutocastLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()


class UpHead(nn.Module):
    """LayerNorm, then `convolutions` x [3x3 convolution, batch norm, ReLU, bilinear x `scale`], and a classifier.

    The classifier stands before the last up-sampling: a 1x1 convolution and a bilinear up-sampling commute, and it is
    far cheaper on the smaller map.
    """

    def __init__(self, width: int, channels: int, num_labels: int, convolutions: int, scale: int):
        super().__init__()
        self.scale = scale
        self.norm = AutocastLayerNorm(width, eps=1e-6)
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width if stage == 0 else channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for stage in range(convolutions)
        )
        self.classifier = nn.Conv2d(channels, num_labels, 1)
        for layer in self.modules():
            self.initialize(layer)

    @staticmethod
    @torch.no_grad()
    def initialize(layer: nn.Module) -> None:
        """Initialization of the released code, one layer at a time: the first cross-entropy is close to ln K."""
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Conv2d):  # the classifier
            init.normal_(layer.weight, std=0.01)
            init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) to logits (B, K, h*s, w*s) with s = scale ** convolutions."""
        # tokens lie channels last, and stay so: the convolutions are a sixth faster in bfloat16 and no faster in float32
        maps = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        for stage, convolution in enumerate(self.convolutions):
            maps = convolution(maps if stage == 0 else self.enlarge(maps))
        return self.enlarge(self.classifier(maps))

    def enlarge(self, maps: Tensor) -> Tensor:
        return enlarge(maps, (maps.shape[-2] * self.scale, maps.shape[-1] * self.scale))


class SetrForSemanticSegmentation(PlainVitForSegmentation):
    """SETR-PUP: `encode` then `decode`; `forward` is both, for images of any size."""

    config_class = SetrConfig
    base_model_prefix = "vit"
    _no_split_modules = ["SetrEmbeddings", "ViTLayer"]

    def __init__(self, config: SetrConfig):
        super().__init__(config)
        self.vit = SetrEncoder(config.backbone_config)
        width = config.backbone_config.hidden_size
        self.head = UpHead(width, config.decoder_channels, config.num_labels, config.head_stages, scale=2)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # norms to 1 and 0
        if any(module is layer for layer in self.head.modules()):
            UpHead.initialize(module)

    def feature_maps(self, hidden_states: tuple[Tensor, ...], pixel_values: Tensor) -> tuple[Tensor, ...]:
        patch = self.config.backbone_config.patch_size
        grid = [side // patch for side in pixel_values.shape[-2:]]
        tokens = [hidden_states[index + 1] for index in self.config.out_indices]  # the first state is the embedding
        return tuple(t[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid) for t in tokens)

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K, h*s, w*s) of the last feature map, s = 2 ** stages."""
        return self.head(features[-1])


SetrConfig.register_for_auto_class()
SetrForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
