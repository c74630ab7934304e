"""The losses: cross-entropy on labels and pseudo labels, and the regularisers beside it.

All take logits (B, K, H, W) and labels (B, H, W) long with 255 = ignore, work in float32 at least, and divide by *all*
pixels, ignored ones counting as zero (released code): for pseudo labels that weighs a batch by its confident share.
The teacher's side never receives a gradient.
"""

from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pseudo import IGNORE_INDEX, at_least_float32

EPSILON = 1e-6  # added to every difference by the released code's plain L2
TEMPERATURE = 2.0  # of the soft losses (supplement, below eq. 5)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """Cross-entropy summed over labelled pixels and divided by all pixels (method of the released code).

    Args:
        weights: one for each class; a pixel counts as much as its label weighs. Empty = all 1.
    """
    logits = at_least_float32(logits)
    weight = logits.new_tensor(weights) if weights else None
    loss = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE_INDEX, reduction="sum")
    return loss / labels.numel()


def negative_class_ranking(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "l2sq") -> Tensor:
    """Matches student and teacher over the classes a pixel is *not*.

    Both are renormalised over the K - 1 negatives, ``p_k = softmax(z)_k / (1 - softmax(z)_label)``, and compared:

        l2sq    sum_k (pT_k - pS_k)^2                     (the form of the supplement's eq. 6)
        l2      sqrt(sum_k (pT_k - pS_k + 1e-6)^2)        (released code)
        kl      sum_k pT_k log(pT_k / pS_k)

    The logit of the label drops out. With K = 2 one negative is left and the loss is always 0.
    """
    keep = labels != IGNORE_INDEX
    positive = labels.where(keep, 0)[:, None]
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    # the finite minimum, not -inf: its exponential is 0 and its gradient stays finite
    lowest = torch.finfo(student.dtype).min
    student = student.scatter(1, positive, lowest).log_softmax(dim=1)
    teacher = teacher.scatter(1, positive, lowest).log_softmax(dim=1)
    return masked_mean(distance(student, teacher, norm, left_out=positive), keep)


def all_class_ranking(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "l2sq") -> Tensor:
    """All-CR (supplement, eq. 6): the same comparison over all K classes; `norm` as in `negative_class_ranking`."""
    student = at_least_float32(student).log_softmax(dim=1)
    teacher = at_least_float32(teacher.detach()).log_softmax(dim=1)
    return masked_mean(distance(student, teacher, norm), labels != IGNORE_INDEX)


def soft_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "") -> Tensor:
    """Soft as printed (supplement, eq. 5): cross-entropy of the pseudo label with student logits at temperature 2.

    The text speaks of soft labels, the formula has hard ones; `soft_label_cross_entropy` follows the text.
    """
    return cross_entropy(student / TEMPERATURE, labels)


def soft_label_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "") -> Tensor:
    """Soft as described: cross-entropy of the student with the teacher's probabilities, both at temperature 2."""
    target = (at_least_float32(teacher.detach()) / TEMPERATURE).softmax(dim=1)
    student = (at_least_float32(student) / TEMPERATURE).log_softmax(dim=1)
    return masked_mean(-(target * student).sum(dim=1), labels != IGNORE_INDEX)


def distance(student: Tensor, teacher: Tensor, norm: str, left_out: Tensor | None = None) -> Tensor:
    """Per pixel, (B, H, W), between two maps of log-probabilities; class `left_out` (B, 1, H, W) counts nothing."""
    if norm == "kl":
        # a class left out has probability 0, and 0 times the (finite) difference of two lowest logarithms is 0
        return (teacher.exp() * (teacher - student)).sum(dim=1)
    difference = teacher.exp() - student.exp()
    if norm == "l2sq":
        return difference.square().sum(dim=1)
    if norm == "l2":
        difference = difference + EPSILON
        if left_out is not None:
            difference = difference.scatter(1, left_out, 0.0)
        return difference.square().sum(dim=1).sqrt()
    raise ValueError(f"norm is {norm!r}; one of 'l2sq', 'l2', 'kl'")


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """The sum over pixels of `keep`, divided by all pixels."""
    return values.where(keep, 0.0).mean()


# Config word -> loss; `none` has no entry.
REGULARIZERS = {
    "ncr": negative_class_ranking,
    "all_cr": all_class_ranking,
    "soft": soft_cross_entropy,
    "soft_labels": soft_label_cross_entropy,
}
