"""Figure S1: to what a patch attends in each network, and what each then predicts.

Two rows for every image. Above, the image with the chosen patch (yellow cross), and per network the normalised attention
weights of that patch over all image patches: mean over the heads of one block, class token left out. Below, ground truth
and predictions. The image is read whole, even where the config has sliding windows.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from PIL import Image
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..errors import UserError
from ..networks.adapters import attention_grids, coarsest_stride, encode, encoder_of, prefix_tokens
from .checkpoints import Checkpoint, find_images, open_checkpoints
from .page import SMALL, Figure, Panel, grid_figure, mask_panel

RECORDING = "recording"  # the name under which transformers knows the attention function
COLOURS = "inferno"
BRIGHTEST = 8, 0.005  # patches, and share of them, at whose mean the colours end; single ones can be far above all others
SCALE = 0.75  # inches beside the grid, for the colour bar


# ---- the weights


@dataclass
class Recorder:
    """Records one row of the attention matrices that are (queries, keys) = `shape`: (B, keys) of each layer."""

    shape: tuple[int, int]
    query: int
    rows: list[Tensor] = field(default_factory=list)


def recording_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    recorder: Recorder | None = None, scaling: float | None = None, **kwargs,
) -> tuple[Tensor, None]:  # fmt: skip
    """SDPA of transformers, which returns no weights; those of one query are computed beside it."""
    if recorder is not None and (query.shape[-2], key.shape[-2]) == recorder.shape:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        logits = scale * query[:, :, recorder.query, None].float() @ key.float().transpose(-1, -2)
        if attention_mask is not None:  # in which BEiT hands down its relative position bias
            logits = logits + attention_mask[..., recorder.query, None, :]
        recorder.rows.append(logits.softmax(dim=-1).mean(dim=1)[:, 0])
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(RECORDING, recording_attention)
AttentionMaskInterface.register(RECORDING, sdpa_mask)


@torch.no_grad()
def patch_attention(network: nn.Module, pixels: Tensor, patch: tuple[int, int], layer: int = -1) -> Tensor:
    """The weights of one patch over all patches, (h, w) float32, mean over heads, summing to 1; the network stays as it is.

    Args:
        pixels: (1, 3, H, W) normalised.
        patch: row and column on the coarsest token grid: that of a ViT or DINO, or of SegFormer's stage 4.
        layer: number of the block on that grid, from 0; negative ones count from the last.

    Raises:
        UserError: no such block, or a network without attention.
    """
    encoder, stride, prefix = encoder_of(network), coarsest_stride(network), prefix_tokens(network)
    if network.config.model_type != "segformer":  # which alone reads any size; the others are padded as for predictions
        pixels = F.pad(pixels, (0, -pixels.shape[3] % stride, 0, -pixels.shape[2] % stride))
    grids = attention_grids(network, *pixels.shape[-2:])
    if not grids:
        raise UserError(f"a {network.config.model_type} network has no attention; leave its checkpoint out")
    queries, keys = grids[-1]
    shape = prefix + queries[0] * queries[1], prefix + keys[0] * keys[1]
    recorder = Recorder(shape, prefix + patch[0] * queries[1] + patch[1])
    before = encoder.config._attn_implementation
    encoder.set_attn_implementation(RECORDING)
    try:
        encode(network, pixels, recorder=recorder)
    finally:
        encoder.set_attn_implementation(before)
    if not recorder.rows:
        raise UserError(
            f"this transformers passes no argument to the attention of a {encoder.config.model_type}, so that its weights cannot"
            f" be recorded; {'leave its checkpoint out' if 'siglip' in encoder.config.model_type else 'install transformers 5.23 or newer'}"
        )
    if not -len(recorder.rows) <= layer < len(recorder.rows):
        raise UserError(f"--layer is {layer}; the blocks are 0 to {len(recorder.rows) - 1}, or -1 for the last")
    weights = recorder.rows[layer][0, prefix:]
    return (weights / weights.sum()).unflatten(0, keys)


# ---- the picture


def relative_position(patch: Sequence[int], image: np.ndarray, first: Checkpoint) -> tuple[float, float]:
    """The middle of a patch (row, column) on the first network's grid, as fractions (down, across) of the image."""
    stride, sides = coarsest_stride(first.network), first.pixels(image).shape[-2:]
    grid = [-(-side // stride) for side in sides]
    if not all(0 <= i < count for i, count in zip(patch, grid)):
        raise UserError(f"--patch {patch[0]} {patch[1]} lies outside the image; there are {grid[0]} x {grid[1]} patches")
    # the middle of a last, partial patch may lie beyond the border
    return tuple(min((i + 0.5) * stride / side, 1 - 1e-6) for i, side in zip(patch, sides))


def heat_map(checkpoint: Checkpoint, image: np.ndarray, place: tuple[float, float], layer: int) -> np.ndarray:
    """The attention weights in colours over the image in greys, (H, W, 3) uint8."""
    pixels, stride = checkpoint.pixels(image), coarsest_stride(checkpoint.network)
    height, width = pixels.shape[-2:]
    patch = (int(place[0] * height / stride), int(place[1] * width / stride))
    weights = patch_attention(checkpoint.network, pixels, patch, layer)
    brightest = max(1, round(max(min(BRIGHTEST[0], weights.numel() / 10), BRIGHTEST[1] * weights.numel())))
    share = (weights / weights.flatten().topk(brightest).values.mean()).clamp(max=1)[None, None].cpu()
    cells = [-(-height // stride) * stride, -(-width // stride) * stride]  # the last patch may reach beyond the image
    # bicubic: between the patches of a coarse grid, bilinear interpolation draws stars
    share = F.interpolate(share, size=cells, mode="bicubic", align_corners=False)[..., :height, :width].clamp(0, 1)
    share = F.interpolate(share, size=image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None] * np.ones(3, np.float32)
    colour = 255 * matplotlib.colormaps[COLOURS](share)[..., :3]
    alpha = 0.1 + 0.7 * share[..., None]  # the photo stays visible where nothing is attended to
    return ((1 - alpha) * grey + alpha * colour + 0.5).astype(np.uint8)


def draw(sources: list[str], overrides: list[str], options: argparse.Namespace) -> Figure:
    checkpoints = open_checkpoints(sources, overrides, options.names)
    rows, masks, classes, data = [], [], checkpoints[0].classes, checkpoints[0].config.data
    for shown, patch in zip(find_images(options.image, checkpoints[0].config), options.patch):
        image, place = shown.image, relative_position(patch, shown.image, checkpoints[0])
        cross = (place[1] * image.shape[1], place[0] * image.shape[0])
        maps = [shown.labels, *(checkpoint.predict(image) for checkpoint in checkpoints)]
        heat = [Panel(heat_map(checkpoint, image, place, options.layer), cross) for checkpoint in checkpoints]
        rows += [[Panel(image, cross), *heat], [mask_panel(mask, classes, data) for mask in maps]]
        masks += maps
    titles = ["Image / truth", *(checkpoint.name for checkpoint in checkpoints)]
    figure = grid_figure(rows, titles, masks, classes, data, beside=SCALE)
    scale = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=figure.axes, shrink=0.3, aspect=18, fraction=0.02, pad=0.01)
    scale.set_ticks([0, 1], labels=["no\nattention", "most in\nthe panel"], fontsize=SMALL)
    return figure
