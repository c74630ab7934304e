"""DeepLabV3+ over a ResNet of timm at output stride 16 (Chen et al., ECCV 2018), the convolutional row of the paper.

transformers has no such class, so here is one. The file imports torch, transformers and timm only; timm builds the
encoder, so it is needed to load a saved folder too. `save_pretrained` copies the file beside the weights, and the folder
then loads with `trust_remote_code=True` where this package is not installed.

    network = DeepLabForSemanticSegmentation(DeepLabConfig(num_labels=21))
    logits = network(pixel_values).logits  # (B, 21, H / 4, W / 4), with align_corners (B, 21, H, W)
"""

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.versions import require_version

require_version("transformers>=5.17", "pip install -U transformers")

from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput

STRIDES = (4, 16)  # pixels per cell of c1 and c4


class DeepLabConfig(PreTrainedConfig):
    """What a DeepLabV3+ is made of.

    Args:
        resnet: timm's name of the encoder.
        resnet_options: further arguments of timm's `create_model`.
        decoder_channels: of the pyramid and of the decoder.
        low_level_channels: to which c1 is reduced.
        dilations: of the three atrous convolutions of the pyramid.
        align_corners: maps are enlarged with aligned corners, and the logits to the size of the image, as UniMatch does;
            False in folders that were saved before there was a choice.
        kwargs: those of every config, such as `num_labels` or `id2label`.
    """

    model_type = "deeplabv3plus"

    def __init__(
        self,
        resnet: str = "resnet101",
        resnet_options: dict | None = None,
        decoder_channels: int = 256,
        low_level_channels: int = 48,
        dilations: tuple[int, ...] = (6, 12, 18),
        align_corners: bool = False,
        **kwargs,
    ):
        self.resnet = resnet
        self.resnet_options = dict(resnet_options or {})
        self.decoder_channels = decoder_channels
        self.low_level_channels = low_level_channels
        self.dilations = tuple(dilations)
        self.align_corners = align_corners
        super().__init__(**kwargs)


def convolution(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the size stays."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def enlarge(maps: Tensor, size: tuple[int, int] | torch.Size, align_corners: bool = False) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


class DeepLabHead(nn.Module):
    """Atrous spatial pyramid pooling on c4, joined with c1, two 3x3 convolutions, and a classifier."""

    def __init__(self, widths: tuple[int, int], config: DeepLabConfig):
        super().__init__()
        low, high = widths
        channels, self.align_corners = config.decoder_channels, config.align_corners
        self.pyramid = nn.ModuleList([convolution(high, channels, 1)])
        self.pyramid.extend(convolution(high, channels, 3, dilation) for dilation in config.dilations)
        self.pooling = convolution(high, channels, 1)
        self.projection = convolution((len(self.pyramid) + 1) * channels, channels, 1)
        self.reduction = convolution(low, config.low_level_channels, 1)
        self.fusion = nn.Sequential(
            convolution(channels + config.low_level_channels, channels, 3), convolution(channels, channels, 3)
        )
        self.classifier = nn.Conv2d(channels, config.num_labels, 1)

    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """c1 (B, C, h, w) at stride 4 and c4 at stride 16 to logits (B, K, h, w) at stride 4."""
        c1, c4 = features
        pooled = self.pooling(c4.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *c4.shape[-2:])
        maps = self.projection(torch.cat([*(branch(c4) for branch in self.pyramid), pooled], dim=1))
        maps = torch.cat([self.reduction(c1), enlarge(maps, c1.shape[-2:], self.align_corners)], dim=1)
        return self.classifier(self.fusion(maps))


class DeepLabForSemanticSegmentation(PreTrainedModel):
    """DeepLabV3+: `encode` then `decode`; `forward` is both, for images of any size. There is no attention to steer."""

    config_class = DeepLabConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: DeepLabConfig):
        super().__init__(config)
        options = {"features_only": True, "output_stride": STRIDES[1], "out_indices": (1, 4), **config.resnet_options}
        self.backbone = timm.create_model(config.resnet, pretrained=False, **options)
        self.head = DeepLabHead(tuple(self.backbone.feature_info.channels()), config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """He's normal for what precedes a batch norm, small first logits: the cross-entropy starts near ln K."""
        super()._init_weights(module)  # norms to 1 and 0, their statistics too
        if isinstance(module, nn.Conv2d) and module is not self.head.classifier:
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif module is self.head.classifier:
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """c1 and c4 of images (B, 3, H, W): low-level features at stride 4, and the last stage's at stride 16."""
        return tuple(self.backbone(pixel_values))

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K, h, w) at stride 4; with `align_corners` enlarged four times."""
        return self.resized(self.head(features))

    def resized(self, logits: Tensor, size: tuple[int, int] | torch.Size | None = None) -> Tensor:
        """Logits of the head as they are or, with `align_corners`, at `size`, by default four times theirs, in float32 at least."""
        if not self.config.align_corners:
            return logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return enlarge(logits, size or [4 * side for side in logits.shape[-2:]], align_corners=True)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **kwargs
    ) -> SemanticSegmenterOutput | tuple:
        """Logits (B, K, ceil(H / 4), ceil(W / 4)) of images of any size; with `align_corners` (B, K, H, W).

        Args:
            pixel_values: (B, 3, H, W), normalized.
            labels: (B, H, W) long, 255 = ignore; with them the output has the mean cross-entropy over the other pixels.
            kwargs: what pipelines hand to every model (`output_attentions` and the like); there is nothing to give.
        """
        logits = self.resized(self.head(self.encode(pixel_values)), pixel_values.shape[-2:])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(enlarge(logits.float(), labels.shape[-2:]), labels, ignore_index=255)
        output = SemanticSegmenterOutput(loss=loss, logits=logits)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


DeepLabConfig.register_for_auto_class()
DeepLabForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
