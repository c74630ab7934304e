"""previous.py: snapshots of the student that label its strong views as well (PrevMatch)."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from tiny_networks import Pixelwise, batch_of, changed, config_of, network_of

from s4former.config import Method
from s4former.method.context import StepContext
from s4former.method.step import total_loss, train_step
from s4former.method.student import Student
from s4former.training import previous as module
from s4former.training.engine import Teacher, build_optimizer, update
from s4former.training.previous import PreviousStudents
from s4former.training.schedules import previous_weight


class Number(torch.nn.Module):
    def __init__(self, value=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([value]))


def previous_of(steps, kept, network=None, **run):
    return PreviousStudents(network or Number(), config_of(method={"previous": kept, "burn_in": 3}, schedule={"steps": steps}, run=run))


def test_snapshots_are_taken_twenty_times_in_a_run_and_the_newest_are_kept():
    previous, network = previous_of(200, 3), Number()
    found = {}
    for step in range(200):
        network.weight.data.fill_(float(step))
        previous.begin(network, step)
        found[step] = sorted(each.network.weight.item() for each in previous.networks)
    assert found[12] == [0, 0, 0] and found[13] == [0, 0, 13] and found[33] == [13, 23, 33] and found[43] == [23, 33, 43]
    assert found[199] == [173, 183, 193]


def test_one_to_three_of_them_are_drawn_by_seed_and_step_with_weights_that_sum_to_one():
    previous, counts = previous_of(2000, 8), {1: 0, 2: 0, 3: 0}
    for step in range(1000, 1300):
        previous.begin(Number(), step)
        indices, weights = zip(*previous.chosen)
        counts[len(indices)] += 1
        assert len(set(indices)) == len(indices) and set(indices) <= set(range(8)) and sum(weights) == pytest.approx(1)
    assert all(70 < count < 130 for count in counts.values())
    again, other = previous_of(2000, 8), previous_of(2000, 8, seed=1)
    for each in (again, other):
        each.begin(Number(), 1299)
    assert again.chosen == previous.chosen != other.chosen
    previous.begin(Number(), 3 + 99)
    assert previous.chosen == []
    previous.begin(Number(), 3 + 100)
    assert [index for index, _ in previous.chosen] == [0]


def test_their_term_rises_to_half_of_the_run_and_falls_and_the_sum_is_divided():
    assert [previous_weight(step, 8) for step in (0, 2, 4, 6, 8)] == [0, 0.5, 1, 0.5, 0]
    terms = {"supervised": torch.tensor(3.0), "consistency_strong": torch.tensor(1.0), "previous_strong": torch.tensor(2.0)}
    assert total_loss(terms, Method(), previous=0.5) == pytest.approx((3 + 1 + 0.5 * 2) / 1.25)  # (L_x + L + l L_prev) / (2 + l), times 2
    terms = {**terms, "consistency_features": torch.tensor(2.0), "previous_features": torch.tensor(4.0)}
    assert total_loss(terms, Method(), previous=1.0) == pytest.approx((3 + (1 + 2) / 2 + (2 + 4) / 2) / 1.5)
    del terms["previous_strong"], terms["previous_features"]
    assert total_loss(terms, Method(), previous=1.0) == pytest.approx(3 + (1 + 2) / 2)


def test_the_term_agrees_with_a_loop_over_pixels_in_value_and_gradient(monkeypatch):
    monkeypatch.setattr(module, "CONFIDENCE", 0.3)
    method = Method(threshold=0.3, mix="cutmix", mix_group=2, patch_shuffle=False, pasa="none", regularizer="none", previous=2)
    student, teacher = Pixelwise(0), Pixelwise(1)
    batch = changed(batch_of("setr"), orders=torch.arange(2).expand(4, 1, 2))  # not shuffled
    previous = previous_of(20, 2)
    previous.networks = torch.nn.ModuleList([Pixelwise(2), Pixelwise(3)])
    previous.chosen = [(1, 0.25), (0, 0.75)]
    labeler, label = previous.guide(teacher, Student(network_of("setr"), method).label)
    terms = train_step(student, labeler, batch, method, StepContext(label=label))
    mean = 0.25 * previous.networks[1](batch.weak) + 0.75 * previous.networks[0](batch.weak)
    confidence, labels = mean.softmax(1).max(1)
    labels[~((confidence > 0.3) & batch.valid)] = 255
    strong = batch.strong[0]
    box, partner = strong.mix["boxes"], strong.mix["partner"]
    labels = torch.where(box, labels[partner], labels)
    logits = student.layer(torch.where(box[:, None], strong.images[partner], strong.images))
    kept = (labels != 255).nonzero().tolist()
    expected = -sum(logits[n, :, i, j].log_softmax(0)[labels[n, i, j]] for n, i, j in kept) / labels.numel()
    assert terms["previous_strong"].item() == pytest.approx(expected.item()) and 0 < len(kept) < labels.numel()
    gradients = [torch.autograd.grad(x, student.layer.weight)[0] for x in (terms["previous_strong"], expected)]
    assert torch.allclose(*gradients)
    plain = train_step(student, teacher, batch, method)
    assert torch.equal(plain["consistency_strong"], terms["consistency_strong"]) and "previous_strong" not in plain


def test_an_update_trains_on_their_labels_once_there_are_snapshots_and_leaves_them_without_gradient(monkeypatch):
    monkeypatch.setattr(module, "CONFIDENCE", 0.2)
    config = config_of(method={"previous": 2, "threshold": 0.2, "mix_group": 2, "auxiliary_weight": 0}, schedule={"steps": 20})
    network, accelerator = network_of("setr"), Accelerator(cpu=True)
    previous, student = PreviousStudents(network, config), Student(network, config.method).double()
    student, optimizer = accelerator.prepare(student, build_optimizer(student, config.optimizer))
    seen = []
    for step in range(3):
        batch = replace(batch_of("setr"), seeds=(1, 2, 3, 4))
        terms = update(accelerator, student, Teacher(network), optimizer, [batch], step, config, previous)
        assert all(torch.isfinite(term).all() for term in terms.values())
        seen.append({name for name in terms if name.startswith("previous")})
    assert seen == [set(), *[{"previous_strong", "previous_pasa"}] * 2]
    assert not any(parameter.requires_grad for parameter in previous.parameters()) and not previous.networks[0].network.training
