"""Distribution alignment, by worked numbers and a loop over pixels."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from scripts import TINY
from test_thresholds import everywhere, logits_of
from tiny_networks import batch_of, network_of

from s4former.config import Method, from_dict
from s4former.data.batches import class_shares
from s4former.data.sources import load_sources
from s4former.method.mixing import mix_pseudo
from s4former.method.pseudo_weights import DistributionAlignment
from s4former.method.student import Student
from s4former.training.engine import Teacher, build_optimizer, update
from s4former.training.run import build_training


def student_of(word, **keys):
    method = Method(threshold=0.5, pseudo_weight=word, **keys)
    return Student(network_of("setr"), method), method


def random_logits(seed):
    return torch.randn(2, 5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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


def test_a_step_moves_the_mean_which_its_checkpoint_holds():
    config = from_dict({
        "data": {"source": "shapes"}, "method": {"threshold": 0.24, "pseudo_weight": "distribution_alignment", "mix_group": 2, "auxiliary_weight": 0},
    })  # fmt: skip
    network = network_of("setr")
    student, accelerator = Student(network, config.method).double(), Accelerator(cpu=True)
    student, optimizer = accelerator.prepare(student, build_optimizer(student, config.optimizer))
    before = {name: value.clone() for name, value in student.pseudo_weights.state_dict().items()}
    terms = update(accelerator, student, Teacher(network), optimizer, [batch_of("setr")], 0, config)
    moved = {name for name, value in student.state_dict().items() if "pseudo_weights" in name and not torch.equal(value, before[name[15:]])}
    assert moved == {"pseudo_weights.predicted"}
    assert all(torch.isfinite(term).all() for term in terms.values()) and terms["confident"] < 1


def test_thresholds_follow_the_aligned_predictions_that_they_judge():
    student, _ = student_of("distribution_alignment", thresholds="per_class")
    student.pseudo_weights.labeled.copy_(torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6]))
    student.pseudo_weights.predicted.fill_(0.2)
    said, valid, plain = random_logits(0), torch.ones(2, 6, 4, dtype=torch.bool), Student(network_of("setr"), Method(thresholds="per_class"))
    student.observe(lambda images: said, valid)(None)
    plain.observe(lambda images: student.align(said), valid)(None)
    assert torch.equal(student.thresholds.accumulated, plain.thresholds.accumulated)
    assert torch.allclose(student.pseudo_weights.accumulated[:5], said.softmax(1).sum((0, 2, 3)))


def test_weights_move_with_a_mix_and_labels_that_are_known_weigh_1():
    student, _ = student_of("none")
    pseudo = replace(student.label(random_logits(0), torch.ones(2, 6, 4, dtype=torch.bool)), weight=torch.rand(2, 6, 4))
    source = torch.zeros(2, 6, 4, dtype=torch.long)
    source[:, 3:], source[:, 5] = 2, -1
    moved = mix_pseudo(pseudo, source, labels=torch.ones(1, 6, 4, dtype=torch.long))
    assert torch.equal(moved.weight[1, :3], pseudo.weight[0, :3]) and (moved.weight[:, 3:5] == 1).all()
    assert (moved.label[:, 5] == 255).all()
