"""A plain vision transformer under a DPT head (Ranftl et al., ICCV 2021), over DINOv2 the network that UniMatch V2 trains.

The DPT of transformers builds its own encoder, so here is one over the encoders of `ENCODERS`. The file imports torch,
transformers and plain_vit.py only: `save_pretrained` copies both beside the weights, and the folder then loads with
`trust_remote_code=True` where this package is not installed.

    network = DinoDptForSemanticSegmentation(DinoDptConfig(num_labels=21))
    logits = network(pixel_values).logits  # (B, 21, H, W)
"""

import math
from functools import partial
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.versions import require_version

require_version("transformers>=5.17", "pip install -U transformers")

from transformers import AutoConfig, Dinov2Config, PreTrainedConfig
from transformers import initialization as init
from transformers.models.beit.modeling_beit import BeitModel
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.deit.modeling_deit import DeiTModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersEmbeddings,
    Dinov2WithRegistersModel,
)
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel
from transformers.models.siglip.modeling_siglip import SiglipVisionModel
from transformers.models.vit.modeling_vit import ViTModel

from .plain_vit import PlainVitForSegmentation, enlarge

ENCODERS = {  # by model type
    "dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel, "dinov3_vit": DINOv3ViTModel, "vit": ViTModel,
    "deit": DeiTModel, "beit": BeitModel, "clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel,
}  # fmt: skip
WITH_POOLER = ("vit", "deit", "beit")  # which is left out
NORMS = {  # of all tokens, where it is not `layernorm`; that of CLIP is of its class token alone
    "dinov3_vit": "norm", "siglip_vision_model": "post_layernorm", "clip_vision_model": "",
}  # fmt: skip
LEVELS = 4  # feature maps of the head: 4, 2, 1 and 1/2 cells per patch
UNIMATCH_V2 = 2  # the head's version
LARGE_WIDTHS = {1024: (256, 512, 1024, 1024), 1536: (1536,) * LEVELS}  # of the levels, by that of the encoder (ViT-L, ViT-g)


class DinoDptConfig(PreTrainedConfig):
    """What a DPT is made of.

    Args:
        backbone_config: of the encoder, a transformers config of a type in `ENCODERS`, or its dict. Its `image_size` is the grid of the stored position embedding; images may have any size.
        out_indices: four blocks, from 0, whose outputs `encode` returns; the first is read at the finest scale. Empty:
            at default_out_indices of the depth.
        decoder_channels: of the maps that are fused.
        head_version: 2 is UniMatch V2's head; 1 that of folders written before it was, which do not name it: see `DptHead`.
        kwargs: those of every config, such as `num_labels` or `id2label`.
    """

    model_type = "dino_dpt"  # "dpt" is another network of transformers
    sub_configs = {"backbone_config": AutoConfig}

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict | None = None,
        out_indices: tuple[int, ...] = (),
        decoder_channels: int = 256,
        head_version: int = 1,
        **kwargs,
    ):
        if backbone_config is None:
            backbone_config = Dinov2Config(image_size=518)
        if isinstance(backbone_config, dict):
            options = dict(backbone_config)
            backbone_config = AutoConfig.for_model(options.pop("model_type", "dinov2"), **options)
        if backbone_config.model_type not in ENCODERS:
            known = ", ".join(ENCODERS)
            raise ValueError(f"backbone_config is of type {backbone_config.model_type!r}; use one of {known}")
        depth = backbone_config.num_hidden_layers
        blocks = tuple(out_indices) or default_out_indices(depth)
        if len(blocks) != LEVELS or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < depth:
            raise ValueError(f"out_indices is {list(blocks)}; write four rising block numbers from 0 to {depth - 1}")
        self.backbone_config = backbone_config
        self.out_indices = blocks
        self.decoder_channels = decoder_channels
        self.head_version = head_version
        super().__init__(**kwargs)

    @property
    def prefix_tokens(self) -> int:
        """The class token, the distillation token and the registers."""
        fixed = {"siglip_vision_model": 0, "deit": 2}
        return fixed.get(self.backbone_config.model_type, 1) + getattr(self.backbone_config, "num_register_tokens", 0)

    @property
    def scale(self) -> int:
        """Logits per patch and side: one for every pixel; of version 1 as many as its finest map has cells, or a few more."""
        patch = self.backbone_config.patch_size
        if self.head_version == UNIMATCH_V2:
            return patch
        return next((cells for cells in range(LEVELS, patch) if patch % cells == 0), patch)


def default_out_indices(depth: int) -> tuple[int, ...]:
    """The blocks that end a quarter of the depth; of 24, those that DINOv2 and UniMatch V2 take."""
    if depth == 24:
        return (4, 11, 17, 23)
    return tuple(round(depth * quarter / LEVELS) - 1 for quarter in range(1, LEVELS + 1))


class ExportableEmbeddings(Dinov2WithRegistersEmbeddings):
    """Positions of a DINOv2 with registers by matrix products while they are exported: ONNX has no resize of theirs to free sizes."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        if not torch.compiler.is_exporting():
            return super().interpolate_pos_encoding(embeddings, height, width)
        stored, patch = math.isqrt(self.position_embeddings.shape[1] - 1), self.config.patch_size
        rows, columns = (antialiased_bicubic(stored, side // patch) for side in (height, width))
        patches = self.position_embeddings[0, 1:].unflatten(0, (stored, stored)).float()
        patches = torch.einsum("hi,ijd,wj->hwd", rows, patches, columns).flatten(0, 1)
        return torch.cat([self.position_embeddings[:, :1], patches[None].to(self.position_embeddings.dtype)], dim=1)


def antialiased_bicubic(old: int, new: int) -> Tensor:
    """(new, old) weights of `F.interpolate(mode="bicubic", antialias=True)` along one side."""
    centres = torch.arange(new, dtype=torch.float32) + 0.5
    scale = old / (centres.amax(0) + 0.5)  # a slice would have a free length
    x = (torch.arange(old) + 0.5 - centres[:, None] * scale).abs() / scale.clamp(min=1)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2  # Keys' kernel, a = -0.5
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3, without batch norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.second(F.relu(self.first(F.relu(maps))))


class Fusion(nn.Module):
    """One level's map joined with the coarser result, resized by `resize`. The coarsest level has nothing to join."""

    def __init__(self, channels: int, coarsest: bool, resize: Callable[[Tensor, tuple[int, int]], Tensor]):
        super().__init__()
        self.resize = resize
        self.level = None if coarsest else ResidualUnit(channels)
        self.joint = ResidualUnit(channels)
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor, coarser: Tensor | None) -> Tensor:
        if self.level is not None:
            maps = self.level(maps) + self.resize(coarser, maps.shape[-2:])
        return self.projection(self.joint(maps))  # before the up-sampling, with which a 1x1 convolution commutes


class DptHead(nn.Module):
    """Four token maps to logits: reassembled at x4, x2, x1 and 1/2, fused from coarse to fine, classified.

    As in UniMatch V2 the class token is not read out and there is no batch norm. The channels of the four levels are
    1/8, 1/4, 1/2 and the whole of the encoder's width (more over ViT-L and ViT-g), the last 3x3 convolution follows the
    last x2, and every resize aligns corners. Version 1 left the last x2 to the logits, and did not align corners.
    """

    def __init__(self, width: int, channels: int, num_labels: int, scale: int, version: int):
        super().__init__()
        self.scale, self.version = scale, version
        self.resize = partial(enlarge, align_corners=version == UNIMATCH_V2)
        widths = [max(1, width >> (LEVELS - 1 - level)) for level in range(LEVELS)]
        if version == UNIMATCH_V2:
            widths = LARGE_WIDTHS.get(width, widths)
        resizes = [
            nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
            nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
        ]
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, own, 1), resize, nn.Conv2d(own, channels, 3, padding=1, bias=False))
            for own, resize in zip(widths, resizes)
        )
        self.fusions = nn.ModuleList(Fusion(channels, level == LEVELS - 1, self.resize) for level in range(LEVELS))
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        self.classifier = nn.Conv2d(channels, num_labels, 1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Four maps (B, D, h, w) to logits (B, K, h*s, w*s), s = `scale`."""
        height, width = features[0].shape[-2:]
        levels = [reassemble(maps) for reassemble, maps in zip(self.reassemble, features)]
        maps = None
        for level, fusion in zip(reversed(levels), reversed(self.fusions)):
            maps = fusion(level, maps)
        if self.version == UNIMATCH_V2:
            maps = self.resize(maps, (2 * maps.shape[-2], 2 * maps.shape[-1]))
        logits = self.classifier(F.relu(self.last(maps)))
        size = (height * self.scale, width * self.scale)
        return logits if logits.shape[-2:] == size else self.resize(logits, size)


class DinoDptForSemanticSegmentation(PlainVitForSegmentation):
    """DPT: `encode` then `decode`; `forward` is both, for images of any size."""

    config_class = DinoDptConfig
    base_model_prefix = "encoder"
    _no_split_modules = ["Dinov2Layer", "Dinov2WithRegistersLayer", "DINOv3ViTLayer"]

    def __init__(self, config: DinoDptConfig):
        super().__init__(config)
        kind = config.backbone_config.model_type
        self.encoder = ENCODERS[kind](config.backbone_config, **({"add_pooling_layer": False} if kind in WITH_POOLER else {}))
        self.encoder_arguments = {} if kind.startswith("dino") else {"interpolate_pos_encoding": True}
        if kind == "clip_vision_model":
            self.encoder.post_layernorm = nn.Identity()
        embeddings = self.encoder.embeddings
        if isinstance(embeddings, Dinov2WithRegistersEmbeddings):
            embeddings.__class__ = ExportableEmbeddings  # not built anew: that would draw its parameters twice
        mask_token = getattr(embeddings, "mask_token", None)
        if mask_token is not None:  # of the pre-training; a parameter without gradient would stop distributed training
            del embeddings.mask_token
            embeddings.register_buffer("mask_token", mask_token.detach())
        width = config.backbone_config.hidden_size
        self.head = DptHead(width, config.decoder_channels, config.num_labels, config.scale, config.head_version)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Convolutions as PyTorch draws them, biases 0, and small first logits: the cross-entropy starts near ln K."""
        super()._init_weights(module)
        if module is self.head.classifier:
            init.normal_(module.weight, std=0.01)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
            init.zeros_(module.bias)

    def feature_maps(self, hidden_states: tuple[Tensor, ...], pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Each after the encoder's final norm, if it has one, as DINOv2 and DINOv3 give their intermediate layers to decoders:
        block outputs have channels a hundred times larger than others."""
        patch, prefix = self.config.backbone_config.patch_size, self.config.prefix_tokens
        grid = [side // patch for side in pixel_values.shape[-2:]]
        name = NORMS.get(self.config.backbone_config.model_type, "layernorm")
        norm = getattr(self.encoder, name) if name else nn.Identity()
        tokens = [norm(hidden_states[index + 1]) for index in self.config.out_indices]  # the first state is the embedding
        return tuple(t[:, prefix:].transpose(1, 2).unflatten(2, grid) for t in tokens)

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K, h*s, w*s) with s = `config.scale`."""
        return self.head(features)


DinoDptConfig.register_for_auto_class()
DinoDptForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
