"""Batches of the smallest config, and whether two of them are the same."""

from dataclasses import fields

import torch
from scripts import TINY

from s4former.config import from_dict
from s4former.data.batches import StepDataset
from s4former.data.sources import load_sources


def steps_of(process=0, processes=1, device_colour=False, **sections):
    tree = {**TINY, **{name: {**TINY.get(name, {}), **values} for name, values in sections.items()}}
    config = from_dict(tree)
    return StepDataset(config, load_sources(config.data), (2, 3), process, processes, device_colour=device_colour)


def same(one, other):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(parts(one).values(), parts(other).values(), strict=True)
    )


def parts(batch):
    """Every part of a batch by name, those of the strong views with the view's number."""
    flat = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "strong"}
    for number, view in enumerate(batch.strong):
        flat |= {f"images{number}": view.images, f"orders{number}": view.orders}
        flat |= {f"{name}{number}": value for name, value in view.mix.items()}
    return flat
