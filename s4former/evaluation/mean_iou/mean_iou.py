"""Mean IoU as a streaming metric of Hugging Face `evaluate`; `s4former.evaluation.hf_evaluate.load_mean_iou` loads it.

`evaluate` copies this file into its cache and runs it from there, so it imports this package by its full name. Its
parser of imports wants one module per line, and its base class appends to the docstrings of the public methods.
"""

import datasets
import numpy
import torch

import evaluate
from s4former.evaluation.metrics import ConfusionMatrix, none_for_nan

DESCRIPTION = "Intersection over union per class and its mean over the classes that occur in references or predictions."
INPUTS = "predictions, references: batches of maps (H, W) of class ids, which may differ in size from map to map."


class MeanIou(evaluate.Metric):
    """Adds every batch to a confusion matrix at once; no map is kept, in memory or on disk.

    num_labels: number of classes K. ignore_index: the id in the references that counts nowhere.
    """

    def __init__(self, *args, num_labels=None, ignore_index=255, **kwargs):
        if num_labels is None:
            raise ValueError("mean_iou needs the number of classes: evaluate.load(folder, num_labels=21)")
        super().__init__(*args, **kwargs)
        if self.num_process != 1:
            raise ValueError(
                f"num_process is {self.num_process}; this metric counts for one process, and"
                " s4former.evaluation.metrics.ConfusionMatrix can be summed over several"
            )
        self.matrix = ConfusionMatrix(num_labels, ignore_index)

    def _info(self):
        maps = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        features = datasets.Features({"predictions": maps, "references": maps})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def add_batch(self, *, predictions=None, references=None):
        """Counts a batch of maps."""
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions came with {len(references)} references; give one each")
        for prediction, reference in zip(predictions, references):
            self.add(prediction=prediction, reference=reference)

    def add(self, *, prediction=None, reference=None):
        """Counts one map."""
        maps = (prediction, reference)
        self.matrix.update(*(ids if isinstance(ids, torch.Tensor) else torch.from_numpy(numpy.array(ids)) for ids in maps))

    def compute(self, *, predictions=None, references=None):
        """The scores of everything added since the last call, and of the batch given here, if any."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        matrix, self.matrix = self.matrix, ConfusionMatrix(self.matrix.num_classes, self.matrix.ignore_index)
        accuracy = matrix.accuracy()
        return {
            "mean_iou": matrix.mean_iou(),
            "mean_accuracy": float(accuracy.nanmean()),
            "overall_accuracy": matrix.pixel_accuracy(),
            "per_category_iou": [none_for_nan(value) for value in matrix.iou().tolist()],
            "per_category_accuracy": [none_for_nan(value) for value in accuracy.tolist()],
        }
