import math
from dataclasses import replace

import pytest
import torch
from tiny_networks import Pixelwise, batch_of, changed, place

from s4former.config import ConfigError, Method, from_dict
from s4former.method import imas
from s4former.method.context import StepContext
from s4former.method.mixing import MIXES, hardness_cutmix, hardness_mixes
from s4former.method.pseudo import pseudo_label
from s4former.method.step import total_loss

METHOD = Method(
    algorithm="imas", mix="cutmix_hardness", threshold=0.3, patch_shuffle=False, pasa="none", regularizer="none", mix_group=2,
    unsupervised_weight=3.0,
)  # fmt: skip


def said(labels, sure, classes=3):
    """Predictions of an image (1, 1, N): these labels, above the threshold of 0.95 where `sure`."""
    logits = torch.zeros(1, classes, 1, len(labels), dtype=torch.float64)
    for column, (label, certain) in enumerate(zip(labels, sure)):
        logits[0, label, 0, column] = 10.0 if certain else 1.0
    return pseudo_label(logits, torch.ones(1, 1, len(labels)) > 0, 0.95)


def test_the_worked_scores():
    """Teacher 0 1 1 2, student 0 1 2 2: IoU of class 1 and of class 2 is 1/2; class 0 counts nothing."""
    teacher, student = said([0, 1, 1, 2], [1, 1, 1, 0]), said([0, 1, 2, 2], [1, 1, 0, 0])
    assert imas.instance_scores(student, teacher).item() == pytest.approx((3 / 4 * 1 / 2 + 2 / 4 * 1 / 2) / 2)
    # the frequencies: teacher 1 1 1 2 has IoU 2/3 of class 1 (weight 3/4) and 1/2 of class 2; in the student's they weigh alike
    teacher, student = said([1, 1, 1, 2], [1, 1, 1, 1]), said([1, 1, 2, 2], [1, 1, 1, 1])
    expected = (3 / 4 * 2 / 3 + 1 / 4 * 1 / 2) / 2 + (1 / 2 * 2 / 3 + 1 / 2 * 1 / 2) / 2
    assert imas.instance_scores(student, teacher).item() == pytest.approx(expected)


def test_agreement_on_sure_pixels_scores_one_and_background_alone_or_padding_alone_nothing():
    one = said([1, 1, 2, 0], [1, 1, 1, 1])
    assert imas.instance_scores(one, one).item() == 1
    background = said([0, 0, 0, 0], [1, 1, 1, 1])
    assert imas.instance_scores(background, background).item() == 0
    logits = torch.randn(2, 3, 4, 6)
    padded = pseudo_label(logits, torch.zeros(2, 4, 6) > 0, 0.1)
    assert imas.instance_scores(padded, padded).tolist() == [0, 0]


def test_padding_changes_no_score():
    teacher, student = torch.randn(2, 4, 4, 6), torch.randn(2, 4, 4, 6)
    valid = torch.ones(2, 4, 6) > 0
    valid[:, 2:] = False
    padded = imas.instance_scores(pseudo_label(student, valid, 0.4), pseudo_label(teacher, valid, 0.4))
    cut = imas.instance_scores(*(pseudo_label(x[:, :, :2], valid[:, :2], 0.4) for x in (student, teacher)))
    assert torch.equal(padded, cut) and (cut > 0).any()


def test_the_easiest_image_of_a_group_exchanges_content_with_its_hardest():
    draws = MIXES["cutmix_hardness"].draw(place("cutmix_hardness", positions=8, group=4))
    score = torch.tensor([0.1, 0.9, 0.6, 0.4, 0.2, 0.3, 0.8, 0.7])
    draws |= {"score": score, "chance": torch.tensor([0.49, 0.51])}  # both groups have a mean of 0.5
    pseudo = pseudo_label(torch.randn(8, 3, 16, 24), torch.ones(8, 16, 24) > 0, 0.5)
    source = hardness_cutmix(draws, pseudo, (16, 24))
    assert hardness_mixes(draws, score).tolist() == [True] * 4 + [False] * 4
    own = torch.arange(8)[:, None, None].expand(-1, 16, 24)
    partner = torch.tensor([1, 0, 3, 2])[:, None, None].expand(-1, 16, 24)
    assert torch.equal(source[:4], torch.where(draws["boxes"][:4], partner, own[:4])) and torch.equal(source[4:], own[4:])


def test_boxes_have_a_tenth_to_nine_tenths_of_the_sides_one_size_for_a_group():
    sides = []
    for step in range(300):
        boxes = MIXES["cutmix_hardness"].draw(place("cutmix_hardness", positions=4, group=2, step=step, size=(32, 64)))["boxes"]
        heights, widths = boxes.any(dim=2).sum(dim=1), boxes.any(dim=1).sum(dim=1)
        sides += (widths / 64).tolist()
        assert heights.max() <= 0.9 * 32 and widths.max() <= 0.9 * 64
    assert max(sides) > 0.8 and min(sides) < 0.1


def naive_loss(student, teacher, batch, method):
    """iMAS image by image and pixel by pixel."""
    strong, images = batch.strong[0], range(batch.unlabeled)
    supervised, count = 0, 0
    for logits, labels in zip(student(batch.labeled), batch.labels):
        for row, column in ((i, j) for i in range(labels.shape[0]) for j in range(labels.shape[1])):
            count += 1
            if labels[row, column] != 255:
                supervised = supervised - logits[:, row, column].log_softmax(0)[labels[row, column]]
    scores, taught = [], []
    for i in images:
        weak, valid = batch.weak[i : i + 1], batch.valid[i]
        probabilities = [network(weak)[0].softmax(0).detach() for network in (teacher, student)]
        labels = [p.argmax(0) for p in probabilities]
        sure = [((p.amax(0) > method.threshold) & valid).sum() / valid.sum() for p in probabilities]
        score = 0
        for rho, weighing in zip(sure, labels):
            foreground = ((weighing > 0) & valid).sum()
            for k in range(1, 5):
                both = ((labels[0] == k) & (labels[1] == k) & valid).sum()
                either = (((labels[0] == k) | (labels[1] == k)) & valid).sum()
                if either and foreground:
                    score += rho * (((weighing == k) & valid).sum() / foreground) * both / either / 2
        scores.append(float(score))
        taught.append(torch.where((probabilities[0].amax(0) > method.threshold) & valid, labels[0], 255))
    total, pixels = 0, batch.valid[0].numel()
    for g, group in enumerate(strong.mix["groups"].tolist()):
        order = sorted(group, key=lambda i: scores[i])
        mixed = float(strong.mix["chance"][g]) < sum(scores[i] for i in group) / len(group)
        for i in group:
            partner, box = order[len(order) - 1 - order.index(i)], strong.mix["boxes"][i]
            blended = scores[i] * strong.images[i] + (1 - scores[i]) * batch.weak[i]
            pasted = torch.where(box, batch.weak[partner], batch.weak[i])
            views = [(blended, taught[i])] + [(pasted, torch.where(box, taught[partner], taught[i]))] * mixed
            for image, label in views:
                logits = student(image[None])[0].log_softmax(0)
                for row, column in (label != 255).nonzero().tolist():
                    total = total - scores[i] / len(views) * logits[label[row, column], row, column] / pixels
    return supervised / count, total / len(images)


@pytest.mark.parametrize("chance", [[0.0, 0.0], [1.0, 0.0]], ids=["both groups mixed", "one of them"])
def test_the_step_agrees_with_loops_over_images_and_pixels_in_value_and_gradient(chance):
    batch = batch_of("setr", images=4)
    half = lambda x: x[..., ::4, ::8]  # noqa: E731
    size = (8, 8)
    draws = MIXES["cutmix_hardness"].draw(place("cutmix_hardness", positions=4, group=2, size=size)) | {"chance": torch.tensor(chance)}
    batch = changed(
        replace(batch, labeled=half(batch.labeled), labels=half(batch.labels), weak=half(batch.weak), valid=half(batch.valid)),
        images=half(batch.strong[0].images), mix=draws,
    )  # fmt: skip
    student, teacher = Pixelwise(0), Pixelwise(1)
    context = StepContext(predict=lambda images: student(images).detach())
    terms = imas.train_step(student, lambda images: teacher(images).detach(), batch, METHOD, context)
    supervised, unsupervised = naive_loss(student, teacher, batch, METHOD)
    assert terms["supervised"].item() == pytest.approx(supervised.item())
    assert terms["consistency_strong"].item() == pytest.approx(unsupervised.item(), rel=1e-6) and unsupervised.item() > 0.01
    gradients = [
        torch.autograd.grad(loss, student.layer.weight)[0]
        for loss in (total_loss(terms, METHOD), supervised + 3 * unsupervised)
    ]
    assert torch.allclose(*gradients, rtol=1e-6) and not math.isclose(gradients[0].abs().max().item(), 0)


def test_what_it_has_no_use_for_is_refused_and_told():
    method = {"algorithm": "imas", "mix": "cutmix_hardness", "pasa": "none", "regularizer": "none", "patch_shuffle": False}
    assert from_dict({"method": method}).method.title == "iMAS"
    for changed_keys, message in (
        ({"patch_shuffle": True}, "method.algorithm = 'imas' knows no method.patch_shuffle = True; set method.patch_shuffle=false,"
                                  " as configs/methods/imas.json does"),
        ({"regularizer": "ncr"}, "method.algorithm = 'imas' knows no method.regularizer = 'ncr'; set method.regularizer=none,"
                                 " as configs/methods/imas.json does"),
        ({"mix": "cutmix"}, "method.algorithm = 'imas' knows no method.mix = 'cutmix'; one of cutmix_hardness"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            from_dict({"method": method | changed_keys})
        assert str(caught.value) == message
