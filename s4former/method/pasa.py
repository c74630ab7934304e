"""Patch-Adaptive Self-Attention (PASA): patches of low confidence attend more to other patches of low confidence.

A bias M is added to the scaled attention logits, ``softmax(q k^T / sqrt(d) + M) v``, the same for all heads and blocks:

    M_ij = 0                      if patch i is among the confident half of its image
    M_ij = alpha (1 - c_j)        otherwise                 (c_j: the teacher's mean confidence over patch j)

Padding is no part of an image: patches of nothing else do not count for its half, and have a bias of 0 as query and key.

M is an outer product of a row factor (for queries) and a column factor (for keys), so it is passed as two vectors. It
reaches the encoder as the keyword `pasa` of its forward call, which transformers passes down to the attention function
registered here. No module is patched and nothing is saved with the model; and because the keyword belongs to the call,
activation checkpointing recomputes every pass with its own bias. With any ViT of transformers:

    model.set_attn_implementation("pasa")
    bias = attention_bias(confidence, [((14, 14), (14, 14))], prefix=1)  # confidence (B, H, W) of the teacher
    features = model(pixel_values, pasa=bias).last_hidden_state

Other attention code takes ``pasa_mask(pool_confidence(confidence, (14, 14)), prefix=1)[:, None]`` as its additive mask.
"""

from dataclasses import dataclass, field
from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.siglip.modeling_siglip import SiglipAttention

ATTENTION = "pasa"  # the name under which transformers knows the attention function


def pool_confidence(confidence: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean confidence of every patch.

    Args:
        confidence: (B, H', W') of the teacher, at the resolution of its logits.
        grid: (h, w) tokens. A map that is not a whole number of cells per token is first resized bilinearly to one.

    Returns:
        (B, N) with N = h * w, row-major.
    """
    maps = confidence[:, None]
    if maps.shape[2] % grid[0] or maps.shape[3] % grid[1]:
        size = [-(-side // tokens) * tokens for side, tokens in zip(maps.shape[2:], grid)]
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return F.avg_pool2d(maps, (maps.shape[2] // grid[0], maps.shape[3] // grid[1])).flatten(1)


def patch_confidence(confidence: Tensor, valid: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean confidence (B, N) of every patch over its pixels that are no padding, and whether it has any, (B, N) bool."""
    if valid is None:
        valid = torch.ones_like(confidence, dtype=torch.bool)
    share = pool_confidence(valid.float(), grid)
    return (pool_confidence(confidence.float() * valid, grid) / share.clamp(min=1e-6)).detach(), share > 0


def confident_half(confidence: Tensor, real: Tensor) -> Tensor:
    """(B, N) bool: of the n patches of each image that are real (B, N), the floor(n/2) of highest confidence.

    The supplement compares with the median, the released code takes exactly half. By rank (ties: lower index first) both
    agree wherever no two patches tie, and an image full of equal confidences does not lose its confident half.
    """
    rank = confidence.masked_fill(~real, -1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < real.sum(dim=1, keepdim=True) // 2


@dataclass(frozen=True)
class Variant:
    """How a variant of PASA makes its factors from confidence (B, N): row and column, and the row of a class token.

    The row function also gets which patches are real, (B, N) bool.
    """

    row: Callable[[Tensor, Tensor], Tensor]
    column: Callable[[Tensor], Tensor]
    class_token: float


# A class token counts as an unconfident query; as a key it has no bias (released code).
VARIANTS: dict[str, Variant] = {
    "main": Variant(lambda c, real: (~confident_half(c, real)).to(c), lambda c: 1 - c, 1.0),
    "reverse1": Variant(lambda c, real: confident_half(c, real).to(c), lambda c: c, 0.0),  # supplement, eq. 2
    "reverse2": Variant(lambda c, real: (~confident_half(c, real)).to(c), lambda c: c, 1.0),  # supplement, eq. 3
    "product": Variant(lambda c, real: 1 - c, lambda c: 1 - c, 1.0),  # supplement, eq. 4
    "all_rows": Variant(lambda c, real: torch.ones_like(c), lambda c: 1 - c, 1.0),  # released code, its non-adaptive flag
}


def pasa_mask(
    confidence: Tensor, variant: str = "main", alpha: float = 5.0, noise: Tensor | None = None, prefix: int = 0
) -> Tensor:
    """The dense bias M over the tokens of an image without padding; `attention_bias` is the same as factors.

    Args:
        confidence: (B, N) in [0, 1], the teacher's mean confidence per patch; see `pool_confidence`.
        variant: a key of `VARIANTS`, or 'rand' (supplement, eq. 1).
        alpha: scale.
        noise: (B, N, N) uniform in [0, 1), for 'rand' only, drawn by the caller.
        prefix: class, distillation and register tokens before the patches.

    Returns:
        (B, prefix + N, prefix + N) float32, query by key, to be added to the scaled attention logits.
    """
    confidence = confidence.detach().float()
    if variant == "rand":
        if noise is None:
            raise ValueError("pasa variant 'rand' needs noise: a (B, N, N) tensor drawn uniformly from [0, 1)")
        return F.pad(alpha * noise.float(), (prefix, 0, prefix, 0))
    if variant not in VARIANTS:
        raise ValueError(f"pasa variant is {variant!r}; one of {', '.join(map(repr, [*VARIANTS, 'rand']))}")
    shape, real = VARIANTS[variant], torch.ones_like(confidence, dtype=torch.bool)
    row = F.pad(shape.row(confidence, real), (prefix, 0), value=shape.class_token)
    return alpha * row[:, :, None] * F.pad(shape.column(confidence), (prefix, 0))[:, None, :]


@dataclass(frozen=True)
class Bias:
    """The additive bias of an attention layer, prefix tokens included: as factors, or dense where it has none."""

    factors: tuple[Tensor, Tensor] | None = None  # row (B, Nq) and column (B, Nk)
    mask: Tensor | None = None  # (B, Nq, Nk)
    made: dict[tuple[torch.dtype, float], tuple[Tensor, Tensor]] = field(default_factory=dict)  # channels, for all layers of a pass

    @property
    def images(self) -> int:
        return len(self.mask if self.factors is None else self.factors[0])

    def dense(self) -> Tensor:
        """(B, Nq, Nk), the same for all heads."""
        if self.factors is None:
            return self.mask
        row, column = self.factors
        return row[:, :, None] * column[:, None, :]

    def channels(self, dtype: torch.dtype, scaling: float) -> tuple[Tensor, Tensor]:
        """(B, 1, Nq, 8) and (B, 1, Nk, 8) to be appended to query and key: `scaling` times their products is the bias.

        Each factor is split into what half precision keeps of it and the rest, so that only the product of the two rests is
        missing. Of the eight channels three are used: the fused kernels want a multiple of 8.
        """
        if (dtype, scaling) in self.made:
            return self.made[dtype, scaling]
        (row, row_rest), (column, column_rest) = (
            (factor.to(dtype), (factor - factor.to(dtype).float()).to(dtype)) for factor in (self.factors[0], self.factors[1] / scaling)
        )
        pairs = (row, row, row_rest), (column, column_rest, column)
        channels = tuple(F.pad(torch.stack(three, dim=-1)[:, None], (0, 5)) for three in pairs)
        if not torch.compiler.is_compiling():  # where a dict that fills would be a second graph
            self.made[dtype, scaling] = channels
        return channels


Biases = dict[tuple[int, int], Bias]  # of every kind of layer, by its (queries, keys)


def attention_bias(
    confidence: Tensor, grids: Sequence[tuple[tuple[int, int], tuple[int, int]]], prefix: int = 1, variant: str = "main",
    alpha: float = 5.0, valid: Tensor | None = None, seeds: Sequence[int] = (),
) -> Biases:  # fmt: skip
    """The bias of one encoder pass, for the keyword `pasa` of the encoder's forward.

    Args:
        confidence: (B, H', W') of the teacher on the same images, in [0, 1].
        grids: the (query grid, key grid) of every kind of attention layer that gets a bias, each (h, w); a ViT has one
            kind, and both are its grid of patches.
        prefix: class, distillation and register tokens before the patches.
        variant: a key of `VARIANTS`, or 'rand' (supplement, eq. 1).
        alpha: scale.
        valid: (B, H', W') bool, False on padding; None = there is none.
        seeds: one for each image, for 'rand': noise is drawn once for an image and step, shared by heads and layers.
    """
    biases: Biases = {}
    for query_grid, key_grid in grids:
        key = tuple(prefix + grid[0] * grid[1] for grid in (query_grid, key_grid))
        if key in biases:
            raise ValueError(f"two attention layers of {key[0]} queries and {key[1]} keys; take a larger crop")
        (of_queries, queries), (of_keys, keys) = (
            patch_confidence(confidence, valid, grid) for grid in (query_grid, key_grid)
        )
        if variant == "rand":
            noise = draw_noise(seeds, (queries.shape[1], keys.shape[1])).to(confidence.device)
            biases[key] = Bias(mask=F.pad(alpha * noise * queries[:, :, None] * keys[:, None, :], (prefix, 0, prefix, 0)))
        else:
            shape = VARIANTS[variant]
            row, column = shape.row(of_queries, queries) * queries, alpha * shape.column(of_keys) * keys
            biases[key] = Bias((F.pad(row, (prefix, 0), value=shape.class_token), F.pad(column, (prefix, 0))))
    return biases


def draw_noise(seeds: Sequence[int], shape: tuple[int, int]) -> Tensor:
    """(B, Nq, Nk) uniform in [0, 1), image by image: the same on every device and in every process.

    Drawn on the CPU: this variant alone copies to the device.
    """
    if not seeds:
        raise ValueError("pasa variant 'rand' needs a seed for each image")
    return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def pasa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    pasa: Biases | None = None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """SDPA of transformers; where `pasa` has a bias for this layer's (queries, keys), with that bias.

    Query, key, value: (B, heads, Nq or Nk, head dim); a bias of fewer images is for the last of them. `channels_or_mask` decides
    how the bias reaches the kernel. A mask that the layer has itself, the relative positions of a BEiT, is added to it.
    """
    pasa = getattr(module, "pasa", None) if pasa is None else pasa  # see `hand_over_biases`
    bias = None if pasa is None else pasa.get((query.shape[-2], key.shape[-2]))
    plain = 0 if bias is None else len(query) - bias.images
    if plain:  # they keep the fast kernel
        masks = [attention_mask] * 2 if attention_mask is None or len(attention_mask) == 1 else attention_mask.split([plain, bias.images])
        # split as the tokens lie, (B, N, heads, head dim), or their gradients would be copied once more
        split = (states.transpose(1, 2).split([plain, bias.images]) for states in (query, key, value))
        parts = zip(*((x.transpose(1, 2) for x in states) for states in split), masks, (None, pasa))
        results = [pasa_attention(module, *part, pasa=each, scaling=scaling, **kwargs)[0] for *part, each in parts]
        return torch.cat(results), None
    if attention_mask is not None and attention_mask.is_floating_point():
        if bias is not None:
            bias = Bias(mask=bias.dense()[:, None] + attention_mask)
        elif not takes_wider_mask(query.device):
            attention_mask = attention_mask.to(query.dtype)
    if bias is None:
        return checked_sdpa(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    width, scaling = value.shape[-1], query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):
        # a rotary embedding leaves float32 queries and keys beside values of autocast's type
        states = tuple(state.to(value.dtype) for state in (query, key, value))
        query, key, value, mask = channels_or_mask(*states, bias, scaling)
        output, weights = checked_sdpa(module, query, key, value, mask, scaling=scaling, **kwargs)
    return output[..., :width], weights


def channels_or_mask(
    query: Tensor, key: Tensor, value: Tensor, bias: Bias, scaling: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Query, key, value and mask with which SDPA computes a bias in float32 at least.

    Rounded to half precision a mask is wrong by 2e-1 at alpha 50. The attention of a CPU takes a float32 mask with half
    precision states, and costs 1.02 times plain attention, where channels cost 1.2 times (1025 tokens, 12 heads, forward and
    backward). That of a GPU gives NaN for such a pair (torch 2.11, pytorch#191612): there the factors become channels, and a
    mask without factors takes the states up to float32.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    if half and bias.factors is not None and not takes_wider_mask(query.device):
        return *append_bias_channels(query, key, value, bias, scaling), None
    mask = bias.dense()
    mask = (mask[:, None] if mask.dim() == 3 else mask).to(torch.promote_types(query.dtype, torch.float32))
    if bias.factors is None or not takes_wider_mask(query.device):
        query, key, value = (states.to(mask.dtype) for states in (query, key, value))
    return query, key, value, mask


def takes_wider_mask(device: torch.device) -> bool:
    """Whether SDPA on this device is right for a float32 mask beside queries in half precision."""
    return device.type == "cpu"


def checked_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs
) -> tuple[Tensor, None]:
    """SDPA of transformers, which is never given a pair of mask and query that it computes wrongly in silence."""
    one_type = mask is None or mask.dtype in (torch.bool, query.dtype)
    assert one_type or takes_wider_mask(query.device), f"mask {mask.dtype} beside {query.dtype} queries on {query.device}"
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


def append_bias_channels(query: Tensor, key: Tensor, value: Tensor, bias: Bias, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value with the 8 channels more of `Bias.channels`. Value gets zeros: the fused kernels want one width of all three."""
    channels = (part.expand(-1, query.shape[1], -1, -1) for part in bias.channels(query.dtype, scaling))
    query, key = (torch.cat([states, part], dim=-1) for states, part in zip((query, key), channels))
    return query, key, F.pad(value, (0, 8))


def hand_over_biases(network: nn.Module) -> None:
    """Lets attention layers that keep their keyword arguments to themselves, as SigLIP's do, show the biases to `pasa_attention`."""
    for layer in network.modules():
        if isinstance(layer, SiglipAttention) and not hasattr(layer, "pasa"):
            layer.pasa = None
            layer.register_forward_pre_hook(lambda layer, _, kwargs: setattr(layer, "pasa", kwargs.get("pasa")), with_kwargs=True)
            layer.register_forward_hook(lambda layer, *_: setattr(layer, "pasa", None))


AttentionInterface.register(ATTENTION, pasa_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
