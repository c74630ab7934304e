"""iMAS: how hard an unlabelled image is decides its colours, what it is mixed with and what it weighs.

Zhao et al., "Instance-specific and Model-adaptive Supervision for Semi-supervised Semantic Segmentation", CVPR 2023. Settings
that the paper leaves out are those of its released code.
"""

import torch
from torch import Tensor, nn

from ..config import IGNORE_INDEX, Method
from .batch import Batch
from .context import StepContext
from .losses import weighted_cross_entropy
from .mixing import MIXES, gather, hardness_mixes, mix_pseudo
from .pseudo import Pseudo, count_pseudo, pseudo_label
from .step import supervised_losses, train_step as train_on_labels
from .student import View


def train_step(
    student: nn.Module, teacher: nn.Module | None, batch: Batch, method: Method, context: StepContext
) -> dict[str, Tensor]:
    """The loss terms of one step of iMAS: an image of score s weighs s, and keeps s of its strong colours.

    Two student views, averaged: the strong colours blended into the weak view, x = s strong + (1 - s) weak; and the weak view
    after CutMix between easy and hard images. A group that is not mixed has the first alone (released code).
    """
    if teacher is None:
        return train_on_labels(student, None, batch, method)
    with torch.no_grad():
        pseudo = pseudo_label(teacher(batch.weak), batch.valid, method.threshold)
        own = pseudo_label(context.predict(batch.weak), batch.valid, method.threshold)
        score = instance_scores(own, pseudo)
    (strong,) = batch.strong
    draws = strong.mix | {"score": score}
    source = MIXES[method.mix].source(draws, pseudo, batch.weak.shape[-2:])
    blended = torch.lerp(batch.weak, strong.images, score.to(batch.weak.dtype)[:, None, None, None])
    views = [View(batch.labeled, auxiliary=True), View(blended), View(gather(batch.weak, source))]
    targets = [pseudo, mix_pseudo(pseudo, source)]

    (labeled, auxiliary), *unlabeled = student(views)

    losses = supervised_losses(labeled, auxiliary, batch, method)
    mixes = hardness_mixes(draws, score)
    shares = [torch.where(mixes, 0.5, 1.0), torch.where(mixes, 0.5, 0.0)]
    losses["consistency_strong"] = sum(
        weighted_cross_entropy(logits, target.label, (share * score)[:, None, None].expand_as(target.label))
        for (logits, _), target, share in zip(unlabeled, targets, shares)
    )
    return losses | count_pseudo(pseudo)


def instance_scores(student: Pseudo, teacher: Pseudo) -> Tensor:
    """(B,) float32 in 0..1, how well a model has learned an image; the paper calls it hardness, and it is high for an easy image.

        s = (rho_T wIoU_T + rho_S wIoU_S) / 2

    rho is the share of pixels above the threshold, wIoU the IoU of student and teacher, weighted by the class frequencies in the
    predictions of the one or the other. Class 0 weighs nothing (released code, on VOC and on Cityscapes), so an image of
    background alone has score 0; padding counts nowhere.
    """
    classes, valid = teacher.logits.shape[1], teacher.valid.flatten(1)
    pairs = classes * teacher.logits.argmax(dim=1).flatten(1) + student.logits.argmax(dim=1).flatten(1)
    counts = torch.zeros(len(pairs), classes**2, dtype=torch.float64, device=pairs.device)
    counts = counts.scatter_add(1, pairs, valid.double()).view(-1, classes, classes)  # bincount would wait for the device
    common, frequencies = counts.diagonal(dim1=1, dim2=2), (counts.sum(dim=2), counts.sum(dim=1))
    iou = common / (sum(frequencies) - common).clamp(min=1)
    scores = []
    for prediction, frequency in zip((teacher, student), frequencies):
        confident = (prediction.label != IGNORE_INDEX).flatten(1).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        weight = frequency[:, 1:]
        scores.append(confident * (weight * iou[:, 1:]).sum(dim=1) / weight.sum(dim=1).clamp(min=1))
    return (sum(scores) / 2).float()
