"""The student of a step: all its views in one forward, so that a distributed wrapper sees one forward and one backward."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import Config, Method, share_of_process
from ..errors import ConfigError
from ..networks.adapters import attention_grids, coarsest_stride, decode, encode, prefix_tokens, token_grids
from ..networks.setr import UpHead
from .mixing import TILES, unmix
from .pasa import ATTENTION, attention_bias
from .patch_shuffle import inverse, patch_shuffle
from .thresholds import ClassThresholds


@dataclass(frozen=True)
class View:
    """One batch of images as the student is to see it.

    images: (B, 3, H, W) normalised.
    order: (B, r, c) long, the PatchShuffle to undo on the features; None = in place.
    tiles: (B, r, c) long, the mix of tiles between images to undo on the features after that; None = none.
    confidence: (B, h, w), the teacher's, for the PASA bias of this pass; None = plain attention.
    valid: (B, h, w) bool, False on padding, and seeds: B of them, for the same; see `attention_bias`.
    dropout: the share of feature channels that the decoder does not get (UniMatch's feature perturbation).
    auxiliary: whether the auxiliary heads read the features too.
    """

    images: Tensor
    order: Tensor | None = None
    tiles: Tensor | None = None
    confidence: Tensor | None = None
    valid: Tensor | None = None
    seeds: tuple[int, ...] = ()
    dropout: float = 0.0
    auxiliary: bool = False


class Student(nn.Module):
    """A segmentation network with what only training needs around it: views, restoration, auxiliary heads.

    The network itself stays a plain transformers model: it is what is exported, and what the teacher is a copy of.
    """

    def __init__(self, network: nn.Module, method: Method):
        super().__init__()
        self.network = network
        self.method = method
        self.auxiliary = auxiliary_heads(network) if method.auxiliary_weight > 0 else nn.ModuleList()
        per_class = method.thresholds == "per_class" and method.teacher != "none"
        self.thresholds = ClassThresholds(network.config.num_labels, method.threshold) if per_class else None
        # Batch statistics must be those of one view; LayerNorm does not care what lies beside it in the batch.
        self.shares_encoder = not any(isinstance(module, _BatchNorm) for module in network.base_model.modules())
        if method.pasa != "none" and method.teacher != "none":
            network.base_model.set_attn_implementation(ATTENTION)

    def forward(self, views: Sequence[View]) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Logits (B, K, h, w) and auxiliary logits of every view."""
        outputs = []
        for view, features in zip(views, self.encode(views)):
            auxiliary = tuple(head(x) for head, x in zip(self.auxiliary, features)) if view.auxiliary else ()
            if view.order is not None:
                features = tuple(patch_shuffle(x, inverse(view.order)) for x in features)
            if view.tiles is not None:
                features = tuple(unmix(x, view.tiles) for x in features)
            if view.dropout:
                features = tuple(F.dropout2d(x, view.dropout, self.training) for x in features)
            still = outputs and self.method.running_statistics == "labeled"  # the labelled view comes first
            with fixed_running_statistics(self.network) if still else nullcontext():
                outputs.append((decode(self.network, features), auxiliary))
        return outputs

    def encode(self, views: Sequence[View]) -> list[tuple[Tensor, ...]]:
        """The feature maps of every view. Views without bias share a pass: a bias would cost them the fast kernel."""
        shared = [i for i, view in enumerate(views) if view.confidence is None and self.shares_encoder]
        features: dict[int, tuple[Tensor, ...]] = {}
        if shared:
            joint = encode(self.network, torch.cat([views[i].images for i in shared]))
            parts = zip(*(x.split([len(views[i].images) for i in shared]) for x in joint))
            features.update(zip(shared, parts))
        for i, view in enumerate(views):
            if i not in features:
                features[i] = encode(self.network, view.images, **self.attention_arguments(view))
        return [features[i] for i in range(len(views))]

    def attention_arguments(self, view: View) -> dict:
        if view.confidence is None:
            return {}
        grids = attention_grids(self.network, *view.images.shape[-2:])
        if self.method.pasa_stages == "last":
            grids = grids[-1:]
        prefix, method = prefix_tokens(self.network), self.method
        bias = attention_bias(view.confidence, grids, prefix, method.pasa, method.pasa_alpha, view.valid, view.seeds)
        return {"pasa": bias}


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


def shuffle_grid(config: Config, network: nn.Module) -> tuple[int, int]:
    """Rows and columns of PatchShuffle blocks in a crop, or a `ConfigError` if they do not fit."""
    side = config.method.block * coarsest_stride(network)
    crop = config.data.crop
    if not config.method.patch_shuffle or config.method.teacher == "none":
        return (1, 1)
    if crop[0] % side or crop[1] % side:
        fitting = sorted({max(side, round(length / side) * side) for length in crop})
        raise ConfigError(
            f"method.block = {config.method.block} tokens are {side} pixels, which does not divide data.crop ="
            f" {list(crop)}; use sides that are multiples of {side} (such as {fitting[0]}), or a smaller method.block"
        )
    return crop[0] // side, crop[1] // side


def check_network(config: Config, network: nn.Module) -> None:
    """Rules between config, network and classes.

    Raises:
        ConfigError: if the crop does not fit the encoder or its blocks, or there is no attention that takes a bias.
    """
    crop, stride = config.data.crop, coarsest_stride(network)
    if crop[0] % stride or crop[1] % stride:
        raise ConfigError(f"data.crop is {list(crop)}; both sides must be multiples of {stride} for {config.model.encoder}")
    shuffle_grid(config, network)
    weights, classes = config.method.class_weights, network.config.num_labels
    if weights and len(weights) != classes:
        raise ConfigError(f"method.class_weights has {len(weights)} numbers for {classes} classes; write one for each class")
    if config.method.teacher == "none":
        return
    if config.method.mix == "mixunmix":
        check_tiles(config, network)
    if config.method.pasa != "none":
        if not attention_grids(network, *crop):
            raise ConfigError(
                f"method.pasa = {config.method.pasa!r} steers attention, and {config.model.architecture} has none;"
                " set method.pasa=none"
            )
        check_bias_has_effect(network, config)


def check_batch_norm(config: Config, processes: int) -> None:
    """The image pooling of DeepLabV3+ has one number an image and channel, over which its batch norm needs two images.

    On GPUs batch norms look over all processes; this is for passes that are on their own.
    """
    labeled, unlabeled = share_of_process(config, processes)
    least = labeled if config.method.teacher == "none" else min(labeled, unlabeled)
    if config.model.architecture == "deeplabv3plus" and least == 1:
        raise ConfigError(
            f"run.batch of {config.run.batch.labeled} + {config.run.batch.unlabeled} images leaves a pass of one, over which the"
            " batch norms of DeepLabV3+ cannot train; use larger batches, or fewer processes or run.batch.rounds"
        )


def drop_ncr_for_two_classes(config: Config, classes: int) -> tuple[Config, tuple[str, ...]]:
    """The config without NCR where there are two classes, and a line for the log: it would always be 0."""
    method = config.method
    if classes != 2 or method.regularizer != "ncr" or method.teacher == "none":
        return config, ()
    told = "two classes: NCR is left out (method.regularizer=none), since with one negative class it is always 0"
    return replace(config, method=replace(method, regularizer="none")), (told,)


def check_tiles(config: Config, network: nn.Module) -> None:
    """Mix/UnMix cuts every feature map of the decoder into the same tiles."""
    for grid in token_grids(network, *config.data.crop):
        if grid[0] % TILES or grid[1] % TILES:
            side = TILES * coarsest_stride(network)
            raise ConfigError(
                f"method.mix = 'mixunmix' cuts features into {TILES}x{TILES} tiles, and data.crop = {list(config.data.crop)}"
                f" has {grid[0]}x{grid[1]} tokens; use a crop whose sides are multiples of {side}"
            )


@torch.no_grad()
def check_bias_has_effect(network: nn.Module, config: Config) -> None:
    """One small pass with and without a bias: some versions of transformers drop it in silence."""
    student = Student(network, config.method).eval()
    side = 4 * coarsest_stride(network)
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    doubt = torch.linspace(0.1, 0.9, 16).reshape(1, 4, 4)
    (plain, _), (steered, _) = student([View(images), View(images, confidence=doubt, seeds=(0,))])
    network.train()
    if config.method.pasa_alpha > 0 and torch.equal(plain, steered):
        raise ConfigError(
            f"method.pasa = {config.method.pasa!r} has no effect: this transformers passes no bias to the attention of"
            f" {network.config.model_type}; install transformers 5.17 or newer (5.23 for DINOv2), or set method.pasa=none"
        )
