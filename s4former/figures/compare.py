"""Figure S4: image, truth, and what several networks predict."""

import argparse

from ..data.batches import validation_set
from .checkpoints import find_images, open_checkpoints, shown, spread
from .page import Page, Panel, Row, grid_page, mask_panel


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", metavar="PATH_OR_ID", help="default: evaluation images, evenly spaced")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="of images, where --images names none; default 5")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the checkpoints; default: their methods")


def draw(sources: list[str], overrides: list[str], options: argparse.Namespace) -> Page:
    checkpoints = open_checkpoints(sources, overrides, options.names)
    config, classes = checkpoints[0].config, checkpoints[0].classes
    if options.images:
        images = find_images(options.images, config)
    else:
        dataset = validation_set(config)
        images = [shown(dataset, index) for index in spread(len(dataset), options.count)]
    rows, masks = [], []
    for each in images:
        maps = [each.truth, *(checkpoint.predict(each.image) for checkpoint in checkpoints)]
        masks += [mask for mask in maps if mask is not None]
        rows.append(Row([Panel(each.image), *(mask_panel(mask, classes) for mask in maps)]))
    titles = ["Image", "Ground truth", *(checkpoint.name for checkpoint in checkpoints)]
    return grid_page(rows, titles, masks, classes)
