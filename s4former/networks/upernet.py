"""UperNet over a DINO, a Swin, a Hiera or a ConvNeXt: the stock class of transformers, for images that are not made of whole patches too.

The stock one drops what is left over at the bottom and on the right, and stretches its logits over it. The file imports
torch and transformers only: `save_pretrained` copies it beside the weights, and the folder then loads with
`trust_remote_code=True` where this package is not installed.
"""

import torch.nn.functional as F
from torch import Tensor
from transformers.utils.versions import require_version

require_version("transformers>=5.17", "pip install -U transformers")

from transformers import HieraBackbone, UperNetConfig, UperNetForSemanticSegmentation
from transformers.modeling_outputs import BackboneOutput, SemanticSegmenterOutput
from transformers.models.hiera.modeling_hiera import unroll


class DinoUperNetConfig(UperNetConfig):
    """A `UperNetConfig` whose `backbone_config` is of type dinov2, dinov2_with_registers, dinov3_vit, swin, hiera or convnext."""

    model_type = "dino_upernet"
    use_auxiliary_head: bool = False  # of supervised training alone; distributed training stops at unused parameters

    @property
    def strides(self) -> list[int]:
        """Pixels per cell of the feature maps, finest first; all maps of a DINO have the grid of its patches."""
        config = self.backbone_config
        patch, pyramid = getattr(config, "patch_stride", [config.patch_size])[0], config.model_type in ("swin", "hiera", "convnext")
        return [patch * 2**stage for stage in range(4)] if pyramid else [patch]


class AnySizeHiera(HieraBackbone):
    """The stages of a `HieraModel`, whose stored positions are resized for every image as that does.

    The backbone of transformers (5.23) reads images of one size, and leaves out the order of the tokens that its windows need.
    """

    def forward(self, pixel_values: Tensor, **kwargs) -> BackboneOutput:
        config, size = self.config, tuple(pixel_values.shape[-2:])
        tokens = self.embeddings(pixel_values, interpolate_pos_encoding=True)[0]
        grid = [side // stride for side, stride in zip(size, config.patch_stride)]
        rolls = [config.query_stride] * (len(config.depths) - 1)
        tokens = unroll(tokens, size, config.patch_stride, rolls)
        for stage in range(len(config.depths)):  # how its output is put back into rows and columns
            self.encoder.schedule[stage] = rolls, grid
            if stage < config.num_query_pool:
                grid, rolls = [side // stride for side, stride in zip(grid, config.query_stride)], rolls[1:]
        states = self.encoder(tokens, output_hidden_states=True).reshaped_hidden_states
        named = dict(zip(self.stage_names, states))
        maps = (self.hidden_states_norms[name](named[name]).permute(0, 3, 1, 2) for name in self.out_features)
        return BackboneOutput(feature_maps=tuple(maps))


class DinoUperNetForSemanticSegmentation(UperNetForSemanticSegmentation):
    """UperNet: `encode` then `decode`; `forward` is both, for images of any size."""

    config_class = DinoUperNetConfig
    base_model_prefix = "backbone"

    def __init__(self, config: DinoUperNetConfig):
        super().__init__(config)
        if isinstance(self.backbone, HieraBackbone):
            self.backbone.__class__ = AnySizeHiera
        for name, parameter in self.backbone.named_parameters():  # of the pre-training, or of a classifier; never used
            if name in ("embeddings.mask_token", "swin.layernorm.weight", "swin.layernorm.bias"):
                parameter.requires_grad_(False)

    def encode(self, pixel_values: Tensor, **attention_kwargs) -> tuple[Tensor, ...]:
        """Feature maps (B, D, h, w) of images (B, 3, H, W), whose sides are multiples of the coarsest stride."""
        return self.backbone(pixel_values, **attention_kwargs).feature_maps

    def decode(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K, H, W)."""
        size = [side * self.config.strides[0] for side in features[0].shape[-2:]]
        return F.interpolate(self.decode_head(features), size=size, mode="bilinear", align_corners=False)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **kwargs
    ) -> SemanticSegmenterOutput | tuple:
        """Logits (B, K, H, W). Images are padded with zeros to whole patches, and the logits are cut back.

        Args:
            pixel_values: (B, 3, H, W), normalized.
            labels: (B, H, W) long, 255 = ignore; with them the output has the mean cross-entropy over the other pixels.
            kwargs: of the stock forward.
        """
        patch = self.config.strides[-1]
        height, width = pixel_values.shape[-2:]
        padded = F.pad(pixel_values, (0, -width % patch, 0, -height % patch))
        stock = super().forward(padded, return_dict=True, **kwargs)
        logits = stock.logits[..., :height, :width]
        loss = None if labels is None else F.cross_entropy(logits.float(), labels, ignore_index=255)
        output = SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=stock.hidden_states, attentions=stock.attentions
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


DinoUperNetConfig.register_for_auto_class()
DinoUperNetForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
