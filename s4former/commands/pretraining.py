"""Supervised dense pretraining of a small ViT on scenes of `shapes.PRETRAINING_CLASSES`.

A linear head predicts the class of every second pixel from the tokens, and is discarded at the end. Most steps read only
a window of each view's tokens, with objects in it, which is four times cheaper; the last tenth reads whole views. The
encoder takes the place that ImageNet weights have for photographs.

The result is a function of the options: the scenes of (seed, index), the views of step t of (seed, t); only the order of
sums depends on the number of threads. Letters as in the package's docstring.
"""

import argparse
import functools
import json
import math
import multiprocessing
import platform
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from ..data.shapes import PRETRAINING_CLASSES, scene
from ..files import sha256

SIDE, PATCH = 96, 8  # square, so that the stored position embedding is a square grid
SCENE_SIZE = (112, 152)  # pixels of a scene, from which views are cut
CELLS = 4  # the head predicts CELLS x CELLS classes per token: one for every second pixel
MEAN = STD = (0.5, 0.5, 0.5)
WINDOW = 6  # tokens across what most steps read
HELD_OUT = 64  # scenes kept for the accuracy, drawn with the indices after the last training scene


class DenseClassifier(nn.Module):
    """A ViT and a linear head that predicts the classes inside each patch."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        config = ViTConfig(
            hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width, num_attention_heads=width // 32,
            image_size=SIDE, patch_size=PATCH, layer_norm_eps=1e-6, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, initializer_range=0.05,
        )  # fmt: skip
        self.encoder = ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(width, CELLS * CELLS * len(PRETRAINING_CLASSES))
        # instead of noise, so that tokens can find their neighbours from the first step
        self.encoder.embeddings.position_embeddings.data[0, 1:] = 0.5 * sincos_position_embedding(SIDE // PATCH, width)

    def forward(self, pixels: Tensor, window: Tensor | None = None) -> Tensor:
        """Logits (B, K, n, CELLS * CELLS).

        Args:
            pixels: (B, 3, H, W) normalised.
            window: (B, n) long, the tokens to read; None = all of them.
        """
        tokens = self.encoder.embeddings(pixels)  # the class token first; positions are added before any is left out
        if window is not None:
            tokens = torch.cat([tokens[:, :1], gather_tokens(tokens[:, 1:], window)], dim=1)
        for layer in self.encoder.layers:
            tokens = layer(tokens)
        cells = self.head(self.encoder.layernorm(tokens)[:, 1:])
        return cells.unflatten(2, (len(PRETRAINING_CLASSES), -1)).transpose(1, 2)


def sincos_position_embedding(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column at width / 4 frequencies: (side * side, width)."""
    frequencies = 10 ** -torch.linspace(0, 2, width // 4)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phases = [position.reshape(-1, 1) * frequencies for position in (rows, columns)]
    return torch.cat([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)], dim=1)


def gather_tokens(tokens: Tensor, window: Tensor) -> Tensor:
    """The tokens (B, N, D) at the indices window (B, n): (B, n, D)."""
    return tokens.gather(1, window[..., None].expand(-1, -1, tokens.shape[-1]))


def labels_per_token(labels: Tensor) -> Tensor:
    """(B, SIDE / 2, SIDE / 2) long to what the head predicts for each token: (B, N, CELLS * CELLS) long."""
    return F.unfold(labels[:, None].float(), CELLS, stride=CELLS).mT.long()


def draw_windows(cells: Tensor, generator: torch.Generator) -> Tensor:
    """A WINDOW x WINDOW square of each token grid, more likely where more of it is objects: (B, WINDOW ** 2) long."""
    side = math.isqrt(cells.shape[1])
    foreground = (cells > 0).float().mean(dim=2).unflatten(1, (side, side))
    share = F.avg_pool2d(foreground[:, None], WINDOW, stride=1).flatten(1)
    corner = torch.multinomial(share**2 + 1e-4, 1, generator=generator)[:, 0]
    top, left = corner // (side - WINDOW + 1), corner % (side - WINDOW + 1)
    offsets = torch.arange(WINDOW)
    return ((top[:, None, None] + offsets[:, None]) * side + left[:, None, None] + offsets).flatten(1)


def draw_scenes(seed: int, count: int, workers: int) -> tuple[Tensor, Tensor]:
    """Scenes 0 .. count - 1: images (count, 3, H, W) uint8 and masks (count, H, W) uint8."""
    draw = functools.partial(scene, seed, height=SCENE_SIZE[0], width=SCENE_SIZE[1], classes=PRETRAINING_CLASSES)
    if workers == 0:
        pairs = list(map(draw, range(count)))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            pairs = pool.map(draw, range(count), chunksize=32)
    images, masks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs))
    return images.permute(0, 3, 1, 2).contiguous(), masks


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotates, scales, shifts, flips and recolours each scene, and crops SIDE x SIDE.

    images (B, 3, H, W) uint8; masks (B, H, W) uint8. Returns pixels (B, 3, SIDE, SIDE) normalised float and labels
    (B, SIDE / 2, SIDE / 2) long.
    """
    batch, (height, width) = len(images), masks.shape[-2:]
    draw = functools.partial(torch.rand, generator=generator)
    scale = 0.65 + 0.35 * draw(batch)  # side of the view, as a part of the scene's height
    angle = 0.6 * (draw(batch) - 0.5)
    flip = torch.where(draw(batch) < 0.5, -1.0, 1.0)
    across, down = scale * height / width, scale  # half extents, in the [-1, 1] frame of grid_sample
    rows = [
        [flip * across * angle.cos(), -across * angle.sin(), (1 - across) * (2 * draw(batch) - 1)],
        [flip * down * angle.sin(), down * angle.cos(), (1 - down) * (2 * draw(batch) - 1)],
    ]
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(theta, (batch, 1, SIDE, SIDE), align_corners=False)
    sample = functools.partial(F.grid_sample, padding_mode="reflection", align_corners=False)
    views = sample(images.float() / 255, grid)
    labels = sample(masks[:, None].float(), grid[:, ::2, ::2], mode="nearest")[:, 0].long()
    # channels are permuted in half of the views: the same shapes in colours that no scene has
    order = torch.where(draw(batch, 1) < 0.5, draw(batch, 3).argsort(dim=1), torch.arange(3))
    views = views.gather(1, order[:, :, None, None].expand_as(views))
    gain, shift = 0.75 + 0.5 * draw(batch, 3, 1, 1), 0.2 * (draw(batch, 3, 1, 1) - 0.5)
    return (gain * (views - 0.5) + shift) / STD[0], labels


@torch.no_grad()
def accuracy(model: DenseClassifier, images: Tensor, masks: Tensor) -> tuple[float, float]:
    """Share of correct pixels, over all and over those of objects, in the middle of each scene."""
    top, left = (SCENE_SIZE[0] - SIDE) // 2, (SCENE_SIZE[1] - SIDE) // 2
    pixels = (images[..., top : top + SIDE, left : left + SIDE].float() / 255 - MEAN[0]) / STD[0]
    labels = labels_per_token(masks[:, top : top + SIDE : 2, left : left + SIDE : 2].long())
    predicted = torch.cat([model(part).argmax(dim=1) for part in pixels.split(32)])
    correct = (predicted == labels).float()
    return correct.mean().item(), correct[labels > 0].mean().item()


def learning_rate_factor(step: int, steps: int) -> float:
    """Rises over the first twentieth, then falls along a cosine to 0."""
    warmup = max(1, steps // 20)
    return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup))))


def step_loss(model: DenseClassifier, images: Tensor, masks: Tensor, step: int, options: argparse.Namespace) -> Tensor:
    """Cross-entropy of the views of one step, which are a function of (seed, step)."""
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
    whole = step >= 0.9 * options.steps  # a quarter of the views then, for the same number of tokens
    rows = torch.randint(options.scenes, (options.batch // 4 if whole else options.batch,), generator=generator)
    pixels, labels = augment(images[rows], masks[rows], generator)
    cells = labels_per_token(labels)
    window = None if whole else draw_windows(cells, generator)
    weight = torch.ones(len(PRETRAINING_CLASSES))
    weight[0] = 0.5  # the background fills most pixels and teaches least
    return F.cross_entropy(model(pixels, window), cells if window is None else gather_tokens(cells, window), weight=weight)


def pretrain(options: argparse.Namespace) -> tuple[ViTModel, dict[str, str]]:
    """Trains with Muon on the weight matrices and AdamW on the rest; returns the encoder, and facts for the model card."""
    start = time.monotonic()
    torch.manual_seed(options.seed)
    model = DenseClassifier(options.width, options.layers)
    images, masks = draw_scenes(options.seed, options.scenes + HELD_OUT, options.workers)
    held_out = images[-HELD_OUT:], masks[-HELD_OUT:]
    matrices = [parameter for parameter in model.encoder.layers.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in matrices)]
    # Muon for short runs; no controlled comparison with AdamW alone stands behind the choice
    muon, adamw = torch.optim.Muon(matrices, weight_decay=0.05), torch.optim.AdamW(others, weight_decay=0.01)
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    print(f"{options.scenes} scenes drawn; {size:,} weights to train", flush=True)
    first_step = time.monotonic()
    for step in range(options.steps):
        loss = step_loss(model, images, masks, step, options)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in ((adamw, options.learning_rate), (muon, 10 * options.learning_rate)):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_factor(step, options.steps)
            optimizer.step()
        done = step + 1
        if done % 100 == 0 or done == options.steps:
            pace = (time.monotonic() - first_step) / done
            all_pixels, objects = accuracy(model, *held_out)
            print(
                f"step {done}/{options.steps}  loss {loss.item():.3f}  held-out accuracy {all_pixels:.3f}, on objects"
                f" {objects:.3f}  {options.batch / pace:.1f} images/s  {pace * (options.steps - done) / 60:.1f} min left",
                flush=True,
            )
    return model.encoder, {
        "held-out accuracy, all pixels": f"{all_pixels:.3f}",
        "held-out accuracy, pixels of objects": f"{objects:.3f}",
        "CPU threads, minutes": f"{torch.get_num_threads()}, {(time.monotonic() - start) / 60:.0f}",
    }


def model_card(options: argparse.Namespace, results: dict[str, str]) -> str:
    """The README of the weights: what they have seen, the command, and a table of facts."""
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in vars(options).items())
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}"
    facts = {"seed": options.seed, **results, "versions": f"Python {platform.python_version()}, {versions}"}
    return (
        "# A small vision transformer, pretrained on drawn objects\n\n"
        f"{options.layers} blocks of width {options.width}, patches of {PATCH}, trained on {SIDE} x {SIDE} views. "
        f"It has seen {', '.join(PRETRAINING_CLASSES[1:])}; none of the classes of `s4former.data.shapes.CLASSES`.\n\n"
        f"    s4former pretrain {flags}\n\n| | |\n|---|---|\n"
    ) + "".join(f"| {name} | {value} |\n" for name, value in facts.items())


def save_encoder(encoder: ViTModel, folder: Path, card: str) -> None:
    """Writes float16 weights, config, preprocessing and README beside `folder`, then renames: all of it or none."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    encoder.half().save_pretrained(partial)
    config = json.loads((partial / "config.json").read_text())
    config["dtype"] = "float32"  # stored in half the bytes, but to be loaded and trained in float32
    preprocessor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (partial / name).write_text(json.dumps(content, indent=2) + "\n")
    digest = sha256(partial / "model.safetensors")
    (partial / "README.md").write_text(f"{card}| SHA-256 of model.safetensors | `{digest}` |\n")
    partial.rename(folder)
