"""The batch of step t, as a function of (seed, t) alone.

Which images a step sees, how each is cut, flipped and coloured, which boxes and orders are drawn: everything is keyed
by the seed, the step and the position in the *global* batch. How many processes or loader workers there are, and what
ran before, changes nothing. Loader workers deliver whole batches as uint8; normalisation happens on the device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..config import IGNORE_INDEX, Config, share_of_process
from ..errors import DataError
from ..method.batch import Batch, Strong
from ..method.mixing import MIXES, MixContext
from ..method.patch_shuffle import draw_order
from ..randomness import Stream, numpy_generator, torch_generator, torch_seed, view_key
from .cache import CacheError, read_labeled_pair, read_unlabeled_image
from .colour import STRONG_COLOURS, Colour, apply_colour, draw_colour
from .device_colour import DEVICE_COLOURS, pack_photometric
from .geometry import crop_pair, draw_geometry
from .masks import read_pair
from .sources import Sources, labeled_pixels, load_sources

MAX_REPLACEMENTS = 20  # unreadable unlabelled images in a row before a step gives up


@lru_cache(maxsize=8)
def permutation(seed: int, stream: int, cycle: int, length: int) -> np.ndarray:
    return numpy_generator(seed, stream, cycle).permutation(length)


def shuffled_index(seed: int, stream: int, draw: int, length: int) -> int:
    """The draw-th index of an endless stream: cycle after cycle of fresh permutations of `length` images."""
    cycle, place = divmod(draw, length)
    return int(permutation(seed, int(stream), cycle, length)[place])


def labeled_indices(config: Config, sources: Sources) -> list[int]:
    """The labelled images of one cycle; those with rare classes are there several times (`data.repeat_rare`).

    An image counts for the rarest class it shows; a class in a share f of the images asks for sqrt(repeat_rare / f).
    """
    count, classes, threshold = len(sources.labeled), len(sources.classes), config.data.repeat_rare
    if not threshold:
        return list(range(count))
    shown = labeled_pixels(sources, config.data)[:, :classes] > 0
    share = shown.mean(axis=0).clip(min=1 / count)
    factors = np.sqrt(threshold / share).clip(min=1)
    repeats = (np.where(shown, factors, 1.0).max(axis=1) + 0.5).astype(int)
    return np.repeat(np.arange(count), repeats).tolist()


def mix_partners(config: Config, positions: list[int]) -> tuple[list[int], list[int]]:
    """Which images give content to the unlabelled images at `positions` of the global batch.

    The partner is the next image of the same group of `method.mix_group`, in a circle:

        position   0 1 2 3 | 4 5 6 7
        partner    1 2 3 0 | 5 6 7 4

    A process or round with the positions [6, 7] borrows position 4, which it loads, and lets the teacher predict, as well.
    Its images are then [6, 7, 4], in which 6 takes from number 1 and 7 from number 2: the result is ([4], [1, 2]). A second
    batch (`method.mix_from`) lies at the positions behind the first, and all of the partners are borrowed from it.

    Returns:
        The positions of borrowed images; and for each of `positions`, the number of its partner among `positions` + borrowed.
    """
    method, group = config.method, config.method.mix_group
    if method.mix != "none" and method.mix_from == "second_batch":
        partners = [config.run.batch.unlabeled + position for position in positions]
    elif method.mixes_groups:
        partners = [position - position % group + (position + 1) % group for position in positions]
    else:
        partners = positions
    borrowed = sorted(set(partners) - set(positions))
    numbers = {position: number for number, position in enumerate(positions + borrowed)}
    return borrowed, [numbers[partner] for partner in partners]


def sparse_indices(config: Config, sources: Sources) -> list[int]:
    """The labelled images that belong to the pool too, since some of their pixels are ignored (`method.ignored_as_unlabeled`)."""
    if not config.method.ignored_as_unlabeled or config.method.teacher == "none":
        return []
    return np.flatnonzero(labeled_pixels(sources, config.data)[:, IGNORE_INDEX]).tolist()


@dataclass(frozen=True)
class Crop:
    """image: (H, W, 3) uint8. labels: (H, W) uint8, 255 = none; None = it has none at all. valid: (H, W) bool.

    colour: the draw of the photometric distortion, where the device has to apply it.
    strong: the views of an unlabelled image in strong colours; where the device gives these, their draws.
    replaced: why images drawn before this one could not be read.
    """

    image: np.ndarray
    labels: np.ndarray | None
    valid: np.ndarray
    colour: Colour | None = None
    strong: Sequence[Any] = ()
    replaced: Sequence[str] = ()


class StepDataset(Dataset):
    """Maps (step, round) to this process's `Batch`, on the CPU; safe to copy into loader workers.

    device_colour: only draw the colours, where a device can give them (`colour_on_device`).
    """

    def __init__(
        self, config: Config, sources: Sources, shuffle_grid: tuple[int, int], process: int, processes: int, *,
        device_colour: bool = False,
    ):  # fmt: skip
        self.config, self.sources, self.shuffle_grid = config, sources, shuffle_grid
        self.device_colour = device_colour and config.method.strong_colour in DEVICE_COLOURS
        self.process = process
        self.labeled_share, self.unlabeled_share = share_of_process(config, processes)
        self.indices = labeled_indices(config, sources)
        self.sparse = sparse_indices(config, sources)
        if config.method.teacher != "none" and not len(sources.unlabeled) + len(self.sparse):
            raise DataError(
                "there are no unlabelled images; name their list or folder with data.unlabeled, or train on the labels"
                " alone with method.teacher=none"
            )

    def __getitem__(self, key: tuple[int, int]) -> Batch | DataError:
        """The batch of (step, round); a `DataError` is returned, since a loader worker would bury it in a traceback."""
        try:
            return self.batch(*key)
        except DataError as error:
            return error

    def batch(self, step: int, round_: int) -> Batch:
        config, seed = self.config, self.config.run.seed
        part = self.process * config.run.batch.rounds + round_
        places = range(part * self.labeled_share, (part + 1) * self.labeled_share)
        crops = [self.labeled_image(step, place) for place in places]
        nothing = torch.empty(0, *config.data.crop)
        batch = Batch(
            step, labeled=stack(crop.image for crop in crops), labels=stack(crop.labels for crop in crops),
            labeled_valid=stack(crop.valid for crop in crops),
            weak=nothing.new_empty(0, 3, *config.data.crop, dtype=torch.uint8), valid=nothing.bool(), strong=(),
            labeled_seeds=tuple(torch_seed(seed, Stream.LABELED_NOISE, step, place) for place in places),
            labeled_colours=pack_colours(crops),
        )  # fmt: skip
        if config.method.teacher == "none" or step < config.method.burn_in:
            return batch
        positions = [part * self.unlabeled_share + i for i in range(self.unlabeled_share)]
        borrowed, partner = mix_partners(config, positions)
        crops = [self.unlabeled_image(step, position) for position in positions + borrowed]
        strong = tuple(
            Strong(
                **self.strong_images([crop.strong[view] for crop in crops]),
                mix=self.mix(step, positions, partner, view),
                orders=self.orders(step, positions, view),
            )
            for view in range(config.method.strong_views)
        )
        # an unreadable image is reported by the process that trains on it; nobody trains on those of a second batch
        total = config.run.batch.unlabeled
        own = [crop for position, crop in zip(positions + borrowed, crops) if position in positions or position >= total]
        unknown = np.full(config.data.crop, IGNORE_INDEX, np.uint8)
        return replace(
            batch, weak=stack(crop.image for crop in crops), valid=stack(crop.valid for crop in crops), strong=strong,
            seeds=tuple(torch_seed(seed, Stream.PASA_NOISE, step, position) for position in positions),
            channel_seeds=self.channel_seeds(step, positions),
            replaced=tuple(name for crop in own for name in crop.replaced),
            known=stack(unknown if crop.labels is None else crop.labels for crop in crops) if self.sparse else None,
            weak_colours=pack_colours(crops),
        )  # fmt: skip

    def strong_images(self, views: list[Any]) -> dict[str, Any]:
        """The images of a strong view, or the draws of their colours."""
        if not self.device_colour:
            return {"images": stack(views)}
        images = torch.empty(0, 3, *self.config.data.crop, dtype=torch.uint8)
        return {"images": images, "colours": DEVICE_COLOURS[self.config.method.strong_colour].pack(views)}

    def labeled_image(self, step: int, position: int) -> Crop:
        seed, data = self.config.run.seed, self.config.data
        draw = step * self.config.run.batch.labeled + position
        row = self.sources.labeled[self.indices[shuffled_index(seed, Stream.LABELED_ORDER, draw, len(self.indices))]]
        rng = numpy_generator(seed, Stream.LABELED_IMAGE, step, position)
        image, mask = read_labeled_pair(row, data, len(self.sources.classes))
        crop, labels, valid = crop_pair(image, mask, draw_geometry(rng, image.height, image.width, data, mask))
        crop, colour = self.distort(crop, rng if self.config.method.labeled_colour else None)
        return Crop(crop, labels, valid, colour)

    def unlabeled_image(self, step: int, position: int) -> Crop:
        seed, data, method = self.config.run.seed, self.config.data, self.config.method
        image, mask, unreadable = self.read_unlabeled(step, position)
        rng = numpy_generator(seed, Stream.UNLABELED_IMAGE, step, position)
        crop, labels, valid = crop_pair(image, mask, draw_geometry(rng, image.height, image.width, data))
        name = method.strong_colour
        colour = DEVICE_COLOURS[name].draw if self.device_colour else partial(STRONG_COLOURS[name], crop)
        keys = [view_key((seed, Stream.STRONG_COLOUR, step, position), view) for view in range(method.strong_views)]
        strong = [colour(numpy_generator(*key)) for key in keys]
        rng = numpy_generator(seed, Stream.WEAK_COLOUR, step, position) if method.weak_colour else None
        crop, colour = self.distort(crop, rng)
        return Crop(crop, labels, valid, colour, strong, unreadable)

    def distort(self, crop: np.ndarray, rng: np.random.Generator | None) -> tuple[np.ndarray, Colour | None]:
        """The crop under the photometric distortion; or as it is, with the draw that the device has to apply."""
        if rng is None:
            return crop, None
        colour = draw_colour(rng)
        return (crop, colour) if self.device_colour else (apply_colour(crop, colour), None)

    def read_unlabeled(self, step: int, position: int) -> tuple[Image.Image, np.ndarray | None, list[str]]:
        """The image at a position of the global batch or the second one, its mask if it is labelled in part, and why others
        drawn before could not be read; those that are labelled in part lie behind the pool."""
        seed, total, data = self.config.run.seed, self.config.run.batch.unlabeled, self.config.data
        pool = self.sources.unlabeled
        count = len(pool) + len(self.sparse)
        stream = Stream.UNLABELED_ORDER if position < total else Stream.SECOND_ORDER
        index = shuffled_index(seed, stream, step * total + position % total, count)
        unreadable: list[str] = []
        for attempt in range(MAX_REPLACEMENTS):
            try:
                if index < len(pool):
                    return read_unlabeled_image(pool[index]["image"], data), None, unreadable
                row = self.sources.labeled[self.sparse[index - len(pool)]]
                return *read_labeled_pair(row, data, len(self.sources.classes)), unreadable
            except CacheError:
                raise
            except DataError as error:
                unreadable.append(str(error))
                index = int(numpy_generator(seed, Stream.REPLACEMENT, step, position, attempt).integers(count))
        raise DataError(
            f"{MAX_REPLACEMENTS} unlabelled images in a row could not be read, the last: {unreadable[-1]};"
            " check data.root and data.unlabeled"
        )

    def mix(self, step: int, positions: list[int], partner: list[int], view: int = 0) -> dict[str, Tensor]:
        """The draw of the method's mix for these images."""
        method = self.config.method
        context = MixContext(
            seed=self.config.run.seed, step=step, positions=positions, partner=partner, view=view,
            size=self.config.data.crop, group=method.mix_group, probability=method.mix_probability,
            classes=len(self.sources.classes), labeled=self.labeled_share,
            grid=self.shuffle_grid, ratio=method.mask_ratio,
        )  # fmt: skip
        return MIXES[method.mix].draw(context)

    def channel_seeds(self, step: int, positions: list[int]) -> tuple[int, ...]:
        """Those of `Batch`: a random half of the global batch keeps all channels."""
        if not self.config.method.complementary_dropout:
            return ()
        seed, total = self.config.run.seed, self.config.run.batch.unlabeled
        whole = set(numpy_generator(seed, Stream.CHANNELS, step).permutation(total)[: total // 2].tolist())
        return tuple(0 if each in whole else torch_seed(seed, Stream.CHANNELS, step, each) for each in positions)

    def orders(self, step: int, positions: list[int], view: int = 0) -> Tensor:
        """(B_u, r, c) long: identities where PatchShuffle is off."""
        seed, method = self.config.run.seed, self.config.method
        probability = method.shuffle_probability if method.patch_shuffle else 0.0
        keys = [view_key((seed, Stream.SHUFFLE, step, position), view) for position in positions]
        return torch.stack([draw_order(*self.shuffle_grid, probability, torch_generator(*key)) for key in keys])


def pack_colours(crops: Sequence[Crop]) -> dict[str, Tensor]:
    """The draws of the photometric distortion, if there are any."""
    draws = [crop.colour for crop in crops]
    return {} if None in draws else pack_photometric(draws)


def stack(arrays: Iterable[np.ndarray]) -> Tensor:
    """Arrays as one tensor (B, ...); of images (h, w, 3), it is (B, 3, h, w)."""
    stacked = torch.from_numpy(np.stack(list(arrays)))
    return stacked.permute(0, 3, 1, 2) if stacked.dim() == 4 else stacked


@dataclass(frozen=True)
class EvaluationItem:
    """image: (3, H, W) uint8. labels: (H, W) long, 255 = ignore. id: its name."""

    image: Tensor
    labels: Tensor
    id: str


class ValidationSet(Dataset):
    """The evaluation images in their own sizes."""

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
    """The evaluation images of a config, up to its limit."""
    return ValidationSet(config, load_sources(config.data, training=False), config.evaluation.limit)
