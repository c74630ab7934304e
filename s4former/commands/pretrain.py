"""Pretrain the small encoder that comes with the package, on painted things that the target world never shows.

    python -m s4former.commands.pretrain --output s4former/networks/weights/shapes_vit

Supervised and dense: the encoder reads scenes of `shapes.PRETRAINING_CLASSES`, and a linear head names the class of
every second pixel from the tokens. Most steps read only a window of each view's tokens, with things in it, which is
four times cheaper; the last tenth reads whole views. The head is thrown away. What is left plays the part that ImageNet
plays for real photographs, and loads with `ViTModel.from_pretrained(folder, add_pooling_layer=False)`.

The run is a function of its options: the scenes of (seed, index), the views of step t of (seed, t). What a CPU's number
of threads does to the order of sums is the one thing it cannot promise. Letters: B batch,
K classes, D width, H W pixels, N tokens.
"""

import argparse
import functools
import hashlib
import json
import math
import multiprocessing
import platform
import shutil
import time
from pathlib import Path
from typing import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from ..data.shapes import PRETRAINING_CLASSES, scene

SIDE, PATCH = 96, 8  # square, so that the stored position embedding is a square grid
SHEET = (112, 152)  # pixels of a painted scene, from which views are cut
CELLS = 4  # the head names CELLS x CELLS classes per token: one for every second pixel
MEAN = STD = (0.5, 0.5, 0.5)
WINDOW = 6  # tokens across what most steps read
HELD_OUT = 64  # scenes kept for the accuracy, painted with the indices after the last training scene


class DenseClassifier(nn.Module):
    """A ViT and a linear head that names the classes inside each patch."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.encoder = ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, CELLS * CELLS * len(PRETRAINING_CLASSES))
        # starting from waves instead of noise, tokens know from the first step who their neighbours are
        self.encoder.embeddings.position_embeddings.data[0, 1:] = 0.5 * waves(SIDE // PATCH, config.hidden_size)

    def forward(self, pixels: Tensor, window: Tensor | None = None) -> Tensor:
        """Logits (B, K, n, CELLS * CELLS).

        Args:
            pixels: (B, 3, H, W) normalised.
            window: (B, n) long, the tokens to read; None = all of them.
        """
        tokens = self.encoder.embeddings(pixels)  # the class token first; positions are added before any is left out
        if window is not None:
            tokens = torch.cat([tokens[:, :1], pick(tokens[:, 1:], window)], dim=1)
        for layer in self.encoder.layers:
            tokens = layer(tokens)
        cells = self.head(self.encoder.layernorm(tokens)[:, 1:])
        return cells.unflatten(2, (len(PRETRAINING_CLASSES), -1)).transpose(1, 2)


class Muon:
    """Descent along the orthogonalised momentum of each weight matrix (Keller Jordan, 2024), in float32.

    Gives every direction of a matrix a step of about the same length, where AdamW gives it to every entry. Chosen for
    short runs; no controlled comparison with AdamW stands behind the choice.
    """

    def __init__(self, weights: Iterable[nn.Parameter]):
        self.weights = list(weights)
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor, bool]]] = {}  # matrices of one shape go through the iteration together
        for weight, momentum in zip(self.weights, self.momenta):
            momentum.lerp_(weight.grad, 0.05)
            update = weight.grad.lerp(momentum, 0.95)
            tall = update.shape[0] > update.shape[1]
            shapes.setdefault(tuple(sorted(update.shape)), []).append((weight, update.mT if tall else update, tall))
        for members in shapes.values():
            x = torch.stack([update for _, update, _ in members])
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):  # Newton-Schulz: drives all singular values near 1
                gram = x @ x.mT
                x = 3.4445 * x + (2.0315 * gram @ gram - 4.775 * gram) @ x
            for (weight, _, tall), direction in zip(members, x):
                scale = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - 0.05 * learning_rate).sub_(direction.mT if tall else direction,
                                                           alpha=learning_rate * scale)


def pick(tokens: Tensor, window: Tensor) -> Tensor:
    """The tokens (B, N, D) at the places window (B, n): (B, n, D)."""
    return tokens.gather(1, window[..., None].expand(-1, -1, tokens.shape[-1]))


def as_cells(labels: Tensor) -> Tensor:
    """(B, SIDE / 2, SIDE / 2) long to what the head names of each token: (B, N, CELLS * CELLS) long."""
    return F.unfold(labels[:, None].float(), CELLS, stride=CELLS).mT.long()


def draw_windows(cells: Tensor, generator: torch.Generator) -> Tensor:
    """A WINDOW x WINDOW square of each token grid, the likelier the more of it is things: (B, WINDOW ** 2) long."""
    side = math.isqrt(cells.shape[1])
    things = (cells > 0).float().mean(dim=2).unflatten(1, (side, side))
    share = F.avg_pool2d(things[:, None], WINDOW, stride=1).flatten(1)
    place = torch.multinomial(share**2 + 1e-4, 1, generator=generator)[:, 0]
    top, left = place // (side - WINDOW + 1), place % (side - WINDOW + 1)
    reach = torch.arange(WINDOW)
    return ((top[:, None, None] + reach[:, None]) * side + left[:, None, None] + reach).flatten(1)


def waves(side: int, width: int) -> Tensor:
    """The sines and cosines of row and column at width / 4 frequencies: (side * side, width)."""
    pitch = 10 ** -torch.linspace(0, 2, width // 4)
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phases = [place.reshape(-1, 1) * pitch for place in (down, across)]
    return torch.cat([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)], dim=1)


def paint_scenes(seed: int, first: int, count: int, workers: int) -> tuple[Tensor, Tensor]:
    """Scenes first .. first + count - 1: images (count, 3, H, W) uint8 and masks (count, H, W) uint8."""
    draw = functools.partial(scene, seed, height=SHEET[0], width=SHEET[1], classes=PRETRAINING_CLASSES)
    indices = range(first, first + count)
    if workers == 0:
        pairs = list(map(draw, indices))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            pairs = pool.map(draw, indices, chunksize=32)
    images, masks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs))
    return images.permute(0, 3, 1, 2).contiguous(), masks


def draw_views(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn, zoom, shift, mirror and recolour each scene; cut SIDE x SIDE.

    images (B, 3, H, W) uint8; masks (B, H, W) uint8. Returns pixels (B, 3, SIDE, SIDE) normalised float and labels
    (B, SIDE / 2, SIDE / 2) long.
    """
    batch, (height, width) = len(images), masks.shape[-2:]
    draw = functools.partial(torch.rand, generator=generator)
    zoom = 0.65 + 0.35 * draw(batch)  # side of the view, as a part of the sheet's height
    turn = 0.6 * (draw(batch) - 0.5)
    mirror = torch.where(draw(batch) < 0.5, -1.0, 1.0)
    across, down = zoom * height / width, zoom  # half extents, in the [-1, 1] frame of grid_sample
    theta = torch.stack([
        torch.stack([mirror * across * turn.cos(), -across * turn.sin(), (1 - across) * (2 * draw(batch) - 1)], dim=1),
        torch.stack([mirror * down * turn.sin(), down * turn.cos(), (1 - down) * (2 * draw(batch) - 1)], dim=1)], dim=1)
    grid = F.affine_grid(theta, (batch, 1, SIDE, SIDE), align_corners=False)
    views = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    labels = F.grid_sample(masks[:, None].float(), grid[:, ::2, ::2], mode="nearest", padding_mode="reflection",
                           align_corners=False)[:, 0].long()
    # channels change places in half of the views: the same forms in paints that were never in the box
    order = torch.where(draw(batch, 1) < 0.5, draw(batch, 3).argsort(dim=1), torch.arange(3))
    views = views.gather(1, order[:, :, None, None].expand_as(views))
    gain, shift = 0.75 + 0.5 * draw(batch, 3, 1, 1), 0.2 * (draw(batch, 3, 1, 1) - 0.5)
    return (gain * (views - 0.5) + shift) / STD[0], labels


def normalise(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to the float that the encoder reads."""
    return (images.float() / 255 - MEAN[0]) / STD[0]


@torch.no_grad()
def held_out_accuracy(model: DenseClassifier, images: Tensor, masks: Tensor) -> tuple[float, float]:
    """Part of the pixels named rightly, over all and over those of things, in the middle of each scene."""
    top, left = (SHEET[0] - SIDE) // 2, (SHEET[1] - SIDE) // 2
    images = images[..., top : top + SIDE, left : left + SIDE]
    labels = as_cells(masks[:, top : top + SIDE : 2, left : left + SIDE : 2].long())
    named = torch.cat([model(normalise(part)).argmax(dim=1) for part in images.split(32)])
    right = (named == labels).float()
    return right.mean().item(), right[labels > 0].mean().item()


def learning_rate_factor(step: int, steps: int) -> float:
    """Rises over the first twentieth, then falls along a cosine to 0."""
    rise = max(1, steps // 20)
    return min((step + 1) / rise, 0.5 * (1 + math.cos(math.pi * max(0, step - rise) / max(1, steps - rise))))


def build(options: argparse.Namespace) -> DenseClassifier:
    config = ViTConfig(
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        intermediate_size=4 * options.width,
        num_attention_heads=options.width // 32,
        image_size=SIDE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    )
    return DenseClassifier(config)


def loss_of_step(model: DenseClassifier, images: Tensor, masks: Tensor, step: int, options: argparse.Namespace) -> Tensor:
    """Cross-entropy of the views of one step, which are a function of (seed, step)."""
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
    whole = step >= 0.9 * options.steps  # a quarter of the views then, for the same number of tokens
    rows = torch.randint(options.scenes, (options.batch // 4 if whole else options.batch,), generator=generator)
    pixels, labels = draw_views(images[rows], masks[rows], generator)
    cells = as_cells(labels)
    window = None if whole else draw_windows(cells, generator)
    weight = torch.ones(len(PRETRAINING_CLASSES))
    weight[0] = 0.5  # the background fills most pixels and teaches least
    return F.cross_entropy(model(pixels, window), cells if window is None else pick(cells, window), weight=weight)


def pretrain(options: argparse.Namespace) -> tuple[ViTModel, float, float]:
    """Trains, and returns the encoder and its accuracy over all pixels and over those of things."""
    torch.manual_seed(options.seed)
    model = build(options)
    images, masks = paint_scenes(options.seed, 0, options.scenes + HELD_OUT, options.workers)
    kept = images[-HELD_OUT:], masks[-HELD_OUT:]
    matrices = [parameter for parameter in model.encoder.layers.parameters() if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    adam = torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], weight_decay=0.01)
    muon = Muon(matrices)
    size = sum(parameter.numel() for parameter in model.encoder.parameters())
    print(f"{options.scenes} scenes painted; {size:,} weights to train", flush=True)
    start = time.monotonic()
    for step in range(options.steps):
        loss = loss_of_step(model, images, masks, step, options)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = learning_rate_factor(step, options.steps)
        for group in adam.param_groups:
            group["lr"] = factor * options.learning_rate
        adam.step()
        muon.step(10 * factor * options.learning_rate)
        done = step + 1
        if done % 100 == 0 or done == options.steps:
            pace = (time.monotonic() - start) / done
            everywhere, things = held_out_accuracy(model, *kept)
            print(
                f"step {done}/{options.steps}  loss {loss.item():.3f}  held-out accuracy {everywhere:.3f}, on things"
                f" {things:.3f}  {options.batch / pace:.1f} images/s  {pace * (options.steps - done) / 60:.1f} min left",
                flush=True,
            )
    return model.encoder, everywhere, things


def write(encoder: ViTModel, folder: Path, describe: Callable[[str], str]) -> None:
    """Write config, float16 weights, preprocessing and README beside `folder`, then rename: all of it or none.

    describe: from the SHA-256 of the weights to the text of the README.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    encoder.half().save_pretrained(partial)
    config = json.loads((partial / "config.json").read_text())
    config["dtype"] = "float32"  # stored in half the bytes, but to be loaded and trained in float32
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (partial / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    }, indent=2) + "\n")
    digest = hashlib.sha256((partial / "model.safetensors").read_bytes()).hexdigest()
    (partial / "README.md").write_text(describe(digest))
    partial.rename(folder)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m s4former.commands.pretrain", description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=7, help="of the scenes, the first weights and the views")
    parser.add_argument("--batch", type=int, default=64, help="views in a step; a multiple of 4")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes painted before the first step")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="AdamW's peak; Muon's is ten times it")
    parser.add_argument("--width", type=int, default=128, help="of a token; heads are 32 wide")
    parser.add_argument("--layers", type=int, default=6, help="transformer blocks")
    parser.add_argument("--workers", type=int, default=2, help="processes that paint; 0 paints in this one")
    options = parser.parse_args(arguments)
    if options.batch % 4:
        parser.error(f"--batch is {options.batch}, but whole views come in quarters of it; use "
                     f"{max(1, round(options.batch / 4)) * 4}")
    if options.width % 32:
        parser.error(f"--width is {options.width}, but heads are 32 wide; use {max(1, round(options.width / 32)) * 32}")
    if options.output.exists():
        parser.error(f"--output {options.output} exists and is never overwritten; remove it or name another folder")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    start = time.monotonic()
    encoder, everywhere, things = pretrain(options)
    minutes = (time.monotonic() - start) / 60
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in vars(options).items())
    card = (f"# A small vision transformer, pretrained on drawn things\n\n"
            f"{options.layers} blocks of width {options.width}, patches of {PATCH}, trained on {SIDE} x {SIDE} views. "
            f"It has seen {', '.join(PRETRAINING_CLASSES[1:])}; none of the classes of `s4former.data.shapes.CLASSES`.\n\n"
            f"    python -m s4former.commands.pretrain {flags}\n\n| | |\n|---|---|\n| seed | {options.seed} |\n"
            f"| held-out accuracy, all pixels | {everywhere:.3f} |\n"
            f"| held-out accuracy, pixels of things | {things:.3f} |\n"
            f"| CPU threads, minutes | {torch.get_num_threads()}, {minutes:.0f} |\n"
            f"| versions | Python {platform.python_version()}, torch {torch.__version__}, transformers "
            f"{transformers.__version__}, numpy {np.__version__} |\n")
    write(encoder, options.output, lambda digest: card + f"| SHA-256 of model.safetensors | `{digest}` |\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
