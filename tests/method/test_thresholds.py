"""thresholds.py: one threshold for each class, held still during a step and exact across a resume."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from scripts import TINY, train, write_config
from tiny_networks import batch_of, method_of, network_of

from s4former.config import Method, from_dict
from s4former.method.batch import Strong
from s4former.method.pseudo import pseudo_label
from s4former.method.step import compare_with_teacher
from s4former.method.student import Student
from s4former.method.thresholds import CalibratedThreshold, ClassThresholds
from s4former.training import checkpoint
from s4former.training.engine import Teacher, build_optimizer, update


def logits_of(*probabilities):
    """(1, K, 1, W): one pixel for each row of probabilities."""
    return torch.tensor(probabilities).log().T[None, :, None, :]


def everywhere(logits):
    return torch.ones(1, *logits.shape[-2:], dtype=torch.bool)


def test_a_class_the_teacher_is_unsure_of_gets_a_lower_threshold_in_proportion():
    thresholds = ClassThresholds(3, 0.9)
    assert torch.allclose(thresholds.current(), torch.full((3,), 0.9))
    said = logits_of([0.9, 0.1, 0.0001], [0.7, 0.3, 0.0001], [0.4, 0.6, 0.0001])  # means: 0.8 and 0.6
    thresholds.accumulate(said, everywhere(said))
    assert torch.allclose(thresholds.current(), torch.full((3,), 0.9)), "nothing moves within a step"
    thresholds.update(lambda tensor: tensor)
    assert torch.allclose(thresholds.current(), torch.tensor([0.9, 0.675, 0.9]), atol=1e-3)
    sure = logits_of([0.0001, 1.0, 0.0001])
    thresholds.accumulate(sure, everywhere(sure))
    thresholds.update(lambda tensor: tensor)
    expected = 0.99 * 0.6 + 0.01 * 1.0
    assert torch.allclose(thresholds.confidence, torch.tensor([0.8, expected, 0.0]), atol=1e-3)


def test_a_smaller_spread_moves_the_thresholds_together_and_1_changes_no_bit():
    confidence = torch.tensor([0.8, 0.6, 0.0])
    found = {}
    for spread in (1.0, 0.5, 0.0):
        found[spread] = ClassThresholds(3, 0.9, spread)
        found[spread].confidence.copy_(confidence)
    assert torch.equal(found[1.0].current()[:2], 0.9 * (confidence[:2] / confidence.max()))
    assert torch.allclose(found[0.5].current(), torch.tensor([0.9, 0.9 * 0.75**0.5, 0.9]))
    assert torch.equal(found[0.0].current(), torch.full((3,), 0.9))


def test_the_mean_of_millions_of_pixels_is_right():
    """Added up in float32, 2 million times 0.94 has a mean of 0.9620."""
    thresholds = ClassThresholds(2, 0.9)
    said = logits_of([0.94, 0.06]).expand(2, 2, 1000, 1000)
    thresholds.accumulate(said, torch.ones(2, 1000, 1000, dtype=torch.bool))
    thresholds.update(lambda tensor: tensor)
    assert thresholds.confidence[0].item() == pytest.approx(0.94, abs=1e-6)


def test_padding_does_not_count_and_rounds_and_processes_make_one_mean():
    said = logits_of([0.9, 0.1], [0.6, 0.4], [0.5001, 0.4999])
    parts, whole = ClassThresholds(2, 0.9), ClassThresholds(2, 0.9)
    valid = torch.tensor([[[True, True, False]]])
    whole.accumulate(said, valid)
    whole.update(lambda tensor: tensor)
    assert whole.confidence[0] == pytest.approx(0.75, abs=1e-4)
    parts.accumulate(said[..., :1], valid[..., :1])
    other = ClassThresholds(2, 0.9)
    other.accumulate(said[..., 1:], valid[..., 1:])
    parts.update(lambda tensor: tensor + other.accumulated)
    assert torch.allclose(parts.confidence, whole.confidence)


def test_pixels_are_judged_by_the_threshold_of_the_class_they_are_said_to_be():
    said = logits_of([0.8, 0.2], [0.2, 0.8])
    assert pseudo_label(said, everywhere(said), torch.tensor([0.9, 0.7])).label.tolist() == [[[255, 1]]]


def test_images_that_only_give_content_do_not_count():
    valid, logits = torch.ones(2, 4, 4, dtype=torch.bool), torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    counted = []
    for said in (logits, logits[:2]):
        student = Student(network_of("setr"), Method(thresholds="per_class"))
        assert torch.equal(student.observe(lambda images: said, valid)(None), said)
        counted.append(student.thresholds.accumulated)
    assert torch.equal(*counted)


def test_an_update_moves_them_and_lets_more_pixels_in():
    config = from_dict({
        "data": {"source": "shapes"}, "method": {"threshold": 0.24, "thresholds": "per_class", "mix_group": 2, "auxiliary_weight": 0},
    })  # fmt: skip
    network = network_of("setr")
    student, accelerator = Student(network, config.method).double(), Accelerator(cpu=True)
    optimizer = build_optimizer(student, config.optimizer)
    student, optimizer = accelerator.prepare(student, optimizer)
    terms = update(accelerator, student, Teacher(network), optimizer, [batch_of("setr")], 0, config)
    assert (student.thresholds.confidence > 0).any() and student.thresholds.accumulated is None
    lower = student.thresholds.current()
    assert lower.max() == pytest.approx(0.24) and lower.min() < 0.24
    assert torch.isfinite(terms["total"])
    assert Student(network, method_of()).thresholds is None


def test_an_update_hears_the_images_it_trains_on_only(monkeypatch):
    config = from_dict({"data": {"source": "shapes"}, "method": {"thresholds": "per_class", "auxiliary_weight": 0}})
    network, counted = network_of("setr"), []
    student, accelerator = Student(network, config.method).double(), Accelerator(cpu=True)
    monkeypatch.setattr(student.thresholds, "accumulate", lambda logits, valid: counted.append((len(logits), len(valid))))
    monkeypatch.setattr(student.thresholds, "update", lambda total: None)
    student, optimizer = accelerator.prepare(student, build_optimizer(student, config.optimizer))
    batch = batch_of("setr")
    (strong,) = batch.strong  # of four images the last one only gives content
    mix = {"boxes": strong.mix["boxes"][:3], "partner": torch.tensor([1, 2, 3])}
    batch = replace(batch, strong=(Strong(strong.images, mix, strong.orders[:3]),))
    update(accelerator, student, Teacher(network), optimizer, [batch], 0, config)
    assert counted == [(3, 3)]


@pytest.mark.slow
def test_a_resumed_run_has_the_thresholds_it_had(tmp_path):
    tree = {**TINY, "method": {**TINY["method"], "thresholds": "per_class"}, "schedule": {"steps": 4, "floor": 0.0}}
    config = write_config(tmp_path, tree=json.loads(json.dumps(tree)))
    assert train(config, tmp_path / "whole").returncode == 0
    assert train(config, tmp_path / "parts").returncode == 0
    for path in checkpoint.complete(tmp_path / "parts" / "checkpoints")[1:]:
        for file in path.iterdir():
            file.unlink()  # as if it had been killed after step 2
        path.rmdir()
    resumed = train(config, tmp_path / "parts", "--resume")
    assert resumed.returncode == 0 and "from step 2" in resumed.stderr
    one, two = (checkpoint.load_newest(tmp_path / name / "checkpoints")[0]["student"] for name in ("whole", "parts"))
    assert (one["thresholds.confidence"] > 0).any()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    written = json.loads((tmp_path / "parts" / "teacher" / "thresholds.json").read_text())
    means = two["thresholds.confidence"]
    expected = TINY["method"]["threshold"] * (means / means.max()).where(means > 0, 1.0)
    assert written == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_calibrated_threshold_is_strict_while_enough_pixels_are_right_and_else_follows_the_mean_confidence():
    thresholds = CalibratedThreshold(3, 0.9)
    assert torch.equal(thresholds.current(), torch.full((3,), 0.9))
    said = logits_of([0.9, 0.1, 0.0001], [0.7, 0.3, 0.0001], [0.5, 0.4, 0.1])
    thresholds.accumulate(said, torch.tensor([[[True, True, False]]]))
    thresholds.update(lambda tensor: tensor)
    assert thresholds.confidence.item() == pytest.approx(0.8, abs=1e-3) and thresholds.current()[0] == pytest.approx(0.9)
    thresholds.right.fill_(0.89)
    assert torch.allclose(thresholds.current(), torch.full((3,), 0.95 * 0.8), atol=1e-3)
    thresholds.accumulate(said, torch.tensor([[[False, False, True]]]))
    thresholds.update(lambda tensor: tensor)
    assert thresholds.confidence.item() == pytest.approx(0.99 * 0.8 + 0.01 * 0.5, abs=1e-3)
    for mean, threshold in ((0.2, 0.3), (1.0, 0.9)):
        thresholds.confidence.fill_(mean)
        assert thresholds.current()[0] == pytest.approx(threshold)


def test_pixels_weigh_as_much_as_their_confidence_below_a_strict_threshold_in_value_and_gradient():
    method = Method(threshold=0.5, thresholds="calibrated", regularizer="none")
    student = Student(network_of("setr"), method)
    student.thresholds.right.fill_(0.4)
    student.thresholds.confidence.fill_(0.4)  # threshold 0.38
    said = torch.randn(2, 5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    term = compare_with_teacher(logits, student.label(said, torch.ones(2, 6, 4, dtype=torch.bool)), "strong", method)["consistency"]
    expected, kept = 0, 0
    for n, i, j in torch.cartesian_prod(*(torch.arange(size) for size in (2, 6, 4))).tolist():
        confidence, label = said[n, :, i, j].softmax(0).max(0)
        if confidence > 0.38:
            kept, expected = kept + 1, expected - confidence * logits[n, :, i, j].log_softmax(0)[label] / 48
    assert 0 < kept < 48 and term.item() == pytest.approx(expected.item())
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in (term, expected)))
