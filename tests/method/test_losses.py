import itertools
import math

import pytest
import torch

from s4former.method import losses
from s4former.method.losses import (
    REGULARIZERS,
    all_class_ranking,
    cross_entropy,
    negative_class_ranking,
    soft_cross_entropy,
    soft_label_cross_entropy,
)

STUDENT = torch.tensor([2.0, 1, 0, -1])
TEACHER = torch.tensor([3.0, 0.5, 0.5, -2])


def pixel(logits):
    return logits.reshape(1, -1, 1, 1)


LABEL = torch.zeros(1, 1, 1, dtype=torch.long)


@pytest.mark.parametrize("norm, expected", [("l2sq", 0.092257), ("l2", 0.303738), ("kl", 0.134812)])
def test_the_worked_example_of_negative_class_ranking(norm, expected):
    assert negative_class_ranking(pixel(STUDENT), pixel(TEACHER), LABEL, norm).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("norm, expected", [("l2sq", 0.072950), ("l2", 0.270092), ("kl", 0.130694)])
def test_the_worked_example_of_all_class_ranking(norm, expected):
    assert all_class_ranking(pixel(STUDENT), pixel(TEACHER), LABEL, norm).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("norm, expected", [("l2sq", [0, 0.1530, -0.1495, -0.0035]), ("l2", [0, 0.2519, -0.2462, -0.0057])])
def test_the_worked_gradient(norm, expected):
    student = pixel(STUDENT).clone().requires_grad_()
    negative_class_ranking(student, pixel(TEACHER), LABEL, norm).backward()
    assert torch.allclose(student.grad.flatten(), torch.tensor(expected), atol=1e-4)
    assert student.grad.flatten()[0] == 0 and abs(student.grad.sum()) < 1e-6


def test_the_worked_examples_of_the_soft_losses():
    assert cross_entropy(pixel(STUDENT), LABEL).item() == pytest.approx(0.440190, abs=1e-5)
    assert soft_cross_entropy(pixel(STUDENT), pixel(TEACHER), LABEL).item() == pytest.approx(0.787339, abs=1e-5)
    assert soft_label_cross_entropy(pixel(STUDENT), pixel(TEACHER), LABEL).item() == pytest.approx(1.121389, abs=1e-5)
    nothing = torch.full_like(LABEL, 255)
    assert soft_label_cross_entropy(pixel(STUDENT), pixel(TEACHER), nothing) == 0


def test_equal_logits_cost_nothing_and_the_released_root_its_epsilon():
    logits, labels = torch.randn(2, 21, 3, 5), torch.randint(21, (2, 3, 5))
    assert negative_class_ranking(logits, logits, labels) == 0
    assert negative_class_ranking(logits, logits, labels, "l2").item() == pytest.approx(1e-6 * math.sqrt(20), rel=1e-3)
    assert negative_class_ranking(logits, logits, labels, "kl") == 0


def test_the_positive_logit_and_a_constant_change_nothing_unlike_in_all_class_ranking():
    student = pixel(STUDENT).clone()
    student[0, 0] = 10
    assert negative_class_ranking(student + 3, pixel(TEACHER), LABEL).item() == pytest.approx(0.092257, abs=1e-5)
    assert all_class_ranking(student, pixel(TEACHER), LABEL).item() != pytest.approx(0.072950, abs=1e-3)


def naive(student, teacher, labels, norm, leave_out):
    total = 0.0
    for image in range(labels.shape[0]):
        for row in range(labels.shape[1]):
            for column in range(labels.shape[2]):
                label = labels[image, row, column].item()
                if label == 255:
                    continue
                classes = [k for k in range(student.shape[1]) if not (leave_out and k == label)]
                s = student[image, classes, row, column].softmax(0)
                t = teacher[image, classes, row, column].softmax(0)
                distance = {
                    "l2sq": lambda: (t - s).square().sum(),
                    "l2": lambda: (t - s + 1e-6).square().sum().sqrt(),
                    "kl": lambda: (t * (t / s).log()).sum(),
                }[norm]()
                total = total + distance
    return total / labels.numel()


@pytest.mark.parametrize("norm", ["l2sq", "l2", "kl"])
@pytest.mark.parametrize("loss, leave_out", [(negative_class_ranking, True), (all_class_ranking, False)])
def test_a_loop_over_pixels_and_classes_agrees_in_value_and_gradient(loss, leave_out, norm):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(5, (2, 3, 4), generator=generator)
    labels[torch.rand(2, 3, 4, generator=generator) < 0.3] = 255
    values, gradients = [], []
    for function in (loss, lambda *a: naive(*a, leave_out)):
        leaf = student.clone().requires_grad_()
        value = function(leaf, teacher, labels, norm)
        value.backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    assert torch.allclose(*values, atol=1e-12) and torch.allclose(*gradients, atol=1e-12)


def test_two_classes_leave_one_negative_and_no_loss():
    student, teacher = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
    assert negative_class_ranking(student, teacher, torch.randint(2, (2, 3, 4))) == 0


@pytest.mark.parametrize("loss", [cross_entropy, *[lambda s, labels, n=n: negative_class_ranking(s, torch.randn(2, 5, 3, 4), labels, n) for n in ("l2sq", "l2", "kl")]])  # fmt: skip
def test_nothing_confident_gives_zero_and_a_finite_gradient(loss):
    student = torch.randn(2, 5, 3, 4, requires_grad=True)
    value = loss(student, torch.full((2, 3, 4), 255))
    value.backward()
    assert value == 0 and torch.equal(student.grad, torch.zeros_like(student))


def test_halving_the_labelled_pixels_of_equal_loss_halves_the_loss():
    student, teacher = (z.reshape(1, 4, 1, 1).expand(1, 4, 2, 4) for z in (STUDENT, TEACHER))
    labels = torch.zeros(1, 2, 4, dtype=torch.long)
    half = labels.clone()
    half[:, 1] = 255
    for loss in (lambda y: negative_class_ranking(student, teacher, y), lambda y: cross_entropy(student, y)):
        assert loss(half).item() == pytest.approx(loss(labels).item() / 2)


def test_cross_entropy_divides_by_all_pixels():
    labels = torch.tensor([[[0, 1], [1, 255]]])
    assert cross_entropy(torch.zeros(1, 2, 2, 2), labels).item() == pytest.approx(0.519860, abs=1e-6)


def test_the_teacher_gets_no_gradient():
    teacher = torch.randn(1, 5, 2, 3, requires_grad=True)
    student = torch.randn(1, 5, 2, 3, requires_grad=True)
    negative_class_ranking(student, teacher, torch.randint(5, (1, 2, 3))).backward()
    assert teacher.grad is None and student.grad is not None


def test_half_precision_logits_are_compared_in_float32():
    student, teacher = torch.randn(1, 5, 2, 3).bfloat16(), torch.randn(1, 5, 2, 3).bfloat16()
    labels = torch.randint(5, (1, 2, 3))
    assert negative_class_ranking(student, teacher, labels).dtype == torch.float32
    assert torch.equal(negative_class_ranking(student, teacher, labels), negative_class_ranking(student.float(), teacher.float(), labels))  # fmt: skip


def test_class_weights_are_not_rounded_to_the_type_of_the_logits():
    logits, labels, weights = torch.randn(2, 3, 4, 4).bfloat16(), torch.randint(3, (2, 4, 4)), [0.1, 1.7, 2.9]
    assert cross_entropy(logits, labels, weights) == cross_entropy(logits.float(), labels, weights)


def test_class_weights_weigh_pixels_by_their_label_and_the_mean_stays_over_all_pixels():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(3, (2, 4, 5))
    labels[0, 0] = 255
    weights = (0.5, 2.0, 1.0)
    expected = 0.0
    for b, i, j in itertools.product(range(2), range(4), range(5)):
        if (label := labels[b, i, j].item()) != 255:
            expected -= weights[label] * logits[b, :, i, j].log_softmax(0)[label].item()
    assert cross_entropy(logits, labels, weights).item() == pytest.approx(expected / labels.numel())
    assert torch.equal(cross_entropy(logits, labels, (1.0, 1.0, 1.0)), cross_entropy(logits, labels))


@pytest.mark.parametrize("norm", ["l2sq", "l2", "kl"])
@pytest.mark.parametrize("name", ["cross_entropy", *REGULARIZERS])
def test_chunk_by_chunk_is_the_plain_expression_in_value_and_gradient(name, norm, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(3, (2, 5, 4), generator=generator)
    labels[0, :2] = 255
    loss = {"cross_entropy": lambda s, t, y, n: cross_entropy(s, y), **REGULARIZERS}[name]
    values, gradients = [], []
    for pixels in (1000, 8):  # at once, and in chunks of two rows
        monkeypatch.setitem(losses.CHUNK, "cpu", pixels)
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher, labels, norm).backward()
        values.append(loss(leaf, teacher, labels, norm).detach())
        gradients.append(leaf.grad)
    assert torch.allclose(*values, atol=1e-14) and torch.allclose(*gradients, atol=1e-14)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels, norm), student.clone().requires_grad_())


def test_nothing_of_the_size_of_the_logits_is_kept_for_the_gradient():
    student, teacher = torch.randn(2, 5, 16, 24, requires_grad=True), torch.randn(2, 5, 16, 24)
    labels, kept = torch.randint(5, (2, 16, 24)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.untyped_storage().data_ptr()) or x, lambda x: x):
        loss = cross_entropy(student, labels) + negative_class_ranking(student, teacher, labels)
    own = {x.untyped_storage().data_ptr() for x in (student, teacher, labels)}
    assert loss.requires_grad and set(kept) == own


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_half_precision_logits_have_the_loss_and_the_gradient_of_float32_in_their_type(dtype, tolerance):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 6, 7).to(dtype), torch.randn(2, 5, 6, 7)
    labels = torch.randint(5, (2, 6, 7))
    labels[0, :2], labels[1, 0], student[1, 3, 0] = 255, 3, 9  # nothing, and sure pixels, whose gradient is small
    for loss in (cross_entropy, lambda s, y: negative_class_ranking(s, teacher, y)):
        half, single = student.clone().requires_grad_(), student.float().requires_grad_()
        values = loss(half, labels), loss(single, labels)
        for value in values:
            (512 * value).backward()
        assert torch.equal(*values) and half.grad.dtype == dtype
        torch.testing.assert_close(half.grad.float(), single.grad, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_several_images_in_a_chunk_have_the_loss_and_gradient_of_one_after_the_other(dtype, monkeypatch):
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(5, 3, 4, 6).to(dtype), torch.randn(5, 3, 4, 6), torch.randint(3, (5, 4, 6))
    found, sizes = [], []
    for device_chunk in (True, False):
        if not device_chunk:  # that of a GPU
            monkeypatch.delitem(losses.CHUNK, "cpu")
            monkeypatch.setattr(losses, "LARGE_CHUNK", 2 * 4 * 6)
        sizes.append([len(part) for (part,) in losses.chunks(student)])
        leaf = student.clone().requires_grad_()
        value = cross_entropy(leaf, labels) + negative_class_ranking(leaf, teacher, labels)
        value.backward()
        found.append((value.detach(), leaf.grad))
    assert sizes == [[1] * 5, [2, 2, 1]]
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(*found))


def test_a_second_backward_through_logits_in_half_precision_is_refused():
    student = torch.randn(1, 3, 2, 2).bfloat16().requires_grad_()
    value = cross_entropy(student, torch.zeros(1, 2, 2, dtype=torch.long))
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
