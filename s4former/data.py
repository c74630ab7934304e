"""The batch of step t, as a function of (seed, t) alone.

Which images a step sees, how each is cut, flipped and coloured, which boxes and orders are drawn: everything is keyed
by the seed, the step and the position in the *global* batch. How many processes or loader workers there are, and what
ran before, changes nothing. Loader workers deliver whole batches as uint8; normalisation happens on the device.
"""

import signal
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import crop_pair, photometric
from .config import Config, share_of_process
from .mixing import MIXES, Place
from .patch_shuffle import draw_order
from .randomness import Stream, numpy_generator, torch_generator
from .reading import DataError, read_image, read_pair
from .sources import Sources, load_sources

GRACE = 120  # seconds that a loader worker outlives a SIGTERM
REPLACEMENTS = 20  # unreadable unlabelled images in a row before a step gives up


@dataclass(frozen=True)
class Batch:
    """One process's share of one step (one accumulation round of it). Crops are (H, W) = data.crop.

    labeled: (B_l, 3, H, W) uint8.    labels: (B_l, H, W), 255 = ignore.    labeled_valid: (B_l, H, W) bool.
    weak, strong: (B_u, 3, H, W) uint8, the same crop of an unlabelled image in two colours.
    valid: (B_u, H, W) bool, False on padding.
    mix: tensors, the draw of the mix; which ones, its row in mixing.MIXES knows.
    orders: (B_u, r, c) long, the draw of PatchShuffle.
    replaced: ids of unlabelled images that could not be read; others took their places.
    """

    step: int
    labeled: Tensor
    labels: Tensor
    labeled_valid: Tensor
    weak: Tensor
    strong: Tensor
    valid: Tensor
    mix: dict[str, Tensor]
    orders: Tensor
    replaced: tuple[str, ...] = ()

    def map(self, function) -> "Batch":
        """The same batch with a function applied to every tensor."""
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        mix = {name: function(value) for name, value in self.mix.items()}
        return replace(self, mix=mix, **{name: function(value) for name, value in tensors.items()})

    def pin_memory(self) -> "Batch":
        return self.map(lambda tensor: tensor.pin_memory())

    def on(self, device: torch.device, mean: Tensor, std: Tensor) -> "Batch":
        """On the device: images normalised, padding set to the mean colour, labels long.

        Args:
            mean, std: (3, 1, 1) in 0..1, on the device.
        """
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(
            moved,
            labeled=normalize(moved.labeled, mean, std) * moved.labeled_valid[:, None],
            labels=moved.labels.long(),
            weak=normalize(moved.weak, mean, std) * moved.valid[:, None],
            strong=normalize(moved.strong, mean, std) * moved.valid[:, None],
        )


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 to float, zero mean and unit deviation by the constants of the encoder's weights."""
    return (images.to(mean.dtype) / 255 - mean) / std


@lru_cache(maxsize=8)
def permutation(seed: int, stream: int, cycle: int, length: int) -> np.ndarray:
    return numpy_generator(seed, stream, cycle).permutation(length)


def index_of(seed: int, stream: int, draw: int, length: int) -> int:
    """Which image the draw-th place of an endless stream gets: cycle after cycle of fresh permutations."""
    cycle, place = divmod(draw, length)
    return int(permutation(seed, int(stream), cycle, length)[place])


class Steps(Dataset):
    """Maps (step, round) to this process's `Batch`. Works only on the host; safe to copy into loader workers."""

    def __init__(self, config: Config, sources: Sources, shuffle_grid: tuple[int, int], process: int, processes: int):
        self.config, self.sources, self.shuffle_grid = config, sources, shuffle_grid
        self.process, self.processes = process, processes
        self.labeled_share, self.unlabeled_share = share_of_process(config, processes)

    def __getitem__(self, key: tuple[int, int]) -> Batch | DataError:
        """The batch of (step, round); an error is handed over, since a loader worker would bury it in a traceback."""
        try:
            return self.batch(*key)
        except DataError as error:
            return error

    def batch(self, step: int, round_: int) -> Batch:
        part = self.process * self.config.run.batch.rounds + round_
        labeled = [self.labeled_image(step, part * self.labeled_share + i) for i in range(self.labeled_share)]
        images, labels, labeled_valid = map(stack, zip(*labeled))
        images = images.permute(0, 3, 1, 2)
        if self.config.method.teacher == "none":
            return Batch(step, images, labels, labeled_valid, *no_unlabeled(*self.config.data.crop))
        positions = [part * self.unlabeled_share + i for i in range(self.unlabeled_share)]
        views = [self.unlabeled_image(step, position) for position in positions]
        weak, strong, valid = (stack([view[i] for view in views]) for i in range(3))
        return Batch(
            step=step,
            labeled=images,
            labels=labels,
            labeled_valid=labeled_valid,
            weak=weak.permute(0, 3, 1, 2),
            strong=strong.permute(0, 3, 1, 2),
            valid=valid,
            mix=self.mix(step, positions),
            orders=self.orders(step, positions),
            replaced=tuple(name for view in views for name in view[3]),
        )

    def labeled_image(self, step: int, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3), labels (H, W) and valid (H, W) of one labelled crop."""
        seed, data = self.config.run.seed, self.config.data
        draw = step * self.config.run.batch.labeled + position
        row = self.sources.labeled[index_of(seed, Stream.LABELED_ORDER, draw, len(self.sources.labeled))]
        rng = numpy_generator(seed, Stream.LABELED_IMAGE, step, position)
        image, mask = read_pair(row, data, len(self.sources.classes))
        crop, labels, valid = crop_pair(image, mask, rng, data)
        return photometric(crop, rng), labels, valid

    def unlabeled_image(self, step: int, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Weak and strong (H, W, 3) and valid (H, W) of one crop, and the ids that could not be read."""
        seed, data = self.config.run.seed, self.config.data
        pool = self.sources.unlabeled
        index = index_of(seed, Stream.UNLABELED_ORDER, step * self.config.run.batch.unlabeled + position, len(pool))
        unreadable: list[str] = []
        for attempt in range(REPLACEMENTS):
            try:
                image = read_image(pool[index]["image"])
                break
            except DataError as error:
                unreadable.append(str(error))
                index = int(numpy_generator(seed, Stream.REPLACEMENT, step, position, attempt).integers(len(pool)))
        else:
            raise DataError(
                f"{REPLACEMENTS} unlabelled images in a row could not be read, the last: {unreadable[-1]};"
                " check data.root and data.unlabeled"
            )
        crop, _, valid = crop_pair(image, None, numpy_generator(seed, Stream.UNLABELED_IMAGE, step, position), data)
        strong = photometric(crop, numpy_generator(seed, Stream.STRONG_COLOUR, step, position))
        if self.config.method.weak_colour:
            crop = photometric(crop, numpy_generator(seed, Stream.WEAK_COLOUR, step, position))
        return crop, strong, valid, unreadable

    def mix(self, step: int, positions: list[int]) -> dict[str, Tensor]:
        """What the method's mix needs to have drawn for these images."""
        method = self.config.method
        place = Place(
            seed=self.config.run.seed,
            step=step,
            positions=positions,
            size=self.config.data.crop,
            group=method.mix_group,
            probability=method.mix_probability,
            classes=len(self.sources.classes),
            labeled=self.labeled_share,
        )
        return MIXES[method.mix].draw(place)

    def orders(self, step: int, positions: list[int]) -> Tensor:
        """(B_u, r, c) long: identities where PatchShuffle is off."""
        seed, method = self.config.run.seed, self.config.method
        probability = method.shuffle_probability if method.patch_shuffle else 0.0
        return torch.stack(
            [
                draw_order(*self.shuffle_grid, probability, torch_generator(seed, Stream.SHUFFLE, step, position))
                for position in positions
            ]
        )


def stack(arrays) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def no_unlabeled(height: int, width: int) -> tuple:
    """The unlabelled part of a batch of Sup-Only: empty tensors of the right shapes."""
    images, masks = torch.empty(0, 3, height, width, dtype=torch.uint8), torch.empty(0, height, width, dtype=torch.bool)
    return images, images, masks, {}, torch.empty(0, 1, 1, dtype=torch.long)


def step_loader(steps: Steps, first: int, last: int, *, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """The batches of steps `first` .. `last` - 1, round after round."""
    keys = [(step, round_) for step in range(first, last) for round_ in range(steps.config.run.batch.rounds)]
    loader = DataLoader(
        steps,
        sampler=keys,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        worker_init_fn=leave_signals_to_the_parent,
    )
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        del iterator  # its workers end with it; left to the interpreter's exit they might be waited for


def leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and many a batch system signal every process; a worker that died would take the parent's last save along.

    So SIGINT is the parent's alone, and of SIGTERM a worker dies later, when the parent has long saved and gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


@dataclass(frozen=True)
class EvaluationItem:
    """image: (3, H, W) uint8. labels: (H, W) long, 255 = ignore. id: its name."""

    image: Tensor
    labels: Tensor
    id: str


class ValidationSet(Dataset):
    """The evaluation images in their own sizes; items are `EvaluationItem`s."""

    def __init__(self, config: Config, sources: Sources, limit: int = 0):
        self.data, self.classes = config.data, sources.classes
        self.rows = sources.validation
        self.length = min(len(self.rows), limit) if limit else len(self.rows)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> EvaluationItem:
        if not 0 <= index < self.length:
            raise IndexError(index)
        row = self.rows[index]
        image, mask = read_pair(row, self.data, len(self.classes))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return EvaluationItem(pixels, torch.from_numpy(mask).long(), row["id"])


def validation_set(config: Config) -> ValidationSet:
    """The evaluation images of a config, all of them."""
    return ValidationSet(config, load_sources(config.data, training=False))
