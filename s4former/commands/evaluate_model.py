"""What evaluate.py computes, over all processes: the scores of a model, or its class maps of photos without masks."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel

from ..config import Config, to_dict
from ..data.batches import validation_set
from ..data.masks import raw_ids
from ..data.progress import progress
from ..evaluation.inference import Setting, in_precision, predict, predictions, update_matrices
from ..evaluation.metrics import ConfusionMatrix
from ..evaluation.model_choice import ModelChoice
from ..evaluation.photo_files import unique_names
from ..evaluation.photos import draw_sheet, label_id_names, photo_batches, save_label_ids, save_maps
from ..networks.adapters import forward_logits
from ..training.engine import needs_cpu
from .chosen_model import check_classes, explained_out_of_memory, load_model


def evaluate_model(choice: ModelChoice, config: Config, options: Namespace) -> tuple[dict[str, Any], bool]:
    """The report, on every process, and whether this is the one that prints it."""
    accelerator = Accelerator(cpu=needs_cpu(), mixed_precision="no")
    if accelerator.is_main_process:
        print(f"{'reading with' if options.images else 'evaluating'} {choice.description}", file=sys.stderr, flush=True)
    network, setting = load_model(choice, config, accelerator.device)
    compute = predict_photos if options.images else score_dataset
    with explained_out_of_memory(), in_precision(config.evaluation.precision, accelerator.device):
        report = compute(network, setting, config, options, accelerator)
    accelerator.end_training()
    return {"checkpoint": choice.source, "model": choice.description, **report}, accelerator.is_main_process


def writer(options: Namespace, config: Config, classes: Sequence[str], ids: Collection[str]) -> Callable[[Sequence[Any], Tensor], None]:
    """A function that writes what --save-predictions and --label-ids ask for: items of the data and their maps (B, H, W)."""
    folder, names = Path(options.save_predictions or ""), unique_names(ids)
    own, raw = (label_id_names(ids), raw_ids(config.data, len(classes))) if options.label_ids else ({}, None)

    def write(items: Sequence[Any], maps: Tensor) -> None:
        if options.save_predictions:
            save_maps(folder, items, maps, names, classes, config.data)
        if options.label_ids:
            save_label_ids(folder, items, maps, own, raw)

    return write


def score_dataset(
    network: PreTrainedModel, setting: Setting, config: Config, options: Namespace, accelerator: Accelerator
) -> dict[str, Any]:
    """Predicts every evaluation image once; returns scores, counts and settings."""
    dataset = validation_set(config)
    classes = dataset.classes
    check_classes(network, classes)
    write = writer(options, config, classes, dataset.ids)
    part = {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
    matrix, images, start = ConfusionMatrix(len(classes), device=accelerator.device), 0, time.perf_counter()
    for items, maps in predictions({"model": partial(forward_logits, network)}, dataset, setting, **part):
        update_matrices({"model": matrix}, items, maps)
        write(items, maps["model"])
        images += len(items)
    scores, images = matrix.reduce(accelerator.reduce).as_dict(classes), sum(gather_object([images]))
    return {
        **scores, "images": images, "pixels": int(matrix.counts.sum()),
        "images_per_second": round(images / (time.perf_counter() - start), 2),
        "processes": accelerator.num_processes, "precision": config.evaluation.precision,
        "evaluation": to_dict(config.evaluation) | {"window": list(setting.window), "stride": list(setting.stride)},
        "data": to_dict(config.data),
    }  # fmt: skip


def predict_photos(
    network: PreTrainedModel, setting: Setting, config: Config, options: Namespace, accelerator: Accelerator
) -> dict[str, Any]:
    """Writes the class maps of image files; returns how many, and which could not be read."""
    classes = [network.config.id2label[i] for i in range(network.config.num_labels)]
    photos = dict(list(options.photos.items())[: config.evaluation.limit or None])
    own = list(photos.items())[accelerator.process_index :: accelerator.num_processes]
    write, unreadable, images, start = writer(options, config, classes, photos), [], 0, time.perf_counter()
    for items, pixels in photo_batches(progress(own, "photos"), unreadable, config):
        write(items, predict(partial(forward_logits, network), pixels, setting))
        images += len(items)
    seconds = time.perf_counter() - start
    unreadable, images = gather_object(unreadable), sum(gather_object([images]))  # which also waits for the others
    if accelerator.is_main_process:
        draw_sheet(Path(options.save_predictions), photos, classes, config.data)
    return {
        "images": images, "unreadable": unreadable, "images_per_second": round(images / seconds, 2),
        "folder": str(Path(options.save_predictions)), "evaluation": to_dict(config.evaluation),
    }  # fmt: skip
