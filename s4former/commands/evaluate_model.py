"""What evaluate.py computes, over all processes: the scores of a model, or its class maps of photos without masks."""

import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ..config import Config, to_dict
from ..data.batches import validation_set
from ..data.masks import raw_ids
from ..data.progress import progress
from ..errors import DataError
from ..evaluation.inference import Setting, batches_of_one_size, in_precision, predict, predictions, update_matrices
from ..evaluation.metrics import ConfusionMatrix
from ..evaluation.model_choice import CheckpointError, ModelChoice, read_mean_std
from ..evaluation.photos import draw_sheet, label_id_names, read_photos, save_label_ids, save_maps
from ..networks.adapters import forward_logits
from ..networks.build import load_network
from ..training.engine import needs_cpu


def evaluate_model(choice: ModelChoice, config: Config, options: Namespace) -> tuple[dict[str, Any], bool]:
    """The report, on every process, and whether this is the one that prints it."""
    accelerator = Accelerator(cpu=needs_cpu(), mixed_precision="no")
    if accelerator.is_main_process:
        print(f"{'reading with' if options.images else 'evaluating'} {choice.description}", file=sys.stderr, flush=True)
    mean, std = read_mean_std(choice.source)
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=accelerator.device)
    disable_progress_bar()  # of transformers, one for the tensors it loads
    network = load_network(choice.source).to(accelerator.device).eval()
    compute = predict_photos if options.images else score_dataset
    try:
        with in_precision(config.evaluation.precision, accelerator.device):
            report = compute(network, setting, config, options, accelerator)
    except torch.OutOfMemoryError as error:
        raise DataError(f"{str(error).splitlines()[0]} Take a smaller --batch, or --sliding-window for large images") from error
    accelerator.end_training()
    return {"checkpoint": choice.source, "model": choice.description, **report}, accelerator.is_main_process


def score_dataset(
    network: PreTrainedModel, setting: Setting, config: Config, options: Namespace, accelerator: Accelerator
) -> dict[str, Any]:
    """Predicts every evaluation image once; returns scores, counts and settings."""
    dataset = validation_set(config)
    classes = dataset.classes
    if network.config.num_labels != len(classes):
        raise CheckpointError(
            f"{network.name_or_path} tells {network.config.num_labels} classes apart, but the data have {len(classes)}"
            f" ({', '.join(classes[:4])}, ...); give the data it was trained for, or map its ids with data.id_map"
        )
    names, raw = (label_id_names(dataset.ids), raw_ids(config.data, len(classes))) if options.label_ids else ({}, None)
    part = {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
    matrix, images, start = ConfusionMatrix(len(classes), device=accelerator.device), 0, time.perf_counter()
    for items, maps in predictions({"model": partial(forward_logits, network)}, dataset, setting, **part):
        update_matrices({"model": matrix}, items, maps)
        if options.save_predictions:
            save_maps(Path(options.save_predictions), items, maps["model"], classes, config.data)
        if options.label_ids:
            save_label_ids(Path(options.save_predictions), items, maps["model"], names, raw)
        images += len(items)
    scores, images = matrix.reduce(accelerator.reduce).as_dict(classes), sum(gather_object([images]))
    seconds = time.perf_counter() - start
    return {
        **scores, "images": images, "pixels": int(matrix.counts.sum()), "images_per_second": round(images / seconds, 2),
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
    names, raw = (label_id_names(photos), raw_ids(config.data, len(classes))) if options.label_ids else ({}, None)
    own = list(photos.items())[accelerator.process_index :: accelerator.num_processes]
    # windows of one image fill a batch by themselves; images need not wait for others of their size
    batch = 1 if config.evaluation.mode == "sliding" else config.evaluation.batch
    folder, unreadable, images, start = Path(options.save_predictions), [], 0, time.perf_counter()
    for items in batches_of_one_size(read_photos(progress(own, "photos"), unreadable, config.data.levels), batch):
        maps = predict(partial(forward_logits, network), torch.stack([item.image for item in items]), setting)
        save_maps(folder, items, maps, classes, config.data)
        if options.label_ids:
            save_label_ids(folder, items, maps, names, raw)
        images += len(items)
    seconds = time.perf_counter() - start
    unreadable, images = gather_object(unreadable), sum(gather_object([images]))  # which also waits for the others
    if accelerator.is_main_process:
        draw_sheet(folder, photos, classes, config.data)
    return {
        "images": images, "unreadable": unreadable, "images_per_second": round(images / seconds, 2), "folder": str(folder),
        "evaluation": to_dict(config.evaluation),
    }  # fmt: skip
