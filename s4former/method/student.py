"""The student of a step: all its views in one forward, so that a distributed wrapper sees one forward and one backward."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import Method
from ..networks.adapters import attention_grids, decode, decoder_channels, decoder_inputs, encode, prefix_tokens
from ..networks.low_precision import low_precision_weights
from ..networks.setr import UpHead
from .mixing import unmix
from .pasa import ATTENTION, Biases, attention_bias, hand_over_biases
from .patch_shuffle import inverse, patch_shuffle
from .pseudo import Pseudo, pseudo_label
from .representation import RepresentationHead
from .thresholds import build_thresholds


@dataclass(frozen=True)
class View:
    """A batch of images and what the student does with it.

    images: (B, 3, H, W) normalised.
    order: (B, r, c) long, the PatchShuffle of the images, undone on the features; None = not shuffled.
    tiles: (B, r, c) long, the mix of tiles between images, undone on the features after that; None = none.
    confidence: (B, h, w), the teacher's, for the PASA bias of this pass; None = plain attention.
    valid: (B, h, w) bool, False on padding, and seeds: B of them, for the same; see `attention_bias`.
    dropout: the share of feature channels that the decoder does not get (UniMatch's feature perturbation).
    channel_seeds, complement: see `complementary_dropout`; () = all channels.
    auxiliary: whether the auxiliary heads read the features too.
    perturb: what changes the features before the decoder reads them; None = nothing.
    represent: whether U2PL's representation head does; what it returns stands last among the auxiliary outputs.
    """

    images: Tensor
    order: Tensor | None = None
    tiles: Tensor | None = None
    confidence: Tensor | None = None
    valid: Tensor | None = None
    seeds: tuple[int, ...] = ()
    dropout: float = 0.0
    channel_seeds: tuple[int, ...] = ()
    complement: bool = False
    auxiliary: bool = False
    represent: bool = False
    perturb: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None


class Student(nn.Module):
    """A segmentation network with what only training needs: views, un-shuffling of features, auxiliary heads.

    The network itself stays a plain transformers model: it is what is exported, and what the teacher is a copy of.
    """

    def __init__(self, network: nn.Module, method: Method):
        super().__init__()
        self.network = network
        self.method = method
        self.auxiliary = auxiliary_heads(network) if method.auxiliary_weight > 0 else nn.ModuleList()
        self.representation = RepresentationHead(decoder_channels(network)) if method.algorithm == "u2pl" else None
        self.thresholds = build_thresholds(method, network.config.num_labels)
        # Batch statistics must be those of one view; LayerNorm does not depend on the rest of the batch.
        self.shares_encoder = not any(isinstance(module, _BatchNorm) for module in network.base_model.modules())
        if method.pasa != "none" and method.teacher != "none":
            network.base_model.set_attn_implementation(ATTENTION)
            hand_over_biases(network)

    def forward(self, views: Sequence[View]) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Logits (B, K, h, w) and auxiliary outputs of every view."""
        outputs = []
        with low_precision_weights(self):
            for view, features in zip(views, self.encode(views)):
                auxiliary = tuple(head(x) for head, x in zip(self.auxiliary, features)) if view.auxiliary else ()
                if view.dropout:  # drawn for every feature map, whether or not the decoder reads it
                    features = tuple(F.dropout2d(x, view.dropout, self.training) for x in features)
                features = decoder_inputs(self.network, features)
                if view.channel_seeds:
                    features = complementary_dropout(features, view.channel_seeds, view.complement)
                if view.order is not None:
                    features = tuple(patch_shuffle(x, inverse(view.order)) for x in features)
                if view.tiles is not None:
                    features = tuple(unmix(x, view.tiles) for x in features)
                if view.perturb is not None:
                    features = view.perturb(features)
                if view.represent:
                    auxiliary = (*auxiliary, self.representation(features))
                fixed = outputs and self.method.running_statistics == "labeled"  # the labelled view comes first
                with fixed_running_statistics(self.network) if fixed else nullcontext():
                    outputs.append((decode(self.network, features), auxiliary))
        return outputs

    def observe(self, teacher: Callable[[Tensor], Tensor], valid: Tensor) -> Callable[[Tensor], Tensor]:
        """The teacher, whose predictions for the first B images the thresholds follow; `valid` (B, H, W) is False on padding."""

        def observed(images: Tensor) -> Tensor:
            logits = teacher(images)
            self.thresholds.accumulate(logits[: len(valid)], valid)
            return logits

        return observed

    def label(self, logits: Tensor, valid: Tensor) -> Pseudo:
        """Pseudo labels of logits (B, K, h, w), where `valid` (B, H, W), by the thresholds of this step."""
        threshold = self.method.threshold if self.thresholds is None else self.thresholds.current()
        pseudo = pseudo_label(logits, valid, threshold)
        return pseudo if self.thresholds is None else self.thresholds.weigh(pseudo)

    def encode(self, views: Sequence[View]) -> list[tuple[Tensor, ...]]:
        """The feature maps of every view. Views without bias share a pass, under autocast with one that has a bias.

        In float32 that one has its own pass, as ever: a sum of another length would move its digits.
        """
        shared = [i for i, view in enumerate(views) if view.confidence is None and self.shares_encoder]
        biased = [i for i, view in enumerate(views) if view.confidence is not None]
        joins = shared and len(biased) == 1 and torch.is_autocast_enabled(views[0].images.device.type)
        features: dict[int, tuple[Tensor, ...]] = {}
        if shared:
            arguments = self.attention_arguments(views[biased[0]]) if joins else {}
            shared += biased if joins else []
            joint = encode(self.network, torch.cat([views[i].images for i in shared]), **arguments)
            parts = zip(*(x.split([len(views[i].images) for i in shared]) for x in joint))
            features.update(zip(shared, parts))
        for i, view in enumerate(views):
            if i not in features:
                features[i] = encode(self.network, view.images, **self.attention_arguments(view))
        return [features[i] for i in range(len(views))]

    def attention_arguments(self, view: View) -> dict[str, Biases]:
        """The keyword arguments of the encoder's pass over a view: its PASA bias, if it has one."""
        if view.confidence is None:
            return {}
        grids = attention_grids(self.network, *view.images.shape[-2:])
        if self.method.pasa_stages == "last":
            grids = grids[-1:]
        prefix, method = prefix_tokens(self.network), self.method
        bias = attention_bias(view.confidence, grids, prefix, method.pasa, method.pasa_alpha, view.valid, view.seeds)
        return {"pasa": bias}


def complementary_dropout(features: tuple[Tensor, ...], seeds: Sequence[int], complement: bool) -> tuple[Tensor, ...]:
    """The features of one of two strong views, each channel times m1 = 2 Bernoulli(1/2), or m2 = 2 - m1 (UniMatch V2, TPAMI 2025).

    An image has one mask for all its maps; narrower maps take the first entries. Drawn on the CPU, alike on every device.

    Args:
        features: (B, C, h, w) each.
        seeds: one for each image; 0 = its factors are all 1.
        complement: m2 instead of m1.
    """
    width = max(x.shape[1] for x in features)
    generators = (torch.Generator().manual_seed(seed) if seed else None for seed in seeds)
    factors = torch.stack([torch.ones(width) if g is None else 2.0 * torch.randint(2, (width,), generator=g) for g in generators])
    factors = (2 - factors if complement else factors).to(features[0])[..., None, None]
    return tuple(x * factors[:, : x.shape[1]] for x in features)


@contextmanager
def fixed_running_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch as in training, and their running statistics stay as they are."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum


def auxiliary_heads(network: nn.Module) -> nn.ModuleList:
    """SETR's heads for training only, one on every output of the encoder (released code: two convolutions each)."""
    if network.config.model_type != "setr":
        return nn.ModuleList()
    config = network.config
    scale = 2 ** max(1, config.head_stages // 2)
    return nn.ModuleList(
        UpHead(config.backbone_config.hidden_size, config.decoder_channels, config.num_labels, convolutions=2, scale=scale)
        for _ in config.out_indices
    )
