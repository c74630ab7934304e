"""How often the teacher is right where it is so sure, at the weights of checkpoints.

    python docs/measured/calibration.py RUN/checkpoints/step-* [--images 250]

Of the pixels of evaluation images, a crop of each, those are counted whose confidence (the probability of the predicted class) lies
between two numbers. Printed is, for every checkpoint, the percentage of them that are right, in brackets their share of all pixels; and the
expected calibration error: the mean difference between confidence and share of right ones, weighted by pixels.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from gradients import evaluation_crops, load_checkpoint

from s4former.config import IGNORE_INDEX
from s4former.method.pseudo import resize_logits

EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=250)
    options = parser.parse_args()
    print(f"| step | {' | '.join(f'{low:g} to {high:g}' for low, high in pairwise(EDGES))} | error |")
    print(f"| {' | '.join(['---'] * (len(EDGES) + 1))} |")
    for checkpoint in options.checkpoints:
        training, _, step = load_checkpoint(checkpoint, parser.error)
        sums = torch.zeros(3, len(EDGES) - 1, dtype=torch.float64)
        with torch.no_grad():
            for pixels, labels in evaluation_crops(training, options.images):
                sums += count_by_confidence(training.teacher(pixels), labels)
        pixels, confidence, right = sums
        shares = [f"{100 * r / max(n, 1):.1f} ({100 * n / pixels.sum():.0f})" for n, r in zip(pixels, right)]
        print(f"| {step} | {' | '.join(shares)} | {100 * (confidence - right).abs().sum() / pixels.sum():.1f} |")


def count_by_confidence(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(3, bins): pixels, the sum of their confidence, and how many are right, of logits (B, K, h, w) and labels (B, H, W)."""
    probabilities = resize_logits(logits, labels.shape[-2:]).softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    keep = labels != IGNORE_INDEX
    bins = torch.bucketize(confidence[keep], torch.tensor(EDGES[1:-1]))
    values = torch.stack([torch.ones_like(bins), confidence[keep], (predicted == labels)[keep]]).double()
    return torch.zeros(3, len(EDGES) - 1, dtype=torch.float64).index_add_(1, bins, values)


if __name__ == "__main__":
    main()
