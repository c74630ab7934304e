"""The things of the drawn world: a table of outlines, and the patterns that they are painted with.

A part of a thing is `(points, tone)`: an (N, 2) outline as (x, y) in the thing's own frame, about -1..1 with y down, and the
row of its palette that fills it. Parts are listed back to front.
"""

import math
from typing import Callable, NamedTuple

import numpy as np

BODY, TRIM, INK, LIGHT = range(4)  # rows of a palette

# ---- outlines


def oval(x, y, across, down, turn=0.0, start=0.0, stop=1.0):
    """Ellipse about (x, y), or what of it lies from `start` to `stop` (parts of a turn from +x), cut by the chord."""
    angle = 2 * math.pi * np.linspace(start, stop, 28)
    points = np.stack([across * np.cos(angle), down * np.sin(angle)], axis=1)
    cosine, sine = math.cos(turn), math.sin(turn)
    return points @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)


def poly(*points):
    """Straight-edged outline through the points."""
    return np.array(points, dtype=float)


def box(left, top, right, bottom):
    return poly((left, top), (right, top), (right, bottom), (left, bottom))


def blob(*points, closed=True):
    """Smooth outline through the points: a Catmull-Rom spline, six steps to the segment."""
    knots = np.array(points, dtype=float)
    ends = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    knots = np.concatenate([ends[0], knots, ends[1]])
    before, here, after, beyond = (knots[i : len(knots) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
    curve = here + 0.5 * t * (after - before + t * (2 * before - 5 * here + 4 * after - beyond
                                                    + t * (3 * (here - after) + beyond - before)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


def band(width, *points):
    """A smooth stroke of that width through the points: handles, stems, ribs."""
    line = blob(*points, closed=False)
    along = np.gradient(line, axis=0)
    side = np.stack([-along[:, 1], along[:, 0]], axis=1)
    side *= 0.5 * width / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    return np.concatenate([line + side, (line - side)[::-1]])


def ring(count, radius, phase=0.0):
    """`count` points evenly about the origin, each with its angle: petals, spokes, spots."""
    angle = 2 * math.pi * (np.arange(count) / count + phase)
    return list(zip(radius * np.cos(angle), radius * np.sin(angle), angle))


# ---- patterns


# Each maps places (u, v), in radians across and down the thing, to -1 .. 1.
PATTERNS = {
    "bars": lambda u, v: np.sin(u),
    "bands": lambda u, v: np.sin(v),
    "dots": lambda u, v: 3 * (np.sin(u) * np.sin(v)) - 1.1,
    "lattice": lambda u, v: 2.2 * np.maximum(np.sin(.7 * (u + v)), np.sin(.7 * (u - v))) - 1.2,
    "zigzag": lambda u, v: np.sin(v + 2.2 * np.arcsin(np.sin(.7 * u))),
    "scales": lambda u, v: 1.6 * np.cos(v - 1.5 * np.abs(np.sin(.5 * u + .5 * math.pi * (np.floor(v / math.pi) % 2)))),
    "bricks": lambda u, v: 3 * np.minimum(np.abs(np.sin(.5 * v)), np.abs(np.sin(.25 * u + .5 * math.pi * (np.floor(v / 2 / math.pi) % 2)))) - 1,
}  # fmt: skip


# ---- the table


class Thing(NamedTuple):
    """One kind of thing. A number is drawn from each range, in their order, so that no two of a class are built alike."""

    pattern: str
    pitch: float  # pixels from one repeat of the pattern to the next
    ranges: list[tuple[float, float]]
    outlines: Callable  # (u, *numbers) -> parts; u(low, high) draws further numbers

    def parts(self, u):
        return self.outlines(u, *[u(low, high) for low, high in self.ranges])


def fir(u):
    wide = u(.5, .75)
    return [(poly((-wide * w, low), (0, low - .85), (wide * w, low)), BODY) for w, low in ((1, .5), (.82, .12), (.62, -.22))]


def crown_of_leaves(u):
    wide, shift = u(.45, .65), u(-.1, .1)
    return [(oval(-.3, -.1, wide * .75, .36), BODY), (oval(.3, -.15, wide * .75, .38), BODY),
            (oval(shift, -.5, wide, .45), BODY), (oval(shift - .15, -.55, .2, .15), LIGHT)]


THINGS = {
    "fish": Thing("scales", 6, [(.32, .58), (.3, .55)], lambda u, tall, tail: [
        (poly((-.45, 0), (-1, -tail), (-u(.7, .85), 0), (-1, tail)), TRIM),
        (blob((-.3, -tall * .6), (u(-.1, .1), -tall - .3), (.3, -tall * .7)), TRIM),
        (blob((-.6, 0), (-.1, -tall), (.5, -tall * .8), (.95, 0), (.5, tall * .8), (-.1, tall)), BODY),
        (band(.07, (.4, -tall * .6), (.28, 0), (.4, tall * .6)), LIGHT), (oval(.66, -.1, .1, .1), INK)]),
    "bird": Thing("zigzag", 5, [(.34, .5), (-.5, .1), (.95, 1.2)], lambda u, plump, lift, beak: [
        (band(.07, (0, .3), (-.03, .95)), INK), (band(.07, (.2, .3), (.2, .95)), INK),
        (poly((-.4, -.05), (-1.05, lift - .12), (-1, lift + .25), (-.4, .3)), TRIM),
        (blob((-.65, .05), (-.1, -plump * .7), (.5, -.2), (.55, .25), (0, plump + .1)), BODY),
        (poly((.6, -.5), (beak, -.36), (.6, -.2)), TRIM), (oval(.5, -.36, .28, .28), BODY),
        (oval(-.12, .08, .4, .2, turn=u(-.5, .1)), TRIM), (oval(.58, -.42, .06, .06), INK)]),
    "tree": Thing("dots", 4.5, [(.09, .16), (.8, 1)], lambda u, trunk, foot: [
        (poly((-trunk, foot), (trunk, foot), (trunk * .7, -.1), (-trunk * .7, -.1)), TRIM),
        *(fir if u(0, 1) < .4 else crown_of_leaves)(u)]),
    "mushroom": Thing("dots", 8, [(.65, .95), (.6, 1), (.15, .28), (.5, .7)], lambda u, wide, tall, stem, spot: [
        (blob((-stem, -.1), (stem, -.1), (stem * u(1, 1.6), .85), (-stem * 1.3, .85)), TRIM),
        (oval(0, .02, wide, tall, start=.5, stop=1), BODY), (oval(0, 0, wide, .13), BODY),
        *[(oval(x * wide, -.05 - tall * y, .1, .09), LIGHT) for x, y in ((-.5, .3), (0, spot), (.45, .35))]]),
    "flower": Thing("bars", 4, [(5, 8), (.22, .3), (-.25, .25), (0, 1), (1, 3)], lambda u, petals, reach, bend, phase, leaves: [
        (band(.11, (0, -.3), (bend, .4), (0, 1)), TRIM),
        *[(oval(.28, .55, .3, .11, turn=-.6), TRIM), (oval(-.25, .65, .28, .1, turn=.6 + math.pi), TRIM)][: int(leaves)],
        *[(oval(x, y - .4, reach, .17, turn=a), BODY) for x, y, a in ring(int(petals), .34, phase)],
        (oval(0, -.4, .19, .19), LIGHT)]),
    "boat": Thing("bands", 5, [(.75, 1), (.4, .65), (-.15, .15)], lambda u, hull, keel, mast: [
        (band(.08, (mast, .4), (mast, -1)), INK),
        (poly((mast + .06, -1), (mast + .06, .2), (mast + u(.5, .75), .2)), LIGHT),
        *([(poly((mast - .06, -.8), (mast - .06, .2), (mast - u(.4, .6), .2)), TRIM)] if u(0, 1) < .7 else []),
        (blob((-hull, .35), (-hull * .7, .38), (hull * .7, .38), (hull, .3), (keel, .8), (-keel, .8)), BODY)]),
    "house": Thing("bricks", 6, [(.5, .8), (-.3, 0), (-1, -.7), (-.3, .1), (.1, .14)], lambda u, wide, eave, peak, door, pane: [
        *[(poly((.2, eave), (.2, peak), (.42, peak), (.42, eave)), INK)][: int(u(0, 2))],
        (box(-wide, eave, wide, .85), BODY),
        (poly((-wide - .15, eave), (u(-.25, .1), peak), (wide + .15, eave)), TRIM),
        (box(door * wide - .13, .3, door * wide + .13, .85), INK),
        (box(.3 - pane, .2 - pane, .3 + pane, .2 + pane), LIGHT)]),
    "cup": Thing("lattice", 6, [(.5, .7), (.32, .6), (.45, .75)], lambda u, rim, base, tall: [
        (band(.13, (rim - .15, -tall * .5), (rim + u(.25, .4), -tall * .45), (rim + .25, tall * .4),
              (base - .1, tall * .55)), BODY),
        (blob((-rim, -tall), (rim, -tall), (rim * .97, 0), (base, tall), (-base, tall), (-rim * .97, 0)), BODY),
        (oval(0, -tall, rim, .13), INK), (band(.1, (-rim * .93, .05), (0, .14), (rim * .93, .05)), TRIM)]),
}  # fmt: skip
