"""The unlabelled pool after training: pseudo masks of all of it, and which of its images are worth labelling next.

    s4former pool runs/demo -o pool [--best] [--top 100] [data.root=...]

    pool/masks/ID.png            in the ids (or colours) of the data's own masks, no label where confidence is not above the threshold
         ids.json                which id is which class, "" is no label; every mask states it too, and is read in no other ids
         confidence/ID.png       grey, 255 = certain
         worth_labelling.csv     the images to label next, the best first

The threshold is method.threshold, or after a run with method.thresholds=per_class the last one of each class.

The rule. Of image i let doubt_k(i) be the share of its pixels that the teacher predicts as class k, each weighted by one
minus its confidence. Let seen_k be how much there is of class k that needs no label any more, in whole images: the pseudo
labels of the pool, and all of class k in the images listed before. The next image is the one with the largest

    sum over k of doubt_k(i) / sqrt(0.1 + seen_k)

So doubt counts, doubt about what is rare counts more, and an image like those above it in the list counts less.
"""

import argparse
import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Sequence

import numpy as np

from ..config import from_dict, set_override
from ..errors import ConfigError, DataError, describe_error
from ..evaluation.model_choice import CheckpointError, choose_model

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
    shares, doubts = np.stack(pool.shares), np.stack(pool.doubts)
    seen, unranked, ranked = np.stack(pool.pseudo).sum(axis=0), np.ones(len(pool.ids), bool), []
    for _ in range(min(top, len(pool.ids))):
        worth = np.where(unranked, doubts @ (1 / np.sqrt(FLOOR + seen)), -1.0)
        index = int(worth.argmax())
        ranked.append((index, float(worth[index])))
        unranked[index] = False
        seen = seen + shares[index]
    return ranked


def write_list(path: Path, pool: Pool, ranked: Sequence[tuple[int, float]], classes: Sequence[str]) -> None:
    """worth_labelling.csv: rank, id, worth, share of doubt, and the three classes that it is about."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "id", "worth", "doubt", "pseudo_labels", "doubts_about"])
        for place, (index, worth) in enumerate(ranked, start=1):
            doubts, pseudo = pool.doubts[index], float(pool.pseudo[index].sum())
            about = [classes[k] for k in np.argsort(-doubts, kind="stable")[:3] if doubts[k] > 0]
            writer.writerow([place, pool.ids[index], f"{worth:.4f}", f"{doubts.sum():.4f}", f"{pseudo:.4f}", " ".join(about)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("s4former pool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, or a model of one")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--best", action="store_true", help="the best of the run, not the last")
    parser.add_argument("--top", type=int, default=100, metavar="N", help="length of the list; default 100")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images of the pool")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    options = parser.parse_intermixed_args(arguments)

    try:
        choice = choose_model(options.run, best=options.best)
        if not choice.config:
            raise CheckpointError(f"{choice.source} does not say what its pool is (it has no s4former.json); give a run")
        for override in options.overrides:
            set_override(choice.config, override)
        config = from_dict(choice.config)

        from .pool_masks import predict_pool  # not before the arguments are checked: torch takes seconds

        pool, classes, unreadable = predict_pool(choice, config, options.output, options.limit)
        write_list(options.output / "worth_labelling.csv", pool, rank(pool, options.top), classes)
    except (CheckpointError, ConfigError, DataError, OSError) as error:
        print(f"s4former pool: {describe_error(error)}", file=sys.stderr)
        return 1
    files = f"pseudo masks of {len(pool.ids)} images in {options.output}"
    print(f"{choice.description}: {files}; worth_labelling.csv says what to label next")
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    return 1 if unreadable else 0
