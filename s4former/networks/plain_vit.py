"""What the segmentation networks over a plain vision transformer share (setr.py and dpt.py import it).

It imports torch and transformers only: `save_pretrained` copies it beside the weights, with the file of the network.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput


@functools.lru_cache(maxsize=64)
def bilinear_weights(old: int, new: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(new, old) weights of `F.interpolate` along one side."""
    with torch.inference_mode(False), torch.no_grad():  # what is kept may be used in a training later
        ones = torch.eye(old, device=device)[None]
        return F.interpolate(ones, size=new, mode="linear", align_corners=align_corners)[0].T.contiguous().to(dtype)


def resize_by_products(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Maps (B, C, h, w) resized bilinearly by a matrix product along each side.

    Deterministic, gradient included. Maps lie channels last where the products want that (8 channels or a multiple), else not.
    One value that is not finite spreads over its channel.
    """
    batch, channels, height, width = maps.shape
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()  # tensors without values are not to be kept
    weights = bilinear_weights.__wrapped__ if traced else bilinear_weights
    rows, columns = (weights(old, new, align_corners, maps.dtype, maps.device) for old, new in zip((height, width), size))
    with torch.autocast(maps.device.type, enabled=False):
        if channels % 8:
            lines = maps.reshape(batch * channels, height, width) @ columns.T
            return torch.bmm(rows.expand(batch * channels, -1, -1), lines).unflatten(0, (batch, channels))
        lines = maps.permute(0, 2, 3, 1).flatten(2)  # (B, h, w * C), a view where the channels lie last
        lines = torch.bmm(rows.expand(batch, -1, -1), lines).view(batch * size[0], width, channels)
        lines = torch.bmm(columns.expand(batch * size[0], -1, -1), lines)
    return lines.unflatten(0, (batch, size[0])).permute(0, 3, 1, 2)


def enlarge(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Maps (B, C, h, w) resized bilinearly. In half precision on a GPU the kernels of torch take several times as long as the bytes."""
    if maps.device.type != "cpu" and maps.dtype in (torch.float16, torch.bfloat16):
        return resize_by_products(maps, tuple(size), align_corners)
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


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
