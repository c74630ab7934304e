"""Predicts the unlabelled pool: its pseudo masks and confidence as PNGs, and the pixel counts that `pool` ranks by."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import IGNORE_INDEX, Config, Data
from ..data.images import EncodedImage, is_scene, read_header, turn_back
from ..data.masks import palette_colours, raw_ids
from ..data.progress import progress
from ..data.sources import Sources
from ..evaluation.inference import Network, Setting, in_precision, predict_with_confidence
from ..evaluation.model_choice import ModelChoice, find_model_file
from ..evaluation.photo_files import unique_names
from ..evaluation.photos import photo_batches
from ..evaluation.pictures import palette, palette_png, stated
from ..files import write_text
from ..networks.adapters import forward_logits
from .chosen_model import check_classes, load_model
from .pool_ranking import Pool


@dataclass(frozen=True)
class Predictor:
    """A network, how it reads images, and what the confidence of a class has to exceed to be a pseudo label, (K,)."""

    logits: Network
    setting: Setting
    thresholds: Tensor

    def __call__(self, images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Classes, confidence, and whether it is a pseudo label, (B, H, W) each, of (B, 3, H, W) uint8."""
        with in_precision(self.setting.evaluation.precision, self.setting.device):
            labels, confidence = predict_with_confidence(self.logits, images, self.setting)
        return tuple(each.cpu().numpy() for each in (labels, confidence, confidence > self.thresholds[labels]))


def load_predictor(choice: ModelChoice, config: Config, classes: Sequence[str]) -> Predictor:
    network, setting = load_model(choice, config)
    check_classes(network, classes)
    thresholds = torch.full((len(classes),), config.method.threshold)
    if config.method.thresholds != "fixed" and (file := find_model_file(choice.source, "thresholds.json")) is not None:
        thresholds = torch.tensor(json.loads(file.read_text()))
    return Predictor(partial(forward_logits, network), setting, thresholds.to(setting.device))


def predict_pool(predictor: Predictor, config: Config, sources: Sources, folder: Path, limit: int) -> tuple[Pool, list[str]]:
    """Writes masks/ and confidence/; returns counts, and a message for each image that cannot be read."""
    pool, unreadable, classes = Pool(), [], len(sources.classes)
    for name in ("masks", "confidence"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for older in (folder / name).glob("*.png"):  # of images that may be labelled by now
            older.unlink()
    raw = raw_ids(config.data, classes)
    ids = {name: int(raw[index]) for index, name in enumerate(sources.classes)} | {"": int(raw[IGNORE_INDEX])}
    write_text(folder / "ids.json", json.dumps(ids) + "\n")
    count = min(limit or len(sources.unlabeled), len(sources.unlabeled))
    names, files = unique_names(sources.unlabeled["id"][:]), {}

    def photos() -> Iterator[tuple[str, EncodedImage]]:
        for index in progress(range(count), "pool"):
            row = sources.unlabeled[index]
            files[row["id"]] = row["image"]
            yield row["id"], row["image"]

    for items, pixels in photo_batches(photos(), unreadable, config):
        for item, labels, confidence, pseudo in zip(items, *predictor(pixels)):
            pool.add(item.id, labels, confidence, pseudo, classes)
            name, file = f"{names[item.id]}.png", files.pop(item.id)
            mask, grey = np.where(pseudo, labels, IGNORE_INDEX), (255 * confidence.clip(0, 1)).round().astype(np.uint8)
            if config.data.exif == "raw" and not is_scene(file):  # the data's own masks lie on the pixels as stored
                mask, grey = (turn_back(each.astype(np.uint8), read_header(file).turn) for each in (mask, grey))
            save_mask(folder / "masks" / name, mask, config.data, ids)
            Image.fromarray(grey).save(folder / "confidence" / name, pnginfo=stated(None, predicted=True))
    return pool, unreadable


def save_mask(path: Path, labels: np.ndarray, data: Data, ids: dict[str, int]) -> None:
    """Writes (H, W) classes, 255 = no label, in the ids of the data's own masks, or in its colours if it has a palette."""
    raw = raw_ids(data, len(ids) - 1)
    colours, shown = palette(IGNORE_INDEX + 1), palette_colours(replace(data, colours=()) if data.palette else data, len(ids) - 1)
    if not data.palette and raw.max() > 255:
        Image.fromarray(raw[labels].astype(np.uint16)).save(path, pnginfo=stated(ids, predicted=True))
        return
    values = np.arange(IGNORE_INDEX + 1) if data.palette else raw  # colours tell the classes, else ids do
    for index, colour in shown.items():
        colours[values[index]] = colour
    palette_png(values[labels], path, None if data.palette else ids, colours, predicted=True)
