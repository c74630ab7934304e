"""What a run writes: at each evaluation scores, pictures, report and the best models; at its end models and results."""

import json
import shlex
import shutil
import sys
from importlib.metadata import version
from threading import Thread
from typing import Any

import torch
from torch import nn

from ..config import to_dict
from ..data.sources import NO_EVALUATION_LABEL
from ..errors import ConfigError, DataError
from ..evaluation.inference import PSEUDO_LABELS, Setting, evaluate_networks, in_precision
from ..evaluation.metrics import ConfusionMatrix, ImageCounts
from ..evaluation.packed_counts import pack_counts
from ..evaluation.pictures import spread
from ..files import write_text
from ..networks.export import Provenance, export, push
from ..networks.hub import first_line
from ..report.page import write_report
from ..report.run import compare_modes
from . import checkpoint
from .log import RunLog
from .machine import peak_memory_gib
from .pseudo_quality import pseudo_label_accuracy
from .run import Training, eval_mode
from .sample_pictures import draw_panels, draw_predictions

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "pillow", "numpy")


# ---- evaluation


def evaluate(training: Training, log: RunLog) -> None:
    """Scores all networks in one pass over the evaluation images, and exports each that is the best so far."""
    training.finite.raise_if_not_finite()
    log.show_phase("evaluating")
    accelerator, classes, step = training.accelerator, training.validation.classes, training.step
    images = ImageCounts(training.validation.ids, list(training.networks), len(classes), accelerator.device)
    try:
        counted = {"pseudo": training.pseudo_labeler, "images": images}
        matrices = count_pixels(training, training.setting, training.networks, **counted)
    except torch.OutOfMemoryError as error:
        reason = first_line(error).rstrip(". ")
        raise ConfigError(f"the evaluation: {reason}; take a smaller evaluation.batch, or evaluation.mode=sliding") from error
    for each in (images, *matrices.values()):
        each.reduce(accelerator.reduce)
    training.scores = {role: matrices[role].as_dict(classes) for role in training.networks}
    if any(score["mean_iou"] is None for score in training.scores.values()):
        raise DataError(NO_EVALUATION_LABEL)
    if step == training.config.schedule.steps and (other := score_other_mode(training)):
        training.scores[next(iter(training.networks))]["other_mode"] = other
    training.evaluated_at, precision = step, training.evaluation_precision
    for role, score in training.scores.items():
        best = role not in training.best or score["mean_iou"] > training.best[role]["mean_iou"]
        log.record(f"evaluation/{role}", {**score, "precision": precision, "best": best})
        if best:
            training.best[role] = {**score, "step": step, "precision": precision}
            write_model(training, role, f"best-{role}", chosen=True)
    if PSEUDO_LABELS in matrices:
        pixels = int(matrices[next(iter(training.networks))].counts.sum())
        log.record("evaluation/pseudo", pseudo_label_accuracy(matrices[PSEUDO_LABELS], pixels, classes))
    log.record("cost", cost(training))
    if accelerator.is_main_process:
        write_counts(training, matrices, images)
        try:
            draw_panels(training)
        except torch.OutOfMemoryError:  # photos of the pool are read whole here alone; no picture is worth a run
            log.say(f"step {step}: the memory is too small for pictures of the unlabelled images; take evaluation.mode=sliding to see them")
        log.trackers.log_images(sorted((training.folder / "panels").glob("evaluation-*")), step)
        write_report(training.folder)
        changed = {name: getattr(training, name) for name in ("best", "scores", "evaluated_at")}
        checkpoint.add_scores(training.folder / "checkpoints", step, changed)
    scores = (f"{role} mIoU {100 * score['mean_iou']:.2f}" for role, score in training.scores.items())
    log.show_phase("")
    log.say(f"step {step}: {', '.join(scores)} ({precision})")


def count_pixels(
    training: Training, setting: Setting, networks: dict[str, nn.Module], **options: Any
) -> dict[str, ConfusionMatrix]:
    """The confusion matrices of this process's share of the evaluation images; options: of `evaluate_networks`."""
    accelerator, dataset = training.accelerator, training.validation
    options |= {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
    with eval_mode(networks) as functions, in_precision(training.evaluation_precision, accelerator.device):
        return evaluate_networks(functions, dataset, setting, num_classes=len(dataset.classes), **options)


def score_other_mode(training: Training) -> dict[str, Any] | None:
    """The scores of the first network in the mode that `evaluation.mode` does not name, over all processes.

    None where the config wants none, no image is larger than a window, or whole images do not fit into memory.
    """
    accelerator, validation = training.accelerator, training.validation
    role, network = next(iter(training.networks.items()))
    sizes = [validation[index].image.shape[-2:] for index in spread(len(validation), 20)]
    setting = training.setting.other_mode(sizes) if training.config.evaluation.both_modes else None
    if setting is None:
        return None
    matrix, fits = None, torch.ones((), device=accelerator.device)
    try:
        matrix = count_pixels(training, setting, {role: network})[role]
    except torch.OutOfMemoryError:
        fits *= 0
    if accelerator.reduce(fits) < accelerator.num_processes:  # all go on together, or none
        return None
    return {"mode": setting.evaluation.mode, **matrix.reduce(accelerator.reduce).as_dict(validation.classes)}


def write_counts(training: Training, matrices: dict[str, ConfusionMatrix], images: ImageCounts) -> None:
    """The counts of the last evaluation in pixels: matrices, rows truth, columns prediction, and those of every image."""
    common = {"step": training.step, "classes": training.validation.classes}
    counts = {name: matrix.counts.tolist() for name, matrix in matrices.items()}
    write_text(training.folder / "confusion.json", json.dumps({**common, "counts": counts}) + "\n")
    packed = {network: pack_counts(each.cpu().numpy()) for network, each in images.counts.items()}
    content = {**common, "ids": images.ids, "counts": packed}
    write_text(training.folder / "image_counts.json", json.dumps(content) + "\n")


# ---- models


def write_model(training: Training, role: str, name: str, *, chosen: bool = False, address: str = "") -> None:
    """Exports the model of a role into the folder `name` of the run; `address` is where it will be on the Hub."""
    if not training.accelerator.is_main_process:
        return
    thresholds = training.accelerator.unwrap_model(training.student).thresholds
    current = thresholds.current().tolist() if thresholds is not None else ()
    saved = {"mean": training.setting.mean, "std": training.setting.std, "thresholds": current}
    provenance = Provenance(
        **origin(training), role=role, step=training.step, chosen=chosen, address=address,
        scores=training.scores.get(role) if training.evaluated_at == training.step else None,
    )  # fmt: skip
    export(training.networks[role], training.folder / name, config=training.config, provenance=provenance, **saved)


def push_model(training: Training, log: RunLog) -> None:
    """Uploads the model to use to the Hub; a failure is a warning.

    Where there are other processes, in the background: they meet this one at the next step, and NCCL ends a run in which they
    wait for minutes.
    """
    if not training.accelerator.is_main_process:
        return
    role, repository, step = next(iter(training.networks)), training.config.run.push_to_hub, training.step
    before, last = training.push, step == training.config.schedule.steps
    if before is not None and before.is_alive() and not last:
        log.say(f"warning: not pushed to {repository} at step {step}: the push before is still under way; raise run.push_every")
        return
    folder, message = f".pushing-{step}", f"{training.config.method.title} {role}, step {step}"
    write_model(training, role, folder, address=repository if "/" in repository else "")

    def upload() -> None:
        if before is not None:
            before.join()
        failure, where = "an error that was not foreseen; its traceback follows", f"{repository} at step {step}"
        try:
            failure = push(training.folder / folder, repository, message)
        finally:
            shutil.rmtree(training.folder / folder, ignore_errors=True)
            log.say(f"pushed to {where}" if failure is None else f"warning: could not push to {where}: {failure}")

    training.push = Thread(target=upload, daemon=True)  # a run that is stopped does not wait for it
    training.push.start()
    if training.accelerator.num_processes == 1:
        training.push.join()


# ---- what is reported


def cost(training: Training) -> dict[str, float]:
    """What the run has taken so far."""
    return {
        "hours": round(training.seconds / 3600, 4),
        "images_per_second": round(training.images_until(training.step) / max(training.seconds, 1e-9), 2),
        "peak_memory_gib": round(peak_memory_gib(training.accelerator.device), 2),
        "replaced_images": training.replaced,
    }


def log_start(training: Training, log: RunLog) -> None:
    """What is trained on what, where, with which programs and from which step; the report knows it before there are results."""
    for note in training.notes:
        log.say(note)
    config, sources, accelerator = training.config, training.sources, training.accelerator
    device, processes, precision = accelerator.device, accelerator.num_processes, accelerator.mixed_precision
    log.say(
        f"{config.method.title}: {len(sources.labeled)} labelled, {len(sources.unlabeled)} unlabelled,"
        f" {len(training.validation)} evaluation images, {len(sources.classes)} classes; {processes} x {device.type},"
        f" precision {precision}; {training.folder}" + (f", from step {training.step}" if training.step else "")
    )
    log.record("start", {
        **origin(training),
        "device": f"{processes} x {torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type}",
        "precision": precision,
        "parameters": sum(parameter.numel() for parameter in training.networks["student"].parameters()),
        "classes": sources.classes,
        "notes": training.notes,
    })  # fmt: skip


def origin(training: Training) -> dict[str, Any]:
    """Method, command, lists and versions: what repeats the run, but for its config."""
    program, *arguments = sys.argv  # the command is what the user typed, without --resume
    words = program.split(" ") if program.startswith("s4former ") else ["python", program]
    return {
        "method": training.config.method.title,
        "command": shlex.join([*words, *(argument for argument in arguments if argument != "--resume")]),
        "lists": training.sources.lists,
        "versions": {"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}},
    }


def finish(training: Training, log: RunLog) -> None:
    """Writes the last models, results.json and the picture, and says where they are."""
    config, folder = training.config, training.folder
    for role in training.networks:
        write_model(training, role, role)
    if training.accelerator.is_main_process:
        results = {
            **origin(training), "seed": config.run.seed, "steps": training.step, "last": training.scores,
            "best": training.best, **cost(training), "changes": training.changes, "config": to_dict(config),
        }  # fmt: skip
        write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
        draw_predictions(training)
        write_report(folder)
    if config.run.push_to_hub:
        push_model(training, log)
    for role, score in training.scores.items():
        best = training.best[role]
        log.say(
            f"{role:8s}last {100 * score['mean_iou']:.2f} mIoU, best {100 * best['mean_iou']:.2f} at step {best['step']}"
            " (chosen on the evaluation images)"
        )
    log.say(f"results {folder / 'results.json'}, report {folder / 'report.html'}")
    role = next(iter(training.networks))
    found, flag = compare_modes(to_dict(config.evaluation), training.scores[role])
    if found:
        log.say(f"{role:8s}{found}" + (f": {flag}" if flag else ""))
    program = "s4former evaluate" if sys.argv[0].startswith("s4former ") else "python evaluate.py"
    log.say(" ".join(filter(None, [f"evaluate with: {program} --checkpoint {folder}", flag])))
