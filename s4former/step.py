"""One training step: the page of the paper.

Devices, ranks, scaling, logging and files are somebody else's business.
"""

import torch
from torch import Tensor, nn

from .config import Method
from .data import Batch
from .losses import REGULARIZERS, cross_entropy
from .mixing import MIXES, gather, mix_pseudo
from .patch_shuffle import patch_shuffle
from .pseudo import IGNORE_INDEX, Pseudo, pseudo_label, resize_logits
from .student import View


def train_step(student: nn.Module, teacher: nn.Module | None, batch: Batch, method: Method) -> dict[str, Tensor]:
    """The loss terms of one step of S4Former (supplement, Algorithm 1), by name, not yet weighted.

    Args:
        student: a `Student`; everything it does in this step is one call of its forward.
        teacher: images (B, 3, H, W) to logits (B, K, h, w), in eval mode; None = labels only.
        batch: normalised, on the device.
        method: which parts are on.

    Returns:
        Scalars: `supervised`, `auxiliary`, `consistency_strong`, `ncr_strong`, `consistency_pasa`, `ncr_pasa`, as far as
        they are on, and, without gradient, `confident`: the share of valid pixels that became pseudo labels.
    """
    views = [View(batch.labeled, auxiliary=True)]
    branches: dict[str, Pseudo] = {}  # what each student branch on unlabelled images is compared with

    if teacher is not None:
        with torch.no_grad():  # the teacher reads the weak view
            pseudo = pseudo_label(teacher(batch.weak), batch.valid, method.threshold)

        # Pixels move between images (CutMix and its kin), then between places (PatchShuffle). Labels follow the first
        # move only, unless the features are brought back from it too: both are undone before the decoder.
        mix, tiles = MIXES[method.mix], batch.mix.get("tiles")
        source = mix.source(batch.mix, pseudo, batch.strong.shape[-2:])
        labels = batch.labels if mix.takes_labeled else None
        mixed = gather(torch.cat([batch.strong, batch.labeled]) if mix.takes_labeled else batch.strong, source)
        views.append(View(patch_shuffle(mixed, batch.orders), order=batch.orders, tiles=tiles))
        moved = mix_pseudo(pseudo, source, logits=method.regularizer_mixed_teacher, labels=labels)
        branches["strong"] = pseudo if tiles is not None else moved

        if method.pasa != "none":  # the image as it is, its unsure patches steered to other unsure patches
            views.append(View(batch.strong, confidence=guidance(pseudo, method)))
            branches["pasa"] = pseudo

    (labeled, auxiliary), *unlabeled = student(views)

    size = batch.labels.shape[-2:]
    losses = {"supervised": cross_entropy(resize_logits(labeled, size), batch.labels)}
    if auxiliary:
        losses["auxiliary"] = sum(cross_entropy(resize_logits(logits, size), batch.labels) for logits in auxiliary)
    for (branch, target), (logits, _) in zip(branches.items(), unlabeled):
        losses[f"consistency_{branch}"] = cross_entropy(logits, target.label)
        if method.regularizer != "none" and method.regularizer_on in ("both", branch):
            compare = REGULARIZERS[method.regularizer]
            losses[f"{method.regularizer}_{branch}"] = compare(logits, target.logits, target.spoken, method.regularizer_norm)
    if branches:
        confident = (pseudo.label != IGNORE_INDEX).sum()
        losses["confident"] = confident / (pseudo.confidence > 0).sum().clamp(min=1)
    return losses


def guidance(pseudo: Pseudo, method: Method) -> Tensor:
    """(B, h, w): the map that PASA pools over patches; the released code takes the thresholded mask."""
    return pseudo.confidence if method.pasa_confidence == "probability" else (pseudo.label != IGNORE_INDEX).float()


def total_loss(losses: dict[str, Tensor], method: Method) -> Tensor:
    """The sum that is trained on: labels plus `unsupervised_weight` times the mean over the student branches."""
    total = losses["supervised"]
    if "auxiliary" in losses:
        total = total + method.auxiliary_weight * losses["auxiliary"]
    unsupervised = [loss for name, loss in losses.items() if name.endswith(("_strong", "_pasa"))]
    if unsupervised:
        branches = sum(name.startswith("consistency_") for name in losses)
        total = total + method.unsupervised_weight * sum(unsupervised) / branches
    return total
