"""PS-MT: two teachers that follow the student in turn, confidence-weighted cross-entropy, and noise that the teachers mind most.

Liu et al., "Perturbed and Strict Mean Teachers for Semi-supervised Semantic Segmentation", CVPR 2022. What the paper leaves open is
as in its released code, but for what that itself calls without gain (the classes of the second teacher) or sets to 0 (the
negative learning).
"""

from functools import partial
from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import IGNORE_INDEX, Method
from ..networks.adapters import decode
from .batch import Batch
from .context import StepContext
from .losses import weighted_cross_entropy
from .mixing import MIXES, gather, mix_pseudo
from .pseudo import at_least_float32, count_pseudo, pseudo_label
from .step import supervised_losses, train_step as train_on_labels
from .student import View

Features = tuple[Tensor, ...]

PROBE = 0.1  # length of the step along which the noise is found; the code passes 1e-6, of which float32 leaves rounding alone


def train_step(
    student: nn.Module, teacher: nn.Module | None, batch: Batch, method: Method, context: StepContext
) -> dict[str, Tensor]:
    """The loss terms of one step of PS-MT.

    The mean of the teachers' logits labels the weak view. A pixel above the threshold weighs as much as its confidence, and the
    sum is divided by the number of such pixels of all processes. The student's features are moved by adversarial noise, those of
    labelled images too (released code).
    """
    if teacher is None:
        return train_on_labels(student, None, batch, method)
    with torch.no_grad():
        everywhere = pseudo_label(teacher(batch.weak), batch.valid, method.threshold)
    (strong,) = batch.strong
    source = MIXES[method.mix].source(strong.mix, everywhere.first(batch.unlabeled), strong.images.shape[-2:])
    target = mix_pseudo(everywhere, source, logits=False)
    decoders = [partial(decode, network) for network in teacher.networks]
    noisy = partial(add_adversarial_noise, decoders, method.adversarial_noise)
    views = [
        View(batch.labeled, auxiliary=True, perturb=partial(noisy, batch.labeled_seeds)),
        View(gather(strong.images, source), perturb=partial(noisy, batch.seeds)),
    ]

    (labeled, auxiliary), (unlabeled, _) = student(views)

    losses = supervised_losses(labeled, auxiliary, batch, method)
    pseudo = everywhere.first(batch.unlabeled)
    confident = context.average((target.label != IGNORE_INDEX).sum().float()).clamp(min=1)
    consistency = weighted_cross_entropy(unlabeled, target.label, target.confidence)
    losses["consistency_strong"] = consistency * (target.label.numel() / confident).to(consistency.dtype)
    return losses | count_pseudo(pseudo)


def add_adversarial_noise(
    decoders: Sequence[Callable[[Features], Tensor]], length: float, seeds: Sequence[int], features: Features
) -> Features:
    """Features that a decoder reads, each (B, C, h, w), plus noise of `length` for an image; T-VAT of the paper.

    The noise points where it changes the mean prediction of the teachers' `decoders` most: along the gradient of the divergence
    between their predictions without and with a little random noise (one step of the power method).

    Args:
        seeds: one for each image, of its random noise.
    """
    with torch.autocast(features[0].device.type, enabled=False), torch.enable_grad():
        plain = tuple(at_least_float32(x.detach()) for x in features)
        predict = lambda maps: (sum(decoder(maps) for decoder in decoders) / len(decoders)).log_softmax(dim=1)  # noqa: E731
        noise = tuple(x.requires_grad_() for x in unit_length(random_noise(plain, seeds)))
        with torch.no_grad():
            expected = predict(plain)
        predicted = predict(tuple(x + PROBE * d for x, d in zip(plain, noise)))
        divergence = F.kl_div(predicted, expected, reduction="sum", log_target=True)
        noise = unit_length(torch.autograd.grad(divergence, noise))
    return tuple(x + (length * d).to(x.dtype) for x, d in zip(features, noise))


def random_noise(features: Features, seeds: Sequence[int]) -> Features:
    """Uniform in -1/2 .. 1/2, of the shapes of the features; every image from its own seed."""
    images = []
    for image, seed in zip(zip(*features), seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        images.append([torch.rand(x.shape, dtype=x.dtype, generator=generator) - 0.5 for x in image])
    return tuple(torch.stack(maps).to(x.device) for maps, x in zip(zip(*images), features))


def unit_length(maps: Features) -> Features:
    """The maps of every image divided by their common length."""
    squares = sum(x.square().flatten(1).sum(dim=1) for x in maps)
    length = squares.sqrt().clamp(min=torch.finfo(squares.dtype).tiny)[:, None, None, None]
    return tuple(x / length for x in maps)
