"""Figure S1: to what a patch attends, network beside network, and what each then predicts.

Two lines for every image. Above, the image with the patch of interest (yellow cross), and per network the normalised
attention weights of that patch over all image patches: mean over the heads of one block, class token left out. Below, the
truth and the predictions. The image is read whole, whatever the config says of windows.
"""

import argparse
from dataclasses import dataclass, field

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..networks.adapters import attention_grids, coarsest_stride, encode, encoder_of, prefix_tokens
from .checkpoints import Checkpoint, FigureError, Shown, find_images, open_checkpoints
from .page import GAP, LINE, MARGIN, SMALL, Page, Panel, Row, grid_page, length_of, mask_panel

WATCHED = "watched"  # the name under which transformers knows the attention function
COLOURS = "inferno"
TOP = 0.995  # the quantile of the weights where the colours end; single patches can be far above all others


# ---- the weights


@dataclass
class Watch:
    """Which row of the attention matrices is wanted, and what was seen of it.

    shape: (queries, keys) of the layers to look at.    query: number of the row.    rows: (B, keys) of every such layer.
    """

    shape: tuple[int, int]
    query: int
    rows: list[Tensor] = field(default_factory=list)


def watched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    watch: Watch | None = None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """SDPA of transformers, which keeps no weights; of one query they are computed beside it."""
    if watch is not None and (query.shape[-2], key.shape[-2]) == watch.shape:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        logits = scale * query[:, :, watch.query, None].float() @ key.float().transpose(-1, -2)
        watch.rows.append(logits.softmax(dim=-1).mean(dim=1)[:, 0])
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(WATCHED, watched_attention)
AttentionMaskInterface.register(WATCHED, sdpa_mask)


@torch.no_grad()
def attention_of(network: nn.Module, pixels: Tensor, patch: tuple[int, int], layer: int = -1) -> Tensor:
    """The weights of one patch over all patches, summing to 1; the network stays as it is.

    Args:
        pixels: (1, 3, H, W) normalised.
        patch: row and column on the coarsest token grid, that of a ViT, a DINO, or of SegFormer's stage 4.
        layer: number of the block on that grid, from 0; negative ones count from the last.

    Returns:
        (h, w) float32, mean over heads, prefix tokens left out.

    Raises:
        FigureError: no such patch or block, or a network without attention.
    """
    encoder, whole = encoder_of(network), coarsest_stride(network)
    if network.config.model_type != "segformer":  # which alone reads any size; the others are padded as for predictions
        pixels = F.pad(pixels, (0, -pixels.shape[3] % whole, 0, -pixels.shape[2] % whole))
    grids = attention_grids(network, *pixels.shape[-2:])
    if not grids:
        raise FigureError(f"a {network.config.model_type} network has no attention; leave its checkpoint out")
    queries, keys = grids[-1]
    if not (0 <= patch[0] < queries[0] and 0 <= patch[1] < queries[1]):
        rule = f"this image has {queries[0]} rows and {queries[1]} columns"
        raise FigureError(f"there is no patch {patch[0]} {patch[1]}; {rule}")
    prefix = prefix_tokens(network)
    watch = Watch((prefix + queries[0] * queries[1], prefix + keys[0] * keys[1]), prefix + patch[0] * queries[1] + patch[1])
    before = encoder.config._attn_implementation
    encoder.set_attn_implementation(WATCHED)
    try:
        encode(network, pixels, watch=watch)
    finally:
        encoder.set_attn_implementation(before)
    if not watch.rows:
        raise FigureError(
            f"this transformers hands nothing to the attention of a {encoder.config.model_type} that could watch it; install"
            " transformers 5.23 or newer"
        )
    if not -len(watch.rows) <= layer < len(watch.rows):
        raise FigureError(f"--layer is {layer}; the blocks are 0 to {len(watch.rows) - 1}, or -1 for the last")
    weights = watch.rows[layer][0, prefix:]
    return (weights / weights.sum()).unflatten(0, keys)


# ---- the picture


@dataclass(frozen=True)
class Point:
    """The patch of interest: `row` and `column` on the first network's grid, or the pixel (`column`, `row`) of the image."""

    row: int
    column: int
    pixel: bool

    def on(self, image: np.ndarray, first: Checkpoint) -> tuple[float, float]:
        """As fractions (down, across) of the image, the middle of the patch or pixel."""
        sides = image.shape[:2] if self.pixel else first.pixels(image).shape[-2:]
        step = 1 if self.pixel else coarsest_stride(first.network)
        counts = [-(-side // step) for side in sides]
        if not (0 <= self.row < counts[0] and 0 <= self.column < counts[1]):
            if self.pixel:
                what, rule = f"--pixel {self.column} {self.row}", f"X is below {counts[1]} and Y below {counts[0]}"
            else:
                what, rule = f"--patch {self.row} {self.column}", f"there are {counts[0]} x {counts[1]} patches"
            raise FigureError(f"{what} lies outside the image; {rule}")
        # the middle of a last, partial patch may lie beyond the border
        return tuple(min((i + 0.5) * step / side, 1 - 1e-6) for i, side in zip((self.row, self.column), sides))


def heat_map(checkpoint: Checkpoint, image: np.ndarray, place: tuple[float, float], layer: int) -> np.ndarray:
    """The attention weights in colours over the image in greys, (H, W, 3) uint8."""
    pixels, stride = checkpoint.pixels(image), coarsest_stride(checkpoint.network)
    height, width = pixels.shape[-2:]
    patch = (int(place[0] * height / stride), int(place[1] * width / stride))
    weights = attention_of(checkpoint.network, pixels, patch, layer)
    share = (weights / weights.quantile(TOP)).clamp(max=1)[None, None].cpu()
    cells = [-(-height // stride) * stride, -(-width // stride) * stride]  # the last patch may reach beyond the image
    share = F.interpolate(share, size=cells, mode="bilinear", align_corners=False)[..., :height, :width]
    share = F.interpolate(share, size=image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None] * np.ones(3, np.float32)
    colour = 255 * matplotlib.colormaps[COLOURS](share)[..., :3]
    alpha = 0.4 + 0.4 * share[..., None]
    return ((1 - alpha) * grey + alpha * colour + 0.5).astype(np.uint8)


def rows_of(shown: Shown, point: Point, checkpoints: list[Checkpoint], layer: int) -> tuple[list[Row], list[np.ndarray]]:
    """The two lines of an image, and the masks in them."""
    image, classes = shown.image, checkpoints[0].classes
    place = point.on(image, checkpoints[0])
    cross = (place[1] * image.shape[1], place[0] * image.shape[0])
    maps = [checkpoint.predict(image) for checkpoint in checkpoints]
    heat = [Panel(heat_map(checkpoint, image, place, layer), cross) for checkpoint in checkpoints]
    below = [mask_panel(mask, classes) for mask in (shown.truth, *maps)]
    masks = maps if shown.truth is None else [shown.truth, *maps]
    return [Row([Panel(image, cross), *heat]), Row(below, space=3 * GAP)], masks


def scale_bar(page: Page, left: float, top: float) -> None:
    """What the colours mean."""
    words = "attention:  0"
    page.text(left, top, words, va="center_baseline", size=SMALL)
    left += length_of(words, SMALL) + 0.06
    axes = page.axes(left, top - 0.05, 0.9, 0.1)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=COLOURS, aspect="auto")
    axes.set_axis_off()
    page.text(left + 0.96, top, "highest in the panel", va="center_baseline", size=SMALL)


# ---- the command


class Place(argparse.Action):
    """Keeps --patch and --pixel in the order in which they were written, one for each --image."""

    def __call__(self, parser, namespace, values, option_string=None):
        pixel = option_string == "--pixel"
        row, column = values[::-1] if pixel else values
        namespace.points = [*namespace.points, Point(row, column, pixel)]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", action="append", required=True, metavar="PATH_OR_ID", help="may be repeated")
    pair = {"nargs": 2, "type": int, "action": Place, "dest": "points", "default": []}
    parser.add_argument("--patch", metavar=("ROW", "COLUMN"), help="on the first checkpoint's grid; one per image", **pair)
    parser.add_argument("--pixel", metavar=("X", "Y"), help="the same by a pixel of the image", **pair)
    parser.add_argument("--layer", type=int, default=-1, metavar="N", help="block, from 0; default: the last")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the checkpoints; default: their methods")


def draw(sources: list[str], overrides: list[str], options: argparse.Namespace) -> Page:
    if len(options.points) != len(options.image):
        count = f"{len(options.image)} --image and {len(options.points)} --patch or --pixel"
        raise FigureError(f"{count}; give one for each image")
    checkpoints = open_checkpoints(sources, overrides, options.names)
    rows, masks = [], []
    for shown, point in zip(find_images(options.image, checkpoints[0].config), options.points):
        lines, seen = rows_of(shown, point, checkpoints, options.layer)
        rows += lines
        masks += seen
    titles = ["Image / truth", *(checkpoint.name for checkpoint in checkpoints)]
    page = grid_page(rows, titles, masks, checkpoints[0].classes, foot=LINE)
    scale_bar(page, MARGIN, page.height - MARGIN - LINE / 2)
    return page
