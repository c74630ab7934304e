"""Small charts as SVG elements: curves, stacked shares, a histogram, sparklines, a confusion matrix.

Lines and text take their colours from the page (var(--...)), so that they follow light and dark. ElementTree escapes all
names; the <title> of a mark is its tooltip.
"""

import math
from dataclasses import dataclass
from typing import Sequence
from xml.etree.ElementTree import Element, SubElement

WIDTH, HEIGHT = 520, 236  # of a chart, SVG units
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 16, 28  # margins around the plot
MAX_POINTS = 240  # of a curve

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A named curve; colour is any CSS colour."""

    name: str
    points: Points
    colour: str

    @property
    def occurs(self) -> bool:
        return any(value for _, value in self.points)


@dataclass(frozen=True)
class Axes:
    """Axes of a chart: x from 0, y from `low`, with `log` as logarithms."""

    right: float
    top: float
    low: float = 0.0
    log: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a value in the chart, SVG units; on the axis, where it is below."""
        low, top, y = (math.log(value) if self.log else value for value in (self.low, self.top, max(y, self.low)))
        across, up = x / (self.right or 1), (y - low) / ((top - low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def draw(self, chart: Element, percent: bool, burn_in: float = 0) -> Element:
        """Adds grid lines, numbers along both axes, and where the pool comes in; returns the chart."""
        if 0 < burn_in < self.right:
            x, title = self.at(burn_in, self.low)[0], f"burn-in: labels alone until step {burn_in:g}"
            size = {"width": x - LEFT, "height": HEIGHT - TOP - BOTTOM}
            add(chart, "rect", title=title, class_="burn-in", x=LEFT, y=TOP, **size)
            add(chart, "line", class_="pool", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM)
            for words, left, steps in (("labels alone", LEFT, burn_in), ("with the pool", x, self.right - burn_in)):
                if steps > 0.2 * self.right:  # else there is no room
                    add(chart, "text", words, x=left, y=TOP - 5)
        for value in log_ticks(self.low, self.top) if self.log else ticks(self.low, self.top):
            y = self.at(0, value)[1]
            add(chart, "line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
            add(chart, "text", format_number(value, percent), x=LEFT - 8, y=y + 4, text_anchor="end")
        for value in ticks(0, self.right, 5):
            add(chart, "text", format_number(value), x=self.at(value, self.low)[0], y=HEIGHT - 8, text_anchor="middle")
        return chart


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * rough)
    return [round(number * step, 10) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from low to high; the powers alone where there are many, other numbers where few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 4 else (1,)
    found = [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high]
    return found if len(found) > 2 else ticks(low, high)


def downsample(points: Points, most: int = MAX_POINTS) -> Points:
    """At most `most` points, each the mean of its neighbourhood; the last one stays where it is."""
    size = math.ceil(len(points) / (most - 1)) if len(points) > most else 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [*(tuple(sum(values) / len(group) for values in zip(*group)) for group in groups[:-1]), *points[-1:]]


def format_number(value: float, percent: bool = False) -> str:
    if percent:
        return f"{100 * value:.3g} %"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u2009")


def svg(width: float = WIDTH, height: float = HEIGHT, **attributes: str) -> Element:
    return Element("svg", {"viewBox": f"0 0 {width:g} {height:g}", **attributes})


def add(parent: Element, tag: str, text: str | None = None, title: str = "", **attributes: str | float) -> Element:
    """A child element; floats are written with one decimal, and class_ is the attribute class."""
    child = SubElement(parent, tag)
    for name, value in attributes.items():
        child.set(name.rstrip("_").replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else str(value))
    child.text = text
    if title:
        SubElement(child, "title").text = title
    return child


def path(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def curves(
    series: Sequence[Series], *, percent: bool = False, until: float = 0, burn_in: float = 0, scale: str = "zero"
) -> Element | None:
    """Curves over steps from 0 to `until`, with dots where there are few points; None without points.

    scale: of the y axis. "zero": from 0. "late": so that what the later half of the points does (of four, all) fills the chart, and
    what lies below is cut off. "log": logarithms, over three powers of ten at most.
    """
    values = [value for each in series for _, value in each.points]
    if not values:
        return None
    axes, high = Axes(until, max(values) * 1.08 or 1.0, min(0, *values)), max(values)
    if scale == "late":
        halves = [each.points[len(each.points) // 2 if len(each.points) > 4 else 0 :] for each in series]
        late = min(value for points in halves for _, value in points)
        span = max(high - late, 0.01)
        axes = Axes(until, high + 0.1 * span, max(0.0, late - 0.25 * span))
    elif scale == "log" and high > 0:
        axes = Axes(until, high * 1.3, max(min(value for value in values if value > 0) / 1.3, high / 1e3), log=True)
    chart = axes.draw(svg(), percent, burn_in)
    for each in series:
        points = downsample(each.points)
        above = [value >= axes.low for _, value in points]
        # a line ends on the axis where it goes below, and does not run along it
        points = [point for place, point in enumerate(points) if any(above[max(0, place - 1) : place + 2])]
        places = [axes.at(*point) for point in points]
        add(chart, "polyline", class_="curve", style=f"stroke:{each.colour}", points=path(places))
        for (x, y), (step, value) in zip(places, points if len(points) <= 40 else []):
            if value >= axes.low:
                title = f"{each.name}, step {step:g}: {format_number(value, percent)}"
                add(chart, "circle", title=title, cx=x, cy=y, r=3, style=f"fill:{each.colour}")
    return chart


def stacked(series: Sequence[Series], until: float, burn_in: float = 0) -> Element:
    """Shares stacked over common steps up to `until`, the first series at the bottom."""
    steps, layers = [x for x, _ in downsample(series[0].points)], [[y for _, y in downsample(each.points)] for each in series]
    axes, chart, floor = Axes(until, max(map(sum, zip(*layers))) * 1.05 or 1.0), svg(), [0.0] * len(steps)
    for each, layer in zip(series, layers):
        ceiling = [low + share for low, share in zip(floor, layer)]
        outline = [axes.at(*place) for place in [*zip(steps, ceiling), *reversed([*zip(steps, floor)])]]
        add(chart, "polygon", title=each.name, style=f"fill:{each.colour}", points=path(outline))
        floor = ceiling
    return axes.draw(chart, percent=True, burn_in=burn_in)


def histogram(shares: Sequence[float], threshold: float, before: Sequence[float]) -> Element:
    """Shares of pixels by confidence from 0 to 1, those beyond the threshold marked; `before` as an outline."""
    axes, edges = Axes(1, max(*shares, *before, 1e-9) * 1.08), [index / len(shares) for index in range(len(shares) + 1)]
    chart = axes.draw(svg(), percent=True)
    for low, high, share in zip(edges, edges[1:], shares):
        (left, top), (right, bottom) = axes.at(low, share), axes.at(high, 0)
        kind, title = "sure" if high > threshold + 1e-9 else "unsure", f"{low:.2f} to {high:.2f}: {format_number(share, True)}"
        add(chart, "rect", title=title, class_=kind, x=left + 1, y=top, width=right - left - 2, height=bottom - top)
    outline = [axes.at(edge, share) for low, high, share in zip(edges, edges[1:], before) for edge in (low, high)]
    add(chart, "polyline", class_="before", points=path(outline))
    x = axes.at(threshold, 0)[0]
    add(chart, "line", class_="threshold", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM)
    return chart


def sparkline(values: Sequence[float], colour: str, width: int = 110, height: int = 22) -> Element:
    """A curve without axes, from 0 to its own maximum."""
    values = [y for _, y in downsample(list(enumerate(values)), 60)]
    top, distance = max(values) or 1, (width - 4) / max(1, len(values) - 1)
    places = [(2 + i * distance, height - 3 - value / top * (height - 6)) for i, value in enumerate(values)]
    chart = svg(width, height, **{"class": "spark"})
    add(chart, "polyline", class_="curve", style=f"stroke:{colour}", points=path(places))
    return chart


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Element:
    """A confusion matrix, rows truth, columns prediction, every row in shares of its own pixels."""
    size, numbered, named = len(names), len(names) <= 12, len(names) <= 60
    cell = 46 if numbered else max(5, min(26, 760 // size))
    side, margin = size * cell, 10 + 6.6 * max(map(len, names)) if named else 20.0
    chart = svg(margin + side + 6, side + margin + 4)
    for row, (name, line) in enumerate(zip(names, counts)):
        total, y, middle = sum(line), row * cell + 2, row * cell + 2 + cell / 2
        if named:
            add(chart, "text", name, x=margin - 6, y=middle + 4, text_anchor="end")
            foot = f"translate({margin + middle + 2:.1f} {side + 10}) rotate(-60)"
            add(chart, "text", name, transform=foot, text_anchor="end", dy=4)
        for column, count in enumerate(line):
            share, x, kind = count / total if total else 0.0, margin + column * cell, "hit" if row == column else "miss"
            title, size = f"{name} as {names[column]}: {format_number(share, True)}", {"width": cell - 1, "height": cell - 1}
            add(chart, "rect", title=title, class_=kind, x=x, y=y, fill_opacity=f"{share:.3f}", **size)
            if numbered and share >= 0.005:
                kind, percent = "strong" if share > 0.55 else "weak", f"{100 * share:.0f}"
                add(chart, "text", percent, class_=kind, text_anchor="middle", x=x + cell / 2 - 0.5, y=middle + 4)
    add(chart, "rect", class_="border", x=margin - 0.5, y=1.5, width=side, height=side)
    return chart
