"""Counts of pseudo labels by hand, and the warning for a class without any."""

import pytest
import torch

from s4former.config import Method
from s4former.evaluation.metrics import ConfusionMatrix
from s4former.method.pseudo import BINS, count_pseudo, pseudo_label
from s4former.training.pseudo_quality import LEAST, PseudoLabelCounts, patience, pseudo_label_accuracy, warning

CLASSES = ("ground", "leaf", "bud")


def pseudo_of_six_pixels(threshold=0.6):
    """Six pixels: sure of 0, 0 and 2, unsure of 1, and two of padding."""
    probability = torch.tensor(
        [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.02, 0.02, 0.96], [0.2, 0.5, 0.3], [0.98, 0.01, 0.01], [1 / 3] * 3]
    )
    logits = probability.log().T.reshape(1, 3, 2, 3)
    return pseudo_label(logits, torch.tensor([True, True, True, True, False, False]).reshape(1, 2, 3), threshold)


def test_pseudo_labels_and_confidences_are_counted_without_padding():
    confident, labels, confidence = count_pseudo(pseudo_of_six_pixels()).values()
    assert confident == 0.75 and labels.tolist() == [2, 0, 1]
    assert {bin: int(count) for bin, count in enumerate(confidence.tolist()) if count} == {10: 1, 14: 1, 18: 1, 19: 1}


def test_a_teacher_that_is_entirely_sure_is_counted_in_the_last_bin():
    pseudo = pseudo_label(torch.tensor([100.0, 0, 0]).reshape(1, 3, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool), 0.95)
    assert count_pseudo(pseudo)["confidences"].tolist() == [0] * (BINS - 1) + [1]


def test_the_last_class_of_255_is_counted_and_the_ignored_label_is_not():
    logits = torch.zeros(1, 255, 1, 2)
    logits[0, 254, 0, 0] = 50
    labels = count_pseudo(pseudo_label(logits, torch.ones(1, 1, 2, dtype=torch.bool), 0.95))["pseudo_labels"]
    assert len(labels) == 255 and labels.sum() == labels[254] == 1


def test_a_report_holds_shares_since_the_last_one_over_all_processes():
    counts = PseudoLabelCounts(CLASSES)
    for _ in range(3):
        terms = {"total": torch.ones(()), **count_pseudo(pseudo_of_six_pixels())}
        counts.update(terms, rounds=2)
        assert list(terms) == ["total", "confident"]
    report = counts.compute(3, total=lambda counts: 5 * counts)
    assert report["pixels"] == 4 * 3 * 2 * 5 and report["confident"] == 0.75
    assert report["share"] == {"ground": 0.5, "leaf": 0.0, "bud": 0.25}
    assert sum(report["confidence"]) == 1 and report["confidence"][10] == 0.25
    assert counts.compute(4) == {}


def test_a_class_without_pseudo_labels_is_named_once_until_it_is_heard_of_again():
    counts, steps = PseudoLabelCounts(CLASSES, first=10), 10 * LEAST

    def step(number, threshold):
        counts.update(count_pseudo(pseudo_of_six_pixels(threshold)))
        counts.compute(number)
        return counts.newly_missing(number, steps)

    assert step(11, 0.6) == [] and step(LEAST + 9, 0.6) == []
    assert step(LEAST + 10, 0.6) == ["leaf"]
    assert step(LEAST + 11, 0.6) == []
    resumed = PseudoLabelCounts(CLASSES)
    resumed.load_state_dict(counts.state_dict())
    assert resumed.newly_missing(LEAST + 11, steps) == []
    assert step(LEAST + 12, 0.4) == [] and step(2 * LEAST + 11, 0.6) == []
    assert step(2 * LEAST + 12, 0.6) == ["leaf"]


def test_what_is_long_goes_with_the_run():
    assert patience(80_000) == 8000 and patience(200) == LEAST


def test_the_counts_survive_a_checkpoint():
    counts, other = PseudoLabelCounts(CLASSES), PseudoLabelCounts(CLASSES)
    counts.update(count_pseudo(pseudo_of_six_pixels()))
    other.load_state_dict(counts.state_dict())
    assert other.compute(7) == counts.compute(7) and other.last_step.tolist() == [7, 0, 7]


def test_a_checkpoint_holds_what_all_processes_counted_and_the_main_one_goes_on_with_it():
    main, other = PseudoLabelCounts(CLASSES), PseudoLabelCounts(CLASSES)
    for counts in (main, other):
        counts.update(count_pseudo(pseudo_of_six_pixels()))
    once = main.labels.clone()
    main.join(lambda tensor: 2 * tensor, main=True)  # the sum over two processes
    other.load_state_dict(main.state_dict())
    other.join(lambda tensor: tensor, main=False)
    assert torch.equal(main.labels, 2 * once) and not other.labels.any() and not other.confidence.any()


def test_the_warning_names_classes_and_remedies():
    text = warning(["leaf"], 1200, Method())
    assert text.startswith("for 120 steps no pixel has become a pseudo label of leaf, of which the student learns from labelled")
    assert "data.repeat_rare, a lower method.threshold (it is 0.95), and where an image shows most" in text


@pytest.mark.parametrize("confident", [0.0, 1.0])
def test_counting_needs_no_gradient_and_no_confident_pixel(confident):
    labels = count_pseudo(pseudo_of_six_pixels(threshold=1 - confident))["pseudo_labels"]
    assert not labels.requires_grad and int(labels.sum()) == 4 * confident


def test_rightness_by_hand():
    matrix = ConfusionMatrix(3).update(torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 0, 0, 2, 2]))
    worth = pseudo_label_accuracy(matrix, 10, CLASSES)
    assert worth["confident"] == 0.5 and worth["right"] == pytest.approx(0.6)
    assert worth["right_by_class"] == {"ground": 0.75, "leaf": 0.0, "bud": None}
    assert worth["share"] == {"ground": 0.4, "leaf": 0.1, "bud": 0.0}
