"""What comes out of a run while it goes on and at its end: scores, pictures, the report, models for others, results.

    runs/NAME/best-teacher/ ...  the models chosen on the evaluation images, exported as soon as they are the best
              confusion.json     the confusion matrices of the last evaluation
              image_counts.json  of every evaluation image its pixels by class at the last evaluation, packed (archive.py)
              panels/            small pictures of fixed images
              report.html        all of it to look at, written at every evaluation
              teacher/ student/  the last models
              results.json       the outcome, with everything needed to repeat it
              predictions.png    a few evaluation images
"""

import json
import shlex
import shutil
import sys
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ..config import to_dict
from ..errors import ConfigError, DataError
from ..evaluation.inference import PSEUDO_LABELS, evaluate_networks, predict
from ..evaluation.metrics import ConfusionMatrix, ImageCounts
from ..evaluation.pictures import contact_sheet
from ..files import write_text
from ..networks.export import Provenance, export, push
from ..report.page import write_report
from . import sample_pictures
from .archive import pack
from .log import RunLog
from .pseudo_quality import rightness
from .run import Training, peak_memory_gib, reading

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "pillow", "numpy")


# ---- scores and pictures


def evaluate(training: Training, log: RunLog) -> None:
    """Scores teacher and student in one pass over the evaluation images, and exports whichever was never better."""
    training.finiteness.raise_if_bad()
    accelerator, classes = training.accelerator, training.validation.classes
    images = ImageCounts(training.validation.ids, list(training.networks), len(classes), accelerator.device)
    try:
        with reading(training.networks) as readers, accelerator.autocast():
            matrices = evaluate_networks(
                readers,
                training.validation,
                training.setting,
                num_classes=len(classes),
                pseudo=training.pseudo,
                images=images,
                process_index=accelerator.process_index,
                num_processes=accelerator.num_processes,
            )
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the evaluation: {str(error).splitlines()[0].rstrip('. ')}; take a smaller evaluation.batch, or"
            " evaluation.mode=sliding"
        ) from error
    total = partial(accelerator.reduce, reduction="sum")
    matrices = {name: matrix.reduce(total) for name, matrix in matrices.items()}
    images.reduce(total)
    training.scores = {role: matrices[role].as_dict(classes) for role in training.networks}
    if any(score["mean_iou"] is None for score in training.scores.values()):
        raise DataError("no evaluation image has a labelled pixel; check data.validation, data.ignore_index and data.id_map")
    training.evaluated_at = training.step
    for role, score in training.scores.items():
        log.record(f"evaluation/{role}", training.step, score)
        if role not in training.best or score["mean_iou"] > training.best[role]["mean_iou"]:
            training.best[role] = {**score, "step": training.step}
            write_model(training, role, f"best-{role}", chosen=True)
    if PSEUDO_LABELS in matrices:
        everything = int(matrices[next(iter(training.networks))].counts.sum())
        log.record("evaluation/pseudo", training.step, rightness(matrices[PSEUDO_LABELS], everything, classes))
    if accelerator.is_main_process:
        write_counts(training, matrices, images)
        draw_panels(training)
    log.record("cost", training.step, cost(training))
    if accelerator.is_main_process:
        write_report(training.folder)
    told = (f"{role} mIoU {100 * score['mean_iou']:.2f}" for role, score in training.scores.items())
    log.say(f"step {training.step}: " + ", ".join(told))


def write_counts(training: Training, matrices: dict[str, ConfusionMatrix], images: ImageCounts) -> None:
    """The counts of the last evaluation in pixels: matrices, rows truth, columns prediction, and those of every image."""
    counts = {name: matrix.counts.tolist() for name, matrix in matrices.items()}
    content = {"step": training.step, "classes": training.validation.classes, "counts": counts}
    write_text(training.folder / "confusion.json", json.dumps(content) + "\n")
    packed = {network: pack(each.cpu().numpy()) for network, each in images.counts.items()}
    content = {"step": training.step, "classes": training.validation.classes, "ids": images.ids, "counts": packed}
    write_text(training.folder / "image_counts.json", json.dumps(content) + "\n")


def draw_panels(training: Training) -> None:
    """Small pictures of fixed images: what the networks say of some evaluation images, and pseudo labels of the pool."""
    with reading(training.networks) as readers:
        sample_pictures.evaluation_panels(training.folder, readers, training.validation, training.setting)
        if training.pseudo:
            role, threshold = training.pseudo
            pool, classes = training.sources.unlabeled, training.sources.classes
            sample_pictures.unlabeled_panels(
                training.folder, training.step, readers[role], threshold, pool, training.setting, classes
            )


def cost(training: Training) -> dict[str, float]:
    """What the run has taken so far."""
    return {
        "hours": round(training.seconds / 3600, 4),
        "images_per_second": round(training.images_until(training.step) / max(training.seconds, 1e-9), 2),
        "peak_memory_gib": round(peak_memory_gib(training.accelerator.device), 2),
        "replaced_images": training.replaced,
    }


def draw_predictions(training: Training, rows: int = 6) -> None:
    """A picture of evaluation images, evenly spaced in the list: image, truth, and what every network says."""
    validation, sheet = training.validation, []
    with reading(training.networks) as readers:
        for index in sorted({round(i) for i in np.linspace(0, len(validation) - 1, rows)}):
            item = validation[index]
            maps = [predict(reader, item.image, training.setting).cpu().numpy() for reader in readers.values()]
            sheet.append([item.image.permute(1, 2, 0).numpy(), item.labels.numpy(), *maps])
    heading = f"{training.config.method.title} after {training.step} steps"
    contact_sheet(sheet, ["image", "truth", *training.networks], validation.classes, heading).save(
        training.folder / "predictions.png"
    )


# ---- models for others


def write_model(training: Training, role: str, name: str, *, chosen: bool = False, address: str = "") -> None:
    """Exports the model of a role into the folder `name` of the run; `address` is where it will be on the Hub."""
    if not training.accelerator.is_main_process:
        return
    thresholds = training.accelerator.unwrap_model(training.student).thresholds
    provenance = Provenance(
        method=training.config.method.title,
        role=role,
        step=training.step,
        scores=training.scores.get(role) if training.evaluated_at == training.step else None,
        chosen=chosen,
        lists=training.sources.lists,
        command=command_line(),
        versions=versions(),
        address=address,
        thresholds=() if thresholds is None else tuple(round(value, 4) for value in thresholds.current().tolist()),
    )
    setting = training.setting
    export(
        training.networks[role],
        training.folder / name,
        config=training.config,
        mean=setting.mean,
        std=setting.std,
        provenance=provenance,
    )


def push_model(training: Training, log: RunLog) -> None:
    """Uploads the model to use to the Hub; a failure is a warning."""
    role, repository = next(iter(training.networks)), training.config.run.push_to_hub
    write_model(training, role, ".pushing", address=repository if "/" in repository else "")
    if training.accelerator.is_main_process:
        message = f"{training.config.method.title} {role}, step {training.step}"
        complaint = push(training.folder / ".pushing", repository, message)
        shutil.rmtree(training.folder / ".pushing", ignore_errors=True)
        where = f"{repository} at step {training.step}"
        log.say(f"pushed to {where}" if complaint is None else f"warning: could not push to {where}: {complaint}")


def description(training: Training) -> dict[str, Any]:
    """What is trained on what, where and with which programs: all that a report has to know before there are results."""
    accelerator = training.accelerator
    on_gpu = accelerator.device.type == "cuda"
    name = torch.cuda.get_device_name(accelerator.device) if on_gpu else accelerator.device.type
    return {
        "method": training.config.method.title,
        "command": command_line(),
        "device": f"{accelerator.num_processes} x {name}",
        "precision": accelerator.mixed_precision,
        "parameters": sum(parameter.numel() for parameter in training.networks["student"].parameters()),
        "classes": training.sources.classes,
        "lists": training.sources.lists,
        "notes": training.notes,
        "versions": versions(),
    }


def finish(training: Training, log: RunLog) -> None:
    """Leaves the last models, results.json and the picture, and says where they are."""
    config = training.config
    for role in training.networks:
        write_model(training, role, role)
    if training.accelerator.is_main_process:
        results = {
            "method": config.method.title,
            "seed": config.run.seed,
            "steps": training.step,
            "last": training.scores,
            "best": training.best,
            **cost(training),
            "changes": training.changes,
            "lists": training.sources.lists,
            "command": command_line(),
            "versions": versions(),
            "config": to_dict(config),
        }
        write_text(training.folder / "results.json", json.dumps(results, indent=2) + "\n")
        draw_predictions(training)
        write_report(training.folder)
    if config.run.push_to_hub:
        push_model(training, log)
    for role, score in training.scores.items():
        best = training.best[role]
        log.say(
            f"{role:8s}last {100 * score['mean_iou']:.2f} mIoU, best {100 * best['mean_iou']:.2f} at step {best['step']}"
            " (chosen on the evaluation images)"
        )
    log.say(f"results {training.folder / 'results.json'}, report {training.folder / 'report.html'}")
    log.say(f"evaluate with: python evaluate.py --checkpoint {training.folder}")


def command_line() -> str:
    """What the user typed, without --resume: the command that repeats the run."""
    return "python " + shlex.join(argument for argument in sys.argv if argument != "--resume")


def versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}}
