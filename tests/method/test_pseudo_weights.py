"""pseudo_weights.py: SoftMatch's weights and distribution alignment, by worked numbers and a loop over pixels."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from accelerate import Accelerator
from scripts import TINY
from test_thresholds import everywhere, logits_of
from tiny_networks import batch_of, network_of

from s4former.config import Method, from_dict
from s4former.data.batches import class_shares
from s4former.data.sources import load_sources
from s4former.errors import ConfigError
from s4former.method.mixing import mix_pseudo
from s4former.method.pseudo_weights import PSEUDO_WEIGHTS, DistributionAlignment, SoftWeights
from s4former.method.step import compare_with_teacher
from s4former.method.student import Student
from s4former.training.engine import Teacher, build_optimizer, update
from s4former.training.run import build_training


def student_of(word, **keys):
    method = Method(threshold=0.5, pseudo_weight=word, **keys)
    return Student(network_of("setr"), method), method


def random_logits(seed):
    return torch.randn(2, 5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_word_of_the_config_has_its_rule():
    words = get_args(Method.__annotations__["pseudo_weight"])
    assert set(words) == {"none", *PSEUDO_WEIGHTS}


def test_soft_weights_follow_the_mean_and_the_variance_of_confidence():
    weights = SoftWeights(3)
    said = logits_of([0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.34, 0.33, 0.33])
    weights.accumulate(said, torch.tensor([[[True, True, False]]]))
    weights.update(lambda tensor: tensor)
    assert weights.mean.item() == pytest.approx(0.7) and weights.variance.item() == pytest.approx(0.04)
    pseudo = student_of("none")[0].label(said, everywhere(said))
    expected = [1.0, math.exp(-(0.2**2) / (2 * 0.04 / 4)), math.exp(-(0.36**2) / (2 * 0.04 / 4))]  # 1, 0.1353, 0.0015
    assert weights.weigh(pseudo).weight.flatten().tolist() == pytest.approx(expected, rel=1e-4)
    weights.accumulate(said, torch.tensor([[[True, False, False]]]))
    weights.update(lambda tensor: tensor)
    assert weights.mean.item() == pytest.approx(0.99 * 0.7 + 0.01 * 0.9) and weights.variance.item() == pytest.approx(0.99 * 0.04)


def test_soft_weights_agree_with_a_loop_over_pixels_in_value_and_gradient():
    student, method = student_of("softmatch")
    student.pseudo_weights.mean.fill_(0.6)
    student.pseudo_weights.variance.fill_(0.05)
    said, logits = random_logits(0), random_logits(1).requires_grad_()
    valid = torch.ones(2, 6, 4, dtype=torch.bool)
    valid[0, :2] = False
    pseudo = student.label(said, valid)
    terms = compare_with_teacher(logits, pseudo, "strong", method)
    expected, weights = 0, []
    for n, i, j in valid.nonzero().tolist():
        confidence, label = said[n, :, i, j].softmax(0).max(0)
        weights.append(math.exp(-(max(0.6 - confidence.item(), 0) ** 2) / (2 * 0.05 / 4)))
        expected = expected - weights[-1] * logits[n, :, i, j].log_softmax(0)[label] / 48
    assert terms["consistency"].item() == pytest.approx(expected.item(), rel=1e-6) and 0 < min(weights) < 0.1 < max(weights) == 1
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in (terms["consistency"], expected)), rtol=1e-6)
    sure = student_of("none")[0].label(said, valid)
    assert torch.equal(pseudo.taught, sure.taught) and (pseudo.label != 255).sum() == valid.sum() > (sure.label != 255).sum()


def test_weights_move_with_a_mix_and_labels_that_are_known_weigh_1():
    student, _ = student_of("softmatch")
    student.pseudo_weights.mean.fill_(0.6)
    student.pseudo_weights.variance.fill_(0.05)
    said = random_logits(0)
    pseudo = student.label(said, torch.ones(2, 6, 4, dtype=torch.bool))
    source = torch.zeros(2, 6, 4, dtype=torch.long)
    source[:, 3:], source[:, 5] = 2, -1
    moved = mix_pseudo(pseudo, source, labels=torch.ones(1, 6, 4, dtype=torch.long))
    assert torch.equal(moved.weight[1, :3], pseudo.weight[0, :3]) and (moved.weight[:, 3:5] == 1).all()
    assert (moved.label[:, 5] == 255).all()


def test_distribution_alignment_multiplies_by_the_ratio_of_the_shares_and_renormalises():
    alignment = DistributionAlignment(3)
    said = logits_of([0.6, 0.3, 0.1], [0.8, 0.1, 0.1])
    assert torch.equal(alignment.align(said), said), "nothing is known yet"
    alignment.labeled.copy_(torch.tensor([0.35, 0.4, 0.25]))
    alignment.accumulate(said, everywhere(said))
    alignment.update(lambda tensor: tensor)
    assert alignment.predicted.tolist() == pytest.approx([0.7, 0.2, 0.1])
    # times 1/2, 2 and 2.5: (0.3, 0.6, 0.25) / 1.15 and (0.4, 0.2, 0.25) / 0.85
    expected = torch.tensor([[0.3, 0.6, 0.25], [0.4, 0.2, 0.25]]) / torch.tensor([[1.15], [0.85]])
    assert torch.allclose(alignment.align(said).softmax(1)[0, :, 0].T, expected, atol=1e-4)


def test_a_student_takes_the_aligned_prediction_for_label_confidence_and_logits():
    student, _ = student_of("distribution_alignment")
    student.pseudo_weights.labeled.copy_(torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6]))
    student.pseudo_weights.predicted.fill_(0.2)
    said, valid = random_logits(0), torch.ones(2, 6, 4, dtype=torch.bool)
    pseudo = student.label(said, valid)
    for n, i, j in valid.nonzero().tolist():
        p = said[n, :, i, j].softmax(0) * (student.pseudo_weights.labeled + 1e-6) / (0.2 + 1e-6)
        p = p / p.sum()
        assert pseudo.confidence[n, i, j].item() == pytest.approx(p.max().item(), rel=1e-6)
        assert torch.allclose(pseudo.logits[n, :, i, j].softmax(0), p)
        assert pseudo.label[n, i, j] == (p.argmax() if p.max() > 0.5 else 255)
    assert pseudo.weight is None


def test_the_shares_of_the_labels_are_those_of_all_their_pixels(tmp_path):
    config = from_dict({**TINY, "method": {**TINY["method"], "pseudo_weight": "distribution_alignment"}})
    sources = load_sources(config.data)
    shares = class_shares(config, sources)
    assert shares.sum().item() == pytest.approx(1) and (shares >= 0).all() and (shares > 0).sum() > 1
    training = build_training(config, sources, tmp_path, Accelerator(cpu=True))
    assert torch.equal(training.accelerator.unwrap_model(training.student).pseudo_weights.labeled, shares)


@pytest.mark.parametrize("word", PSEUDO_WEIGHTS)
def test_a_step_moves_the_means_which_its_checkpoint_holds(word):
    config = from_dict({
        "data": {"source": "shapes"}, "method": {"threshold": 0.24, "pseudo_weight": word, "mix_group": 2, "auxiliary_weight": 0},
    })  # fmt: skip
    network = network_of("setr")
    student, accelerator = Student(network, config.method).double(), Accelerator(cpu=True)
    student, optimizer = accelerator.prepare(student, build_optimizer(student, config.optimizer))
    before = {name: value.clone() for name, value in student.pseudo_weights.state_dict().items()}
    terms = update(accelerator, student, Teacher(network), optimizer, [batch_of("setr")], 0, config)
    moved = {name for name, value in student.state_dict().items() if "pseudo_weights" in name and not torch.equal(value, before[name[15:]])}
    assert moved == ({"pseudo_weights.mean", "pseudo_weights.variance"} if word == "softmatch" else {"pseudo_weights.predicted"})
    assert all(torch.isfinite(term).all() for term in terms.values()) and terms["confident"] < 1


@pytest.mark.parametrize("name, value, repair", [("thresholds", "per_class", "fixed"), ("pasa_confidence", "mask", "probability")])
def test_two_rules_for_the_same_pixels_are_refused(name, value, repair):
    with pytest.raises(ConfigError) as error:
        from_dict({"method": {"pseudo_weight": "softmatch", name: value}})
    assert str(error.value) == (
        f"method.pseudo_weight = 'softmatch' makes every pixel a pseudo label, which leaves nothing to method.{name} = {value!r}; set"
        f" method.{name}={repair}, or method.pseudo_weight=none"
    )
    assert Student(network_of("setr"), replace(Method(), teacher="none", pseudo_weight="softmatch")).pseudo_weights is None
