"""The rules between a config, the network built from it and the classes, checked before training."""

from dataclasses import replace

import torch
from torch import nn

from ..config import Config, share_of_process
from ..errors import ConfigError
from ..networks.adapters import attention_grids, coarsest_stride, token_grids
from .mixing import TILES
from .student import Student, View


def shuffle_grid(config: Config, network: nn.Module) -> tuple[int, int]:
    """Rows and columns of the blocks that are shuffled or hidden in a crop, or a `ConfigError` if they do not fit."""
    side = config.method.block * coarsest_stride(network)
    crop = config.data.crop
    if not (config.method.patch_shuffle or config.method.mix == "masked") or config.method.teacher == "none":
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
                f"method.pasa = {config.method.pasa!r} steers attention over the whole image, and this {config.model.architecture} has none;"
                " set method.pasa=none"
            )
        check_bias_has_effect(network, config)


def check_batch_norm(config: Config, processes: int) -> None:
    """The image pooling of DeepLabV3+ and of UperNet has one number an image and channel, over which its batch norm needs two.

    On GPUs batch norms look over all processes; this is for passes that are on their own.
    """
    labeled, unlabeled = share_of_process(config, processes)
    least = labeled if config.method.teacher == "none" else min(labeled, unlabeled)
    name = {"deeplabv3plus": "DeepLabV3+", "upernet": "UperNet"}.get(config.model.architecture)
    if name and least == 1:
        raise ConfigError(
            f"run.batch of {config.run.batch.labeled} + {config.run.batch.unlabeled} images leaves a pass of one, over which the"
            f" batch norms of {name} cannot train; use larger batches, or fewer processes or run.batch.rounds"
        )


def drop_ncr_for_two_classes(config: Config, classes: int) -> tuple[Config, tuple[str, ...]]:
    """The config without NCR where there are two classes, and a line for the log: it would always be 0."""
    method = config.method
    if classes != 2 or method.regularizer != "ncr" or method.teacher == "none":
        return config, ()
    line = "two classes: NCR is left out (method.regularizer=none), since with one negative class it is always 0"
    return replace(config, method=replace(method, regularizer="none")), (line,)


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
    """One small pass with and without a bias, where the network is, under the caller's autocast.

    Some versions of transformers drop a bias silently, and some kernels of torch give NaN for one.
    """
    student, device = Student(network, config.method).eval(), next(network.parameters()).device
    side = 4 * coarsest_stride(network)
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    confidence = torch.linspace(0.1, 0.9, 16, device=device).reshape(1, 4, 4)
    views = [View(images), View(images, confidence=confidence, seeds=(0,))]
    (plain, _), (biased, _) = student(views)
    if plain.isfinite().all() and not biased.isfinite().all():
        raise ConfigError(
            f"method.pasa = {config.method.pasa!r} gives NaN on {device.type} in {biased.dtype}: the attention of torch"
            f" {torch.__version__} computes its bias wrongly; set run.mixed_precision=no, or method.pasa=none"
        )
    if torch.equal(plain, biased):
        with torch.autocast(device.type, enabled=False):  # half precision may round a small effect away
            (plain, _), (biased, _) = student(views)
    network.train()
    if config.method.pasa_alpha > 0 and torch.equal(plain, biased):
        raise ConfigError(
            f"method.pasa = {config.method.pasa!r} has no effect: this transformers passes no bias to the attention of"
            f" {network.base_model.config.model_type}; install transformers 5.17 or newer (5.23 for DINOv2), or set method.pasa=none"
        )
