import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_u2pl import small_batch
from tiny_networks import SIZES, batch_of, network_of

from s4former.config import Method
from s4former.method import psmt
from s4former.method.boxes import square_box
from s4former.method.context import StepContext
from s4former.method.step import total_loss, unsupervised_weight
from s4former.method.student import Student
from s4former.training.engine import Teacher, update_teacher

METHOD = Method(
    algorithm="psmt", mix="cutmix", threshold=0.3, mix_group=2, patch_shuffle=False, pasa="none", regularizer="none",
    adversarial_noise=0.5,
)  # fmt: skip
CONTEXT = StepContext(predict=lambda images: images)


def linear(seed, channels=3):
    torch.manual_seed(seed)
    return torch.randn(5, channels, dtype=torch.float64)


def decoder_of(weight):
    return lambda maps: torch.einsum("kc,bchw->bkhw", weight, maps[0])


def test_the_noise_points_where_linear_decoders_change_their_mean_prediction_most():
    """For logits W f the gradient of the divergence is W^T (p' - p), pixel by pixel, p' the prediction of the probe."""
    weights, features = [linear(0), linear(1)], torch.randn(2, 3, 2, 4, dtype=torch.float64)
    (moved,) = psmt.add_adversarial_noise([decoder_of(w) for w in weights], 2.0, (5, 6), (features,))
    mean = sum(weights) / 2
    for n, seed in enumerate((5, 6)):
        start = torch.rand(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5
        probe, expected = features[n] + 0.1 * start / start.norm(), torch.zeros(3, 2, 4, dtype=torch.float64)
        for i in range(2):
            for j in range(4):
                plain, changed = ((mean @ x[:, i, j]).softmax(0) for x in (features[n], probe))
                expected[:, i, j] = mean.T @ (changed - plain)
        assert torch.allclose(moved[n] - features[n], 2.0 * expected / expected.norm())


def divergence(decoder, features, moved):
    p, q = (decoder((x,)).log_softmax(1) for x in (features, moved))
    return (p.exp() * (p - q)).sum().item()


def test_it_changes_the_prediction_more_than_random_noise_of_its_length():
    decoder, features = decoder_of(linear(0)), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    (moved,) = psmt.add_adversarial_noise([decoder], 0.5, (1,), (features,))
    random = torch.randn(20, 3, 4, 4, dtype=torch.float64)
    random = [divergence(decoder, features, features + 0.5 * x / x.norm()) for x in random]
    assert (moved - features).norm().item() == pytest.approx(0.5) and divergence(decoder, features, moved) > 1.5 * max(random)


def test_the_length_is_that_of_all_maps_of_an_image_together_and_the_student_gets_its_gradient_through_it():
    maps = (torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 6, 2, 2, requires_grad=True))
    weight = torch.randn(5, 3)
    decoder = lambda x: torch.einsum("kc,bchw->bkhw", weight, x[0]) + x[1].mean(dim=(1, 2, 3), keepdim=True) * torch.arange(5.0)[:, None, None]  # noqa: E731
    moved = psmt.add_adversarial_noise([decoder], 3.0, (1, 2), maps)
    lengths = sum((x - y).square().flatten(1).sum(1) for x, y in zip(moved, maps)).sqrt()
    assert lengths.tolist() == pytest.approx([3, 3]) and all((x != y).any() for x, y in zip(moved, maps))
    for gradient in torch.autograd.grad(sum(x.sum() for x in moved), maps):
        assert torch.equal(gradient, torch.ones_like(gradient))


class Network:
    """A `Student` and a teacher of an identity encoder and a linear decoder, by what psmt asks of them."""

    def __init__(self, weight):
        self.weight = weight.requires_grad_()

    def __call__(self, views):
        if isinstance(views, torch.Tensor):
            return decoder_of(self.weight.detach())((views,))
        return [(decoder_of(self.weight)(view.perturb((view.images,))), ()) for view in views]


def test_the_step_agrees_with_a_loop_over_pixels_in_value_and_gradient(monkeypatch):
    monkeypatch.setattr(psmt, "decode", lambda network, maps: decoder_of(network)(maps))
    batch, student, weights = small_batch(), Network(linear(0)), [linear(1), linear(2)]
    teacher = Network(sum(weights) / 2)
    both = lambda images: teacher(images)  # noqa: E731
    both.networks = weights
    terms = psmt.train_step(student, both, batch, METHOD, CONTEXT)
    strong, partner, box = batch.strong[0], batch.strong[0].mix["partner"], batch.strong[0].mix["boxes"]
    p = both(batch.weak).softmax(1)
    confidence, label = p.amax(1) * batch.valid, p.argmax(1)
    label[~(confidence > 0.3)] = 255
    label, confidence = torch.where(box, label[partner], label), torch.where(box, confidence[partner], confidence)
    images = torch.where(box[:, None], strong.images[partner], strong.images)
    decoders = [decoder_of(w) for w in weights]
    (moved,) = psmt.add_adversarial_noise(decoders, 0.5, batch.seeds, (images,))
    logits = decoder_of(student.weight)((moved,))
    kept = (label != 255).nonzero().tolist()
    expected = sum(-confidence[n, i, j] * logits[n, :, i, j].log_softmax(0)[label[n, i, j]] for n, i, j in kept) / len(kept)
    (moved,) = psmt.add_adversarial_noise(decoders, 0.5, batch.labeled_seeds, (batch.labeled,))
    logits, labels = decoder_of(student.weight)((moved,)), batch.labels
    supervised = -sum(logits[n, :, i, j].log_softmax(0)[labels[n, i, j]] for n, i, j in (labels != 255).nonzero().tolist())
    assert terms["consistency_strong"].item() == pytest.approx(expected.item(), rel=1e-5) and 0 < len(kept) < label.numel()
    assert terms["supervised"].item() == pytest.approx(supervised.item() / labels.numel())
    gradients = [torch.autograd.grad(x, student.weight)[0] for x in (terms["consistency_strong"], expected)]
    assert torch.allclose(*gradients, rtol=1e-5)


@pytest.mark.parametrize("family", SIZES)
def test_it_steps_any_network_and_leaves_its_teachers_without_gradient(family):
    network = network_of(family)
    student, teacher = Student(network, METHOD).double().train(), Teacher(network, second=True)
    batch = batch_of(family)
    batch = replace(batch, seeds=(1, 2, 3, 4), labeled_seeds=(5, 6, 7))
    terms = psmt.train_step(student, teacher, batch, replace(METHOD, threshold=0.1), CONTEXT)
    total_loss(terms, METHOD).backward()
    assert all(torch.isfinite(term).all() for term in terms.values()) and terms["consistency_strong"] > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.network.parameters())


class Small(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([value]))


def test_the_teachers_follow_in_turn_and_both_copy_at_first():
    method = Method(algorithm="psmt", ema=0.5, ema_copies=1, burn_in=1, teacher_turn=2)
    teacher, student = Teacher(Small(8.0), second=True), SimpleNamespace(network=Small(0.0))
    seen = []
    for step in range(6):
        update_teacher(teacher, student, step, method)
        seen.append([network.weight.item() for network in teacher.networks])
        student.network.weight.data.fill_(1.0)
    assert seen == [[0, 0], [0.5, 0], [0.75, 0], [0.75, 0.5], [0.75, 0.75], [0.875, 0.75]]


def test_the_teacher_is_the_mean_of_both():
    network = network_of("setr")
    teacher = Teacher(network, second=True)
    for parameter in teacher.second.parameters():
        parameter.data.mul_(1.1)
    images = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    alone = []
    for part in teacher.networks:
        alone.append(Teacher(part)(images))
    assert torch.allclose(teacher(images), sum(alone) / 2) and not torch.allclose(*alone)


def test_the_weight_rises_on_half_a_cosine_after_the_burn_in():
    method = Method(unsupervised_weight=1.5, unsupervised_ramp=10, burn_in=4)
    assert [unsupervised_weight(step, method) for step in (0, 4, 9, 14, 99)] == pytest.approx([0, 0, 0.75, 1.5, 1.5])
    assert unsupervised_weight(0, Method(unsupervised_weight=1.5)) == 1.5
    terms = {"supervised": torch.tensor(1.0), "consistency_strong": torch.tensor(2.0)}
    assert total_loss(terms, method, 9).item() == pytest.approx(1 + 0.75 * 2)


def test_square_boxes_of_a_share_of_the_sides_are_cut_off_at_the_border():
    boxes = [square_box((40, 80), 0.5, torch.Generator().manual_seed(seed)) for seed in range(50)]
    whole = [(box.any(1).sum().item(), box.any(0).sum().item()) for box in boxes]
    assert max(whole) == (20, 40) and min(whole)[0] < 20 and math.isclose(max(box.float().mean() for box in boxes), 0.25)
