"""Segmentation metrics of one streaming confusion matrix: IoU per class and its mean, accuracies."""

from typing import Callable, Sequence

import torch
from torch import Tensor

from ..config import IGNORE_INDEX


class ConfusionMatrix:
    """Counts of pixels by true and predicted class, in constant memory however many images are seen.

    On a GPU `update` only queues work, so ids outside 0 .. K-1, which count nowhere, are reported when results are read.

    pairs: (bins, bins) int64, pixels by label and prediction of any value; the last bin takes all ids that have no other.
        Summed over processes, it is that of all their images.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX, device: torch.device | str = "cpu") -> None:
        if num_classes < 1 or ignore_index < 0:
            raise ValueError(f"num_classes is {num_classes} and ignore_index {ignore_index}; use at least 1 and at least 0")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.bins = max(num_classes, ignore_index + 1) + 1
        self.pairs = torch.zeros(self.bins, self.bins, dtype=torch.long, device=device)

    def update(self, prediction: Tensor, labels: Tensor) -> "ConfusionMatrix":
        """Counts one or many images: class ids of one shape, any integer type; a label `ignore_index` counts nowhere."""
        if prediction.shape != labels.shape:
            raise ValueError(
                f"prediction is {tuple(prediction.shape)} and labels are {tuple(labels.shape)}; they must have one shape,"
                " so take the argmax over classes and bring it to the size of the labels first"
            )
        for name, ids in (("prediction", prediction), ("labels", labels)):
            if ids.is_floating_point() or ids.dtype == torch.bool:
                raise TypeError(f"{name} is {ids.dtype}; it must hold class ids as integers")
        labels = self.to_bins(labels.to(prediction.device).flatten())
        values = labels * self.bins + self.to_bins(prediction.flatten())
        count = torch.bincount if values.device.type == "cpu" else count_without_waiting
        self.pairs = self.pairs.to(values.device) + count(values, minlength=self.bins**2).view_as(self.pairs)
        return self

    def to_bins(self, ids: Tensor) -> Tensor:
        """(n,) ids, those outside 0 .. bins-2 as bins-1."""
        if ids.device.type == "cpu" and len(ids):  # where looking is cheaper than replacing
            least, most = torch.aminmax(ids)
            if least >= 0 and most < self.bins - 1:
                return ids.int()
        ids = ids.long()
        return ids.where((ids >= 0) & (ids < self.bins - 1), self.bins - 1)

    def reduce(self, total: Callable[[Tensor], Tensor]) -> "ConfusionMatrix":
        """Replaces the counts by their sum over processes; `total` sums a tensor over them. To be called by all."""
        self.pairs = total(self.pairs)
        return self

    def labeled_pairs(self) -> Tensor:
        """`pairs` without the pixels that are ignored."""
        pairs = self.pairs.clone()
        pairs[self.ignore_index] = 0
        return pairs

    @property
    def counts(self) -> Tensor:
        """(K, K) int64 on the device, rows truth, columns prediction."""
        return self.labeled_pairs()[: self.num_classes, : self.num_classes]

    def checked_counts(self) -> Tensor:
        """`counts` as float64 on the CPU; a ValueError if any label or prediction was outside 0 .. K-1."""
        pairs = self.labeled_pairs()
        for name, outside in (("labels", pairs[self.num_classes :]), ("predictions", pairs[:, self.num_classes :])):
            if number := int(outside.sum()):
                raise ValueError(
                    f"{number} {name} lie outside 0 .. {self.num_classes - 1} (and are not the ignored"
                    f" {self.ignore_index}); check the number of classes and the ids in the masks"
                )
        return self.counts.double().cpu()

    def iou(self) -> Tensor:
        """(K,) float64 on the CPU: intersection over union; NaN for a class in neither truth nor prediction."""
        counts = self.checked_counts()
        hits = counts.diagonal()
        return hits / (counts.sum(dim=0) + counts.sum(dim=1) - hits)

    def accuracy(self) -> Tensor:
        """(K,) float64 on the CPU: the share of a class's pixels that was found; NaN for a class not in the truth."""
        counts = self.checked_counts()
        return counts.diagonal() / counts.sum(dim=1)

    def mean_iou(self) -> float:
        """Mean IoU over the classes that occur in truth or prediction; NaN when nothing was counted."""
        return float(self.iou().nanmean())

    def pixel_accuracy(self) -> float:
        """The share of labelled pixels that is right; NaN when nothing was counted."""
        counts = self.checked_counts()
        return float(counts.diagonal().sum() / counts.sum())

    def as_dict(self, class_names: Sequence[str]) -> dict:
        """{"mean_iou", "pixel_accuracy", "iou": {class name: IoU}} as plain JSON values; NaN becomes None."""
        different = len(set(class_names))
        if not len(class_names) == different == self.num_classes:
            raise ValueError(f"{different} different class names for {self.num_classes} classes; give each class its own")
        return {
            "mean_iou": none_for_nan(self.mean_iou()),
            "pixel_accuracy": none_for_nan(self.pixel_accuracy()),
            "iou": {name: none_for_nan(value) for name, value in zip(class_names, self.iou().tolist())},
        }


class ImageCounts:
    """Of every image, the pixels of each class that are right, predicted and in the truth, for several networks.

    They are what a bootstrap over images resamples: sums over images give the IoU of any selection of them.

    counts: by network (N, 3, K) int64; zero for images of other processes until `reduce`.
    """

    def __init__(self, ids: Sequence[str], networks: Sequence[str], num_classes: int, device: torch.device | str = "cpu"):
        self.ids = list(ids)
        self.indices = {name: index for index, name in enumerate(self.ids)}
        shape = (len(self.ids), 3, num_classes)
        self.counts = {name: torch.zeros(shape, dtype=torch.long, device=device) for name in networks}

    def add(self, network: str, id: str, matrix: ConfusionMatrix) -> None:
        """Adds the counts of one image, without waiting for the device; those of other networks are left out."""
        if network in self.counts:
            pairs = matrix.counts
            by_class = torch.stack([pairs.diagonal(), pairs.sum(dim=0), pairs.sum(dim=1)])
            self.counts[network][self.indices[id]] += by_class

    def reduce(self, total: Callable[[Tensor], Tensor]) -> "ImageCounts":
        """Sums over processes, each of which has counted images of its own. To be called by all."""
        self.counts = {name: total(counts) for name, counts in self.counts.items()}
        return self


def count_without_waiting(values: Tensor, minlength: int) -> Tensor:
    """torch.bincount of values (n,) below `minlength`, for a GPU, where that would make the host wait."""
    return values.new_zeros(minlength, dtype=torch.long).scatter_add_(0, values, torch.ones_like(values))


def none_for_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value
