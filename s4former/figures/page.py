"""The layout of figures, in inches, so that they print at the size they are drawn; text stays text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from ..evaluation.pictures import display_colours, shown_classes

WIDTH = 6.9  # inches, of a page with two columns
MARGIN, GAP, LINE = 0.04, 0.05, 0.155  # around the page, between panels, of a line of text
MAX_ASPECT = 1.0  # height of a panel over its width, at most; a taller picture gets narrower
SIZE, SMALL = 8, 7  # of text, points
BLACK, GREY, EDGE = "#262626", "#7d7d7d", "#c4c2bc"
YELLOW = "#ffdd00"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure looks the same everywhere
    "font.size": SIZE,
    "text.color": BLACK,
    "pdf.fonttype": 42,  # TrueType: text can be searched and edited
}

matplotlib.rcParams.update(STYLE)


@dataclass(frozen=True)
class Panel:
    """One picture of a grid.

    picture: (H, W, 3) uint8; None leaves the place empty.
    cross: x and y of a yellow cross, pixels.
    framed: with a hairline around it, for pictures that may be as white as the paper.
    """

    picture: np.ndarray | None
    cross: tuple[float, float] | None = None
    framed: bool = False


@dataclass(frozen=True)
class Row:
    """Panels side by side, one for each title, and the distance to what comes below, inches."""

    panels: Sequence[Panel]
    space: float = GAP

    def height(self, width: float) -> float:
        """Inches, with panels of this width."""
        pictures = [panel.picture for panel in self.panels if panel.picture is not None]
        shape = max((picture.shape[0] / picture.shape[1] for picture in pictures), default=0.0)
        return width * min(shape, MAX_ASPECT)


class Page:
    """A figure; every place on it is measured in inches from the upper left corner."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, words: str, **style) -> None:
        """Words, their left upper corner (or what `ha` and `va` say) at this place."""
        options = {"ha": "left", "va": "top", "size": SIZE, **style}
        self.figure.text(left / self.width, 1 - top / self.height, words, **options)

    def picture(self, panel: Panel, left: float, top: float, width: float, height: float) -> None:
        """A picture as large as fits into the box, centred."""
        if panel.picture is None:
            return
        down, across = panel.picture.shape[:2]
        scale = min(width / across, height / down)
        size = (across * scale, down * scale)
        axes = self.axes(left + (width - size[0]) / 2, top + (height - size[1]) / 2, *size)
        axes.imshow(enlarge(panel.picture), extent=(0, across, down, 0), interpolation="antialiased", aspect="auto")
        axes.set(xticks=[], yticks=[], autoscale_on=False)
        for spine in axes.spines.values():
            spine.set(visible=panel.framed, linewidth=0.4, color=EDGE)
        if panel.cross is not None:
            shadow = [withStroke(linewidth=2.6, foreground="black")]
            axes.plot(*panel.cross, "x", color=YELLOW, markersize=6, markeredgewidth=1.5, path_effects=shadow, clip_on=False)

    def swatch(self, left: float, top: float, side: float, colour: Sequence[float]) -> None:
        corner = (left / self.width, 1 - (top + side) / self.height)
        edge = EDGE if min(colour) > 0.78 else "none"
        patch = Rectangle(corner, side / self.width, side / self.height, facecolor=colour, edgecolor=edge, linewidth=0.5)
        self.figure.add_artist(patch)

    def save(self, output: str | Path) -> list[Path]:
        """Writes OUTPUT.png, 200 dots per inch, and OUTPUT.pdf; the same bytes on any day and machine."""
        stem = Path(output)
        stem = stem.with_suffix("") if stem.suffix.lower() in (".png", ".pdf") else stem
        stem.parent.mkdir(parents=True, exist_ok=True)
        png, pdf = (stem.with_name(stem.name + suffix) for suffix in (".png", ".pdf"))
        self.figure.savefig(png, dpi=200, metadata={"Software": None})
        self.figure.savefig(pdf, dpi=300, metadata={"CreationDate": None})
        return [png, pdf]


def enlarge(picture: np.ndarray, least: int = 900) -> np.ndarray:
    """Whole pixels repeated, so that a small picture is shown with sharp cells and is never blurred up."""
    times = -(-least // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


# ---- a grid of pictures under titles


def panel_width(columns: int, width: float) -> float:
    return (width - (columns - 1) * GAP) / columns


class Grid:
    """Titles and rows of panels of one width, inches; wide titles are broken into lines."""

    def __init__(self, rows: Sequence[Row], titles: Sequence[str], width: float):
        self.rows, self.panel = rows, panel_width(len(titles), width)
        self.titles = [wrap_text(title, self.panel, SIZE) for title in titles]
        self.heading = LINE * max(map(len, self.titles))

    @property
    def height(self) -> float:
        return self.heading + sum(row.height(self.panel) + row.space for row in self.rows) - self.rows[-1].space

    def draw(self, page: Page, left: float, top: float) -> None:
        for column, lines in enumerate(self.titles):
            middle = left + column * (self.panel + GAP) + self.panel / 2
            for above, words in enumerate(reversed(lines)):
                page.text(middle, top + self.heading - 0.055 - above * LINE * 0.9, words, ha="center", va="baseline")
        top += self.heading
        for row in self.rows:
            height = row.height(self.panel)
            for column, panel in enumerate(row.panels):
                page.picture(panel, left + column * (self.panel + GAP), top, self.panel, height)
            top += height + row.space


def grid_page(
    rows: Sequence[Row], titles: Sequence[str], masks: Sequence[np.ndarray], class_names: Sequence[str], foot: float = 0.0
) -> Page:
    """A page with a grid and a legend of the classes in the masks; `foot` inches are left free at the bottom."""
    width = WIDTH - 2 * MARGIN
    legend, grid = legend_lines(masks, class_names, width), Grid(rows, titles, width)
    page = Page(WIDTH, 2 * MARGIN + grid.height + (0.1 + LINE * len(legend) if legend else 0) + foot)
    grid.draw(page, MARGIN, MARGIN)
    draw_legend(page, legend, MARGIN, MARGIN + grid.height + 0.1)
    return page


def mask_panel(mask: np.ndarray | None, class_names: Sequence[str]) -> Panel:
    """(H, W) ids in the colours of their classes; no mask, an empty place."""
    if mask is None:
        return Panel(None)
    return Panel(display_colours(class_names)[np.asarray(mask).astype(np.uint8)], framed=True)


# ---- text


def text_width(words: str, size: float) -> float:
    """Inches."""
    return TextPath((0, 0), words, size=size).get_extents().width / 72 if words.strip() else 0.0


def wrap_text(words: str, width: float, size: float) -> list[str]:
    """Broken between words into lines of at most this width, inches."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines or [""]


Entry = tuple[float, str, tuple[int, ...]]  # distance from the left, name, colour


def legend_lines(masks: Sequence[np.ndarray], class_names: Sequence[str], width: float) -> list[list[Entry]]:
    """The classes in the masks, broken into lines."""
    lines: list[list[Entry]] = []
    left = 0.0
    for name, colour in shown_classes([[None, *masks]], class_names):
        length = 0.15 + text_width(name, SMALL)
        if not lines or left + length > width:
            lines.append([])
            left = 0.0
        lines[-1].append((left, name, colour))
        left += length + 0.14
    return lines


def draw_legend(page: Page, lines: Sequence[Sequence[Entry]], left: float, top: float) -> None:
    for number, line in enumerate(lines):
        middle = top + (number + 0.5) * LINE
        for start, name, colour in line:
            page.swatch(left + start, middle - 0.05, 0.1, [value / 255 for value in colour])
            page.text(left + start + 0.15, middle, name, va="center_baseline", size=SMALL)
