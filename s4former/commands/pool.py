"""The unlabelled pool after training: pseudo masks of all of it, and which of its images are worth labelling next.

    s4former pool runs/demo -o pool [--best] [--top 100] [data.root=...]

    pool/masks/ID.png            class ids under the palette of PASCAL VOC, 255 where confidence is not above the threshold
         confidence/ID.png       grey, 255 = certain
         worth_labelling.csv     the images to label next, the best first

The threshold is method.threshold, or after a run with method.thresholds=per_class the last one of each class.

The rule. Of image i let doubt_k(i) be the share of its pixels that the teacher takes for class k, each counting one minus
its confidence. Let seen_k be how much there is of class k that needs no label any more, in whole images: the pseudo labels
of the pool, and all of class k in the images listed before. The next image is the one with the largest

    sum over k of doubt_k(i) / sqrt(0.1 + seen_k)

So doubt counts, doubt about what is rare counts more, and an image like those above it in the list counts less.
"""

import argparse
import csv
import json
import sys
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

from ..config import IGNORE_INDEX, Config, from_dict, set_override
from ..data.sources import load_sources
from ..errors import ConfigError, DataError, describe_error
from ..evaluation.inference import Setting, batches_of_one_size, predict_with_confidence
from ..evaluation.model_choice import CheckpointError, ModelChoice, choose_model, find_model_file, read_mean_std
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="s4former pool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run, or a model of one")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    parser.add_argument("--best", action="store_true", help="the best of the run, not the last")
    parser.add_argument("--top", type=int, default=100, metavar="N", help="length of the list; default 100")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images of the pool")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="set one key of the config")
    options, complaints = parser.parse_intermixed_args(arguments), []
    disable_progress_bar()  # of transformers, one for the tensors it loads
    try:
        choice = choose_model(options.run, best=options.best)
        if not choice.config:
            raise CheckpointError(f"{choice.source} does not say what its pool is (it has no s4former.json); give a run")
        for override in options.overrides:
            set_override(choice.config, override)
        folder, config = Path(options.output), from_dict(choice.config)
        pool, classes = read_pool(choice, config, folder, options.limit, complaints)
        write_list(folder / "worth_labelling.csv", pool, rank(pool, options.top), classes)
    except (CheckpointError, ConfigError, DataError, OSError) as error:
        print(f"s4former pool: {describe_error(error)}", file=sys.stderr)
        return 1
    print(
        f"{choice.description}: pseudo masks of {len(pool.ids)} images in {folder}; worth_labelling.csv says what to label next"
    )
    for complaint in complaints:
        print(f"not read: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
