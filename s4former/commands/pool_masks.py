"""Predicts the unlabelled pool: its pseudo masks and confidence as PNGs, and the pixel counts that `pool` ranks by."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from ..config import IGNORE_INDEX, Config
from ..data.sources import load_sources
from ..evaluation.inference import Setting, batches_of_one_size, predict_with_confidence
from ..evaluation.model_choice import CheckpointError, ModelChoice, find_model_file, read_mean_std
from ..evaluation.photos import file_name, read_photos
from ..evaluation.pictures import palette_png
from ..networks.adapters import full_size_logits
from ..networks.build import load_network
from .pool import Pool


def predict_pool(choice: ModelChoice, config: Config, folder: Path, limit: int) -> tuple[Pool, tuple[str, ...], list[str]]:
    """Writes masks/ and confidence/; returns counts, class names, and a message for each image that cannot be read."""
    sources, pool, unreadable = load_sources(config.data), Pool(), []
    disable_progress_bar()  # of transformers, one for the tensors it loads
    network, classes = load_network(choice.source), len(sources.classes)
    if network.config.num_labels != classes:
        raise CheckpointError(f"{choice.source} tells {network.config.num_labels} classes apart, the data {classes}")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    mean, std = read_mean_std(choice.source)
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=device)
    thresholds = read_thresholds(choice, config, classes).to(device)
    compute_logits = partial(full_size_logits, network.to(device).eval())
    for name in ("masks", "confidence"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    count = min(limit or len(sources.unlabeled), len(sources.unlabeled))
    rows = (sources.unlabeled[index] for index in range(count))
    photos = read_photos(((row["id"], row["image"]) for row in rows), unreadable, config.data.levels)
    with tqdm(total=count, unit="image", disable=None) as bar:
        for items in batches_of_one_size(photos, 1 if config.evaluation.mode == "sliding" else config.evaluation.batch):
            maps = predict_with_confidence(compute_logits, torch.stack([item.image for item in items]), setting)
            for item, labels, confidence in zip(items, *maps):
                pseudo = (confidence > thresholds[labels]).cpu().numpy()
                labels, grey = labels.cpu().numpy(), (255 * confidence.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
                pool.add(item.id, labels, confidence.cpu().numpy(), pseudo, classes)
                name = f"{file_name(item.id)}.png"
                palette_png(np.where(pseudo, labels, IGNORE_INDEX), folder / "masks" / name)
                Image.fromarray(grey).save(folder / "confidence" / name)
            bar.update(len(items))
    return pool, sources.classes, unreadable


def read_thresholds(choice: ModelChoice, config: Config, classes: int) -> Tensor:
    """(K,): what the confidence of a pixel has to exceed to be a pseudo label of a class."""
    if config.method.thresholds == "per_class" and (file := find_model_file(choice.source, "thresholds.json")) is not None:
        return torch.tensor(json.loads(file.read_text()))
    return torch.full((classes,), config.method.threshold)
