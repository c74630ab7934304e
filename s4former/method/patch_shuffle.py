"""PatchShuffle: shuffle the blocks of an image, and put the features back in place before the decoder.

An order is a (B, r, c) long tensor. It cuts whatever it is applied to into r x c blocks and says for every place, in
row-major numbers, from which place its block comes. So one function serves pixels on their way into the encoder and
features of any stride on their way out. Labels, confidence and teacher logits are never shuffled. (Supplement,
Algorithm 1, line 15.)
"""

import torch
from torch import Tensor


def patch_shuffle(x: Tensor, order: Tensor) -> Tensor:
    """Moves the blocks of `x`: place q of image b receives the block at place ``order[b].flatten()[q]``.

    Args:
        x: (B, C, H, W), any type. H and W must be multiples of the order's rows and columns.
        order: (B, r, c) long, a permutation of 0 .. r*c-1 for each image.
    """
    batch, channels, height, width = x.shape
    rows, columns = order.shape[1:]
    if height % rows or width % columns:
        raise ValueError(
            f"cannot cut {height}x{width} into {rows}x{columns} blocks; both sides must be multiples of the block count"
        )
    block = (height // rows, width // columns)
    blocks = x.reshape(batch, channels, rows, block[0], columns, block[1]).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = blocks[torch.arange(batch, device=x.device)[:, None], order.flatten(1)]
    moved = moved.reshape(batch, rows, columns, channels, *block)
    return moved.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def inverse(order: Tensor) -> Tensor:
    """The order that undoes `order`: ``patch_shuffle(patch_shuffle(x, order), inverse(order))`` is `x`."""
    return order.flatten(1).argsort(dim=1).reshape(order.shape)


def draw_order(rows: int, columns: int, probability: float, generator: torch.Generator) -> Tensor:
    """One image's order, (r, c) long on the CPU: a uniform permutation with the given probability, else the identity."""
    shuffled = torch.rand((), generator=generator).item() < probability
    places = torch.randperm(rows * columns, generator=generator)  # always drawn: the stream does not depend on the coin
    return (places if shuffled else torch.arange(rows * columns)).reshape(rows, columns)
