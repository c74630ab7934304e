"""A plain implementation of the training step, as a reader of the paper would write it first, to be compared with ours.

Float32, one encoder pass for every view, softmax over a dense mask repeated for every head, the classifier at full size,
a loop over classes for NCR, over images for CutMix, over parameters for the moving average.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ..config import IGNORE_INDEX, Method
from ..errors import ConfigError
from ..method.batch import Batch
from ..method.pasa import Biases
from ..method.patch_shuffle import inverse, patch_shuffle
from ..method.student import Student, View
from ..networks.adapters import attention_grids, decode, encode
from ..networks.setr import UpHead
from ..training.engine import Teacher
from .inputs import StepInputs

ATTENTION = "reference"
SUPPORTED = {  # values of method.*; of keys that are not named here, any
    name: (getattr(Method(), name),)
    for name in (
        "teacher", "strong_views", "mix", "mix_from", "pasa_confidence", "pasa_view", "feature_dropout", "normalizer",
        "regularizer_norm", "regularizer_on", "regularizer_mixed_teacher", "regularizer_weight", "class_weights", "strong_colour",
        "weak_colour", "labeled_colour",
    )
} | {"pasa": ("main", "none"), "regularizer": ("ncr", "none")}  # fmt: skip


def check_method(method: Method) -> None:
    """The reference implementation covers S4Former and the rows of its table of components."""
    for name, values in SUPPORTED.items():
        if (value := getattr(method, name)) not in values:
            choice = " or ".join(map(repr, values))
            raise ConfigError(f"the benchmark has no reference for method.{name} = {value!r}; set method.{name} to {choice}")


# ---- networks


def dense_attention(module, query, key, value, attention_mask=None, *, pasa=None, scaling=None, dropout=0.0, **kwargs):
    """Softmax attention written out; `pasa` are dense masks (B, Nq, Nk) by (Nq, Nk)."""
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    mask = (pasa or {}).get((query.shape[-2], key.shape[-2]))
    if mask is not None:
        scores = scores + mask[:, None].repeat(1, query.shape[1], 1, 1)
    weights = F.dropout(scores.softmax(dim=-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(ATTENTION, dense_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def dense_masks(biases: Biases) -> dict[tuple[int, int], Tensor]:
    """PASA's bias in full, for `dense_attention`."""
    return {key: bias.dense() for key, bias in biases.items()}


def reference_networks(inputs: StepInputs) -> tuple[Student, Teacher]:
    """Copies of the networks that use `dense_attention`."""
    student, teacher = inputs.copy_networks()
    for network in (student.network, teacher.network):
        if attention_grids(network, 64, 64):
            network.base_model.set_attn_implementation(ATTENTION)
    return student, teacher


def decode_at_full_size(network: nn.Module, features: tuple[Tensor, ...]) -> Tensor:
    """SETR's head as published, classified after the last upsampling; other heads as they are."""
    return up_head(network.head, features[-1]) if network.config.model_type == "setr" else decode(network, features)


def up_head(head: UpHead, features: Tensor) -> Tensor:
    maps = head.norm(features.movedim(1, -1)).movedim(-1, 1).contiguous()
    for convolution in head.convolutions:
        maps = head.enlarge(convolution(maps))
    return head.classifier(maps)


def update_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """The moving average, parameter by parameter, then buffer by buffer."""
    with torch.no_grad():
        for own, other in zip(teacher.parameters(), student.parameters()):
            own.copy_(own * decay + other.detach() * (1 - decay))
        for (name, own), other in zip(teacher.named_buffers(), student.buffers()):
            if name.endswith(("running_mean", "running_var")):
                own.copy_(own * decay + other * (1 - decay))


# ---- losses


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


def losses(student: Student, teacher: Teacher, batch: Batch, method: Method) -> dict[str, Tensor]:
    """The same terms as `train_step`."""
    network = student.network
    with torch.no_grad():
        teacher_logits = decode_at_full_size(teacher.network, encode(teacher.network, batch.weak))
        confidence, labels = teacher_logits.softmax(dim=1).max(dim=1)
        down, across = (batch.valid.shape[i] // labels.shape[i] for i in (1, 2))
        valid = batch.valid[:, ::down, ::across]
        labels[~(confidence > method.threshold) | ~valid] = IGNORE_INDEX

    features = encode(network, batch.labeled)
    upsample = {"size": batch.labels.shape[-2:], "mode": "bilinear", "align_corners": False}
    logits = F.interpolate(decode_at_full_size(network, features), **upsample)
    terms = {"supervised": cross_entropy(logits, batch.labels)}
    if len(student.auxiliary):
        maps = [up_head(head, x) for head, x in zip(student.auxiliary, features)]
        terms["auxiliary"] = sum(cross_entropy(F.interpolate(x, **upsample), batch.labels) for x in maps)

    (strong,) = batch.strong
    boxes = strong.mix["boxes"]
    mixed, mixed_labels, mixed_teacher = strong.images.clone(), labels.clone(), teacher_logits.clone()
    small = boxes[:, ::down, ::across]
    for image, partner in enumerate(strong.mix["partner"].tolist()):
        mixed[image][:, boxes[image]] = strong.images[partner][:, boxes[image]]
        mixed_labels[image][small[image]] = labels[partner][small[image]]
        mixed_teacher[image][:, small[image]] = teacher_logits[partner][:, small[image]]
    features = encode(network, patch_shuffle(mixed, strong.orders))
    restored = tuple(patch_shuffle(x, inverse(strong.orders)) for x in features)
    branches = {"strong": (decode_at_full_size(network, restored), mixed_teacher, mixed_labels)}

    if method.pasa != "none":
        view = View(strong.images, confidence=confidence, valid=valid, seeds=batch.seeds)
        features = encode(network, view.images, pasa=dense_masks(student.attention_arguments(view)["pasa"]))
        branches["pasa"] = decode_at_full_size(network, features), teacher_logits, labels

    for name, (logits, target, target_labels) in branches.items():
        terms[f"consistency_{name}"] = cross_entropy(logits, target_labels)
        if method.regularizer == "ncr":
            terms[f"ncr_{name}"] = negative_class_ranking(logits, target, target_labels)
    return terms
