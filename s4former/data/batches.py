"""The batch of step t, as a function of (seed, t) alone.

Which images a step sees, how each is cut, flipped and coloured, which boxes and orders are drawn: everything is keyed
by the seed, the step and the position in the *global* batch. How many processes or loader workers there are, and what
ran before, changes nothing. Loader workers deliver whole batches as uint8; normalisation happens on the device.
"""

import multiprocessing
import signal
from dataclasses import dataclass
from functools import lru_cache
from typing import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import Config, share_of_process
from ..errors import DataError
from ..method.batch import Batch, Strong
from ..method.mixing import MIXES, Place
from ..method.patch_shuffle import draw_order
from ..randomness import Stream, numpy_generator, of_view, torch_generator, torch_seed
from .cache import CacheError, read_labeled_pair, read_unlabeled_image
from .colour import STRONG_COLOURS, photometric
from .geometry import crop_pair
from .masks import read_mask, read_pair
from .sources import Sources, load_sources

SIGTERM_GRACE = 120  # seconds that a loader worker outlives a SIGTERM
MAX_REPLACEMENTS = 20  # unreadable unlabelled images in a row before a step gives up


@lru_cache(maxsize=8)
def permutation(seed: int, stream: int, cycle: int, length: int) -> np.ndarray:
    return numpy_generator(seed, stream, cycle).permutation(length)


def shuffled_index(seed: int, stream: int, draw: int, length: int) -> int:
    """Which image the draw-th place of an endless stream gets: cycle after cycle of fresh permutations."""
    cycle, place = divmod(draw, length)
    return int(permutation(seed, int(stream), cycle, length)[place])


def labeled_indices(config: Config, sources: Sources) -> list[int]:
    """The labelled images of one cycle, by number; those with rare classes stand there several times (`data.repeat_rare`).

    An image counts for the rarest class it shows; a class in a share f of the images asks for sqrt(repeat_rare / f).
    """
    count, threshold = len(sources.labeled), config.data.repeat_rare
    if not threshold:
        return list(range(count))
    shown = np.array([classes_present(row, config, len(sources.classes)) for row in sources.labeled])
    share = shown.mean(axis=0).clip(min=1 / count)
    factors = np.sqrt(threshold / share).clip(min=1)
    repeats = (np.where(shown, factors, 1.0).max(axis=1) + 0.5).astype(int)
    return np.repeat(np.arange(count), repeats).tolist()


def classes_present(row: dict, config: Config, num_classes: int) -> np.ndarray:
    """(K,) bool: which classes the mask of a labelled row shows."""
    return np.bincount(read_mask(row["mask"], config.data, num_classes).ravel(), minlength=num_classes)[:num_classes] > 0


@dataclass(frozen=True)
class UnlabeledCrop:
    """One unlabelled crop on the host: weak and strong (H, W, 3) uint8, valid (H, W), and the ids that could not be read."""

    weak: np.ndarray
    strong: list[np.ndarray]
    valid: np.ndarray
    replaced: list[str]


class StepDataset(Dataset):
    """Maps (step, round) to this process's `Batch`. Works only on the host; safe to copy into loader workers."""

    def __init__(self, config: Config, sources: Sources, shuffle_grid: tuple[int, int], process: int, processes: int):
        self.config, self.sources, self.shuffle_grid = config, sources, shuffle_grid
        self.process, self.processes = process, processes
        self.labeled_share, self.unlabeled_share = share_of_process(config, processes)
        self.places = labeled_indices(config, sources)
        if config.method.teacher != "none" and not len(sources.unlabeled):
            raise DataError(
                "there are no unlabelled images; name their list or folder with data.unlabeled, or train on the labels"
                " alone with method.teacher=none"
            )

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
        if self.config.method.teacher == "none" or step < self.config.method.burn_in:
            height, width = self.config.data.crop
            no_images, no_masks = torch.empty(0, 3, height, width, dtype=torch.uint8), torch.empty(0, height, width) > 0
            return Batch(step, images, labels, labeled_valid, no_images, no_masks, ())
        positions = [part * self.unlabeled_share + i for i in range(self.unlabeled_share)]
        only_givers, partner = mix_partners(self.config, positions)
        crops = [self.unlabeled_image(step, position) for position in positions + only_givers]
        weak, valid = stack(crop.weak for crop in crops), stack(crop.valid for crop in crops)
        strong = tuple(
            Strong(
                images=stack(crop.strong[view] for crop in crops).permute(0, 3, 1, 2),
                mix=self.mix(step, positions, partner, view),
                orders=self.orders(step, positions, view),
            )
            for view in range(self.config.method.strong_views)
        )
        whole = self.config.run.batch.unlabeled  # a borrowed image is told of by the process that trains on it
        own = [crop for place, crop in zip(positions + only_givers, crops) if place in positions or place >= whole]
        replaced = tuple(name for crop in own for name in crop.replaced)
        seeds = tuple(torch_seed(self.config.run.seed, Stream.PASA_NOISE, step, position) for position in positions)
        return Batch(step, images, labels, labeled_valid, weak.permute(0, 3, 1, 2), valid, strong, seeds, replaced)

    def labeled_image(self, step: int, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3), labels (H, W) and valid (H, W) of one labelled crop."""
        seed, data = self.config.run.seed, self.config.data
        draw = step * self.config.run.batch.labeled + position
        row = self.sources.labeled[self.places[shuffled_index(seed, Stream.LABELED_ORDER, draw, len(self.places))]]
        rng = numpy_generator(seed, Stream.LABELED_IMAGE, step, position)
        image, mask = read_labeled_pair(row, data, len(self.sources.classes))
        crop, labels, valid = crop_pair(image, mask, rng, data)
        return photometric(crop, rng) if self.config.method.labeled_colour else crop, labels, valid

    def unlabeled_image(self, step: int, position: int) -> UnlabeledCrop:
        """One crop in all its colours."""
        seed, data, method = self.config.run.seed, self.config.data, self.config.method
        image, unreadable = self.read_unlabeled(step, position)
        crop, _, valid = crop_pair(image, None, numpy_generator(seed, Stream.UNLABELED_IMAGE, step, position), data)
        generators = (
            numpy_generator(*of_view((seed, Stream.STRONG_COLOUR, step, position), view))
            for view in range(method.strong_views)
        )
        strong = [STRONG_COLOURS[method.strong_colour](crop, rng) for rng in generators]
        if method.weak_colour:
            crop = photometric(crop, numpy_generator(seed, Stream.WEAK_COLOUR, step, position))
        return UnlabeledCrop(crop, strong, valid, unreadable)

    def read_unlabeled(self, step: int, position: int) -> tuple[Image.Image, list[str]]:
        """The image of a place in the global batch or behind it, and what could not be read before it was found."""
        seed, pool, places = self.config.run.seed, self.sources.unlabeled, self.config.run.batch.unlabeled
        stream = Stream.UNLABELED_ORDER if position < places else Stream.SECOND_ORDER
        index = shuffled_index(seed, stream, step * places + position % places, len(pool))
        unreadable: list[str] = []
        for attempt in range(MAX_REPLACEMENTS):
            try:
                return read_unlabeled_image(pool[index]["image"], self.config.data), unreadable
            except CacheError:
                raise
            except DataError as error:
                unreadable.append(str(error))
                index = int(numpy_generator(seed, Stream.REPLACEMENT, step, position, attempt).integers(len(pool)))
        raise DataError(
            f"{MAX_REPLACEMENTS} unlabelled images in a row could not be read, the last: {unreadable[-1]};"
            " check data.root and data.unlabeled"
        )

    def mix(self, step: int, positions: list[int], partner: list[int], view: int = 0) -> dict[str, Tensor]:
        """What the method's mix needs to have drawn for these images."""
        method = self.config.method
        place = Place(
            seed=self.config.run.seed,
            step=step,
            positions=positions,
            partner=partner,
            size=self.config.data.crop,
            group=method.mix_group,
            probability=method.mix_probability,
            classes=len(self.sources.classes),
            labeled=self.labeled_share,
            view=view,
        )
        return MIXES[method.mix].draw(place)

    def orders(self, step: int, positions: list[int], view: int = 0) -> Tensor:
        """(B_u, r, c) long: identities where PatchShuffle is off."""
        seed, method = self.config.run.seed, self.config.method
        probability = method.shuffle_probability if method.patch_shuffle else 0.0
        keys = [of_view((seed, Stream.SHUFFLE, step, position), view) for position in positions]
        return torch.stack([draw_order(*self.shuffle_grid, probability, torch_generator(*key)) for key in keys])


def mix_partners(config: Config, positions: list[int]) -> tuple[list[int], list[int]]:
    """Who gives content to the images at `positions` of the global batch.

    Returns:
        The places of images that are there to give only, and for every position the number of its giver, counted through
        `positions` and then those. Images of a second batch have places behind the first. Of a group it is the next image, in a
        circle; one that lies in another process or round is loaded, and read by the teacher, once more.
    """
    method, group = config.method, config.method.mix_group
    if method.mix != "none" and method.mix_from == "second_batch":
        return [config.run.batch.unlabeled + place for place in positions], [len(positions) + i for i in range(len(positions))]
    if not method.mixes_groups:
        return [], list(range(len(positions)))
    partners = [place - place % group + (place + 1) % group for place in positions]
    only_givers = sorted(set(partners) - set(positions))
    seen = positions + only_givers
    return only_givers, [seen.index(place) for place in partners]


def stack(arrays) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def step_loader(steps: StepDataset, first: int, last: int, *, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """The batches of steps `first` .. `last` - 1, round after round.

    Raises:
        DataError: a labelled image cannot be read, or a loader worker died.
    """
    keys = [(step, round_) for step in range(first, last) for round_ in range(steps.config.run.batch.rounds)]
    loader = DataLoader(
        steps,
        sampler=keys,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        worker_init_fn=ignore_signals,
    )
    watched, others = signal.getsignal(signal.SIGCHLD), multiprocessing.active_children()
    iterator = iter(loader)
    children = [child for child in multiprocessing.active_children() if child not in others]
    if workers:  # torch would break off whatever the parent does when a worker dies, an update even; waiting tells as well
        signal.signal(signal.SIGCHLD, watched)
    try:
        for batch in iterator:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:
        dead = [child.exitcode for child in children if child.exitcode]
        if not dead:
            raise
        for child in children:
            child.kill()  # of a SIGTERM they would die late
            child.join()
        raise DataError(describe_worker_exit(dead[0], workers)) from error
    finally:
        del iterator  # its workers end with it; left to the interpreter's exit they might be waited for


def describe_worker_exit(status: int, workers: int) -> str:
    """Why a loader worker ended, as far as its exit status tells, and what helps."""
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    reason = {
        "SIGKILL": "as a system that runs out of memory ends processes; take a lower",
        "SIGBUS": "as happens where shared memory (/dev/shm) is too small, as in containers; enlarge it, or take a lower",
    }.get(name, "which is no doing of this program; try a lower")
    return f"a loader worker was ended by {name}, {reason} data.workers (it is {workers}, and 0 does without)"


def ignore_signals(worker: int) -> None:
    """Ctrl-C and many a batch system signal every process; a worker that died would take the parent's last save along.

    So SIGINT is the parent's alone, and of SIGTERM a worker dies later, when the parent has long saved and gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SIGTERM_GRACE))


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

    @property
    def ids(self) -> list[str]:
        return self.rows["id"][: self.length]

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
