"""What the figures show: trained networks with the config and constants they need, and images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..commands.chosen_model import choose_with_config, load_model
from ..config import Config
from ..data.batches import ValidationSet, validation_set
from ..data.images import read_image
from ..errors import UserError
from ..evaluation.inference import Setting, in_precision, normalise, predict, resize_for_test, resize_pixels
from ..networks.adapters import forward_logits


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network. name: its title in figures. classes: their names by id."""

    name: str
    network: nn.Module
    config: Config
    setting: Setting
    classes: tuple[str, ...]

    def predict(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (H, W) class ids, the way the config evaluates."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        with in_precision(self.setting.evaluation.precision, self.setting.device):
            return predict(partial(forward_logits, self.network), pixels, self.setting).cpu().numpy()

    def pixels(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 to what the network reads of a whole image: (1, 3, h, w), resized and normalised."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.setting.device)
        return normalise(resize_pixels(pixels, resize_for_test(image.shape[:2], self.setting.evaluation)), self.setting)


def open_checkpoints(sources: Sequence[str], overrides: Sequence[str], names: Sequence[str] | None) -> list[Checkpoint]:
    """The networks of runs, exported folders or Hub ids; they must have the same classes.

    names: by default their methods, of one method with the sources behind.
    """
    if names and len(names) != len(sources):
        raise UserError(f"--names gives {len(names)} names for {len(sources)} checkpoints; give one for each")
    checkpoints = [open_checkpoint(source, overrides) for source in sources]
    for source, checkpoint in zip(sources, checkpoints):
        if checkpoint.classes != checkpoints[0].classes:
            raise UserError(f"{source} tells other classes apart than {sources[0]}; a figure has one set of classes")
    methods = [checkpoint.name for checkpoint in checkpoints]
    names = names or [f"{name} ({source})" if methods.count(name) > 1 else name for name, source in zip(methods, sources)]
    return [replace(checkpoint, name=name) for checkpoint, name in zip(checkpoints, names)]


def open_checkpoint(source: str, overrides: Sequence[str] = ()) -> Checkpoint:
    """A network with the config and the constants beside it; of a run the last teacher, else the student."""
    choice, config = choose_with_config(source, overrides)
    network, setting = load_model(choice, config)
    classes = tuple(network.config.id2label[i] for i in range(network.config.num_labels))
    return Checkpoint(name=config.method.title, network=network, config=config, setting=setting, classes=classes)


# ---- images


@dataclass(frozen=True)
class LabeledImage:
    """image: (H, W, 3) uint8. labels: (H, W) ids, 255 = no label; None = there are none."""

    image: np.ndarray
    labels: np.ndarray | None
    name: str


def find_images(wanted: Sequence[str], config: Config) -> list[LabeledImage]:
    """Images by path, or by id among the evaluation images of a config."""
    dataset, found = None, []
    for name in wanted:
        if Path(name).is_file():
            found.append(LabeledImage(np.array(read_image({"path": name, "bytes": None}, config.data.levels)), None, name))
            continue
        dataset = dataset or validation_set(config)
        ids = list(dataset.rows["id"])
        if name not in ids:
            raise UserError(f"there is no file {name}, and no evaluation image of this id; the first is {ids[0]}")
        found.append(evaluation_image(dataset, ids.index(name)))
    return found


def evaluation_image(dataset: ValidationSet, index: int) -> LabeledImage:
    item = dataset[index]
    return LabeledImage(item.image.permute(1, 2, 0).numpy(), item.labels.numpy(), item.id)
