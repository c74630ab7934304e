"""Which images of the unlabelled pool are worth labelling next.

The rule. Of image i let doubt_k(i) be the share of its pixels that the teacher predicts as class k, each weighted by one
minus its confidence. Let seen_k be how much there is of class k that needs no label any more, in whole images: the pseudo
labels of the pool, and all of class k in the images listed before. The next image is the one with the largest

    sum over k of doubt_k(i) / sqrt(0.1 + seen_k)

So doubt counts, doubt about what is rare counts more, and an image like those above it in the list counts less.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Sequence

import numpy as np

FLOOR = 0.1  # of an image: added to what is seen of a class


@dataclass
class Pool:
    """Predictions of the pool: for every image, in order of `ids`, K shares of its pixels."""

    ids: list[str] = field(default_factory=list)
    shares: list[np.ndarray] = field(default_factory=list)  # predicted as class k
    doubts: list[np.ndarray] = field(default_factory=list)  # the same, each pixel weighted by 1 - its confidence
    pseudo: list[np.ndarray] = field(default_factory=list)  # pseudo labels of class k

    def add(self, id: str, labels: np.ndarray, confidence: np.ndarray, pseudo: np.ndarray, classes: int) -> None:
        """Counts one image: labels (H, W) int, confidence (H, W) in 0..1, pseudo (H, W) bool, what is a pseudo label."""
        confidence = confidence.astype(float)
        for rows, weights in (
            (self.shares, np.ones_like(confidence)),
            (self.doubts, 1 - confidence),
            (self.pseudo, pseudo.astype(float)),
        ):
            rows.append(np.bincount(labels.ravel(), weights.ravel(), minlength=classes) / labels.size)
        self.ids.append(id)


def rank(pool: Pool, top: int) -> list[tuple[int, float]]:
    """(index, worth) of the images to label next, by the rule above; the first of equals."""
    if not pool.ids:
        return []
    shares, doubts, pseudo = (np.stack(each) for each in (pool.shares, pool.doubts, pool.pseudo))
    seen, unranked, ranked = pseudo.sum(axis=0), np.ones(len(pool.ids), bool), []
    for _ in range(min(top, len(pool.ids))):
        worth = np.where(unranked, doubts @ (1 / np.sqrt(FLOOR + seen)), -1.0)
        index = int(worth.argmax())
        ranked.append((index, float(worth[index])))
        unranked[index] = False
        seen = seen + shares[index] - pseudo[index]  # whose pseudo labels are in it already
    return ranked


def write_list(path: Path, pool: Pool, ranked: Sequence[tuple[int, float]], classes: Sequence[str]) -> None:
    """worth_labelling.csv: rank, id, worth, share of doubt, and the three classes that it is about."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "id", "worth", "doubt", "pseudo_labels", "doubts_about"])
        for place, (index, worth) in enumerate(ranked, start=1):
            doubt, pseudo = float(pool.doubts[index].sum()), float(pool.pseudo[index].sum())
            about = " ".join(doubted_classes(pool, index, classes))
            writer.writerow([place, pool.ids[index], f"{worth:.4f}", f"{doubt:.4f}", f"{pseudo:.4f}", about])


def doubted_classes(pool: Pool, index: int, classes: Sequence[str]) -> list[str]:
    """The three classes that most of the doubt about an image is about."""
    doubts = pool.doubts[index]
    return [classes[k] for k in np.argsort(-doubts, kind="stable")[:3] if doubts[k] > 0]
