"""Counting predictions against labels: one streaming confusion matrix, and everything that derives from it."""

from typing import Callable, Sequence

import torch
from torch import Tensor

from ..config import IGNORE_INDEX

BYTE = 256  # class ids fit into a byte


class ConfusionMatrix:
    """Counts of pixels by true and predicted class, in constant memory however many images are seen.

    `update` only queues work on the device of the data; nothing is read on the host before a result is asked for.
    So values outside 0 .. K-1, which count nowhere, are complained of then.

    counts: (K, K) int64, rows truth, columns prediction; summed over processes, it is that of all their images.
    strange: (2,) int64, how many labels and predictions were outside 0 .. K-1.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX, device: torch.device | str = "cpu") -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.long, device=device)
        self.strange = torch.zeros(2, dtype=torch.long, device=device)

    def update(self, prediction: Tensor, labels: Tensor) -> "ConfusionMatrix":
        """Counts one or many images.

        Args:
            prediction: (...) class ids, any integer type; never ignored by itself.
            labels: (...) of the same shape; a pixel with `ignore_index` counts nowhere.
        """
        if prediction.shape != labels.shape:
            raise ValueError(
                f"prediction is {tuple(prediction.shape)} and labels are {tuple(labels.shape)}; they must have one shape,"
                " so take the argmax over classes and bring it to the size of the labels first"
            )
        for name, values in (("prediction", prediction), ("labels", labels)):
            if values.is_floating_point() or values.dtype == torch.bool:
                raise TypeError(f"{name} is {values.dtype}; it must hold class ids as integers")
        labels, prediction = labels.to(prediction.device).flatten(), prediction.flatten()
        self.counts, self.strange = self.counts.to(prediction.device), self.strange.to(prediction.device)
        joint = self.all_pairs(prediction, labels)
        if joint is not None:
            self.add(joint)
        else:
            self.queue(prediction.to(torch.long), labels.to(torch.long))
        return self

    def all_pairs(self, prediction: Tensor, labels: Tensor) -> Tensor | None:
        """(256, 256) counts of every pair of ids on a CPU, in one fast pass; None on a device that should not be waited
        for, or where an id does not fit into a byte."""
        if prediction.device.type != "cpu" or not len(labels) or self.num_classes > BYTE or self.ignore_index >= BYTE:
            return None
        if any(int(ids.min()) < 0 or int(ids.max()) >= BYTE for ids in (prediction, labels)):
            return None
        return torch.bincount(labels.int() * BYTE + prediction.int(), minlength=BYTE * BYTE).view(BYTE, BYTE)

    def add(self, joint: Tensor) -> None:
        """Takes the classes out of the counts of all pairs; the rest is strange, but for ignored labels."""
        joint = joint.clone()
        joint[self.ignore_index] = 0
        own = slice(self.num_classes)
        self.counts += joint[own, own]
        self.strange += torch.stack([joint[self.num_classes :].sum(), joint[:, self.num_classes :].sum()])

    def queue(self, prediction: Tensor, labels: Tensor) -> None:
        """The same without ever waiting for the device."""
        labeled = labels != self.ignore_index
        strange_labels, strange_predictions = labeled & self.outside(labels), labeled & self.outside(prediction)
        self.strange += torch.stack([strange_labels.sum(), strange_predictions.sum()])
        kept = labeled & ~strange_labels & ~strange_predictions
        places = (labels * self.num_classes + prediction).masked_fill(~kept, 0)
        # scatter_add_ rather than bincount or a boolean index: those two make the host wait for the device
        self.counts.view(-1).scatter_add_(0, places, kept.long())

    def outside(self, ids: Tensor) -> Tensor:
        """Where ids are no classes."""
        return (ids < 0) | (ids >= self.num_classes)

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Adds the counts of another matrix of the same classes."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge counts of {other.num_classes} classes into counts of {self.num_classes}")
        self.counts = self.counts + other.counts.to(self.counts.device)
        self.strange = self.strange + other.strange.to(self.strange.device)
        return self

    def reduce(self, total: Callable[[Tensor], Tensor]) -> "ConfusionMatrix":
        """Replaces everything counted by its sum over processes; `total` sums a tensor over them. To be called by all."""
        self.counts, self.strange = total(self.counts), total(self.strange)
        return self

    def checked_counts(self) -> Tensor:
        """The counts as float64 on the CPU, for reading results; a ValueError if there was anything strange."""
        for name, number in zip(("labels", "predictions"), self.strange.tolist()):
            if number:
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
        """{"mean_iou", "pixel_accuracy", "iou": {class name: IoU}} as plain JSON values; what is NaN becomes None."""
        if len(class_names) != self.num_classes or len(set(class_names)) != self.num_classes:
            raise ValueError(
                f"{len(set(class_names))} different class names for {self.num_classes} classes; give each class its own"
            )
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
        self.ids, self.num_classes = list(ids), num_classes
        self.places = {name: place for place, name in enumerate(self.ids)}
        shape = (len(self.ids), 3, num_classes)
        self.counts = {name: torch.zeros(shape, dtype=torch.long, device=device) for name in networks}

    def update(self, ids: Sequence[str], maps: dict[str, Tensor], labels: Tensor) -> None:
        """Counts images of one size; maps by network and labels (B, H, W), never waiting for the device."""
        places = torch.tensor([self.places[name] for name in ids])
        for network, counts in self.counts.items():
            prediction = maps[network]
            counts[places.to(counts.device)] = class_counts(prediction, labels.to(prediction.device), self.num_classes)

    def reduce(self, total: Callable[[Tensor], Tensor]) -> "ImageCounts":
        """Sums over processes, each of which has counted images of its own. To be called by all."""
        self.counts = {name: total(counts) for name, counts in self.counts.items()}
        return self


def class_counts(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(B, 3, K) long: of each image the right, predicted and true pixels of each class, where the label is a class."""
    joint = num_classes * num_classes
    kept = (labels >= 0) & (labels < num_classes) & (prediction >= 0) & (prediction < num_classes)
    image = torch.arange(len(labels), device=labels.device)[:, None, None]
    # what does not count goes into one more cell at the end
    cells = (image * joint + labels * num_classes + prediction).masked_fill(~kept, len(labels) * joint).flatten()
    if cells.device.type == "cpu":
        pairs = torch.bincount(cells, minlength=len(labels) * joint + 1)
    else:  # bincount makes the host wait for the device
        pairs = torch.zeros(len(labels) * joint + 1, dtype=torch.long, device=cells.device)
        pairs.scatter_add_(0, cells, torch.ones_like(cells))
    pairs = pairs[:-1].view(len(labels), num_classes, num_classes)
    return torch.stack([pairs.diagonal(dim1=1, dim2=2), pairs.sum(dim=1), pairs.sum(dim=2)], dim=1)


def none_for_nan(value: float) -> float | None:
    """JSON has no NaN; null says the same."""
    return None if value != value else value
