"""What the segmentation networks over a plain vision transformer share (setr.py and dpt.py import it).

It imports torch and transformers only: `save_pretrained` copies it beside the weights, with the file of the network.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput


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


class PlainVitForSegmentation(PreTrainedModel):
    """`encode` then `decode`; `forward` is both, for images of any size.

    A network has `feature_maps` and `decode`, `encoder_arguments` for every call of its encoder, and a config with
    `backbone_config` and `scale`.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    encoder_arguments: dict = {}

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
