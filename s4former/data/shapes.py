"""A small painted world with exact masks: the dataset that is always there.

`scene` paints picture number `index` of a world as a pure function of its arguments, in some twenty milliseconds, so
there is nothing to download and any split is a range of indices. It is a miniature of the real task, with the same things
in the way: objects vary in build, size and turn, stand in front of one another, cast shadows and take the colour of
the light; the ground is textured and littered with unlabelled scraps. Colour is drawn without looking at the class.
What tells a mushroom from a tree is its form and, where light and size let it show, the pattern it is painted with, as
fur, bricks and leaves do in photographs; some classes share a pattern but for its pitch, and a few things go plain.

There are two worlds that share no class: `CLASSES` is the one to segment, `PRETRAINING_CLASSES` the one an encoder may
see beforehand, as ImageNet is for real photographs.

A thing is drawn from parts, back to front. A part is `(points, tone)`: an (N, 2) outline as (x, y) in the thing's own
frame, about -1..1 with y down, and the row of the thing's palette that fills it.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BODY, TRIM, INK, LIGHT = range(4)

# A gouache box: muted, warm, and wide enough in hue that no class can own a colour.
PAINTS = np.array([
    [214, 73, 51], [236, 140, 62], [243, 190, 84], [250, 222, 150], [150, 172, 78], [86, 138, 92], [44, 98, 96],
    [76, 156, 168], [146, 200, 205], [66, 104, 164], [42, 58, 104], [124, 92, 152], [192, 132, 172], [238, 168, 160],
    [172, 66, 88], [140, 92, 66], [200, 160, 122], [244, 232, 214], [110, 118, 128], [198, 206, 176],
], dtype=np.float32)
DARK, CREAM = np.float32([46, 40, 52]), np.float32([250, 243, 228])
FINE = 3  # things are drawn this many times larger and averaged down: antialiasing


# ---- outlines ------------------------------------------------------------------------------------------------------


def oval(x, y, across, down, turn=0.0, start=0.0, stop=1.0):
    """Ellipse about (x, y), or what of it lies from `start` to `stop` (parts of a turn from +x), cut by the chord."""
    angle = 2 * math.pi * np.linspace(start, stop, 28)
    points = np.stack([across * np.cos(angle), down * np.sin(angle)], axis=1)
    cosine, sine = math.cos(turn), math.sin(turn)
    return points @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)


def poly(*points):
    """Straight-edged outline through the points."""
    return np.array(points, dtype=float)


def blob(*points, closed=True):
    """Smooth outline through the points: a Catmull-Rom spline, six steps to the segment."""
    knots = np.array(points, dtype=float)
    if closed:
        knots = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        knots = np.concatenate([knots[:1], knots, knots[-1:]])
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
    """`count` points evenly about the origin: petals, spokes, spots."""
    angle = 2 * math.pi * (np.arange(count) / count + phase)
    return list(zip(radius * np.cos(angle), radius * np.sin(angle), angle))


# ---- things: the world to segment ----------------------------------------------------------------------------------
# Each takes u(low, high), a uniform draw, so that no two of a class are built alike.


def fish(u):
    tall, tail = u(.32, .58), u(.3, .55)
    return [(poly((-.45, 0), (-1, -tail), (-u(.7, .85), 0), (-1, tail)), TRIM),
            (blob((-.3, -tall * .6), (u(-.1, .1), -tall - .3), (.3, -tall * .7)), TRIM),
            (blob((-.6, 0), (-.1, -tall), (.5, -tall * .8), (.95, 0), (.5, tall * .8), (-.1, tall)), BODY),
            (band(.07, (.4, -tall * .6), (.28, 0), (.4, tall * .6)), LIGHT), (oval(.66, -.1, .1, .1), INK)]


def bird(u):
    plump, lift, beak = u(.34, .5), u(-.5, .1), u(.95, 1.2)
    return [(band(.07, (0, .3), (-.03, .95)), INK), (band(.07, (.2, .3), (.2, .95)), INK),
            (poly((-.4, -.05), (-1.05, lift - .12), (-1, lift + .25), (-.4, .3)), TRIM),
            (blob((-.65, .05), (-.1, -plump * .7), (.5, -.2), (.55, .25), (0, plump + .1)), BODY),
            (poly((.6, -.5), (beak, -.36), (.6, -.2)), TRIM), (oval(.5, -.36, .28, .28), BODY),
            (oval(-.12, .08, .4, .2, turn=u(-.5, .1)), TRIM), (oval(.58, -.42, .06, .06), INK)]


def tree(u):
    trunk, foot = u(.09, .16), u(.8, 1)
    parts = [(poly((-trunk, foot), (trunk, foot), (trunk * .7, -.1), (-trunk * .7, -.1)), TRIM)]
    if u(0, 1) < .4:  # a fir, in tiers
        wide = u(.5, .75)
        return parts + [(poly((-wide * w, low), (0, low - .85), (wide * w, low)), BODY)
                        for w, low in ((1, .5), (.82, .12), (.62, -.22))]
    wide, shift = u(.45, .65), u(-.1, .1)
    return parts + [(oval(-.3, -.1, wide * .75, .36), BODY), (oval(.3, -.15, wide * .75, .38), BODY),
                    (oval(shift, -.5, wide, .45), BODY), (oval(shift - .15, -.55, .2, .15), LIGHT)]


def mushroom(u):
    wide, tall, stem = u(.65, .95), u(.6, 1), u(.15, .28)
    spots = [(oval(x * wide, -.05 - tall * y, .1, .09), LIGHT) for x, y in ((-.5, .3), (0, u(.5, .7)), (.45, .35))]
    return [(blob((-stem, -.1), (stem, -.1), (stem * u(1, 1.6), .85), (-stem * 1.3, .85)), TRIM),
            (oval(0, .02, wide, tall, start=.5, stop=1), BODY), (oval(0, 0, wide, .13), BODY)] + spots


def flower(u):
    count, reach, bend = int(u(5, 8)), u(.22, .3), u(-.25, .25)
    petals = [(oval(x, y - .4, reach, .17, turn=a), BODY) for x, y, a in ring(count, .34, u(0, 1))]
    leaf = [(oval(.28, .55, .3, .11, turn=-.6), TRIM), (oval(-.25, .65, .28, .1, turn=.6 + math.pi), TRIM)]
    return [(band(.11, (0, -.3), (bend, .4), (0, 1)), TRIM)] + leaf[: int(u(1, 3))] + petals + [
        (oval(0, -.4, .19, .19), LIGHT)]


def boat(u):
    hull, keel, mast = u(.75, 1), u(.4, .65), u(-.15, .15)
    sails = [(poly((mast + .06, -1), (mast + .06, .2), (mast + u(.5, .75), .2)), LIGHT)]
    if u(0, 1) < .7:
        sails.append((poly((mast - .06, -.8), (mast - .06, .2), (mast - u(.4, .6), .2)), TRIM))
    return [(band(.08, (mast, .4), (mast, -1)), INK)] + sails + [
        (blob((-hull, .35), (-hull * .7, .38), (hull * .7, .38), (hull, .3), (keel, .8), (-keel, .8)), BODY)]


def house(u):
    wide, eave, peak = u(.5, .8), u(-.3, 0), u(-1, -.7)
    door, pane = u(-.3, .1) * wide, u(.1, .14)
    return [(poly((.2, eave), (.2, peak), (.42, peak), (.42, eave)), INK)][: int(u(0, 2))] + [
        (poly((-wide, eave), (wide, eave), (wide, .85), (-wide, .85)), BODY),
        (poly((-wide - .15, eave), (u(-.25, .1), peak), (wide + .15, eave)), TRIM),
        (poly((door - .13, .3), (door + .13, .3), (door + .13, .85), (door - .13, .85)), INK),
        (poly(*[(.3 + pane * x, .2 + pane * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]), LIGHT)]


def cup(u):
    rim, base, tall = u(.5, .7), u(.32, .6), u(.45, .75)
    return [(band(.13, (rim - .15, -tall * .5), (rim + u(.25, .4), -tall * .45), (rim + .25, tall * .4),
                  (base - .1, tall * .55)), BODY),
            (blob((-rim, -tall), (rim, -tall), (rim * .97, 0), (base, tall), (-base, tall), (-rim * .97, 0)), BODY),
            (oval(0, -tall, rim, .13), INK), (band(.1, (-rim * .93, .05), (0, .14), (rim * .93, .05)), TRIM)]


# ---- things: the world to pretrain on ------------------------------------------------------------------------------


def apple(u):
    wide = u(.65, .85)
    return [(band(.09, (0, -.5), (u(-.1, .2), -.95)), INK), (oval(.28, -.75, .25, .1, turn=-.5), TRIM),
            (blob((0, -.5), (.45, -.65), (wide, -.1), (.45, .7), (0, .62), (-.45, .7), (-wide, -.1), (-.45, -.65)),
             BODY)]


def pear(u):
    wide, neck = u(.5, .7), u(.2, .3)
    return [(band(.08, (0, -.7), (u(-.15, .15), -1)), INK),
            (blob((0, -.8), (neck, -.6), (wide, .3), (.3, .85), (-.3, .85), (-wide, .3), (-neck, -.6)), BODY)]


def leaf(u):
    wide, ribs = u(.3, .5), (-.4, 0, .4)
    return [(blob((-.8, 0), (-.2, -wide), (.5, -wide * .7), (1, 0), (.5, wide * .7), (-.2, wide)), BODY),
            (band(.07, (-1, 0), (.8, 0)), TRIM)] + [(band(.05, (x - .15, 0), (x + .1, s * wide * .7)), TRIM)
                                                    for x in ribs for s in (-1, 1)]


def butterfly(u):
    upper, lower = u(.4, .55), u(.28, .4)
    wings = [(oval(s * .45, y, r, r * .7, turn=s * t), tone) for s in (-1, 1)
             for y, r, t, tone in ((-.3, upper, -.6, BODY), (.38, lower, .6, TRIM))]
    return wings + [(oval(0, 0, .1, .6), INK)] + [(oval(s * .5, -.32, .12, .12), LIGHT) for s in (-1, 1)]


def cat(u):
    wide, ear = u(.6, .8), u(.8, 1)
    return [(poly((s * wide * .95, -.1), (s * .62, -ear), (s * .1, -.45)), BODY) for s in (-1, 1)] + [
        (oval(0, .1, wide, .6), BODY), (poly((-.1, .2), (.1, .2), (0, .32)), TRIM)] + [
        (oval(s * .28, 0, .09, .13), INK) for s in (-1, 1)] + [
        (band(.04, (s * .2, .3), (s * .9, u(.15, .45))), LIGHT) for s in (-1, 1)]


def rabbit(u):
    ear, lean = u(.4, .5), u(.05, .3)
    return [(oval(s * .25, -.55, .15, ear, turn=s * lean), BODY) for s in (-1, 1)] + [
        (oval(0, .35, u(.45, .6), .5), BODY), (oval(0, .5, .2, .15), LIGHT)] + [
        (oval(s * .2, .2, .07, .09), INK) for s in (-1, 1)]


def turtle(u):
    tall = u(.5, .75)
    return [(oval(.85, u(-.1, .15), .2, .16), TRIM), (oval(-.45, .4, .16, .2), TRIM), (oval(.4, .4, .16, .2), TRIM),
            (poly((-.6, .2), (-1, .35), (-.6, .35)), TRIM), (oval(0, .35, .75, tall + .2, start=.5, stop=1), BODY),
            (oval(-.25, .05, .14, .14), LIGHT), (oval(.25, .05, .14, .14), LIGHT), (oval(0, -.25, .13, .11), LIGHT)]


def snail(u):
    size = u(.45, .6)
    return [(blob((-1, .75), (-.3, .4), (.5, .5), (.7, -.1), (.95, 0), (.9, .75)), TRIM),
            (band(.06, (.8, 0), (u(.75, 1.05), -.45)), TRIM), (oval(-.1, .1, size, size), BODY),
            (band(.09, *[(-.1 + x * k / 9, .1 + y * k / 9) for k, (x, y, _) in enumerate(ring(9, size * .8))]), LIGHT)]


def car(u):
    roof, left = u(-.55, -.35), u(-.6, -.4)
    return [(blob((left - .1, 0), (left + .15, roof), (.3, roof), (.6, 0)), TRIM),
            (blob((-.95, -.02), (.9, -.02), (1, .3), (.95, .42), (-.95, .42), (-1, .2)), BODY),
            (poly((-.3, -.05), (-.2, roof + .12), (.0, roof + .12), (.0, -.05)), LIGHT)] + [
        (oval(x, .42, r, r), tone) for x in (-.5, .52) for r, tone in ((.24, INK), (.1, LIGHT))]


def aeroplane(u):
    span, thick = u(.6, .9), u(.14, .22)
    return [(poly((.2, 0), (-.25, -span), (-.5, -span), (-.2, 0), (-.5, span), (-.25, span)), TRIM),
            (poly((-.6, 0), (-1, -.35), (-1, .35)), TRIM), (oval(0, 0, .95, thick), BODY), (oval(.65, 0, .12, .1), INK)]


def rocket(u):
    wide, fin = u(.25, .36), u(.5, .7)
    return [(blob((-.15, .6), (.15, .6), (0, u(.95, 1.2))), LIGHT),
            (poly((-.1, .1), (-fin, .75), (fin, .75), (.1, .1)), TRIM),
            (blob((0, -1), (wide, -.3), (wide * .8, .6), (-wide * .8, .6), (-wide, -.3)), BODY),
            (oval(0, -.25, .14, .14), INK)]


def balloon(u):
    wide, low = u(.5, .65), u(.55, .8)
    return [(band(.04, (-.25, .1), (-.12, low)), INK), (band(.04, (.25, .1), (.12, low)), INK),
            (oval(0, -.35, wide, .65), BODY), (oval(0, -.35, wide * .4, .65), TRIM),
            (poly((-.16, low), (.16, low), (.12, low + .25), (-.12, low + .25)), INK)]


def umbrella(u):
    tall = u(.6, .9)
    return [(band(.08, (0, -.2), (0, .7), (.12, .9), (.28, .7)), INK), (oval(0, 0, .95, tall, start=.5, stop=1), BODY),
            (poly((-.3, 0), (0, -tall), (.3, 0)), TRIM)] + [(oval(x, 0, .16, .09), LIGHT) for x in (-.63, .63)]


def key(u):
    size, bits = u(.26, .36), int(u(2, 4))
    hoop = [(-.6 + x, y) for x, y, _ in ring(10, size)]
    return [(band(.16, *hoop, hoop[0]), BODY), (band(.15, (-.3, 0), (.95, 0)), BODY)] + [
        (poly((x, 0), (x, u(.25, .4)), (x + .12, .3), (x + .12, 0)), BODY) for x in (.8, .55, .3)[:bits]]


def lamp(u):
    top, low = u(.2, .35), u(.55, .75)
    return [(band(.1, (0, 0), (0, .85)), INK), (oval(0, .85, u(.3, .45), .12), TRIM),
            (poly((-top, -.85), (top, -.85), (low, .05), (-low, .05)), BODY), (oval(0, .05, low, .08), LIGHT)]


def bottle(u):
    wide, neck = u(.28, .42), u(-.45, -.2)
    return [(poly((-.13, -1), (.13, -1), (.13, -.8), (-.13, -.8)), INK),
            (blob((-.11, -.85), (.11, -.85), (.12, neck), (wide, neck + .35), (wide, .85), (-wide, .85),
                  (-wide, neck + .35), (-.12, neck)), BODY),
            (poly((-wide, .2), (wide, .2), (wide, .6), (-wide, .6)), LIGHT)]


def hat(u):
    dome, brim = u(.35, .55), u(.8, 1)
    return [(oval(0, .4, brim, .2), BODY),
            (blob((-dome, .4), (-dome * .9, -.5), (0, u(-.7, -.4)), (dome * .9, -.5), (dome, .4)), BODY),
            (band(.18, (-dome, .2), (0, .28), (dome, .2)), TRIM)]


def star(u):
    spikes, inner = int(u(5, 7)), u(.4, .55)
    points = [(x * (1, inner)[k % 2], y * (1, inner)[k % 2]) for k, (x, y, _) in enumerate(ring(2 * spikes, .95))]
    return [(poly(*points), BODY), (oval(0, 0, .22, .22), TRIM)]


def moon(u):
    bite = u(.15, .5)
    inside = [(.1 - bite, .5), (-bite, 0), (.1 - bite, -.5)]
    return [(blob((.2, -.95), (-.5, -.75), (-.85, 0), (-.5, .75), (.2, .95), *inside), BODY),
            (oval(-.55, -.2, .07, .07), INK)]


def cactus(u):
    left, right = u(-.2, .2), u(-.3, .3)
    return [(band(.24, (0, left + .3), (-.5, left + .3), (-.55, left - .3)), BODY),
            (band(.2, (0, right + .2), (.5, right + .2), (.55, right - .3)), BODY), (oval(0, -.1, .24, .85), BODY),
            (poly((-.45, .6), (.45, .6), (.32, 1), (-.32, 1)), TRIM)]


def crown(u):
    tall = u(.45, .75)
    return [(poly((-.8, .5), (-.9, -tall), (-.4, 0), (0, -tall - .15), (.4, 0), (.9, -tall), (.8, .5)), BODY),
            (poly((-.8, .3), (.8, .3), (.8, .55), (-.8, .55)), TRIM)] + [
        (oval(x, y, .1, .1), LIGHT) for x, y in ((-.9, -tall), (0, -tall - .15), (.9, -tall))]


def kite(u):
    wide, arm = u(.45, .65), u(-.3, 0)
    return [(band(.06, (0, .5), (u(-.3, .3), .8), (0, 1.15)), INK),
            (poly((0, -1), (wide, arm), (0, .6), (-wide, arm)), BODY),
            (poly((0, -1), (wide, arm), (0, arm)), TRIM), (poly((0, .6), (-wide, arm), (0, arm)), TRIM)]


# ---- patterns: the stuff a thing is made of --------------------------------------------------------------------------


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

# What each thing is painted with, and the pixels from one repeat to the next.
STUFF = {
    "fish": ("scales", 6), "bird": ("zigzag", 5), "tree": ("dots", 4.5), "mushroom": ("dots", 8),
    "flower": ("bars", 4), "boat": ("bands", 5), "house": ("bricks", 6), "cup": ("lattice", 6),
    "apple": ("rings", 6), "pear": ("rings", 4), "leaf": ("slants", 4), "butterfly": ("checks", 5),
    "cat": ("swirl", 5), "rabbit": ("swirl", 8), "turtle": ("lattice", 9), "snail": ("rings", 9),
    "car": ("bands", 8), "aeroplane": ("bars", 8), "rocket": ("checks", 8), "balloon": ("slants", 7),
    "umbrella": ("bars", 6), "key": ("bands", 3.5), "lamp": ("zigzag", 8), "bottle": ("scales", 9),
    "hat": ("bricks", 9), "star": ("dots", 6), "moon": ("swirl", 3.5), "cactus": ("bars", 3),
    "crown": ("checks", 3.5), "kite": ("slants", 10),
}  # fmt: skip
PLAIN = 0.12  # share of things without a pattern

THINGS = {thing.__name__: thing for thing in (
    fish, bird, tree, mushroom, flower, boat, house, cup,
    apple, pear, leaf, butterfly, cat, rabbit, turtle, snail, car, aeroplane, rocket, balloon, umbrella, key, lamp,
    bottle, hat, star, moon, cactus, crown, kite)}
CLASSES = ("background", *list(THINGS)[:8])
PRETRAINING_CLASSES = ("background", *list(THINGS)[8:])


# ---- the picture ---------------------------------------------------------------------------------------------------


def scene(seed: int, index: int, *, height: int = 96, width: int = 128, classes=CLASSES):
    """Picture `index` of the world `seed`, and its mask: a pure function of the arguments.

    Returns (image, mask): (H, W, 3) uint8 RGB and (H, W) uint8, the place of each pixel's class in `classes`; place 0
    is the background. Raises ValueError for a class that nobody can draw.
    """
    unknown = [name for name in classes[1:] if name not in THINGS]
    if unknown:
        raise ValueError(f"classes has {unknown[0]!r}, which shapes cannot draw; use names from {', '.join(THINGS)}")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    short = min(height, width)
    light = rng.uniform(0, 2 * math.pi)  # the shadows fall this way
    canvas, mask = ground(rng, height, width), np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(3, 10)):  # scraps: things of no class, so that "an object" is not yet an answer
        place, size = rng.uniform(0, (width, height)), short * rng.uniform(.02, .12)
        paint(canvas, mask, scrap(rng), rng, place, size, light)
    crowd = round(rng.uniform(3, 7) * 0.75 * max(height, width) / short)  # sizes follow the short side
    sizes = short * rng.uniform(.12, .31, crowd)
    places = spread(rng, sizes, height, width)
    for row in np.argsort(places[:, 1] + sizes):  # what stands lower on the page stands in front
        label = int(rng.integers(1, len(classes)))
        parts = THINGS[classes[label]](rng.uniform)
        paint(canvas, mask, parts, rng, places[row], sizes[row], light, label, STUFF[classes[label]])
    return finish(rng, canvas, light), mask


def ground(rng, height, width):
    """The sheet everything stands on: a graded wash, then hills, cloth, dots or nothing: (H, W, 3) float32."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / min(height, width)
    first, second, third = PAINTS[rng.choice(len(PAINTS), 3, replace=False)]
    pale = rng.uniform(.1, .6)  # between full paint and cream
    first, second, third = (c + pale * (CREAM - c) for c in (first, second, third))
    angle, pitch, phase = rng.uniform(0, math.pi), rng.uniform(7, 22), rng.uniform(0, 6)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    sheet = blend(np.broadcast_to(first, (height, width, 3)), second, .6 * (along - along.min()) / np.ptp(along))
    kind = rng.choice(["hills", "stripes", "checks", "dots", "waves", "wash"], p=[.3, .12, .12, .14, .16, .16])
    if kind == "hills":
        for rise, colour in ((rng.uniform(.25, .5), second), (rng.uniform(.5, .8), third)):
            crest = rise + rng.uniform(.03, .12) * np.sin(x * rng.uniform(2, 7) + rng.uniform(0, 6))
            sheet = blend(sheet, colour, np.clip((y - crest) * 90, 0, 1))
        return sheet
    wave = {"stripes": np.sin(along * pitch + phase) * 3,
            "checks": np.sin(along * pitch + phase) * np.sin(across * pitch) * 6,
            "dots": (np.sin(along * pitch * 1.3 + phase) * np.sin(across * pitch * 1.3) - .6) * 8,
            "waves": (np.sin(y * pitch * 2 + 1.3 * np.sin(x * 5 + phase) + phase) - .55) * 4,
            "wash": np.full_like(x, -1)}[kind]
    return blend(sheet, third, rng.uniform(.25, .7) * np.clip(wave + .5, 0, 1))


def scrap(rng):
    """A leaf-litter shape of no class: a lopsided blob, a shard or a stroke."""
    reach = rng.uniform(.45, 1, 6)
    corners = [(x * r, y * r) for (x, y, _), r in zip(ring(6, 1, rng.uniform()), reach)]
    kind = rng.integers(3)
    return [((blob(*corners), poly(*corners[:4]), band(.3, *corners[::2]))[kind], int(rng.integers(4)))]


def spread(rng, sizes, height, width):
    """Places (N, 2) as (x, y), at random but loath to stand on one another: the best of four darts each."""
    places = []
    for size in sizes:
        darts = rng.uniform((.04 * width, .06 * height), (.96 * width, .94 * height), (4, 2))
        room = [min([math.dist(dart, other) - .8 * (size + reach) for other, reach in zip(places, sizes)] + [0.])
                for dart in darts]
        places.append(darts[int(np.argmax(room))])
    return np.array(places)


def paint(canvas, mask, parts, rng, place, size, light, label=None, stuff=None):
    """Draw one thing into canvas (H, W, 3) and mask (H, W) in place: its shadow, then its lit and patterned body.

    size: radius in pixels. label: its id for the mask, or None for a scrap, which is background. stuff: its pattern and
    pitch, or None to go plain.
    """
    turn, flip, stretch = rng.normal(0, .45), rng.choice((-1, 1)), rng.uniform(.8, 1.25)
    frame = size * np.array([[flip * stretch * math.cos(turn), flip * stretch * math.sin(turn)],
                             [-math.sin(turn), math.cos(turn)]])
    palette = np.stack([*PAINTS[rng.choice(len(PAINTS), 2, replace=False)], DARK, CREAM])
    palette[2:] += .35 * rng.uniform() * (palette[1] - palette[2:])  # ink and cream lean to the trim
    fills = [tuple(row) for row in palette.astype(int).tolist()]
    shine, ripple, swing, pitch = rng.uniform(.05, .3), rng.uniform(0, .13), rng.normal(size=2), rng.uniform(6, 22)
    fall = rng.uniform(.08, .22) * size * np.array([math.cos(light), math.sin(light)])

    outlines = [points @ frame + place for points, _ in parts]
    every = np.concatenate(outlines)
    corner = np.floor(every.min(axis=0)).astype(int) - 3  # room for the soft rim of the shadow
    across, down = (np.ceil(every.max(axis=0)).astype(int) + 3 - corner).tolist()
    fine = across * FINE, down * FINE
    tile, cover = Image.new("RGB", fine, fills[BODY]), Image.new("L", fine)
    brush, stencil = ImageDraw.Draw(tile), ImageDraw.Draw(cover)
    for outline, (_, tone) in zip(outlines, parts):
        outline = ((outline - corner) * FINE).ravel().tolist()
        brush.polygon(outline, fill=fills[tone])
        stencil.polygon(outline, fill=255)
    cover = cover.reduce(FINE)
    soft = np.asarray(cover.filter(ImageFilter.BoxBlur(1.5)), np.float32) / 255
    cover, colour = np.asarray(cover, np.float32) / 255, np.asarray(tile.reduce(FINE), np.float32)

    here, there = overlap(corner + np.rint(fall).astype(int), cover.shape, mask.shape)
    canvas[here] *= 1 - .42 * soft[there][..., None]
    here, there = overlap(corner, cover.shape, mask.shape)
    x = (np.arange(across, dtype=np.float32) + corner[0] - place[0]) / size
    y = (np.arange(down, dtype=np.float32)[:, None] + corner[1] - place[1]) / size
    lit = 1 - shine * (x * math.cos(light) + y * math.sin(light))
    lit = lit + ripple * np.sin((x * swing[0] + y * swing[1]) * pitch)
    if stuff is not None:
        colour = weave(colour, rng, stuff, turn, across, down)
    canvas[here] = blend(canvas[here], (colour * lit[..., None])[there], cover[there])
    if label is not None:
        mask[here][cover[there] >= .5] = label


def weave(colour, rng, stuff, turn, across, down):
    """The thing's colours (h, w, 3) with its pattern in a lighter or darker shade, turned as the thing is."""
    kind, pitch = stuff
    pitch, strength, shade = pitch * rng.uniform(.85, 1.18), rng.uniform(.35, .8), (DARK, CREAM)[rng.integers(2)]
    phase, plain = rng.uniform(0, 2 * math.pi, 2), rng.uniform() < PLAIN
    x, y = np.arange(across, dtype=np.float32), np.arange(down, dtype=np.float32)[:, None]
    u = (x * math.cos(turn) + y * math.sin(turn)) * (2 * math.pi / pitch) + phase[0]
    v = (y * math.cos(turn) - x * math.sin(turn)) * (2 * math.pi / pitch) + phase[1]
    if kind == "rings":  # around the middle of the thing, not a corner of its tile
        u, v = (x - across / 2) * (2 * math.pi / pitch), (y - down / 2) * (2 * math.pi / pitch)
    amount = np.broadcast_to(np.clip(PATTERNS[kind](u, v) * 1.2, -1, 1) / 2 + .5, colour.shape[:2])
    return colour if plain else blend(colour, shade, strength * amount)


def overlap(corner, tile, sheet):
    """The slices of a sheet (H, W), and of a tile (h, w) laid with its corner at (x, y), where the two overlap."""
    spans = []
    for start, length, limit in zip(corner[::-1].tolist(), tile, sheet):
        low, high = min(max(start, 0), limit), min(max(start + length, 0), limit)
        spans.append((slice(low, high), slice(low - start, high - start)))
    return tuple(zip(*spans))


def blend(under, over, amount):
    """`under` where amount (H, W) is 0, `over` where it is 1."""
    return under + amount[..., None] * (over - under)


def finish(rng, canvas, light):
    """The light over the whole page (slope, brightness, warmth) and the grain of brush and paper: (H, W, 3) uint8."""
    height, width, _ = canvas.shape
    y, x = np.mgrid[-1:1:1j * height, -1:1:1j * width].astype(np.float32)
    slope = 1 - rng.uniform(0, .28) * (x * math.cos(light) + y * math.sin(light))
    warmth = rng.uniform(-.12, .12)
    page = canvas * slope[..., None] * rng.uniform(.72, 1.12) * np.float32([1 + warmth, 1, 1 - warmth])
    strokes = rng.normal(size=(height // 3 + 1, width // 9 + 1)).astype(np.float32)
    strokes = Image.fromarray(strokes).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.uniform(1, 5) * np.asarray(strokes) + rng.normal(0, rng.uniform(.5, 4), (height, width))
    return np.clip(page + grain[..., None], 0, 255).astype(np.uint8)
