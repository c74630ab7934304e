"""Figure S4: image, ground truth, and what several networks predict."""

import argparse

from ..data.batches import validation_set
from ..evaluation.pictures import spread
from .checkpoints import evaluation_image, find_images, open_checkpoints
from .page import Figure, Panel, grid_figure, mask_panel


def draw(sources: list[str], overrides: list[str], options: argparse.Namespace) -> Figure:
    checkpoints = open_checkpoints(sources, overrides, options.names)
    config, classes = checkpoints[0].config, checkpoints[0].classes
    if options.images:
        images = find_images(options.images, config)
    else:
        dataset = validation_set(config)
        images = [evaluation_image(dataset, index) for index in spread(len(dataset), options.count)]
    rows, masks = [], []
    for each in images:
        maps = [each.labels, *(checkpoint.predict(each.image) for checkpoint in checkpoints)]
        masks += maps
        rows.append([Panel(each.image), *(mask_panel(mask, classes, config.data) for mask in maps)])
    return grid_figure(rows, ["Image", "Ground truth", *(checkpoint.name for checkpoint in checkpoints)], masks, classes, config.data)
