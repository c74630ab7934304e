"""Weights in the type of autocast, cast together; autocast casts them one after the other, and so their gradients back.

The weights that are trained, averaged and saved stay as they are. Their copies live as long as a forward and its backward,
so checkpoints know nothing of them, and they are never older than the weights.
"""

from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .setr import AutocastLayerNorm

# autocast, or they themselves, cast their weights and biases; what subclasses do is unknown
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
GROUP = 2**23  # weights cast at once, about a bucket of DistributedDataParallel, whose gradients are sent while others are computed


class CastTogether(torch.autograd.Function):
    """Tensors in another type, by one grouped copy, and their gradients in their own by another."""

    @staticmethod
    def forward(ctx, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # what a step does not use gets no gradient
        ctx.save_for_backward(*tensors)
        return tuple(copy_together([torch.empty_like(tensor, dtype=dtype) for tensor in tensors], tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = [(tensor, gradient) for tensor, gradient in zip(ctx.saved_tensors, gradients) if gradient is not None]
        results = iter(copy_together([torch.empty_like(tensor) for tensor, _ in found], [gradient for _, gradient in found]))
        return None, *(None if gradient is None else next(results) for gradient in gradients)


def copy_together(to: list[Tensor], tensors: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    torch._foreach_copy_(to, tensors)
    return to


def castable_layers(module: nn.Module) -> list[nn.Module]:
    """The layers in it whose weights may be cast, found once, since a step asks six times; one put in later is left to autocast."""
    if not hasattr(module, "_castable_layers"):
        # transformers takes the type of the layer that reads the image for that of images and rotary embeddings
        layers = (layer for layer in module.modules() if getattr(layer, "in_channels", None) != 3)
        module._castable_layers = [layer for layer in layers if type(layer) in (*LAYERS, AutocastLayerNorm)]
    return module._castable_layers


@contextmanager
def low_precision_weights(module: nn.Module) -> Iterator[None]:
    """Under autocast the layers of `module` have weights of its type for as long as the context lasts; without it, nothing.

    Values and gradients are to the bit those of autocast.
    """
    device = next(module.parameters()).device.type
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    kinds = (*LAYERS, AutocastLayerNorm) if dtype == torch.bfloat16 else LAYERS  # it computes in float32 under float16
    # by kind of layer, which lays its gradients alike, and place
    places: dict[tuple[type, bool, int], list[tuple[nn.Module, str, Tensor]]] = {}
    count = 0
    for layer in castable_layers(module) if enabled else ():
        for name, weight in layer._parameters.items() if type(layer) in kinds else ():
            if weight is not None and weight.dtype == torch.float32:
                places.setdefault((type(layer), weight.requires_grad, count // GROUP), []).append((layer, name, weight))
                count += weight.numel()
    try:
        for group in places.values():
            copies = CastTogether.apply(dtype, *(weight for *_, weight in group))
            if copies[0].grad_fn is not None:  # autograd turns to what came last; a cast back is to go before all that waits
                copies[0].grad_fn._set_sequence_nr(torch.iinfo(torch.int64).max)
            for (layer, name, _), copy in zip(group, copies):
                layer._parameters[name] = copy
        yield
    finally:
        for layer, name, weight in (place for group in places.values() for place in group):
            layer._parameters[name] = weight
