"""The losses: cross-entropy on labels and pseudo labels, and the regularisers beside it.

All take logits (B, K, H, W) and labels (B, H, W) long with 255 = ignore, work in float32 at least, and divide by *all*
pixels, ignored ones counting as zero (released code): for pseudo labels that weighs a batch by its confident share.
The teacher's side never receives a gradient.

Each loss is written once, plainly, for every pixel; `mean_over_pixels` computes it chunk by chunk and again for the
gradient, so that nothing the size of the logits is kept but the gradient itself. A chunk fits into the caches of a CPU,
which more than pays for computing it twice (NCR + CE, 2x21x512x512 on one core: 0.7 s and 29 to 67 MiB, all at once 1.4 s
and 220 MiB). Tried and not kept: both losses in one function (no gain), and in float32 a gradient written by hand (0.83 s).
The teacher's softmax shared between confidence and NCR would save a sixth of NCR, under half a percent of a step, for a
map of probabilities beside the logits that mixes need: not kept either.
"""

from functools import partial
from typing import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..config import IGNORE_INDEX
from .pseudo import at_least_float32

EPSILON = 1e-6  # added to every difference by the released code's plain L2
TEMPERATURE = 2.0  # of the soft losses (supplement, below eq. 5)
CHUNK = {"cpu": 2**15}  # pixels that are computed at once, by device ...
LARGE_CHUNK = 2**19  # ... and elsewhere: two images of 512 x 512 keep a GPU busy

Loss = Callable[..., Tensor]  # student logits, labels, teacher logits, of a chunk: (B, h, w), 0 where ignored


def cross_entropy(logits: Tensor, labels: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """Cross-entropy summed over labelled pixels and divided by all pixels (method of the released code).

    Args:
        weights: one for each class; a pixel counts as much as its label weighs. Empty = all 1.
    """
    weight = logits.new_tensor(weights, dtype=torch.promote_types(logits.dtype, torch.float32)) if weights else None
    return mean_over_pixels(partial(pixel_cross_entropy, weight=weight), logits, labels)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy in which every pixel counts by a weight of its own (B, H, W), divided by all pixels."""
    return mean_over_pixels(pixel_weighted_cross_entropy, logits, labels, weight)


def negative_class_ranking(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "l2sq") -> Tensor:
    """Matches student and teacher over the classes a pixel is *not*.

    Both are renormalised over the K - 1 negatives, ``p_k = softmax(z)_k / (1 - softmax(z)_label)``, and compared:

        l2sq    sum_k (pT_k - pS_k)^2                     (the form of the supplement's eq. 6)
        l2      sqrt(sum_k (pT_k - pS_k + 1e-6)^2)        (released code)
        kl      sum_k pT_k log(pT_k / pS_k)

    The logit of the label drops out. With K = 2 one negative is left and the loss is always 0.
    """
    return mean_over_pixels(partial(negatives_distance, norm=norm), student, labels, teacher)


def all_class_ranking(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "l2sq") -> Tensor:
    """All-CR (supplement, eq. 6): the same comparison over all K classes; `norm` as in `negative_class_ranking`."""
    return mean_over_pixels(partial(all_distance, norm=norm), student, labels, teacher)


def soft_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "") -> Tensor:
    """Soft as printed (supplement, eq. 5): cross-entropy of the pseudo label with student logits at temperature 2.

    The text says soft labels, the formula has hard ones; `soft_label_cross_entropy` follows the text.
    """
    return mean_over_pixels(partial(pixel_cross_entropy, temperature=TEMPERATURE), student, labels)


def soft_label_cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor, norm: str = "") -> Tensor:
    """Soft as described: cross-entropy of the student with the teacher's probabilities, both at temperature 2."""
    return mean_over_pixels(softened_cross_entropy, student, labels, teacher)


# ---- the same for every pixel


def pixel_cross_entropy(
    student: Tensor, labels: Tensor, weight: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    logits = student if temperature == 1 else student / temperature  # one copy of the logits less
    return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE_INDEX, reduction="none")


def pixel_weighted_cross_entropy(student: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return weight * pixel_cross_entropy(student, labels)


def negatives_distance(student: Tensor, labels: Tensor, teacher: Tensor, norm: str) -> Tensor:
    keep = labels != IGNORE_INDEX
    positive = labels.where(keep, 0)[:, None]
    # the finite minimum, not -inf: its exponential is 0 and its gradient stays finite
    lowest = torch.finfo(student.dtype).min
    student, teacher = (logits.scatter(1, positive, lowest) for logits in (student, teacher))
    return distance(student, teacher, norm, left_out=positive).where(keep, 0.0)


def all_distance(student: Tensor, labels: Tensor, teacher: Tensor, norm: str) -> Tensor:
    return distance(student, teacher, norm).where(labels != IGNORE_INDEX, 0.0)


def softened_cross_entropy(student: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    target = (teacher / TEMPERATURE).softmax(dim=1)
    crossed = -(target * (student / TEMPERATURE).log_softmax(dim=1)).sum(dim=1)
    return crossed.where(labels != IGNORE_INDEX, 0.0)


def distance(student: Tensor, teacher: Tensor, norm: str, left_out: Tensor | None = None) -> Tensor:
    """Per pixel, (B, h, w), between the softmax of two maps of logits; class `left_out` (B, 1, h, w) counts nothing."""
    if norm == "kl":
        student, teacher = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
        # a class left out has probability 0, and 0 times the (finite) difference of two lowest logarithms is 0
        return (teacher.exp() * (teacher - student)).sum(dim=1)
    difference = teacher.softmax(dim=1) - student.softmax(dim=1)
    if norm == "l2sq":
        return difference.square().sum(dim=1)
    if norm == "l2":
        difference = difference + EPSILON
        if left_out is not None:
            difference = difference.scatter(1, left_out, 0.0)
        return difference.square().sum(dim=1).sqrt()
    raise ValueError(f"norm is {norm!r}; one of 'l2sq', 'l2', 'kl'")


# ---- chunk by chunk


def mean_over_pixels(loss: Loss, student: Tensor, labels: Tensor, *teacher: Tensor) -> Tensor:
    """The sum of a loss over pixels, divided by their number; a scalar in float32 at least."""
    return ChunkedSum.apply(loss, student, labels, *(logits.detach() for logits in teacher)) / labels.numel()


class ChunkedSum(torch.autograd.Function):
    """The sum of a loss over all pixels, one chunk after the other.

    The gradient of float32 logits is computed from them again in the backward, that of half precision with the sum: it is
    no larger than the logits, and what both need is computed once.
    """

    @staticmethod
    def forward(ctx, loss: Loss, student: Tensor, labels: Tensor, *teacher: Tensor) -> Tensor:
        ctx.loss, ctx.others = loss, 1 + len(teacher)
        ctx.early = ctx.needs_input_grad[1] and student.dtype in (torch.float16, torch.bfloat16)
        if not ctx.early:
            ctx.save_for_backward(student, labels, *teacher)
            return sum(loss(*map(as_float32, chunk)).sum() for chunk in chunks(student, labels, *teacher))
        keep, by_hand = labels != IGNORE_INDEX, BY_HAND.get((getattr(loss, "func", None), *getattr(loss, "keywords", {}).values()))
        if by_hand is None:
            result, total = sum_and_gradient(loss, student, (labels, *teacher))
        else:
            result, total = torch.empty_like(student), 0
            for part, logits, kept, *rest in chunks(result, student, keep, labels.where(keep, 0)[:, None], *teacher):
                total = total + by_hand(part, *map(as_float32, (logits, *rest))).where(kept, 0.0).sum()
        ctx.save_for_backward(result, keep)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.early:
            result, keep = ctx.saved_tensors
            result.mul_(keep[:, None] * gradient)  # in place, and torch refuses a second backward
        else:
            student, *others = ctx.saved_tensors
            result, _ = sum_and_gradient(ctx.loss, student, others, gradient)
        return None, result, *(None for _ in range(ctx.others))


# ---- by hand, for half precision: a third of the bytes less. They return the loss of every pixel (b, h, w) and write its
# gradient, which is not yet 0 where there is no label, into `gradient`; positive: (b, 1, h, w), the label, 0 where none is.


def cross_entropy_by_hand(gradient: Tensor, student: Tensor, positive: Tensor) -> Tensor:
    """The gradient is p - 1 for the label and p for the other classes."""
    logarithms = student.log_softmax(dim=1)
    of_label = logarithms.gather(1, positive)
    torch.exp(logarithms, out=gradient)
    # from p in half precision p - 1 would be 0 where the student is sure
    gradient.scatter_(1, positive, torch.expm1(of_label, out=torch.empty_like(of_label, dtype=gradient.dtype)))
    return -of_label[:, 0]


def negatives_distance_by_hand(gradient: Tensor, student: Tensor, positive: Tensor, teacher: Tensor) -> Tensor:
    """With p - q = d, of teacher and student, the gradient of sum_k d_k^2 is -2 q (d - sum_k d_k q_k)."""
    lowest = torch.finfo(student.dtype).min
    q, p = (logits.scatter(1, positive, lowest).softmax(dim=1) for logits in (student, teacher))
    difference = p.sub_(q)
    torch.mul(torch._softmax_backward_data(difference, q, 1, q.dtype), -2, out=gradient)
    return difference.square().sum(dim=1)


def sum_and_gradient(
    loss: Loss, student: Tensor, others: Sequence[Tensor], gradient: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of a loss's sum in the type of the logits, times that of the sum, and the sum."""
    result, total = torch.empty_like(student), 0
    for part, logits, *rest in chunks(result, student, *others):
        logits = as_float32(logits.detach()).requires_grad_()
        with torch.enable_grad():
            value = loss(logits, *map(as_float32, rest)).sum()
        part.copy_(torch.autograd.grad(value, logits, gradient)[0])
        total = total + value.detach()
    return result, total


def as_float32(x: Tensor) -> Tensor:
    """Logits as float32 at least; labels as they are."""
    return at_least_float32(x) if x.is_floating_point() else x


def chunks(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of one image after the other, the same of every map (B, ..., H, W); where several images fit into a chunk, but
    not on a CPU, those together."""
    device, (height, width) = maps[0].device.type, maps[0].shape[-2:]
    size = CHUNK.get(device, LARGE_CHUNK)
    rows = max(1, size // max(1, width))
    images = 1 if device in CHUNK else max(1, rows // max(1, height))
    for some in zip(*(x.split(images) for x in maps)):
        yield from zip(*(x.split(rows, dim=-2) for x in some))


# By method.regularizer; `none` has no entry.
REGULARIZERS = {
    "ncr": negative_class_ranking,
    "all_cr": all_class_ranking,
    "soft": soft_cross_entropy,
    "soft_labels": soft_label_cross_entropy,
}

# By function and keywords of a loss.
BY_HAND = {(pixel_cross_entropy, None): cross_entropy_by_hand, (negatives_distance, "l2sq"): negatives_distance_by_hand}
