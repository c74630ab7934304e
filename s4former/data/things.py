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
    "slants": lambda u, v: np.sin(.7 * (u + v)),
    "checks": lambda u, v: 2 * np.sin(.8 * u) * np.sin(.8 * v),
    "dots": lambda u, v: 3 * (np.sin(u) * np.sin(v)) - 1.1,
    "lattice": lambda u, v: 2.2 * np.maximum(np.sin(.7 * (u + v)), np.sin(.7 * (u - v))) - 1.2,
    "zigzag": lambda u, v: np.sin(v + 2.2 * np.arcsin(np.sin(.7 * u))),
    "scales": lambda u, v: 1.6 * np.cos(v - 1.5 * np.abs(np.sin(.5 * u + .5 * math.pi * (np.floor(v / math.pi) % 2)))),
    "bricks": lambda u, v: 3 * np.minimum(np.abs(np.sin(.5 * v)), np.abs(np.sin(.25 * u + .5 * math.pi * (np.floor(v / 2 / math.pi) % 2)))) - 1,
    "rings": lambda u, v: np.sin(np.hypot(u, v)),
    "swirl": lambda u, v: np.sin(u + 1.8 * np.sin(.6 * v)),
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


TARGET_THINGS = {
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

PRETRAINING_THINGS = {
    "apple": Thing("rings", 6, [(.65, .85)], lambda u, wide: [
        (band(.09, (0, -.5), (u(-.1, .2), -.95)), INK), (oval(.28, -.75, .25, .1, turn=-.5), TRIM),
        (blob((0, -.5), (.45, -.65), (wide, -.1), (.45, .7), (0, .62), (-.45, .7), (-wide, -.1), (-.45, -.65)), BODY)]),
    "pear": Thing("rings", 4, [(.5, .7), (.2, .3)], lambda u, wide, neck: [
        (band(.08, (0, -.7), (u(-.15, .15), -1)), INK),
        (blob((0, -.8), (neck, -.6), (wide, .3), (.3, .85), (-.3, .85), (-wide, .3), (-neck, -.6)), BODY)]),
    "leaf": Thing("slants", 4, [(.3, .5)], lambda u, wide: [
        (blob((-.8, 0), (-.2, -wide), (.5, -wide * .7), (1, 0), (.5, wide * .7), (-.2, wide)), BODY),
        (band(.07, (-1, 0), (.8, 0)), TRIM),
        *[(band(.05, (x - .15, 0), (x + .1, s * wide * .7)), TRIM) for x in (-.4, 0, .4) for s in (-1, 1)]]),
    "butterfly": Thing("checks", 5, [(.4, .55), (.28, .4)], lambda u, upper, lower: [
        *[(oval(s * .45, y, r, r * .7, turn=s * t), tone) for s in (-1, 1)
          for y, r, t, tone in ((-.3, upper, -.6, BODY), (.38, lower, .6, TRIM))],
        (oval(0, 0, .1, .6), INK), *[(oval(s * .5, -.32, .12, .12), LIGHT) for s in (-1, 1)]]),
    "cat": Thing("swirl", 5, [(.6, .8), (.8, 1)], lambda u, wide, ear: [
        *[(poly((s * wide * .95, -.1), (s * .62, -ear), (s * .1, -.45)), BODY) for s in (-1, 1)],
        (oval(0, .1, wide, .6), BODY), (poly((-.1, .2), (.1, .2), (0, .32)), TRIM),
        *[(oval(s * .28, 0, .09, .13), INK) for s in (-1, 1)],
        *[(band(.04, (s * .2, .3), (s * .9, u(.15, .45))), LIGHT) for s in (-1, 1)]]),
    "rabbit": Thing("swirl", 8, [(.4, .5), (.05, .3)], lambda u, ear, lean: [
        *[(oval(s * .25, -.55, .15, ear, turn=s * lean), BODY) for s in (-1, 1)],
        (oval(0, .35, u(.45, .6), .5), BODY), (oval(0, .5, .2, .15), LIGHT),
        *[(oval(s * .2, .2, .07, .09), INK) for s in (-1, 1)]]),
    "turtle": Thing("lattice", 9, [(.5, .75)], lambda u, tall: [
        (oval(.85, u(-.1, .15), .2, .16), TRIM), (oval(-.45, .4, .16, .2), TRIM), (oval(.4, .4, .16, .2), TRIM),
        (poly((-.6, .2), (-1, .35), (-.6, .35)), TRIM), (oval(0, .35, .75, tall + .2, start=.5, stop=1), BODY),
        (oval(-.25, .05, .14, .14), LIGHT), (oval(.25, .05, .14, .14), LIGHT), (oval(0, -.25, .13, .11), LIGHT)]),
    "snail": Thing("rings", 9, [(.45, .6)], lambda u, size: [
        (blob((-1, .75), (-.3, .4), (.5, .5), (.7, -.1), (.95, 0), (.9, .75)), TRIM),
        (band(.06, (.8, 0), (u(.75, 1.05), -.45)), TRIM), (oval(-.1, .1, size, size), BODY),
        (band(.09, *[(-.1 + x * k / 9, .1 + y * k / 9) for k, (x, y, _) in enumerate(ring(9, size * .8))]), LIGHT)]),
    "car": Thing("bands", 8, [(-.55, -.35), (-.6, -.4)], lambda u, roof, left: [
        (blob((left - .1, 0), (left + .15, roof), (.3, roof), (.6, 0)), TRIM),
        (blob((-.95, -.02), (.9, -.02), (1, .3), (.95, .42), (-.95, .42), (-1, .2)), BODY),
        (poly((-.3, -.05), (-.2, roof + .12), (.0, roof + .12), (.0, -.05)), LIGHT),
        *[(oval(x, .42, r, r), tone) for x in (-.5, .52) for r, tone in ((.24, INK), (.1, LIGHT))]]),
    "aeroplane": Thing("bars", 8, [(.6, .9), (.14, .22)], lambda u, span, thick: [
        (poly((.2, 0), (-.25, -span), (-.5, -span), (-.2, 0), (-.5, span), (-.25, span)), TRIM),
        (poly((-.6, 0), (-1, -.35), (-1, .35)), TRIM), (oval(0, 0, .95, thick), BODY), (oval(.65, 0, .12, .1), INK)]),
    "rocket": Thing("checks", 8, [(.25, .36), (.5, .7)], lambda u, wide, fin: [
        (blob((-.15, .6), (.15, .6), (0, u(.95, 1.2))), LIGHT),
        (poly((-.1, .1), (-fin, .75), (fin, .75), (.1, .1)), TRIM),
        (blob((0, -1), (wide, -.3), (wide * .8, .6), (-wide * .8, .6), (-wide, -.3)), BODY),
        (oval(0, -.25, .14, .14), INK)]),
    "balloon": Thing("slants", 7, [(.5, .65), (.55, .8)], lambda u, wide, low: [
        (band(.04, (-.25, .1), (-.12, low)), INK), (band(.04, (.25, .1), (.12, low)), INK),
        (oval(0, -.35, wide, .65), BODY), (oval(0, -.35, wide * .4, .65), TRIM),
        (poly((-.16, low), (.16, low), (.12, low + .25), (-.12, low + .25)), INK)]),
    "umbrella": Thing("bars", 6, [(.6, .9)], lambda u, tall: [
        (band(.08, (0, -.2), (0, .7), (.12, .9), (.28, .7)), INK), (oval(0, 0, .95, tall, start=.5, stop=1), BODY),
        (poly((-.3, 0), (0, -tall), (.3, 0)), TRIM), *[(oval(x, 0, .16, .09), LIGHT) for x in (-.63, .63)]]),
    "key": Thing("bands", 3.5, [(.26, .36), (2, 4)], lambda u, size, bits: [
        (band(.16, *[(-.6 + x, y) for x, y, _ in [*ring(10, size), ring(10, size)[0]]]), BODY),
        (band(.15, (-.3, 0), (.95, 0)), BODY),
        *[(poly((x, 0), (x, u(.25, .4)), (x + .12, .3), (x + .12, 0)), BODY) for x in (.8, .55, .3)[: int(bits)]]]),
    "lamp": Thing("zigzag", 8, [(.2, .35), (.55, .75)], lambda u, top, low: [
        (band(.1, (0, 0), (0, .85)), INK), (oval(0, .85, u(.3, .45), .12), TRIM),
        (poly((-top, -.85), (top, -.85), (low, .05), (-low, .05)), BODY), (oval(0, .05, low, .08), LIGHT)]),
    "bottle": Thing("scales", 9, [(.28, .42), (-.45, -.2)], lambda u, wide, neck: [
        (box(-.13, -1, .13, -.8), INK),
        (blob((-.11, -.85), (.11, -.85), (.12, neck), (wide, neck + .35), (wide, .85), (-wide, .85),
              (-wide, neck + .35), (-.12, neck)), BODY),
        (box(-wide, .2, wide, .6), LIGHT)]),
    "hat": Thing("bricks", 9, [(.35, .55), (.8, 1)], lambda u, dome, brim: [
        (oval(0, .4, brim, .2), BODY),
        (blob((-dome, .4), (-dome * .9, -.5), (0, u(-.7, -.4)), (dome * .9, -.5), (dome, .4)), BODY),
        (band(.18, (-dome, .2), (0, .28), (dome, .2)), TRIM)]),
    "star": Thing("dots", 6, [(5, 7), (.4, .55)], lambda u, spikes, inner: [
        (poly(*[(x * (1, inner)[k % 2], y * (1, inner)[k % 2])
                for k, (x, y, _) in enumerate(ring(2 * int(spikes), .95))]), BODY),
        (oval(0, 0, .22, .22), TRIM)]),
    "moon": Thing("swirl", 3.5, [(.15, .5)], lambda u, bite: [
        (blob((.2, -.95), (-.5, -.75), (-.85, 0), (-.5, .75), (.2, .95), (.1 - bite, .5), (-bite, 0), (.1 - bite, -.5)), BODY),
        (oval(-.55, -.2, .07, .07), INK)]),
    "cactus": Thing("bars", 3, [(-.2, .2), (-.3, .3)], lambda u, left, right: [
        (band(.24, (0, left + .3), (-.5, left + .3), (-.55, left - .3)), BODY),
        (band(.2, (0, right + .2), (.5, right + .2), (.55, right - .3)), BODY), (oval(0, -.1, .24, .85), BODY),
        (poly((-.45, .6), (.45, .6), (.32, 1), (-.32, 1)), TRIM)]),
    "crown": Thing("checks", 3.5, [(.45, .75)], lambda u, tall: [
        (poly((-.8, .5), (-.9, -tall), (-.4, 0), (0, -tall - .15), (.4, 0), (.9, -tall), (.8, .5)), BODY),
        (box(-.8, .3, .8, .55), TRIM),
        *[(oval(x, y, .1, .1), LIGHT) for x, y in ((-.9, -tall), (0, -tall - .15), (.9, -tall))]]),
    "kite": Thing("slants", 10, [(.45, .65), (-.3, 0)], lambda u, wide, arm: [
        (band(.06, (0, .5), (u(-.3, .3), .8), (0, 1.15)), INK),
        (poly((0, -1), (wide, arm), (0, .6), (-wide, arm)), BODY),
        (poly((0, -1), (wide, arm), (0, arm)), TRIM), (poly((0, .6), (-wide, arm), (0, arm)), TRIM)]),
}  # fmt: skip
