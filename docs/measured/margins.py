"""Which way the cross-entropy and NCR move the margin of a pseudo label, at the weights of a checkpoint.

    python docs/measured/margins.py RUN/checkpoints/step-00001000 [--batches 24]

The margin of a pixel is the student's logit of its pseudo label minus that of the class which the teacher ranks highest among the others.
Printed is, by pseudo label, the mean over pixels of what a step of gradient descent on the logits does to it: + widens it, - narrows it.
The view is CutMix's, always mixed. Nothing is trained.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from gradients import PLAIN, load_checkpoint

from s4former.config import IGNORE_INDEX, from_dict, to_dict
from s4former.data.batches import StepDataset
from s4former.method.checks import shuffle_grid
from s4former.method.losses import negatives_distance, pixel_cross_entropy
from s4former.method.step import student_views
from s4former.method.student import Student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batches", type=int, default=24)
    options = parser.parse_args()
    training, config, step = load_checkpoint(options.checkpoint, parser.error)
    network, classes = training.networks["student"], training.sources.classes
    config = from_dict({**(tree := to_dict(config)), "method": {**tree["method"], **PLAIN}})
    student, steps = Student(network, config.method).train(), StepDataset(config, training.sources, shuffle_grid(config, network), 0, 1)
    sums = torch.zeros(3, len(classes), dtype=torch.float64)  # pixels, and the changes of their margins by both terms
    first = max(step, config.method.burn_in)
    for number in range(first, first + options.batches):
        torch.manual_seed(number)
        batch = training.to_device(steps.batch(number, 0))
        with torch.no_grad():
            views, [(_, target)], _ = student_views(training.teacher, batch, config.method)
            logits = student(views)[1][0]
        changes = margin_changes(logits, target.taught, target.logits)
        keep = target.taught != IGNORE_INDEX
        for row, change in zip(sums, (torch.ones_like(changes[0]), *changes)):
            row.index_add_(0, target.taught[keep], change[keep].double())
    print("| pseudo label | pixels | cross-entropy | NCR |\n| --- | --- | --- | --- |")
    objects = sums[:, 1:].sum(dim=1, keepdim=True) if classes[0] == "background" else sums.sum(dim=1, keepdim=True)
    for name, (pixels, *changes) in zip((*classes, "all objects"), torch.cat([sums, objects], dim=1).T.tolist()):
        if pixels:
            print(f"| {name} | {pixels:.0f} | {' | '.join(f'{change / pixels:+.3f}' for change in changes)} |")


def margin_changes(student: torch.Tensor, label: torch.Tensor, teacher: torch.Tensor) -> list[torch.Tensor]:
    """(B, H, W) of cross-entropy and NCR: what minus the gradient of a pixel's loss adds to the margin of its label."""
    label_or_0 = label.where(label != IGNORE_INDEX, 0)[:, None]
    rival = teacher.scatter(1, label_or_0, float("-inf")).argmax(dim=1, keepdim=True)
    changes = []
    for loss in (pixel_cross_entropy, partial(negatives_distance, teacher=teacher, norm="l2sq")):
        logits = student.detach().requires_grad_()
        descent = -torch.autograd.grad(loss(logits, label).sum(), logits)[0]
        changes.append((descent.gather(1, label_or_0) - descent.gather(1, rival))[:, 0])
    return changes


if __name__ == "__main__":
    main()
