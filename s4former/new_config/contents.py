"""What images and masks hold: sizes, ids and colours of every pair, counted before anything is decided from them."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.images import check_end, exif_orientation, is_deep, measured_values, open_image, read_header, samples_of, turn_upright
from ..data.lists import Sample
from ..data.masks import (
    GREY_MODES, ID_MODES, SMEARED, check_palettes, check_sizes, hex_colour, ids_of, packed_rgb, shown_colours, stated_ids,
)  # fmt: skip
from ..data.progress import progress
from ..data.sources import PART_NAMES
from ..errors import DataError, plural
from ..evaluation.pictures import overlay
from .pairs import Photos

NAMED_ERRORS = 3  # files named one by one
MOST_COLOURS = 50  # more than these in one mask that a palette does not name come from a JPEG or from smoothing


@dataclass(frozen=True)
class Contents:
    """What one image and its mask hold."""

    size: tuple[int, int]  # height, width
    mode: str  # of the image, as Pillow calls it
    part: str = ""  # what is read of a TIFF, if not all
    pixels: dict[int, int] = field(default_factory=dict)  # id -> count
    colours: dict[int, int] = field(default_factory=dict)  # 0xRRGGBB -> count, of a mask of colours without a palette
    shown: dict[int, int] = field(default_factory=dict)  # id -> its colour in the mask's own palette
    stated: dict[str, int] = field(default_factory=dict)  # class name -> id, of a mask that s4former wrote
    mask: str = ""
    mask_mode: str = ""
    turn: int = 1  # EXIF orientation of the image
    mask_turn: int = 1  # EXIF orientation of the mask, which is not applied
    fits: str = "both"  # the image as it is "upright", its pixels as they are "raw", or both: what has the size of the mask


def read_contents(photos: Photos, palette: dict[int, int]) -> dict[str, Contents]:
    """What each image and its mask hold, by image path. Pairs that cannot be used are dropped, with remarks.

    palette: 0xRRGGBB -> id. `DataError` if the masks cannot be read in one and the same way.
    """

    def read(row: Sample) -> Contents | DataError:
        try:
            return contents_of(row, palette)
        except DataError as error:
            return error

    rows = [row for rows in photos.parts.values() for row in rows]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = {row.image: result for row, result in zip(rows, progress(threads.map(read, rows), "images and masks", len(rows)))}
    masks = {image: each for image, each in results.items() if isinstance(each, Contents) and each.mask}
    coloured = {image: each.mask for image, each in masks.items() if each.colours}
    others = len(masks) - len(coloured)
    if palette:
        if grey := [Path(each.mask).name for image, each in masks.items() if image not in coloured]:
            found = f"{others} of {plural(len(masks), 'mask')} hold ids and no colours, the first: {grey[0]}"
            photos.remarks.append(f"{found}; these ids are the names of the palette in its order")
        results |= name_colours(masks, palette)
        for image in coloured if grey else ():
            each, one = masks[image], 1 if masks[image].mask_mode == "1" else 255
            if each.mask_mode in GREY_MODES and any(palette[colour] != colour & one for colour in each.colours):
                found = f"mask {each.mask} is grey and may hold colours of the palette, or ids as others do"
                results[image] = DataError(f"{found}; save it as RGB, or all as ids")
    elif len(coloured) < others:
        reason = f"holds colours, while {others} others hold ids; save it as ids too"
        results |= {image: DataError(f"mask {mask} {reason}") for image, mask in coloured.items()}
    greys = {index: each.mask for each in masks.values() if each.mask_mode != "P" for index in each.pixels}
    check_palettes(((each.mask, each.shown) for each in masks.values()), greys)
    if any(each.fits == "upright" for each in masks.values()):
        reason = "has the size of its image as it is stored, others that of theirs turned upright by EXIF; make all alike"
        results |= {image: DataError(f"mask {each.mask} {reason}") for image, each in masks.items() if each.fits == "raw"}
    for part, rows in photos.parts.items():
        errors = {row.image: results[row.image] for row in rows if isinstance(results[row.image], DataError)}
        messages = list(errors.values())
        if part != "unlabeled" and rows and len(errors) == len(rows):
            raise DataError(f"none of {plural(len(rows), f'{PART_NAMES[part]} image')} can be used: {messages[0]}")
        photos.drop(errors)
        photos.remarks += [f"left out: {message}" for message in messages[:NAMED_ERRORS]]
        if (more := len(messages) - NAMED_ERRORS) > 0:
            photos.remarks.append(f"left out as well, for such reasons: {more} more of the {len(rows)} {PART_NAMES[part]} images")
    return {image: result for image, result in results.items() if isinstance(result, Contents)}


def contents_of(row: Sample, palette: Collection[int]) -> Contents:
    """What a pair holds; an image with a mask is decoded, of one without only the header is read."""
    image, mask = ({"path": path, "bytes": None} for path in (row.image, row.mask))
    size, mode, turn, part = read_header(image)
    if row.mask is None:
        check_end(image)
        return Contents(size, mode, part=part)
    with open_image(image, "image") as picture:
        mode = mode if is_deep(mode) else picture.mode
    with open_image(mask, "mask") as picture:
        values, stated, mask_turn = ids_of(picture, palette), stated_ids(picture), exif_orientation(picture)
        kind = "pixels" if values is not None else "colours"
        values = packed_rgb(picture) if values is None else values
        counts = dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True))))
        shown = shown_colours(picture, counts) if kind == "pixels" else {}
    turned = turn >= 5 and size[0] != size[1]
    fits = "both" if not turned else "raw" if values.shape == size[::-1] else "upright"
    check_sizes({"image": image, "mask": mask}, size, values.shape[::-1] if fits == "raw" else values.shape)
    turns = {"turn": turn, "mask_turn": mask_turn, "fits": fits}
    return Contents(size, mode, part, **{kind: counts}, shown=shown, stated=stated, mask=row.mask, mask_mode=picture.mode, **turns)


def name_colours(masks: dict[str, Contents], palette: dict[int, int]) -> dict[str, Contents | DataError]:
    """The masks of colours with the ids that the palette gives them; `DataError` with every colour that it lacks."""
    results: dict[str, Contents | DataError] = {}
    lacking, lacking_in = Counter(), []  # colours, names of masks
    for image, each in masks.items():
        unknown = {colour: count for colour, count in each.colours.items() if colour not in palette}
        if len(unknown) > MOST_COLOURS:
            results[image] = DataError(f"mask {each.mask} has {len(unknown)} colours that the palette lacks{SMEARED}")
            continue
        lacking.update(unknown)
        lacking_in += [Path(each.mask).name] if unknown else []
        pixels = Counter(each.pixels)
        for colour, count in each.colours.items():
            pixels[palette.get(colour, 0)] += count
        results[image] = replace(each, pixels=dict(pixels), colours={})
    if lacking:
        lines = ",\n".join(f'  "NAME": "{hex_colour(colour)}"' for colour, _ in lacking.most_common())
        found = f"{plural(len(lacking_in), 'mask')} of {len(masks)} (the first: {lacking_in[0]}) show {plural(len(lacking), 'colour')}"
        repair = "add each with its name (in a CSV or text: NAME,red,green,blue), void if it is no class"
        raise DataError(f"{found} that the palette lacks; {repair}:\n{lines}")
    return results


def levels_of(paths: Sequence[str], most: int = 20) -> list[float]:
    """data.levels for images of more than 8 bits: what one in a thousand pixels of a sample is below, and above."""
    sample = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int))]
    images = (open_image({"path": path, "bytes": None}, "image") for path in sample)
    values = [measured_values(samples_of(image)) for image in images]
    ranges = [np.percentile(each, (0.1, 99.9)) for each in values if each.size]
    if not ranges:
        raise DataError(f"no image of more than 8 bits has a finite value, such as {paths[0]}; mend them, or leave them out")
    low, high = np.min(ranges, axis=0)[0], np.max(ranges, axis=0)[1]
    return [float(f"{low:.6g}"), float(f"{max(high, low + 1e-6):.6g}")]


def orientation(photos: Photos, contents: dict[str, Contents], sheet: Path) -> str:
    """data.exif, empty = upright, as far as the sizes of masks prove it; where they do not, a remark and a picture of both readings."""
    turned = [(image, each) for image, each in contents.items() if each.mask and each.turn != 1]
    if own := [Path(each.mask).name for each in contents.values() if each.mask_turn != 1]:
        which = f"{plural(len(own), 'mask')} {'carries' if len(own) == 1 else 'carry'} an EXIF turn, the first: {own[0]}"
        photos.remarks.append(f"{which}; it is not applied to masks: if viewers show them turned, save them without EXIF data")
    proofs = {each.fits for _, each in turned} - {"both"}
    exif = "raw" if "raw" in proofs else ""
    taken = "drawn on the stored pixels (data.exif=raw)" if exif else "drawn on the turned photo (data.exif=upright)"
    which = f"{plural(len(turned), 'photo')} with masks carry an EXIF turn"
    if proofs:
        photos.remarks.append(f"{which}; by their sizes, masks were {taken}")
    elif turned:
        draw_both_ways(*turned[0], sheet)
        photos.remarks.append(
            f"{which} that the sizes of the masks cannot prove, the first: {Path(turned[0][0]).name}; the masks are taken as {taken}."
            f" {sheet.name} shows it both ways: if the right one fits, write data.exif=raw"
        )
    return exif


def draw_both_ways(image: str, contents: Contents, path: Path) -> None:
    """A photo under its mask, as it is and turned with the photo, side by side."""
    with open_image({"path": image, "bytes": None}, "image") as picture:
        photo = np.asarray(picture.convert("RGB"))
    with open_image({"path": contents.mask, "bytes": None}, "mask") as picture:
        values = np.asarray(picture) if picture.mode in ID_MODES else packed_rgb(picture)
    mask = np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.uint8)
    both = [np.asarray(overlay(photo, each)) for each in (mask, turn_upright(mask, contents.turn))]
    side = Image.fromarray(np.concatenate(both, axis=1))
    side.thumbnail((1600, 800))
    side.save(path)
