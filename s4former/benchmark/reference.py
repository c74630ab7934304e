"""Plain implementations of parts of a step, as a reader of the paper would write them first, to be compared with ours.

Softmax over a dense mask repeated for every head, a loop over classes for NCR, over parameters for the moving average, over
windows for an image; and a whole step of UniMatch V2.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import IGNORE_INDEX, Method
from ..evaluation.windows import window_places
from ..method.batch import Batch
from ..networks.adapters import decode, encode


def dense_attention(module, query, key, value, attention_mask=None, *, pasa=None, scaling=None, dropout=0.0, **kwargs):
    """Softmax attention written out, as transformers calls it; `pasa` are dense masks (B, Nq, Nk) by (Nq, Nk)."""
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    mask = (pasa or {}).get((query.shape[-2], key.shape[-2]))
    if mask is not None:
        scores = scores + mask[:, None].repeat(1, query.shape[1], 1, 1)
    weights = F.dropout(scores.softmax(dim=-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none").mean()


def negative_class_ranking(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """NCR with squared distance, class by class: the logits of the others, their softmax, their difference."""
    total = 0.0
    for k in range(student.shape[1]):
        others = [other for other in range(student.shape[1]) if other != k]
        difference = teacher[:, others].softmax(dim=1) - student[:, others].softmax(dim=1)
        total = total + difference.square().sum(dim=1)[labels == k].sum()
    return total / labels.numel()


def unimatch_v2_step(
    student: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, method: Method
) -> float:
    """A step of UniMatch V2 in float32 as its paper describes it; the loss."""
    size = batch.labels.shape[-2:]

    def resized(logits: Tensor) -> Tensor:
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)

    with torch.no_grad():
        confidence, labels = resized(decode(teacher, encode(teacher, batch.weak))).softmax(dim=1).max(dim=1)
    images, targets, certain = [], [], []
    for view in batch.strong:
        parts = [view.images.clone(), labels.clone(), confidence.clone()]
        for image, partner in enumerate(view.mix["partner"].tolist()):
            inside = view.mix["boxes"][image]
            for part, source in zip(parts, (view.images, labels, confidence)):
                part[image][..., inside] = source[partner][..., inside]
        for collected, part in zip((images, targets, certain), parts):
            collected.append(part)
    logits = resized(decode(student, encode(student, batch.labeled)))
    features = encode(student, torch.cat(images))
    count = len(images[0])
    kept = 2.0 * torch.randint(2, (count, features[0].shape[1], 1, 1), device=logits.device)
    kept[torch.randperm(count)[: count // 2]] = 1.0
    masks = torch.cat([kept, 2 - kept])
    strong = resized(decode(student, tuple(maps * masks for maps in features))).chunk(2)
    loss = F.cross_entropy(logits, batch.labels, ignore_index=IGNORE_INDEX)
    for each, target, sure in zip(strong, targets, certain):
        error = F.cross_entropy(each, target, reduction="none")
        loss = loss + (error * (sure >= method.threshold)).sum() / error.numel() / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    update_ema(teacher, student, method.ema)
    return loss.item()


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """The moving average, parameter by parameter."""
    for own, other in zip(teacher.parameters(), student.parameters()):
        own.copy_(own * decay + other.detach() * (1 - decay))


@torch.no_grad()
def sliding_logits(network: Callable[[Tensor], Tensor], image: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Logits (1, K, H, W) of one image (1, 3, H, W), averaged over windows that are read one at a time."""
    total, count = 0, torch.zeros_like(image[:, :1])
    for rows, columns in window_places(image.shape[-2:], window, stride, cut=False):
        part = image[:, :, rows, columns]
        logits = F.interpolate(network(part), size=part.shape[-2:], mode="bilinear", align_corners=False)
        padding = (columns.start, image.shape[3] - columns.stop, rows.start, image.shape[2] - rows.stop)
        total = total + F.pad(logits, padding)
        count[:, :, rows, columns] += 1
    return total / count
