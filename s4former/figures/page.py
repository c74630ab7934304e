"""Figures at the size they are printed: grids of pictures under titles and a legend of the classes, laid out by matplotlib."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from ..config import Data
from ..evaluation.pictures import display_colours, shown_classes

WIDTH = 6.9  # inches, of a page with two columns
LINE = 0.155  # inches, of a line of text
MAX_ASPECT = 1.0  # height of a panel over its width, at most; a taller picture gets narrower
SIZE, SMALL = 8, 7  # of text, points
BLACK, GREY, EDGE, YELLOW = "#262626", "#7d7d7d", "#c4c2bc", "#ffdd00"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure looks the same everywhere
    "font.size": SIZE,
    "text.color": BLACK,
    "axes.titlesize": SIZE,
    "axes.edgecolor": EDGE,
    "axes.linewidth": 0.4,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "pdf.fonttype": 42,  # TrueType: text can be searched and edited
    "svg.hashsalt": "s4former",  # names of elements are the same every time
    "figure.constrained_layout.h_pad": 0.025,  # inches
    "figure.constrained_layout.w_pad": 0.025,
    "figure.constrained_layout.hspace": 0.0,
    "figure.constrained_layout.wspace": 0.0,
}

matplotlib.rcParams.update(STYLE)


@dataclass(frozen=True)
class Panel:
    """One picture of a grid. picture: (H, W, 3) uint8; None leaves the place empty. cross: x and y of a yellow cross, pixels."""

    picture: np.ndarray | None
    cross: tuple[float, float] | None = None


def mask_panel(mask: np.ndarray | None, class_names: Sequence[str], data: Data | None = None) -> Panel:
    """(H, W) ids in the colours of their classes; no mask, an empty place."""
    return Panel(None if mask is None else display_colours(class_names, data)[np.asarray(mask).astype(np.uint8)])


def new_figure(width: float, height: float) -> Figure:
    """Inches; what stays empty is cut off when it is saved."""
    return Figure(figsize=(width, height), layout="compressed")


def row_heights(rows: Sequence[Sequence[Panel]]) -> list[float]:
    """Of each row, as a part of the width of a panel."""
    shapes = [[panel.picture.shape for panel in row if panel.picture is not None] for row in rows]
    return [min(MAX_ASPECT, max((height / width for height, width, _ in row), default=0.0)) for row in shapes]


def grid_height(rows: Sequence[Sequence[Panel]], width: float) -> float:
    """Inches that a grid of this width takes, titles included."""
    return width / len(rows[0]) * sum(row_heights(rows)) + 2 * LINE


def draw_grid(figure: FigureBase, rows: Sequence[Sequence[Panel]], titles: Sequence[str]) -> None:
    """Panels side by side in rows, under the titles of their columns; wide titles are broken into lines."""
    heights = row_heights(rows)
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for axes, title in zip(grid[0], titles):
        axes.set_title(textwrap.fill(title, 100 // len(titles)), pad=3)
    for axes, panel, ratio in zip(grid.flat, [panel for row in rows for panel in row], np.repeat(heights, len(titles))):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if panel.picture is None:
            continue
        height, width = panel.picture.shape[:2]
        axes.imshow(enlarge(panel.picture), extent=(0, width, height, 0))
        axes.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor=EDGE, linewidth=0.4, clip_on=False))
        # every axes of a row has its shape, with room beside or above what is narrower, else the layout leaves gaps
        across, down = max(0, height / ratio - width) / 2, max(0, width * ratio - height) / 2
        axes.set(xlim=(-across, width + across), ylim=(height + down, -down), autoscale_on=False)  # not for the cross
        if panel.cross is not None:
            shadow = [withStroke(linewidth=2.6, foreground="black")]
            axes.plot(*panel.cross, "x", color=YELLOW, markersize=6, markeredgewidth=1.5, path_effects=shadow, clip_on=False)


def enlarge(picture: np.ndarray, least: int = 900) -> np.ndarray:
    """Whole pixels repeated, so that a small picture is shown with sharp cells and is never blurred up."""
    times = math.ceil(least / max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def draw_legend(figure: Figure, masks: Sequence[np.ndarray], class_names: Sequence[str], data: Data | None = None) -> None:
    """The classes in the masks, below the figure."""
    entries = shown_classes([[None, *masks]], class_names, data)
    patches = [Patch(facecolor=np.array(colour) / 255, edgecolor=EDGE, linewidth=0.4, label=name) for name, colour in entries]
    columns = max(1, int(figure.get_figwidth() / (0.3 + 0.055 * max((len(name) for name, _ in entries), default=1))))
    if patches:
        figure.legend(handles=patches, loc="outside lower left", ncols=columns, handlelength=1, borderpad=0, columnspacing=1)


def grid_figure(
    rows: Sequence[Sequence[Panel]], titles: Sequence[str], masks: Sequence[np.ndarray | None], class_names: Sequence[str],
    data: Data | None = None, beside: float = 0.0,
) -> Figure:  # fmt: skip
    """A grid and a legend of the classes in the masks. beside: inches of the width for what stands beside the grid."""
    figure = new_figure(WIDTH, grid_height(rows, WIDTH - beside) + 3 * LINE)
    draw_grid(figure, rows, titles)
    draw_legend(figure, [mask for mask in masks if mask is not None], class_names, data)
    return figure


def save_figure(figure: Figure, output: str | Path) -> list[Path]:
    """Writes OUTPUT.png, 200 dots per inch, and OUTPUT.pdf; the same bytes on any day and machine."""
    stem = Path(output)
    stem = stem.with_suffix("") if stem.suffix.lower() in (".png", ".pdf") else stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = (stem.with_name(stem.name + suffix) for suffix in (".png", ".pdf"))
    figure.savefig(png, dpi=200, bbox_inches="tight", pad_inches=0.04, metadata={"Software": None})
    figure.savefig(pdf, dpi=300, bbox_inches="tight", pad_inches=0.04, metadata={"CreationDate": None})
    return [png, pdf]
