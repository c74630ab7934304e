"""The straight versions of a training step: what a reader of the paper would write first, and public code does.

Everything in float32, one encoder pass for every view, softmax over a dense mask repeated for every head, the classifier
at full size, a loop over classes for NCR, over images for the mixes, over parameters for the moving average. They are
here to be compared with; nothing else uses them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ..config import IGNORE_INDEX, Method
from ..errors import ConfigError
from ..method.batch import Batch
from ..method.student import Student
from ..networks import adapters
from ..networks.setr import UpHead
from ..training.engine import Teacher

ATTENTION = "straight"


# ---- attention


def attention(module, query, key, value, attention_mask=None, *, pasa=None, scaling=None, dropout=0.0, **kwargs):
    """Softmax attention written out; `pasa` are dense masks (B, Nq, Nk) by (Nq, Nk)."""
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    mask = (pasa or {}).get((query.shape[-2], key.shape[-2]))
    if mask is not None:
        scores = scores + mask[:, None].repeat(1, query.shape[1], 1, 1)
    weights = F.dropout(scores.softmax(dim=-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def pasa_masks(
    confidence: Tensor, valid: Tensor, network: nn.Module, size: tuple[int, int], method: Method
) -> dict[tuple[int, int], Tensor]:
    """PASA's main variant as dense masks, image by image, padding left out."""
    grids = adapters.attention_grids(network, *size)
    prefix = adapters.prefix_tokens(network)
    masks = {}
    for queries, keys in grids[-1:] if method.pasa_stages == "last" else grids:
        dense = []
        for image, seen in zip(confidence, valid.float()):
            shares = [F.adaptive_avg_pool2d(seen[None], grid).flatten() for grid in (queries, keys)]
            sums = [F.adaptive_avg_pool2d((image * seen)[None], grid).flatten() for grid in (queries, keys)]
            row, column = (total / share.clamp(min=1e-6) for total, share in zip(sums, shares))
            real = shares[0].nonzero().flatten()
            unsure = real[row[real].argsort(descending=True, stable=True)[len(real) // 2 :]]
            mask = torch.zeros(prefix + len(row), prefix + len(column), device=image.device)
            mask[prefix + unsure, prefix:] = method.pasa_alpha * (1 - column) * (shares[1] > 0)
            mask[:prefix, prefix:] = method.pasa_alpha * (1 - column) * (shares[1] > 0)
            dense.append(mask)
        masks[prefix + len(row), prefix + len(column)] = torch.stack(dense)
    return masks


# ---- the network


def decode(network: nn.Module, features: tuple[Tensor, ...]) -> Tensor:
    """SETR's head as published, classified after the last up-sampling; other heads as they are."""
    return up_head(network.head, features[-1]) if network.config.model_type == "setr" else adapters.decode(network, features)


def up_head(head: UpHead, features: Tensor) -> Tensor:
    maps = head.norm(features.movedim(1, -1)).movedim(-1, 1).contiguous()
    for convolution in head.convolutions:
        maps = head.enlarge(convolution(maps))
    return head.classifier(maps)


def move_blocks(x: Tensor, order: Tensor, *, back: bool = False) -> Tensor:
    """PatchShuffle block by block, or its inverse."""
    rows, columns = order.shape[1:]
    height, width = x.shape[2] // rows, x.shape[3] // columns
    moved = torch.empty_like(x)
    for image in range(len(x)):
        for place, source in enumerate(order[image].flatten().tolist()):
            here, there = (source, place) if back else (place, source)
            (top, left), (from_top, from_left) = (divmod(number, columns) for number in (here, there))
            moved[image, :, top * height : (top + 1) * height, left * width : (left + 1) * width] = x[
                image, :, from_top * height : (from_top + 1) * height, from_left * width : (from_left + 1) * width
            ]
    return moved


# ---- the losses


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


# ---- the step


def check_method(method: Method) -> None:
    """The straight step is written for S4Former and the rows of its table of components."""
    plain = Method()
    for name in (
        "teacher", "strong_views", "mix", "mix_from", "pasa_confidence", "feature_dropout", "normalizer", "regularizer_norm",
        "regularizer_on", "regularizer_mixed_teacher", "strong_colour", "weak_colour", "labeled_colour",
    ):  # fmt: skip
        if getattr(method, name) != getattr(plain, name):
            raise ConfigError(
                f"the benchmark has no straight version of method.{name} = {getattr(method, name)!r}; it compares S4Former"
                f" with method.{name} = {getattr(plain, name)!r}"
            )
    if method.pasa not in ("none", "main") or method.regularizer not in ("none", "ncr"):
        raise ConfigError("the benchmark knows method.pasa none and main, method.regularizer none and ncr")


def losses(student: Student, teacher: nn.Module, batch: Batch, method: Method) -> dict[str, Tensor]:
    """The same terms as `train_step`."""
    network = student.network
    with torch.no_grad():
        teacher_logits = decode(teacher, adapters.encode(teacher, batch.weak))
        confidence, labels = teacher_logits.softmax(dim=1).max(dim=1)
        valid = batch.valid[:, :: batch.valid.shape[1] // labels.shape[1], :: batch.valid.shape[2] // labels.shape[2]]
        labels[~(confidence > method.threshold) | ~valid] = IGNORE_INDEX
        confidence[~valid] = 0

    features = adapters.encode(network, batch.labeled)
    upsample = {"size": batch.labels.shape[-2:], "mode": "bilinear", "align_corners": False}
    terms = {"supervised": cross_entropy(F.interpolate(decode(network, features), **upsample), batch.labels)}
    if len(student.auxiliary):
        maps = [up_head(head, x) for head, x in zip(student.auxiliary, features)]
        terms["auxiliary"] = sum(cross_entropy(F.interpolate(x, **upsample), batch.labels) for x in maps)

    (strong,) = batch.strong
    boxes, (down, across) = strong.mix["boxes"], (batch.valid.shape[i] // labels.shape[i] for i in (1, 2))
    mixed, mixed_labels, mixed_teacher = strong.images.clone(), labels.clone(), teacher_logits.clone()
    small = boxes[:, ::down, ::across]
    for image, partner in enumerate(strong.mix["partner"].tolist()):
        mixed[image][:, boxes[image]] = strong.images[partner][:, boxes[image]]
        mixed_labels[image][small[image]] = labels[partner][small[image]]
        mixed_teacher[image][:, small[image]] = teacher_logits[partner][:, small[image]]
    features = adapters.encode(network, move_blocks(mixed, strong.orders))
    logits = decode(network, tuple(move_blocks(x, strong.orders, back=True) for x in features))
    terms |= consistency("strong", logits, mixed_teacher, mixed_labels, method)

    if method.pasa != "none":
        masks = pasa_masks(confidence, confidence > 0, network, strong.images.shape[-2:], method)
        logits = decode(network, adapters.encode(network, strong.images, pasa=masks))
        terms |= consistency("pasa", logits, teacher_logits, labels, method)
    return terms


def consistency(branch: str, logits: Tensor, teacher: Tensor, labels: Tensor, method: Method) -> dict[str, Tensor]:
    terms = {f"consistency_{branch}": cross_entropy(logits, labels)}
    if method.regularizer == "ncr":
        terms[f"ncr_{branch}"] = negative_class_ranking(logits, teacher, labels)
    return terms


def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """The moving average, parameter by parameter, then buffer by buffer."""
    with torch.no_grad():
        for own, other in zip(teacher.parameters(), student.parameters()):
            own.copy_(own * decay + other.detach() * (1 - decay))
        for (name, own), other in zip(teacher.named_buffers(), student.buffers()):
            if name.endswith(("running_mean", "running_var")):
                own.copy_(own * decay + other * (1 - decay))


def one_by_one(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same optimizer, going from parameter to parameter."""
    for group in optimizer.param_groups:
        group["foreach"] = group["fused"] = False
    return optimizer


def in_its_way(student: Student, teacher: Teacher) -> None:
    """Lets the networks of a straight step use the straight attention."""
    for network in (student.network, teacher.network):
        if adapters.attention_grids(network, 64, 64):
            network.base_model.set_attn_implementation(ATTENTION)
