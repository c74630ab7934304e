"""How far a step along each term of the loss lowers the error on evaluation images, at the weights of a checkpoint.

    python docs/measured/gradients.py RUN/checkpoints/step-00000500 [--batches 48] [--images 256] [--json FILE]

For the next batches of the run and each view of an unlabelled image below, g is the gradient of a term on that view. d is the gradient of
an error on crops of evaluation images: the cross-entropy, or 1 - mIoU computed of probabilities (soft IoU). P is AdamW's scaling at the
checkpoint: rate of the parameter's group over root of the second moment. <P g, d> is then the rate at which a small step along the term
lowers that error. Printed are its mean over the batches and standard error, the same minus that of CutMix's cross-entropy (in pairs: the
same batches), both in units of the term on labels, and the mean length of g under P. Nothing is trained.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from s4former.config import IGNORE_INDEX, Config, from_dict, to_dict
from s4former.data.batches import StepDataset
from s4former.data.geometry import crop_pair, draw_geometry
from s4former.data.masks import read_pair
from s4former.data.sources import load_sources
from s4former.evaluation.inference import normalise
from s4former.method.checks import shuffle_grid
from s4former.method.losses import cross_entropy
from s4former.method.pseudo import resize_logits
from s4former.method.step import train_step
from s4former.method.student import Student
from s4former.networks.adapters import decode, encode
from s4former.randomness import numpy_generator
from s4former.training.engine import build_accelerator
from s4former.training.resume import restore
from s4former.training.run import Training, build_training

TERMS = ("consistency", "ncr")
CROPS = 32  # of evaluation images at a time
PLAIN = {
    "mix": "cutmix", "mix_probability": 1.0, "patch_shuffle": False, "shuffle_probability": 1.0, "pasa": "none", "regularizer": "ncr",
    "regularizer_weight": 1.0,
}  # fmt: skip
VIEWS = {  # what changes, and the branch that is read
    "CutMix": ({}, "strong"),
    "CutMix, PatchShuffle": ({"patch_shuffle": True}, "strong"),
    "CutMix, PASA": ({"pasa": "main", "pasa_view": "mixed"}, "pasa"),
    "strong colours alone": ({"mix_probability": 0.0}, "strong"),
    "PatchShuffle": ({"mix_probability": 0.0, "patch_shuffle": True}, "strong"),
    "PASA": ({"pasa": "main"}, "pasa"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batches", type=int, default=48)
    parser.add_argument("--images", type=int, default=256, help="evaluation images, one crop of each")
    parser.add_argument(
        "--view", action="append", default=[], nargs="+", metavar="WORD",
        help="another view: a name, its branch (strong or pasa), and keys, such as --view ClassMix strong mix=classmix",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="appends the numbers of every batch")
    options = parser.parse_args()
    if any(len(words) < 2 for words in options.view):
        parser.error("--view takes a name, its branch (strong or pasa), and keys of the section method")
    views = VIEWS | {name: (dict(map(read_key, keys)), branch) for name, branch, *keys in options.view}
    training, config, step = load_checkpoint(options.checkpoint, parser.error)
    network, sources = training.networks["student"], training.sources
    groups = training.optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    scales = [scale for group in groups for scale in adam_scales(training.optimizer, group)]
    directions = [[scale * g for scale, g in zip(scales, each)] for each in evaluation_gradients(training, parameters, options.images)]

    rates: dict[str, list[list[float]]] = {}
    first = max(step, config.method.burn_in)
    for name, (changes, branch) in views.items():
        tree = to_dict(config)
        variant = from_dict({**tree, "method": {**tree["method"], **PLAIN, **changes}})
        student = Student(network, variant.method).train()
        steps = StepDataset(variant, sources, shuffle_grid(variant, network), 0, 1)
        for number in range(first, first + options.batches):
            torch.manual_seed(number)
            batch = training.to_device(steps.batch(number, 0))
            losses = train_step(student, training.teacher, batch, variant.method)
            terms = {f"{name}: {term}": losses[f"{term}_{branch}"] for term in TERMS}
            if name == "CutMix":
                terms = {"labels": losses["supervised"], **terms}
            for term, loss in terms.items():
                gradient = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
                rates.setdefault(term, []).append(measure(gradient, directions, scales))
    report(rates, step, options)


def load_checkpoint(folder: Path, refuse: Callable[[str], NoReturn]) -> tuple[Training, Config, int]:
    """A run at a checkpoint, with batch norms whose running statistics stay as they are; its config and step."""
    if not (folder / "state.pt").is_file():
        refuse(f"{folder} holds no state.pt; give a folder RUN/checkpoints/step-*")
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    config = from_dict(state["config"])
    if config.optimizer.name != "adamw" or config.method.teacher != "ema":
        found = f"optimizer.name={config.optimizer.name} and method.teacher={config.method.teacher}"
        refuse(f"the run was trained with {found}; the scaling is AdamW's and the labels are a teacher's: adamw and ema")
    training = build_training(config, load_sources(config.data), folder, build_accelerator("no", cpu=True))
    restore(training, state)
    for norm in (module for module in training.networks["student"].modules() if isinstance(module, _BatchNorm)):
        norm.momentum = 0.0
    return training, config, state["step"]


def read_key(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def adam_scales(optimizer: torch.optim.Optimizer, group: dict) -> list[Tensor]:
    """AdamW's step along a gradient of 1, relative to the others, for each parameter of a group."""
    states = [optimizer.state[parameter] for parameter in group["params"]]
    roots = [(state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))).sqrt() for state in states]
    return [group["base"] / (root + group["eps"]) for root in roots]


def evaluation_gradients(training: Training, parameters: list[Tensor], images: int) -> list[list[Tensor]]:
    """Those of cross-entropy and soft IoU of the student in eval mode, on a crop of each of the first evaluation images."""
    network = training.networks["student"].eval()
    totals = [[torch.zeros_like(parameter) for parameter in parameters] for _ in range(2)]
    for pixels, labels in evaluation_crops(training, images):
        logits = resize_logits(decode(network, encode(network, pixels)), labels.shape[-2:])
        for total, error in zip(totals, (cross_entropy(logits, labels), soft_iou_error(logits, labels))):
            torch._foreach_add_(total, torch.autograd.grad(error, parameters, retain_graph=True, materialize_grads=True, allow_unused=True))
    network.train()
    return totals


def evaluation_crops(training: Training, images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised crops (B, 3, H, W) of the first evaluation images, one of each, and their labels (B, H, W)."""
    rows, config = training.sources.validation, training.config
    numbers = range(min(images, len(rows)))
    for start in numbers[::CROPS]:
        crops = []
        for index in numbers[start : start + CROPS]:
            image, mask = read_pair(rows[index], config.data, len(training.sources.classes))
            geometry = draw_geometry(numpy_generator(0, index), image.height, image.width, config.data)
            crops.append(list(map(torch.from_numpy, crop_pair(image, mask, geometry))))
        pixels, labels, valid = map(torch.stack, zip(*crops))
        yield normalise(pixels.permute(0, 3, 1, 2), training.setting) * valid[:, None], labels.long()


def soft_iou_error(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over the classes in labels (B, H, W) of sum(p y) / sum(p + y - p y)."""
    known = labels != IGNORE_INDEX
    truth = F.one_hot(labels.where(known, 0), logits.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    shares = logits.softmax(dim=1) * known[:, None]
    both = (shares * truth).sum(dim=(0, 2, 3))
    return 1 - (both / (shares + truth - shares * truth).sum(dim=(0, 2, 3)))[truth.sum(dim=(0, 2, 3)) > 0].mean()


def measure(gradient: tuple[Tensor, ...], directions: list[list[Tensor]], scales: list[Tensor]) -> list[float]:
    """<P g, d> for both errors, and the length of g under P."""
    rates = [float(sum(torch.sum(g * d) for g, d in zip(gradient, direction))) for direction in directions]
    return [*rates, float(sum(torch.sum(g * g * scale) for g, scale in zip(gradient, scales)) ** 0.5)]


def report(rates: dict[str, list[list[float]]], step: int, options: argparse.Namespace) -> None:
    columns = {term: np.array(values).T / np.mean(rates["labels"], axis=0)[:, None] for term, values in rates.items()}
    print(f"step {step}; the term on labels is 1\n")
    print("| term | cross-entropy | minus CutMix's | soft IoU | minus CutMix's | length |\n" + "| --- " * 6 + "|")
    for term, (*both, length) in columns.items():
        cells = [format_mean(x) for rate, base in zip(both, columns["CutMix: consistency"]) for x in (rate, rate - base)]
        print(f"| {term} | {' | '.join(cells)} | {length.mean():.2f} |")
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps({"checkpoint": str(options.checkpoint), "step": step, "rates": rates}) + "\n")


def format_mean(values: np.ndarray) -> str:
    return f"{values.mean():+.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


if __name__ == "__main__":
    main()
