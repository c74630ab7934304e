"""Pseudo masks of the unlabelled pool, and its images ranked by what their labels would add; the rule is in pool.py."""

import csv
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Iterator, Sequence

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

FLOOR = 0.1  # of an image: what a class that nothing is seen of is taken to have


@dataclass
class Pool:
    """What the teacher says of every image: rows of K shares of its pixels, in order of `ids`."""

    ids: list[str] = field(default_factory=list)
    shares: list[np.ndarray] = field(default_factory=list)  # taken for class k
    doubts: list[np.ndarray] = field(default_factory=list)  # the same, each pixel counting 1 - its confidence
    sure: list[np.ndarray] = field(default_factory=list)  # pseudo labels of class k

    def add(self, id: str, labels: Tensor, confidence: Tensor, sure: Tensor, classes: int) -> None:
        """Counts one image: labels (H, W) long, confidence (H, W) in 0..1, sure (H, W) bool, what is a pseudo label."""
        places, pixels = labels.flatten().cpu(), labels.numel()
        confidence = confidence.flatten().double().cpu()
        for rows, weights in (
            (self.shares, torch.ones_like(confidence)),
            (self.doubts, 1 - confidence),
            (self.sure, sure.flatten().double().cpu()),
        ):
            rows.append((torch.bincount(places, weights, minlength=classes) / pixels).numpy())
        self.ids.append(id)


def rank(pool: Pool, top: int) -> list[tuple[int, float]]:
    """(index, worth) of the images to label next, by the rule above; of equals the first."""
    if not pool.ids:
        return []
    shares, doubts = np.stack(pool.shares), np.stack(pool.doubts)
    seen, left, chosen = np.stack(pool.sure).sum(axis=0), np.ones(len(pool.ids), bool), []
    for _ in range(min(top, len(pool.ids))):
        worth = np.where(left, doubts @ (1 / np.sqrt(FLOOR + seen)), -1.0)
        index = int(worth.argmax())
        chosen.append((index, float(worth[index])))
        left[index] = False
        seen = seen + shares[index]
    return chosen


def read_pool(choice: ModelChoice, config: Config, folder: Path, limit: int, complaints: list[str]) -> tuple[Pool, tuple[str, ...]]:
    """Writes masks and confidence of the pool, and returns what the list is made from, and the class names."""
    sources = load_sources(config.data)
    disable_progress_bar()  # of transformers, one for the tensors it loads
    network = load_network(choice.source)
    if network.config.num_labels != len(sources.classes):
        raise CheckpointError(
            f"{choice.source} tells {network.config.num_labels} classes apart, the data {len(sources.classes)}"
        )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    mean, std = read_mean_std(choice.source)
    setting = Setting(evaluation=config.evaluation, crop=config.data.crop, mean=mean, std=std, device=device)
    thresholds = thresholds_of(choice, config, len(sources.classes)).to(device)
    reader, pool = partial(full_size_logits, network.to(device).eval()), Pool()
    length = min(limit, len(sources.unlabeled)) if limit else len(sources.unlabeled)
    for name in ("masks", "confidence"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    photos = read_photos(cells(sources.unlabeled, length), complaints, config.data.levels)
    with tqdm(total=length, unit="image", disable=None) as bar:
        for items in batches_of_one_size(photos, 1 if config.evaluation.mode == "sliding" else config.evaluation.batch):
            maps = predict_with_confidence(reader, torch.stack([item.image for item in items]), setting)
            for item, labels, confidence in zip(items, *maps):
                sure = confidence > thresholds[labels]
                pool.add(item.id, labels, confidence, sure, len(sources.classes))
                save(folder, item.id, labels.masked_fill(~sure, IGNORE_INDEX), confidence)
            bar.update(len(items))
    return pool, sources.classes


def thresholds_of(choice: ModelChoice, config: Config, classes: int) -> Tensor:
    """(K,): what the confidence of a pixel has to exceed to be a pseudo label of a class."""
    if config.method.thresholds == "per_class" and (found := find_model_file(choice.source, "thresholds.json")) is not None:
        return torch.tensor(json.loads(found.read_text()))
    return torch.full((classes,), config.method.threshold)


def cells(rows: Sequence[Any], length: int) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((rows[index]["id"], rows[index]["image"]) for index in range(length))


def save(folder: Path, id: str, labels: Tensor, confidence: Tensor) -> None:
    """masks/ID.png and confidence/ID.png of (H, W) ids and (H, W) probabilities."""
    palette_png(labels.cpu().numpy(), folder / "masks" / f"{file_name(id)}.png")
    grey = (255 * confidence.clamp(0, 1)).round().to(torch.uint8)
    Image.fromarray(grey.cpu().numpy()).save(folder / "confidence" / f"{file_name(id)}.png")


def write_list(path: Path, pool: Pool, chosen: Sequence[tuple[int, float]], classes: Sequence[str]) -> None:
    """worth_labelling.csv: rank, id, worth, share of doubt, and the three classes that it is about."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "id", "worth", "doubt", "pseudo_labels", "doubts_about"])
        for place, (index, worth) in enumerate(chosen, start=1):
            doubts, sure = pool.doubts[index], float(pool.sure[index].sum())
            about = [classes[k] for k in np.argsort(-doubts, kind="stable")[:3] if doubts[k] > 0]
            writer.writerow([place, pool.ids[index], f"{worth:.4f}", f"{doubts.sum():.4f}", f"{sure:.4f}", " ".join(about)])
