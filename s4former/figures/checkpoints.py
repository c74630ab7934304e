"""What the figures are about: trained networks with all that is needed to ask them, and the images to show."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config, from_dict, set_override
from ..data.batches import ValidationSet, validation_set
from ..data.images import read_image
from ..evaluation.inference import Setting, normalise, predict, resize_for_test
from ..networks.adapters import full_size_logits
from ..networks.build import load_network
from ..networks.hub import HUB_ERRORS, describe_hub_error, hub_file

ROLES = ("teacher", "student")


class FigureError(ValueError):
    """A figure that cannot be drawn; the message says why, and what to give instead."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network. name: for the reader. classes: their names by id."""

    name: str
    network: nn.Module
    config: Config
    setting: Setting
    classes: tuple[str, ...]

    def predict(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (H, W) class ids, the way the config evaluates."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        return predict(lambda images: full_size_logits(self.network, images), pixels, self.setting).cpu().numpy()

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of 0 .. 255 to logits (B, K, H, W) on the CPU."""
        with torch.no_grad():
            return full_size_logits(self.network, normalise(images.to(self.setting.device), self.setting)).cpu()

    def pixels(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 to what the network reads of a whole image: (1, 3, h, w), resized and normalised."""
        evaluation, size = self.setting.evaluation, image.shape[:2]
        resized = resize_for_test(*size, short_side=evaluation.short_side, long_side=evaluation.long_side)
        pixels = normalise(torch.from_numpy(image).permute(2, 0, 1)[None].to(self.setting.device), self.setting)
        return nn.functional.interpolate(pixels, size=resized, mode="bilinear", align_corners=False, antialias=True)


def open_checkpoints(sources: Sequence[str], overrides: Sequence[str], names: Sequence[str] | None) -> list[Checkpoint]:
    """The networks of runs, exported folders or Hub ids; they must tell the same classes apart."""
    if names and len(names) != len(sources):
        raise FigureError(f"--names gives {len(names)} names for {len(sources)} checkpoints; give one for each")
    checkpoints = [open_checkpoint(source, overrides) for source in sources]
    names = names or tell_apart([checkpoint.name for checkpoint in checkpoints], sources)
    checkpoints = [Checkpoint(**{**vars(checkpoint), "name": name}) for checkpoint, name in zip(checkpoints, names)]
    for source, checkpoint in zip(sources, checkpoints):
        if checkpoint.classes != checkpoints[0].classes:
            raise FigureError(f"{source} tells other classes apart than {sources[0]}; a figure has one set of classes")
    return checkpoints


def open_checkpoint(source: str, overrides: Sequence[str] = ()) -> Checkpoint:
    """A network with the config and the constants that lie beside it; of a run the last teacher, else the student."""
    folder = model_folder(source)
    tree = read_json(folder, "s4former.json")
    for override in overrides:
        set_override(tree, override)
    config, processor = from_dict(tree), read_json(folder, "preprocessor_config.json")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    network = load_network(folder).to(device).eval()
    setting = Setting(
        evaluation=config.evaluation,
        crop=config.data.crop,
        mean=processor["image_mean"],
        std=processor["image_std"],
        device=device,
    )
    classes = tuple(network.config.id2label[i] for i in range(network.config.num_labels))
    return Checkpoint(name=config.method.title, network=network, config=config, setting=setting, classes=classes)


def model_folder(source: str) -> str:
    """The folder of the model that a run leaves, or the source itself."""
    path = Path(source)
    there = [path / role for role in ROLES if (path / role / "config.json").is_file()]
    if there:
        return str(there[0])
    best = [str(path / f"best-{role}") for role in ROLES if (path / f"best-{role}" / "config.json").is_file()]
    if best:
        rest = f"give {best[0]}, which was chosen on the evaluation images"
        raise FigureError(f"the run {source} has not ended; wait, or {rest}")
    if not path.exists() and (source.count("/") > 1 or source.startswith((".", "~"))):
        raise FigureError(f"there is no folder {source}; give a run, a model in it, or the id of one on the Hub")
    return source


def read_json(source: str, name: str) -> dict[str, Any]:
    """A file beside the weights, in a folder or on the Hub."""
    try:
        found = Path(source, name) if Path(source).is_dir() else hub_file(source, name)
    except HUB_ERRORS as error:
        raise FigureError(f"{source!r} is no folder here and cannot be had from the Hub ({describe_hub_error(error)})") from error
    if found is None or not found.is_file():
        raise FigureError(f"{source} has no {name}; give a run, or a model that train_semi.py exported")
    return json.loads(found.read_text())


def tell_apart(names: Sequence[str], sources: Sequence[str]) -> list[str]:
    """The names of methods where they differ, else with the last parts of the sources."""
    if len(set(names)) == len(names):
        return list(names)
    parts = [Path(source).parts for source in sources]
    shared = 0
    while shared < min(map(len, parts)) - 1 and len({part[shared] for part in parts}) == 1:
        shared += 1
    ends = ["/".join(part[shared:]) for part in parts]
    return [f"{name} ({end})" if names.count(name) > 1 else name for name, end in zip(names, ends)]


# ---- images


@dataclass(frozen=True)
class Shown:
    """image: (H, W, 3) uint8. truth: (H, W) ids, 255 = no label; None = nobody knows."""

    image: np.ndarray
    truth: np.ndarray | None
    name: str


def find_images(wanted: Sequence[str], config: Config) -> list[Shown]:
    """Images by path, or by id among the evaluation images of a config."""
    dataset = None
    found = []
    for name in wanted:
        if Path(name).is_file():
            found.append(Shown(np.array(read_image({"path": name, "bytes": None})), None, name))
            continue
        dataset = validation_set(config) if dataset is None else dataset
        ids = list(dataset.rows["id"])
        if name not in ids:
            raise FigureError(f"there is no file {name}, and no evaluation image of this id; the first is {ids[0]}")
        found.append(shown(dataset, ids.index(name)))
    return found


def shown(dataset: ValidationSet, index: int) -> Shown:
    item = dataset[index]
    return Shown(item.image.permute(1, 2, 0).numpy(), item.labels.numpy(), item.id)


def spread(length: int, count: int) -> list[int]:
    """At most `count` numbers below `length`, evenly spaced."""
    return sorted({round(place) for place in np.linspace(0, length - 1, min(count, length))})
