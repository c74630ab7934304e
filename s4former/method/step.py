"""One training step: Algorithm 1 of the paper. Devices, processes, scaling, logging and files are handled in training/."""

import math
from functools import partial
from typing import Callable, Sequence

import torch
from torch import Tensor, nn

from ..config import IGNORE_INDEX, Method
from .batch import Batch
from .context import Label, StepContext
from .losses import REGULARIZERS, cross_entropy, weighted_cross_entropy
from .mixing import MIXES, gather, mix_pseudo
from .patch_shuffle import patch_shuffle
from .pseudo import Pseudo, count_pseudo, pseudo_label, resize_logits, with_labels
from .student import View

BRANCHES = ("_strong", "_pasa", "_features")  # endings of the terms on unlabelled images


def train_step(
    student: nn.Module, teacher: nn.Module | None, batch: Batch, method: Method, context: StepContext = StepContext()
) -> dict[str, Tensor]:
    """The loss terms of one step of S4Former (supplement, Algorithm 1), by name, not yet weighted.

    Args:
        student: a `Student`; everything it does in this step is one call of its forward.
        teacher: images (B, 3, H, W) to logits (B, K, h, w), in eval mode; None = labels only.
        batch: normalised, on the device.

    Returns:
        Scalars: `supervised`, `auxiliary`, and `consistency_BRANCH` and `ncr_BRANCH` (or another regulariser) of the
        branches strong, pasa and features, as far as they are on;
        without gradient `confident`, the share of valid pixels that became pseudo labels, and the two histograms of `count_pseudo`.
    """
    views, targets, pseudo = student_views(teacher, batch, method, context.label)
    factors = normalization_factors(batch, targets, method, context.average)

    (labeled, auxiliary), *unlabeled = student(views)

    losses = supervised_losses(labeled, auxiliary, batch, method, factors[0])
    for (branch, target), (logits, _), factor in zip(targets, unlabeled, factors[1:]):
        share = 1 / method.strong_views if branch == "strong" else 1.0  # of several strong views the mean
        for name, term in compare_with_teacher(logits, target, branch, method).items():
            losses[f"{name}_{branch}"] = losses.get(f"{name}_{branch}", 0) + factor * share * term
    if pseudo is not None:
        losses |= count_pseudo(pseudo)
    return losses


def supervised_losses(
    labeled: Tensor, auxiliary: Sequence[Tensor], batch: Batch, method: Method, factor: Tensor | float = 1.0
) -> dict[str, Tensor]:
    """The terms on labels, of the logits of the head and of auxiliary heads; `factor` as `normalization_factors` has it."""
    fitted = [resize_logits(logits, batch.labels.shape[-2:]) for logits in (labeled, *auxiliary)]
    supervised, *auxiliaries = (factor * cross_entropy(logits, batch.labels, method.class_weights) for logits in fitted)
    return {"supervised": supervised} | ({"auxiliary": sum(auxiliaries)} if auxiliaries else {})


def student_views(
    teacher: nn.Module | None, batch: Batch, method: Method, label: Label | None = None
) -> tuple[list[View], list[tuple[str, Pseudo]], Pseudo | None]:
    """The views of a step, the labelled one first; of every further view its branch and pseudo labels; those of the batch."""
    views = [View(batch.labeled, auxiliary=True)]
    if teacher is None:
        return views, [], None
    targets: list[tuple[str, Pseudo]] = []
    with torch.no_grad():  # the teacher reads the weak view
        all_pseudo = (label or partial(pseudo_label, threshold=method.threshold))(teacher(batch.weak), batch.valid)
    of_teacher = all_pseudo.first(batch.unlabeled)  # the other images are only pasted from
    all_pseudo = with_labels(all_pseudo, batch.known)
    pseudo = all_pseudo.first(batch.unlabeled)

    # Pixels move between images (CutMix), then between places (PatchShuffle); labels follow the first move only.
    for number, strong in enumerate(batch.strong):
        mix, tiles = MIXES[method.mix], strong.mix.get("tiles")
        source = mix.source(strong.mix, pseudo, strong.images.shape[-2:])
        labels = batch.labels if mix.takes_labeled else None
        mixed = gather(torch.cat([strong.images, batch.labeled]) if mix.takes_labeled else strong.images, source)
        moved = mix_pseudo(all_pseudo, source, logits=method.regularizer_mixed_teacher, labels=labels)
        moved = pseudo if mix.keeps_labels else moved
        shuffled = patch_shuffle(mixed, strong.orders)
        views.append(View(shuffled, order=strong.orders, tiles=tiles, channel_seeds=batch.channel_seeds, complement=number == 1))
        targets.append(("strong", pseudo if tiles is not None else moved))

    plain = batch.strong[0].images[: batch.unlabeled]
    if method.pasa != "none":  # not shuffled, with the attention bias
        images, target = (plain, pseudo) if method.pasa_view == "strong" else (mixed, moved)
        views.append(View(images, confidence=pasa_confidence(target, method), valid=target.valid, seeds=batch.seeds))
        targets.append(("pasa", target))
    if method.feature_dropout:
        images = plain if method.feature_view == "strong" else batch.weak[: batch.unlabeled]
        views.append(View(images, dropout=method.feature_dropout))
        targets.append(("features", pseudo))
    return views, targets, of_teacher


def compare_with_teacher(logits: Tensor, target: Pseudo, branch: str, method: Method) -> dict[str, Tensor]:
    """The terms of one student view (B, K, h, w) against its pseudo labels: consistency, and a regulariser."""
    weigh = () if target.weight is None else (target.weight,)
    terms = {"consistency": (weighted_cross_entropy if weigh else cross_entropy)(logits, target.label, *weigh)}
    if method.regularizer != "none" and method.regularizer_on in ("both", branch):
        regularize = REGULARIZERS[method.regularizer]
        term = regularize(logits, target.logits, target.taught, method.regularizer_norm)
        terms[method.regularizer] = method.regularizer_weight * term
    return terms


def normalization_factors(
    batch: Batch, targets: Sequence[tuple[str, Pseudo]], method: Method, average: Callable[[Tensor], Tensor]
) -> Sequence[Tensor | float]:
    """For each view of a step the factor from a mean over all its pixels to one over the valid pixels that `average` knows of."""
    if method.normalizer == "all":
        return [1.0] * (1 + len(targets))
    sizes = [batch.labels.numel(), *(target.valid.numel() for _, target in targets)]
    return [size / count for size, count in zip(sizes, average(valid_pixels(batch, targets)).clamp(min=1))]


def valid_pixels(batch: Batch, targets: Sequence[tuple[str, Pseudo]]) -> Tensor:
    """(1 + number of targets,) float32: pixels of a batch that have a label, and of each target those that are no padding."""
    return torch.stack([(batch.labels != IGNORE_INDEX).sum(), *(target.valid.sum() for _, target in targets)]).float()


def pasa_confidence(pseudo: Pseudo, method: Method) -> Tensor:
    """(B, h, w): the map that PASA pools over patches; the released code takes the thresholded mask."""
    return pseudo.confidence if method.pasa_confidence == "probability" else (pseudo.label != IGNORE_INDEX).float()


def total_loss(losses: dict[str, Tensor], method: Method, step: int = 0) -> Tensor:
    """The sum that is trained on: labels plus `unsupervised_weight` times the mean over the student branches.

    With two strong views and one branch on features this is a quarter each and a half, the weights of UniMatch.
    """
    total = losses["supervised"]
    if "auxiliary" in losses:
        total = total + method.auxiliary_weight * losses["auxiliary"]
    unsupervised = [loss for name, loss in losses.items() if name.endswith(BRANCHES)]
    if unsupervised:
        branches = sum(name.startswith("consistency_") for name in losses)
        total = total + unsupervised_weight(step, method) * sum(unsupervised) / branches
    return total


def unsupervised_weight(step: int, method: Method) -> float:
    """The weight of the terms on unlabelled images, which rises from 0 on half a cosine where `unsupervised_ramp` asks for it."""
    if not method.unsupervised_ramp:
        return method.unsupervised_weight
    done = min(max(step - method.burn_in, 0) / method.unsupervised_ramp, 1.0)
    return method.unsupervised_weight * (1 - math.cos(math.pi * done)) / 2
