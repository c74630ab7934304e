"""The confusion matrix, and the same as a metric of Hugging Face `evaluate`."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s4former.evaluation.hf_evaluate import evaluate_package, load_mean_iou
from s4former.evaluation.metrics import ConfusionMatrix, count_without_waiting

ROOT = Path(__file__).parent.parent.parent


def worked_example() -> ConfusionMatrix:
    labels = torch.tensor([0, 0, 1, 1, 255, 2])
    prediction = torch.tensor([0, 1, 1, 1, 0, 0])
    return ConfusionMatrix(3).update(prediction, labels)


def naive_iou(prediction: torch.Tensor, labels: torch.Tensor, num_classes: int) -> list[float]:
    """Intersection over union by sets of pixels."""
    values = []
    kept = [i for i in range(labels.numel()) if labels.flatten()[i] != 255]
    for k in range(num_classes):
        truth = {i for i in kept if labels.flatten()[i] == k}
        found = {i for i in kept if prediction.flatten()[i] == k}
        values.append(len(truth & found) / len(truth | found) if truth | found else math.nan)
    return values


def random_maps(seed: int, num_classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, num_classes - 2, (3, 16, 24), generator=generator)
    labels = torch.randint(0, num_classes - 1, (3, 16, 24), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return prediction, labels


def test_the_worked_example():
    matrix = worked_example()
    assert matrix.iou().tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    assert matrix.mean_iou() == pytest.approx(1 / 3)
    assert matrix.pixel_accuracy() == pytest.approx(3 / 5)
    assert matrix.accuracy().tolist() == pytest.approx([1 / 2, 1, 0])
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_loop_over_sets_of_pixels(seed):
    prediction, labels = random_maps(seed)
    assert ConfusionMatrix(7).update(prediction, labels).iou().tolist() == pytest.approx(
        naive_iou(prediction, labels, 7), nan_ok=True
    )


def test_images_one_by_one_all_at_once_or_summed_count_the_same():
    prediction, labels = random_maps(0)
    together = ConfusionMatrix(7).update(prediction, labels)
    apart = ConfusionMatrix(7)
    for i in range(3):
        apart.update(prediction[i], labels[i].to(torch.uint8))
    assert torch.equal(together.counts, apart.counts)
    assert torch.equal(together.reduce(lambda counts: counts + counts).counts, 2 * apart.counts)


def test_a_class_in_neither_truth_nor_prediction_is_left_out_of_the_mean():
    matrix = ConfusionMatrix(4).update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    assert matrix.iou().isnan().tolist() == [False, False, True, True]
    assert matrix.mean_iou() == pytest.approx(0.5)
    assert matrix.as_dict(["a", "b", "c", "d"])["iou"] == {"a": 0.5, "b": 0.5, "c": None, "d": None}


def test_nothing_counted_is_none_in_strict_json():
    matrix = ConfusionMatrix(2).update(torch.tensor([0]), torch.tensor([255]))
    assert json.dumps(matrix.as_dict(["a", "b"]), allow_nan=False)
    assert matrix.as_dict(["a", "b"])["mean_iou"] is None


def test_another_ignored_id_may_even_be_a_class_id():
    matrix = ConfusionMatrix(3, ignore_index=2).update(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2]))
    assert matrix.pixel_accuracy() == 1


def test_a_label_out_of_range_is_reported_when_results_are_read():
    matrix = ConfusionMatrix(3).update(torch.tensor([0, 1, 2]), torch.tensor([0, 3, -1]))
    with pytest.raises(ValueError, match=r"^2 labels lie outside 0 \.\. 2 \(and are not the ignored 255\)"):
        matrix.mean_iou()


def test_a_prediction_out_of_range_is_reported_when_results_are_read():
    matrix = ConfusionMatrix(3).update(torch.tensor([[0, 1, 7]]), torch.tensor([[0, 1, 1]]))
    with pytest.raises(ValueError, match=r"^1 predictions lie outside 0 \.\. 2"):
        matrix.pixel_accuracy()


def test_maps_that_cannot_be_compared_are_refused():
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"prediction is \(4, 6\) and labels are \(6, 4\); they must have one shape"):
        matrix.update(torch.zeros(4, 6, dtype=torch.long), torch.zeros(6, 4, dtype=torch.long))
    with pytest.raises(TypeError, match="labels is torch.float32; it must hold class ids as integers"):
        matrix.update(torch.zeros(4, dtype=torch.long), torch.zeros(4))
    with pytest.raises(ValueError, match="2 different class names for 3 classes"):
        matrix.as_dict(["a", "b", "a"])


def test_the_evaluate_metric_streams_and_agrees():
    metric = load_mean_iou(num_labels=7)
    prediction, labels = random_maps(1)
    expected = ConfusionMatrix(7).update(prediction, labels)
    for i in range(3):
        metric.add_batch(predictions=prediction[i : i + 1], references=labels[i : i + 1])
    scores = metric.compute()
    assert scores["mean_iou"] == expected.mean_iou()
    assert scores["overall_accuracy"] == expected.pixel_accuracy()
    assert scores["per_category_iou"] == list(expected.as_dict(list("abcdefg"))["iou"].values())
    assert metric.writer is None  # nothing went through Arrow
    metric.add(prediction=prediction[0].tolist(), reference=labels[0].tolist())
    batch = {"predictions": [prediction[1].numpy(), prediction[2][:8]], "references": [labels[1], labels[2][:8]]}
    again = metric.compute(**batch)
    assert again["mean_iou"] != scores["mean_iou"]  # started afresh, maps of different sizes


def test_the_evaluate_metric_needs_the_number_of_classes():
    with pytest.raises(ValueError, match="mean_iou needs the number of classes"):
        evaluate_package().load(str(ROOT / "s4former" / "evaluation" / "mean_iou"))


@pytest.mark.slow
def test_the_package_is_found_although_a_script_has_its_name(tmp_path):
    (tmp_path / "evaluate.py").write_text("raise SystemExit('the script was run')\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = list(sys.path)\n"
        "from s4former.evaluation.hf_evaluate import load_mean_iou\n"
        "metric = load_mean_iou(num_labels=3)\n"
        "print(metric.compute(predictions=[[[0, 1, 1, 1, 0, 0]]], references=[[[0, 0, 1, 1, 255, 2]]])['mean_iou'])\n"
        "import evaluate; assert evaluate.Metric and sys.path[: len(before)] == before\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(1 / 3)


@pytest.mark.parametrize("outside", [40, 300, -3])
def test_ids_outside_of_the_classes_count_nowhere_and_are_reported(outside):
    generator = torch.Generator().manual_seed(0)
    labels, prediction = (torch.randint(7, (16, 24), generator=generator) for _ in range(2))
    labels[0, :5], labels[1, 2], labels[2, 3], prediction[2, 3], prediction[0, 1] = 255, outside, outside, outside, outside
    matrix = ConfusionMatrix(7).update(prediction, labels)
    assert matrix.counts.sum() == 16 * 24 - 5 - 2
    with pytest.raises(ValueError, match="^2 labels lie outside"):
        matrix.checked_counts()


def test_counting_on_a_gpu_is_counting_on_a_cpu():
    values = torch.randint(9, (500,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(count_without_waiting(values, 12), torch.bincount(values, minlength=12))
