"""Figure S2: how the IoU of every class changes from run A to run B, and images on which the two differ most.

The bars are the numbers of results.json, over all evaluation images. The examples are chosen by the share of labelled
pixels on which A and B disagree, whoever is right.
"""

import argparse
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from ..config import IGNORE_INDEX
from ..data.batches import validation_set
from ..errors import UserError
from ..evaluation.model_choice import ROLES, choose_model
from ..evaluation.pictures import spread
from ..report.run import read_run
from .checkpoints import Checkpoint, LabeledImage, evaluation_image, open_checkpoints
from .page import GREY, LINE, SMALL, WIDTH, Figure, Panel, draw_grid, draw_legend, grid_height, mask_panel, new_figure

BARS = 3.0  # width of the part with the bars, inches
BAR = 0.145  # distance from bar to bar
UP, DOWN = "#2f7f86", "#c0603a"
MAX_BARS = 30  # bars; of more classes those that changed most

Change = tuple[str, float, float]  # class, IoU of A and of B in percent


def class_iou(source: str) -> dict[str, float | None]:
    """IoU by class from the results.json of a run, for the model that `choose_model` takes."""
    folder = Path(choose_model(source).source)
    moment, role = ("best", folder.name.removeprefix("best-")) if folder.name.startswith("best-") else ("last", folder.name)
    results = read_run(folder.parent).results if role in ROLES else {}
    if not results:
        raise UserError(f"{source} has no results.json with its numbers; give a run that has ended, or a model in one")
    return results[moment][role]["iou"]


def changes(a: dict[str, float | None], b: dict[str, float | None]) -> list[Change]:
    """Classes that both have a number for, the largest gain first; the mean over them last."""
    if a.keys() != b.keys():
        raise UserError("the two runs have different classes; a change needs the same ones")
    both = [(name, 100 * a[name], 100 * b[name]) for name in a if a[name] is not None and b[name] is not None]
    if not both:
        raise UserError("no class has an IoU in both runs")
    both.sort(key=lambda change: change[1] - change[2])
    return [*both, ("mean", *(float(np.mean([change[i] for change in both])) for i in (1, 2)))]


def most_changed(entries: list[Change], count: int = MAX_BARS) -> list[Change]:
    """At most `count` classes, in the same order, and the mean."""
    *classes, mean = entries
    kept = sorted(classes, key=lambda entry: -abs(entry[2] - entry[1]))[:count]
    return [*(entry for entry in classes if entry in kept), mean]


def draw_bars(figure: FigureBase, entries: list[Change], title: str) -> None:
    """Names on the left, bars with their change, and both IoUs on the right; the mean stands apart, below."""
    places = [*range(len(entries) - 1), len(entries) - 0.4]
    values = [b - a for _, a, b in entries]
    axes = figure.subplots()
    bars = axes.barh(places, values, height=0.68, color=[UP if value >= 0 else DOWN for value in values])
    axes.bar_label(bars, list(map(format_change, values)), padding=2, fontsize=SMALL)
    axes.set_title(title, loc="left", pad=6)
    axes.set_yticks(places, [name for name, *_ in entries], fontsize=SMALL)
    axes.get_yticklabels()[-1].set_weight("bold")
    both = axes.secondary_yaxis("right")
    both.set_yticks(places, [f"{a:.1f} → {b:.1f}" for _, a, b in entries], fontsize=SMALL, color=GREY)
    for each in (axes, both):
        each.tick_params(axis="y", length=0)
        each.spines[:].set_visible(False)
    axes.axvline(0, color="black", linewidth=0.6)
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.4 * max(high - low, 1.0)  # for the numbers beside the bars
    axes.set_xlim(low - room * (low < 0), high + room * (high > 0))
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(axis="x", length=2, width=0.5, labelsize=SMALL, color=GREY, labelcolor=GREY)
    axes.spines["bottom"].set_visible(True)


def format_change(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 0.05 else "0.0"


def largest_disagreements(a: Checkpoint, b: Checkpoint, *, look: int, count: int) -> list[tuple[LabeledImage, np.ndarray, np.ndarray]]:
    """The images, among `look` evenly spaced ones, with the largest share of labelled pixels where A and B disagree."""
    dataset, found = validation_set(a.config), []
    for index in spread(len(dataset), look):
        each = evaluation_image(dataset, index)
        maps = a.predict(each.image), b.predict(each.image)
        labelled = each.labels != IGNORE_INDEX
        found.append((float((maps[0] != maps[1])[labelled].mean()) if labelled.any() else 0.0, index, each, *maps))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return [entry[2:] for entry in found[:count]]


def draw(sources: list[str], overrides: list[str], options: argparse.Namespace) -> Figure:
    entries = most_changed(changes(*map(class_iou, sources)))
    a, b = open_checkpoints(sources, overrides, options.names)
    height = BAR * (len(entries) + 2) + 2 * LINE
    count = options.examples or max(2, int(height / (0.72 * (WIDTH - BARS) / 4)))  # what fits
    examples = largest_disagreements(a, b, look=options.look, count=count)
    rows = [[Panel(each.image), *(mask_panel(mask, a.classes, a.config.data) for mask in (each.labels, *maps))] for each, *maps in examples]
    figure = new_figure(WIDTH, max(height, grid_height(rows, WIDTH - BARS)) + 2 * LINE)
    left, right = figure.subfigures(1, 2, width_ratios=[BARS, WIDTH - BARS])
    draw_bars(left, entries, textwrap.fill(f"Change of IoU in points, {a.name} → {b.name}", 36))
    draw_grid(right, rows, ["Image", "Ground truth", a.name, b.name])
    draw_legend(figure, [mask for each, *maps in examples for mask in (each.labels, *maps)], a.classes, a.config.data)
    return figure
