"""Polygons around the regions of a mask, for tools in which they are corrected: the way back of painting.py."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

# direction x, y of a step along the border of a pixel that lies on its right -> row, column of the neighbour on its left, and
# x, y of the corner at which it begins
STEPS = {(1, 0): ((-1, 0), (0, 0)), (0, 1): ((0, 1), (1, 0)), (-1, 0): ((1, 0), (1, 1)), (0, -1): ((0, -1), (0, 1))}


def polygons_of(mask: np.ndarray, least: int = 16, tolerance: float = 1.0) -> list[tuple[int, np.ndarray]]:
    """Value and corners (N, 2), x and y, of every connected region of an (H, W) mask, the largest first.

    A polygon has no holes: what lies in one comes later in the list, so that painted in this order, the later on top, they give
    the mask again.

    Args:
        least: smaller regions, pixels, are left out, so they go to what surrounds them.
        tolerance: by how much an outline may be off, pixels.
    """
    rings = [(value, ring) for value in np.unique(mask).tolist() for ring in outlines(mask == value)]
    sized = sorted(((area_within(ring), value, ring) for value, ring in rings), key=lambda each: -each[0])
    return [(value, simplify(ring, tolerance)) for area, value, ring in sized if area >= least]


def outlines(region: np.ndarray) -> Iterator[np.ndarray]:
    """The outer outline of every 4-connected part of an (H, W) bool region, along the borders of its pixels: (N, 2), x and y."""
    padded, steps = np.pad(region, 1), defaultdict(list)  # corner -> directions in which an outline goes on from it
    for direction, ((down, across), corner) in STEPS.items():
        neighbour = padded[1 + down : 1 + down + region.shape[0], 1 + across : 1 + across + region.shape[1]]
        for place in np.argwhere(region & ~neighbour)[:, ::-1] + corner:
            steps[tuple(place.tolist())].append(direction)
    while steps:
        place = start = next(iter(steps))
        direction = first = steps[start][0]
        before, ring = None, []
        while True:
            steps[place].remove(direction)
            if direction != before:
                ring.append(place)
            if not steps[place]:
                del steps[place]
            place, before, right = (place[0] + direction[0], place[1] + direction[1]), direction, (-direction[1], direction[0])
            if place == start and (right == first or place not in steps):
                break
            direction = right if right in steps[place] else steps[place][0]  # to the right, where two parts touch at a corner
        corners = np.array(ring)
        if area_within(corners) > 0:  # that of a hole runs the other way
            yield corners


def area_within(ring: np.ndarray) -> float:
    """Pixels within a ring of corners; negative where it runs the other way."""
    x, y = ring.T.astype(float)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """The ring with fewer corners, none of the others farther than `tolerance` from it (Douglas and Peucker 1973)."""
    far = int(np.abs(ring - ring[0]).sum(axis=1).argmax())
    closed, kept, spans = np.concatenate([ring, ring[:1]]).astype(float), {0, far}, [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        chord, offsets = closed[last] - closed[first], closed[first + 1 : last] - closed[first]
        nearest = (offsets @ chord / (chord @ chord)).clip(0, 1)[:, None] * chord
        distances = np.hypot(*(offsets - nearest).T)
        if distances.max(initial=0) > tolerance:
            middle = first + 1 + int(distances.argmax())
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    return ring[sorted(kept)] if len(kept) > 2 else ring
