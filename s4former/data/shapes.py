"""A small painted world with exact masks: the dataset that is always there.

Picture `index` of a world is a pure function of its arguments, so there is nothing to download and any split is a range of
indices. Objects vary in build, size and turn, occlude one another, cast shadows and take the colour of the light; the ground
is textured and holds unlabelled distractors. Colour is drawn without looking at the class: form tells it and, where light and
size let it show, the pattern, which some classes share but for its pitch and a few things lack.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .things import BODY, PATTERNS, THINGS, band, blob, poly, ring

CLASSES = ("background", *THINGS)

# Muted, warm, and wide enough in hue that no class can own a colour.
PAINTS = np.array([
    [214, 73, 51], [236, 140, 62], [243, 190, 84], [250, 222, 150], [150, 172, 78], [86, 138, 92], [44, 98, 96],
    [76, 156, 168], [146, 200, 205], [66, 104, 164], [42, 58, 104], [124, 92, 152], [192, 132, 172], [238, 168, 160],
    [172, 66, 88], [140, 92, 66], [200, 160, 122], [244, 232, 214], [110, 118, 128], [198, 206, 176],
], dtype=np.float32)  # fmt: skip
DARK, CREAM = np.float32([46, 40, 52]), np.float32([250, 243, 228])
SUPERSAMPLING = 3  # things are drawn this many times larger and averaged down: antialiasing
PLAIN = 0.12  # share of things without a pattern


def scene(seed: int, index: int, *, height: int = 96, width: int = 128):
    """Picture `index` of the world `seed`, (H, W, 3) uint8 RGB, and its mask, (H, W) uint8: places in `CLASSES`."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    short = min(height, width)
    light = rng.uniform(0, 2 * math.pi)  # the shadows fall this way
    canvas, mask = ground(rng, height, width), np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(3, 10)):  # things of no class, so that "an object" is not yet an answer
        place, size = rng.uniform(0, (width, height)), short * rng.uniform(.02, .12)
        draw_thing(canvas, mask, distractor(rng), rng, place, size, light)
    crowd = round(rng.uniform(3, 7) * 0.75 * max(height, width) / short)  # sizes follow the short side
    sizes = short * rng.uniform(.12, .31, crowd)
    places = sample_places(rng, sizes, height, width)
    for row in np.argsort(places[:, 1] + sizes):  # lower on the page is in front
        label = int(rng.integers(1, len(CLASSES)))
        thing = THINGS[CLASSES[label]]
        draw_thing(canvas, mask, thing.parts(rng.uniform), rng, places[row], sizes[row], light, label, thing)
    return apply_light_and_grain(rng, canvas, light), mask


def ground(rng, height, width):
    """The ground: a graded wash, then hills, stripes, checks, dots, waves or nothing: (H, W, 3) float32."""
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


def distractor(rng):
    """A shape of no class: a lopsided blob, a shard or a stroke."""
    reach = rng.uniform(.45, 1, 6)
    corners = [(x * r, y * r) for (x, y, _), r in zip(ring(6, 1, rng.uniform()), reach)]
    kind = rng.integers(3)
    return [((blob(*corners), poly(*corners[:4]), band(.3, *corners[::2]))[kind], int(rng.integers(4)))]


def sample_places(rng, sizes, height, width):
    """Places (N, 2) as (x, y), at random, of four candidates each the one with the least overlap."""
    places = []
    for size in sizes:
        candidates = rng.uniform((.04 * width, .06 * height), (.96 * width, .94 * height), (4, 2))
        room = [min([math.dist(place, other) - .8 * (size + reach) for other, reach in zip(places, sizes)] + [0.])
                for place in candidates]
        places.append(candidates[int(np.argmax(room))])
    return np.array(places)


def draw_thing(canvas, mask, parts, rng, place, size, light, label=None, thing=None):
    """Draw one thing into canvas (H, W, 3) and mask (H, W) in place: its shadow, then its lit and patterned body.

    size: radius in pixels. label: its id for the mask. Distractors have neither label nor thing: background, and plain.
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
    corner, colour, cover, shadow = rasterize(outlines, [fills[tone] for _, tone in parts], fills[BODY])
    here, there = overlap(corner + np.rint(fall).astype(int), cover.shape, mask.shape)
    canvas[here] *= 1 - .42 * shadow[there][..., None]
    here, there = overlap(corner, cover.shape, mask.shape)
    x = (np.arange(cover.shape[1], dtype=np.float32) + corner[0] - place[0]) / size
    y = (np.arange(cover.shape[0], dtype=np.float32)[:, None] + corner[1] - place[1]) / size
    lit = 1 - shine * (x * math.cos(light) + y * math.sin(light))
    lit = lit + ripple * np.sin((x * swing[0] + y * swing[1]) * pitch)
    if thing is not None:
        colour = with_pattern(colour, rng, thing, turn)
    canvas[here] = blend(canvas[here], (colour * lit[..., None])[there], cover[there])
    if label is not None:
        mask[here][cover[there] >= .5] = label


def rasterize(outlines, fills, background):
    """The corner (x, y) of a tile, its colours (h, w, 3), how much of each pixel is covered (h, w), and that blurred."""
    points = np.concatenate(outlines)
    corner = np.floor(points.min(axis=0)).astype(int) - 3  # room for the soft rim of the shadow
    size = tuple(((np.ceil(points.max(axis=0)).astype(int) + 3 - corner) * SUPERSAMPLING).tolist())
    tile, cover = Image.new("RGB", size, background), Image.new("L", size)
    for outline, fill in zip(outlines, fills):
        outline = ((outline - corner) * SUPERSAMPLING).ravel().tolist()
        ImageDraw.Draw(tile).polygon(outline, fill=fill)
        ImageDraw.Draw(cover).polygon(outline, fill=255)
    cover = cover.reduce(SUPERSAMPLING)
    blurred = cover.filter(ImageFilter.BoxBlur(1.5))
    cover, blurred = np.asarray(cover, np.float32) / 255, np.asarray(blurred, np.float32) / 255
    return corner, np.asarray(tile.reduce(SUPERSAMPLING), np.float32), cover, blurred


def with_pattern(colour, rng, thing, turn):
    """The thing's colours (h, w, 3) with its pattern in a lighter or darker shade, turned as the thing is."""
    down, across, _ = colour.shape
    pitch, strength, shade = thing.pitch * rng.uniform(.85, 1.18), rng.uniform(.35, .8), (DARK, CREAM)[rng.integers(2)]
    phase, plain = rng.uniform(0, 2 * math.pi, 2), rng.uniform() < PLAIN
    x, y = np.arange(across, dtype=np.float32), np.arange(down, dtype=np.float32)[:, None]
    u = (x * math.cos(turn) + y * math.sin(turn)) * (2 * math.pi / pitch) + phase[0]
    v = (y * math.cos(turn) - x * math.sin(turn)) * (2 * math.pi / pitch) + phase[1]
    amount = np.broadcast_to(np.clip(PATTERNS[thing.pattern](u, v) * 1.2, -1, 1) / 2 + .5, colour.shape[:2])
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


def apply_light_and_grain(rng, canvas, light):
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
