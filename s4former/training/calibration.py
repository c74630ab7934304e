"""How often confident pixels of held-out labelled images are right, measured as a run goes on (`method.thresholds` = calibrated)."""

from functools import partial

import torch

from ..data.held_out import CROPS
from ..data.loader import prefetch
from ..evaluation.inference import AHEAD, normalise
from ..method.pseudo import IGNORE_INDEX, downsample_nearest, pseudo_label
from .engine import predict_with_student
from .log import RunLog
from .run import Training

MEASUREMENTS = 50  # in a run,
LEAST_STEPS = 20  # but so many steps lie between them


def calibrate(training: Training, log: RunLog) -> None:
    """Measures the share of right pixels among the confident ones, where that is due before the next step.

    The threshold is `method.threshold`, whatever the one in force. Without a confident pixel the share stays as it was.
    """
    config, held_out = training.config, training.held_out
    measurement, early = divmod(training.step - config.method.burn_in, max(LEAST_STEPS, config.schedule.steps // MEASUREMENTS))
    if held_out is None or measurement < 0 or early:
        return
    right, confident, pixels = measure(training, measurement)
    thresholds = training.accelerator.unwrap_model(training.student).thresholds
    if confident:
        thresholds.right.fill_(right / confident)
    current, share = round(float(thresholds.current()[0]), 4), round(right / confident, 5) if confident else None
    log.record("calibration", {"right": share, "confident": round(confident / max(1, pixels), 5), "threshold": current})
    rule = "stays" if thresholds.right >= thresholds.threshold else f"is {current:.2f}, weights are the confidence"
    found = f"{share:.1%} are right" if confident else "there is none"
    log.say(f"step {training.step}: of the held-out pixels more than {thresholds.threshold:g} sure {found}: the threshold {rule}")


@torch.no_grad()
def measure(training: Training, measurement: int) -> tuple[int, int, int]:
    """Right, confident and all labelled pixels of one measurement, over all processes."""
    accelerator, student = training.accelerator, training.accelerator.unwrap_model(training.student)
    predict, device = training.teacher or partial(predict_with_student, student.network), training.accelerator.device
    numbers = range(accelerator.process_index, CROPS, accelerator.num_processes)
    counts = torch.zeros(3, dtype=torch.long, device=device)
    for image, labels, valid in prefetch(partial(training.held_out.crop, measurement), numbers, AHEAD):
        labels = labels[None].to(device)
        with accelerator.autocast():  # one after the other, so that a pixel does not depend on the number of processes
            logits = predict(normalise(image[None].to(device), training.setting) * valid.to(device))
        pseudo = pseudo_label(logits, labels != IGNORE_INDEX, training.config.method.threshold)
        right = pseudo.label == downsample_nearest(labels, pseudo.label.shape[-2:])
        confident = pseudo.label != IGNORE_INDEX
        counts += torch.stack([(right & confident).sum(), confident.sum(), pseudo.valid.sum()])
    return tuple(accelerator.reduce(counts).tolist())
