"""Small charts as inline SVG: curves, stacked shares, a histogram, sparklines, a matrix.

Lines and text take their colours from the page (var(--...)), so that they follow light and dark. Every chart is a
string; a mark has a <title>, which browsers show under the pointer.
"""

import math
from dataclasses import dataclass
from html import escape
from typing import Sequence

WIDTH, HEIGHT = 520, 230  # of a chart, in units of its own
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 28  # around what is plotted
POINTS = 240  # a curve has at most so many

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A named curve; colour is anything that CSS takes."""

    name: str
    points: Points
    colour: str


@dataclass(frozen=True)
class Axes:
    """From values to places in a chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return (LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM))


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * rough)
    return [round(number * step, 10) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def thinned(points: Points, most: int = POINTS) -> Points:
    """At most so many points, each the mean of its neighbourhood; the last one stays where it is."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most - 1))
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    means = [tuple(sum(values) / len(group) for values in zip(*group)) for group in groups]
    return [*means[:-1], points[-1]]


def number(value: float, percent: bool = False) -> str:
    """As an axis or a reader wants it."""
    return (
        f"{100 * value:.3g} %" if percent else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u2009")
    )


def frame(axes: Axes, percent: bool) -> str:
    """Grid lines, numbers and the axis of steps."""
    parts = []
    for value in ticks(*axes.y):
        y = axes.at(0, value)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(value, percent)}</text>')
    for value in ticks(*axes.x, 5):
        x = axes.at(value, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(value)}</text>')
    return "".join(parts)


def svg(content: str, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{content}</svg>'


def curves(series: Sequence[Series], label: str, *, percent: bool = False, until: float | None = None) -> str:
    """Curves over steps from 0, with dots where there are few points. until: the last step of the axis."""
    everything = [point for each in series for point in each.points]
    if not everything:
        return ""
    top = max(y for _, y in everything) * 1.08 or 1.0
    axes = Axes((0, until or max(x for x, _ in everything)), (min(0, min(y for _, y in everything)), top))
    parts = [frame(axes, percent)]
    for each in series:
        places = [axes.at(*point) for point in thinned(each.points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="curve" style="stroke:{each.colour}" points="{path}"/>')
        if len(each.points) <= 40:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{each.colour}"><title>{escape(each.name)}, step'
                f" {step:g}: {number(value, percent)}</title></circle>"
                for (x, y), (step, value) in zip(places, each.points)
            ]
    return svg("".join(parts), label)


def stacked(series: Sequence[Series], label: str, *, until: float | None = None) -> str:
    """Shares on top of each other over common steps, the first at the bottom."""
    steps = [x for x, _ in thinned(series[0].points)] if series else []
    if not steps:
        return ""
    layers = [[y for _, y in thinned(each.points)] for each in series]
    top = max(map(sum, zip(*layers))) * 1.05 or 1.0
    axes = Axes((0, until or max(steps)), (0, top))
    parts, floor = [], [0.0] * len(steps)
    for each, layer in zip(series, layers):
        ceiling = [low + share for low, share in zip(floor, layer)]
        outline = [axes.at(*place) for place in zip(steps, ceiling)] + [axes.at(*place) for place in zip(steps, floor)][::-1]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        parts.append(f'<polygon style="fill:{each.colour}" points="{path}"><title>{escape(each.name)}</title></polygon>')
        floor = ceiling
    return svg("".join(parts) + frame(axes, True), label)


def histogram(shares: Sequence[float], threshold: float, label: str, before: Sequence[float] = ()) -> str:
    """Shares of pixels by confidence from 0 to 1; beyond the threshold in the teacher's colour; `before` as an outline."""
    axes = Axes((0, 1), (0, max(*shares, *before, 1e-9) * 1.08))
    parts, width = [frame(axes, True)], 1 / len(shares)
    for index, share in enumerate(shares):
        (left, top), (right, bottom) = axes.at(index * width, share), axes.at((index + 1) * width, 0)
        sure = "sure" if (index + 1) * width > threshold + 1e-9 else "unsure"
        parts.append(
            f'<rect class="{sure}" x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" height="{bottom - top:.1f}">'
            f"<title>{index * width:.2f} to {(index + 1) * width:.2f}: {number(share, True)}</title></rect>"
        )
    if before:
        corners = [axes.at((index + side) * width, share) for index, share in enumerate(before) for side in (0, 1)]
        parts.append(f'<polyline class="before" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}"/>')
    x = axes.at(threshold, 0)[0]
    parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    return svg("".join(parts), label)


def sparkline(values: Sequence[float], colour: str, width: int = 110, height: int = 22) -> str:
    """A curve without axes, from 0 to its own maximum."""
    values = [y for _, y in thinned(list(enumerate(values)), 60)]
    top = max(values, default=0) or 1
    across = (width - 4) / max(1, len(values) - 1)
    path = " ".join(f"{2 + i * across:.1f},{height - 3 - value / top * (height - 6):.1f}" for i, value in enumerate(values))
    line = f'<polyline class="curve" style="stroke:{colour}" points="{path}"/>'
    return f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true">{line}</svg>'


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], label: str) -> str:
    """A confusion matrix, rows truth, columns prediction, every row in shares of its own pixels."""
    size, numbered = len(names), len(names) <= 12
    cell = 46 if numbered else max(5, min(26, 760 // size))
    margin = 10 + 6.6 * max(map(len, names)) if size <= 60 else 20
    parts = []
    for row, line in enumerate(counts):
        total = sum(line)
        y = row * cell
        if size <= 60:
            parts.append(f'<text x="{margin - 6:.0f}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">{escape(names[row])}</text>')
            foot = f"{margin + y + cell / 2 + 4:.1f} {size * cell + 8}"
            parts.append(
                f'<text transform="translate({foot}) rotate(-60)" text-anchor="end" dy="4">{escape(names[row])}</text>'
            )
        for column, count in enumerate(line):
            share = count / total if total else 0.0
            kind = "hit" if row == column else "miss"
            x = margin + column * cell
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill-opacity="{share:.3f}">'
                f"<title>{escape(names[row])} as {escape(names[column])}: {number(share, True)}</title></rect>"
            )
            if numbered and share >= 0.005:
                parts.append(
                    f'<text class="{"strong" if share > 0.55 else "weak"}" x="{x + cell / 2 - 0.5:.1f}"'
                    f' y="{y + cell / 2 + 4:.1f}"'
                    f' text-anchor="middle">{100 * share:.0f}</text>'
                )
    side = size * cell
    parts.append(f'<rect class="border" x="{margin - 0.5:.1f}" y="-0.5" width="{side}" height="{side}"/>')
    return svg(f'<g transform="translate(0 2)">{"".join(parts)}</g>', label, margin + side + 6, side + margin + 4)
