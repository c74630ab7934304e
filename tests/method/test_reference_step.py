"""A plain implementation of the whole training step, as a reader of the paper would write it first, agrees with ours.

Float32, one encoder pass for every view, softmax over a dense mask repeated for every head, the classifier at full size,
a loop over classes for NCR, over images for CutMix.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from scripts import TINY
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from s4former.benchmark import reference
from s4former.benchmark.inputs import StepInputs, build
from s4former.benchmark.timing import MismatchError, check_close
from s4former.config import IGNORE_INDEX, Method, from_dict
from s4former.data.sources import load_sources
from s4former.method.batch import Batch
from s4former.method.patch_shuffle import inverse, patch_shuffle
from s4former.method.step import total_loss, train_step
from s4former.method.student import Student, View
from s4former.networks.adapters import decode, encode
from s4former.networks.setr import UpHead
from s4former.training.engine import Teacher

ATTENTION = "reference"
AttentionInterface.register(ATTENTION, reference.dense_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
SEGFORMER = {
    **TINY,
    "data": {**TINY["data"], "crop": [64, 96]},
    "model": {"architecture": "segformer", "encoder": "mit-b0", "pretrained": False, "encoder_config": {
        "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}},
}  # fmt: skip
SHUFFLED = {**TINY, "method": {**TINY["method"], "shuffle_probability": 1.0}}


# ---- the plain step

def decode_at_full_size(network: nn.Module, features: tuple[Tensor, ...]) -> Tensor:
    """SETR's head as published, classified after the last upsampling; other heads as they are."""
    return up_head(network.head, features[-1]) if network.config.model_type == "setr" else decode(network, features)


def up_head(head: UpHead, features: Tensor) -> Tensor:
    maps = head.norm(features.movedim(1, -1)).movedim(-1, 1).contiguous()
    for convolution in head.convolutions:
        maps = head.enlarge(convolution(maps))
    return head.classifier(maps)


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
    terms = {"supervised": reference.cross_entropy(logits, batch.labels)}
    if len(student.auxiliary):
        maps = [up_head(head, x) for head, x in zip(student.auxiliary, features)]
        terms["auxiliary"] = sum(reference.cross_entropy(F.interpolate(x, **upsample), batch.labels) for x in maps)

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
        masks = {key: bias.dense() for key, bias in student.attention_arguments(view)["pasa"].items()}
        features = encode(network, view.images, pasa=masks)
        branches["pasa"] = decode_at_full_size(network, features), teacher_logits, labels

    for name, (logits, target, target_labels) in branches.items():
        terms[f"consistency_{name}"] = reference.cross_entropy(logits, target_labels)
        if method.regularizer == "ncr":
            terms[f"ncr_{name}"] = reference.negative_class_ranking(logits, target, target_labels)
    return terms


# ---- the comparison


def prepare(tree: dict) -> StepInputs:
    """Networks without dropout, and a batch in which half of the pixels are pseudo labels."""
    config = from_dict(tree)
    inputs = build(config, load_sources(config.data), torch.device("cpu"))
    for module in [*inputs.student.modules(), *inputs.teacher.modules()]:
        for name in ("p", "drop_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return inputs


def check_step(inputs: StepInputs) -> dict[str, Tensor]:
    """Compares the loss terms and the whole gradient of both steps; returns our terms."""

    def terms_and_gradient(step, student: Student, teacher: Teacher) -> tuple[dict[str, Tensor], Tensor]:
        terms = step(student.train(), teacher, inputs.batch, inputs.config.method)
        total_loss(terms, inputs.config.method).backward()
        return terms, torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])

    plain = copy.deepcopy(inputs.student), copy.deepcopy(inputs.teacher)
    for each in plain:
        each.network.base_model.set_attn_implementation(ATTENTION)
    terms, gradient = terms_and_gradient(train_step, inputs.student, inputs.teacher)
    others, other_gradient = terms_and_gradient(losses, *plain)
    for name, value in others.items():
        check_close(f"the loss {name}", terms[name], value, 1e-3)
    check_close("the gradient of a step", gradient, other_gradient, 1e-2)
    return terms


@pytest.mark.parametrize("tree", [TINY, SEGFORMER], ids=["setr", "segformer"])
def test_our_step_and_the_plain_one_have_the_same_losses_and_gradient(tree):
    assert 0.2 < check_step(prepare(tree))["confident"] < 0.8  # a comparison in which no pixel counts would say nothing


@pytest.mark.parametrize("module, name, wrong", [
    ("reference", "negative_class_ranking", lambda student, teacher, labels: student.sum() * 0),
    ("reference", "cross_entropy", lambda logits, labels: F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)),
    ("", "inverse", lambda order: order),
])  # fmt: skip
def test_a_plain_step_that_is_another_method_is_noticed(monkeypatch, module, name, wrong):
    monkeypatch.setattr(reference, name, wrong) if module else monkeypatch.setitem(globals(), name, wrong)
    with pytest.raises(MismatchError, match="the two differ by"):
        check_step(prepare(SHUFFLED))
