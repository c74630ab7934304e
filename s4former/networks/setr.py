"""SETR-PUP: a plain vision transformer under a head of convolutions and up-sampling (paper; Zheng et al., CVPR 2021).

transformers has no such class, so here is one. The file imports torch and transformers only: `save_pretrained` copies
it beside the weights, and the folder then loads with `trust_remote_code=True` where this package is not installed.

    network = SetrForSemanticSegmentation(SetrConfig(grid=(32, 32), num_labels=21))
    logits = network(pixel_values).logits  # (B, 21, H, W)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.utils.versions import require_version

require_version("transformers>=5.17", "pip install -U transformers")

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, ViTConfig, ViTModel
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.vit.modeling_vit import ViTEmbeddings


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


# `BilinearTwice` and `enlarge` are the same text in setr.py and dpt.py: each file is saved alone beside the weights.
# tests/networks/test_model_files.py compares them.


class BilinearTwice(torch.autograd.Function):
    """Bilinear x2 (align_corners False) of maps (B, C, h, w), h and w at least 2, in their own type.

    The gradient of torch scatters with atomic additions; here it is a convolution of stride 2 with fixed weights, which
    is deterministic. Beyond a border the input repeats, so the gradient there has further terms.
    """

    @staticmethod
    def forward(ctx, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        channels, height, width = gradient.shape[1:]
        weights = torch.full((4,), 0.75, dtype=gradient.dtype, device=gradient.device)
        weights[::3].fill_(0.25)  # from a list it would wait for the device
        square, row = (w.expand(channels, 1, *w.shape) for w in (weights.outer(weights), 0.25 * weights[None]))
        with torch.autocast(gradient.device.type, enabled=False):
            result = F.conv2d(gradient, square, stride=2, padding=1, groups=channels)
            edges = F.pad(gradient[:, :, :: height - 1], (1, 1, 0, 0), mode="replicate")
            result[:, :, :: height // 2 - 1] += F.conv2d(edges, row, stride=(1, 2), groups=channels)
            edges = gradient[..., :: width - 1]
            result[..., :: width // 2 - 1] += F.conv2d(edges, row.mT, stride=(2, 1), padding=(1, 0), groups=channels)
        return result


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) resized bilinearly. On a CPU the gradient of torch is the faster one, and in float32 the exact one."""
    half = maps.device.type != "cpu" and maps.dtype in (torch.float16, torch.bfloat16)
    # sizes are compared last: torch.export would keep the comparison as a condition on the image
    if half and tuple(size) == (2 * maps.shape[-2], 2 * maps.shape[-1]) and min(maps.shape[-2:]) > 1:
        return BilinearTwice.apply(maps)
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


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


class SetrForSemanticSegmentation(PreTrainedModel):
    """SETR-PUP: `encode` then `decode`; `forward` is both, for images of any size."""

    config_class = SetrConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SetrEmbeddings", "ViTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    encoder_arguments: dict = {}

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

    # `encode`, `run_encoder` and `forward` are the same text in setr.py and dpt.py: each file is saved alone beside the
    # weights. tests/networks/test_model_files.py compares them.

    def encode(self, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
        """Feature maps (B, D, h, w), one for each of `config.out_indices`.

        Args:
            pixel_values: (B, 3, H, W), normalized; H and W are multiples of the patch size.
            attention_kwargs: handed down to the attention function of every block.
        """
        return self.feature_maps(self.run_encoder(pixel_values, **attention_kwargs).hidden_states, pixel_values)

    def run_encoder(self, pixel_values: Tensor, **kwargs):
        patch = self.config.backbone_config.patch_size
        height, width = pixel_values.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(f"image of {height}x{width}; pad both sides to multiples of {patch}, as forward does")
        return self.base_model(pixel_values, output_hidden_states=True, **self.encoder_arguments, **kwargs)

    def feature_maps(self, hidden_states: tuple[Tensor, ...], pixel_values: Tensor) -> tuple[Tensor, ...]:
        patch = self.config.backbone_config.patch_size
        grid = [side // patch for side in pixel_values.shape[-2:]]
        tokens = [hidden_states[index + 1] for index in self.config.out_indices]  # the first state is the embedding
        return tuple(t[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid) for t in tokens)

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K, h*s, w*s) of the last feature map, s = 2 ** stages."""
        return self.head(features[-1])

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SemanticSegmenterOutput | tuple:
        """Logits of images of any size.

        The image is padded with zeros at the bottom and on the right to whole patches, and the logits are cut back (the
        released code squeezes the padded border into the picture instead).

        Args:
            pixel_values: (B, 3, H, W), normalized.
            labels: (B, H, W) long, 255 = ignore; with them the output has the mean cross-entropy over the other pixels.
            kwargs: handed down to the attention function of every block.

        Returns:
            logits: (B, K, ceil(H * s / patch), ceil(W * s / patch)) with s = `config.scale`.
        """
        patch, scale = self.config.backbone_config.patch_size, self.config.scale
        height, width = pixel_values.shape[-2:]
        padded = F.pad(pixel_values, (0, -width % patch, 0, -height % patch))
        if output_attentions is not None:
            kwargs["output_attentions"] = output_attentions
        outputs = self.run_encoder(padded, **kwargs)
        logits = self.decode(self.feature_maps(outputs.hidden_states, padded))
        rows, columns = ((side * scale + patch - 1) // patch for side in (height, width))  # no negative //: ONNX rounds it up
        logits = logits[..., :rows, :columns]
        loss = None
        if labels is not None:
            full = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
            loss = F.cross_entropy(full, labels, ignore_index=255)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = SemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states if wanted else None,
            attentions=outputs.get("attentions"),
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


SetrConfig.register_for_auto_class()
SetrForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
