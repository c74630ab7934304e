"""Small random networks of every kind, a batch for them, and methods and configs that fit them."""

from dataclasses import replace

import torch

from s4former.config import Method, Model, from_dict
from s4former.method.batch import Batch, Strong
from s4former.method.boxes import cutmix_box
from s4former.method.mixing import MixContext
from s4former.networks.build import build_network

CLASSES = {i: f"class {i}" for i in range(5)}
TINY = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
SETR = Model(encoder="deit-tiny", pretrained=False, decoder_channels=8, decoder_stages=2, encoder_config=TINY)
SEGFORMER = Model(
    architecture="segformer",
    encoder="mit-b0",
    pretrained=False,
    encoder_config={"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
)
SIZES = {"setr": (SETR, (32, 64)), "segformer": (SEGFORMER, (64, 128))}


def network_of(family, seed=0):
    torch.manual_seed(seed)
    model, crop = SIZES[family]
    return build_network(model, id2label=CLASSES, crop=crop).double()


def batch_of(family, images=4, seed=0):
    height, width = SIZES[family][1]
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (3, height, width), generator=generator)
    labels[:, :3] = 255
    weak = torch.randn(images, 3, height, width, generator=generator, dtype=torch.float64)
    orders = torch.stack([torch.randperm(2, generator=generator).reshape(1, 2) for _ in range(images)])
    valid = torch.ones(images, height, width, dtype=torch.bool)
    valid[0, height // 2 :] = False
    return Batch(
        step=0,
        labeled=torch.randn(3, 3, height, width, generator=generator, dtype=torch.float64),
        labels=labels,
        labeled_valid=torch.ones(3, height, width, dtype=torch.bool),
        weak=weak,
        valid=valid,
        strong=(
            Strong(
                images=weak + 0.1 * torch.randn(weak.shape, generator=generator, dtype=torch.float64),
                mix={
                    "boxes": torch.stack([cutmix_box(height, width, generator) for _ in range(images)]),
                    "partner": (torch.arange(images) + 1) % images,
                },
                orders=orders,
            ),
        ),
    )


def changed(batch, **fields):
    """The batch with other fields, and those of its strong view where they are images, mix or orders."""
    strong = {name: fields.pop(name) for name in ("images", "mix", "orders") if name in fields}
    views = tuple(replace(view, **strong) for view in batch.strong)
    return replace(batch, **{"strong": views, **fields})


def method_of(shuffle=True, pasa=True, ncr=True, **fields):
    values = {"threshold": 0.21, "patch_shuffle": shuffle, "pasa": "main" if pasa else "none"}
    return Method(**{**values, "regularizer": "ncr" if ncr else "none", **fields})


def config_of(**sections):
    return from_dict({"data": {"source": "shapes", "crop": [32, 64]}, **sections})


def partners(batch, group):
    return torch.tensor([first + (i + 1) % group for first in range(0, batch, group) for i in range(group)])


def place(mix="cutmix", positions=4, group=4, seed=0, step=0, probability=1.0, size=(16, 24)):
    return MixContext(seed=seed, step=step, positions=list(range(positions)), partner=partners(positions, group).tolist(), size=size,
                 group=group, probability=probability, classes=5, labeled=3)  # fmt: skip


class Pixelwise(torch.nn.Module):
    """A network that looks at every pixel alone, as a `Student` and as a teacher."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = torch.nn.Conv2d(3, 5, 1).double()

    def forward(self, views):
        return self.layer(views) if isinstance(views, torch.Tensor) else [(self.layer(view.images), ()) for view in views]
