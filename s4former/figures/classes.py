"""Figure S2: how the IoU of every class changes from run A to run B, and images on which the two differ most.

The bars are the numbers of results.json, over all evaluation images. The examples are chosen by the share of labelled
pixels on which A and B disagree, whoever is right.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..config import IGNORE_INDEX
from ..data.batches import validation_set
from ..evaluation.model_choice import ROLES, choose_model
from .checkpoints import Checkpoint, FigureError, LabeledImage, evaluation_image, evenly_spaced, open_checkpoints
from .page import (
    BLACK, GAP, GREY, LINE, MARGIN, SIZE, SMALL, WIDTH, Grid, Page, Panel, Row, draw_legend, legend_lines, mask_panel,
    panel_width, text_width, wrap_text,
)  # fmt: skip

BARS = 3.0  # width of the part with the bars, inches
BAR = 0.145  # distance from bar to bar
UP, DOWN = "#2f7f86", "#c0603a"
MAX_BARS = 30  # bars; of more classes those that changed most

Change = tuple[str, float, float]  # class, IoU of A and of B in percent


# ---- the numbers


def class_iou(source: str) -> dict[str, float | None]:
    """IoU by class from the results.json of a run, for the model that `choose_model` takes."""
    folder = Path(choose_model(source).source)
    path = folder.parent / "results.json"
    moment, role = ("best", folder.name.removeprefix("best-")) if folder.name.startswith("best-") else ("last", folder.name)
    if role not in ROLES or not path.is_file():
        raise FigureError(f"{source} has no results.json with its numbers; give a run that has ended, or a model in one")
    return json.loads(path.read_text())[moment][role]["iou"]


def changes(a: dict[str, float | None], b: dict[str, float | None]) -> list[Change]:
    """Classes that both have a number for, the largest gain first; the mean over them last."""
    if a.keys() != b.keys():
        raise FigureError("the two runs have different classes; a change needs the same ones")
    both = [(name, 100 * a[name], 100 * b[name]) for name in a if a[name] is not None and b[name] is not None]
    if not both:
        raise FigureError("no class has an IoU in both runs")
    both.sort(key=lambda change: change[1] - change[2])
    return [*both, ("mean", *(float(np.mean([change[i] for change in both])) for i in (1, 2)))]


def most_changed(entries: list[Change], count: int = MAX_BARS) -> list[Change]:
    """At most `count` classes, in the same order, and the mean."""
    *classes, mean = entries
    kept = sorted(classes, key=lambda entry: -abs(entry[2] - entry[1]))[:count]
    return [*(entry for entry in classes if entry in kept), mean]


# ---- the bars


def draw_bars(page: Page, entries: list[Change], left: float, top: float, width: float) -> None:
    """Names on the left, bars with their change, and both IoUs on the right; the mean stands apart, below."""
    names = max(text_width(name, SMALL) for name, _, _ in entries)
    numbers = 0.75
    places = [BAR * (i + 0.5) for i in range(len(entries) - 1)]
    places.append(places[-1] + 1.6 * BAR)
    height = places[-1] + 0.5 * BAR
    axes = page.axes(left + names + 0.06, top, width - names - numbers - 0.06, height)
    values = [b - a for _, a, b in entries]
    axes.barh(places, values, height=0.68 * BAR, color=[UP if value >= 0 else DOWN for value in values])
    reach = max(0.5, *map(abs, values))
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set_xlim(low - 0.6 * reach * (low < 0), high + 0.42 * reach * (high > 0))
    axes.set_ylim(height, 0)
    for place, value, (name, a, b) in zip(places, values, entries):
        side = {"ha": "left" if value >= 0 else "right", "xytext": (2 if value >= 0 else -2, 0)}
        axes.annotate(format_change(value), (value, place), textcoords="offset points", va="center_baseline", size=SMALL, **side)
        weight = "bold" if name == "mean" else "normal"
        page.text(left + names, top + place, name, ha="right", va="center_baseline", size=SMALL, weight=weight)
        page.text(left + width, top + place, f"{a:.1f} → {b:.1f}", ha="right", va="center_baseline", size=SMALL, color=GREY)
    axes.axvline(0, color=BLACK, linewidth=0.6)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(axis="x", length=2, width=0.5, pad=1.5, labelsize=SMALL, color=GREY, labelcolor=GREY)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set(linewidth=0.5, color=GREY)


def format_change(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 0.05 else "0.0"


def bars_height(entries: list[Change]) -> float:
    return BAR * (len(entries) + 0.6) + 0.2


# ---- the examples


def largest_disagreements(a: Checkpoint, b: Checkpoint, *, look: int, count: int) -> list[tuple[LabeledImage, np.ndarray, np.ndarray]]:
    """The images, among `look` evenly spaced ones, with the largest share of labelled pixels where A and B disagree."""
    dataset, found = validation_set(a.config), []
    for index in evenly_spaced(len(dataset), look):
        each = evaluation_image(dataset, index)
        maps = a.predict(each.image), b.predict(each.image)
        labelled = each.labels != IGNORE_INDEX
        found.append((float((maps[0] != maps[1])[labelled].mean()) if labelled.any() else 0.0, index, each, *maps))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return [entry[2:] for entry in found[:count]]


# ---- the page


def draw(sources: list[str], overrides: list[str], options: argparse.Namespace) -> Page:
    if len(sources) != 2:
        raise FigureError(f"a change is from one run to another; got {len(sources)} runs")
    entries = most_changed(changes(*map(class_iou, sources)))
    a, b = open_checkpoints(sources, overrides, options.names)
    width = WIDTH - 2 * MARGIN
    rest = width - BARS - 4 * GAP
    fitting = max(2, int(bars_height(entries) / (0.72 * panel_width(4, rest))))  # of the usual shape of photos
    count = fitting if options.examples is None else options.examples
    examples = largest_disagreements(a, b, look=options.look, count=count) if count else []
    rows = [
        Row([Panel(each.image), *(mask_panel(mask, a.classes) for mask in (each.labels, *maps))]) for each, *maps in examples
    ]
    titles = ["Image", "Ground truth", a.name, b.name]
    heading = wrap_text(f"Change of IoU in points, {a.name} → {b.name}", BARS, SIZE)
    legend = legend_lines([mask for each, *maps in examples for mask in (each.labels, *maps)], a.classes, width)
    bars = LINE * len(heading) + 0.05 + bars_height(entries)
    grid = Grid(rows, titles, rest) if rows else None
    body = max(bars, grid.height if grid else 0)
    page = Page(WIDTH if rows else BARS + 2 * MARGIN, 2 * MARGIN + body + (0.1 + LINE * len(legend) if legend else 0))
    page.text(MARGIN, MARGIN, "\n".join(heading), linespacing=1.15)
    draw_bars(page, entries, MARGIN, MARGIN + LINE * len(heading) + 0.05, BARS)
    if grid:
        grid.draw(page, MARGIN + BARS + 4 * GAP, MARGIN)
    draw_legend(page, legend, MARGIN, MARGIN + body + 0.1)
    return page
