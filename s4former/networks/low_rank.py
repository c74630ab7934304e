"""Low-rank adapters on the linear layers of an encoder (LoRA, Hu et al., ICLR 2022), by the package peft."""

import copy
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from ..config import Model
from ..errors import ConfigError
from .adapters import encoder_of, freeze_encoder, matching_names


def restrict_training(network: PreTrainedModel, model: Model) -> None:
    """Takes out of training what `model.freeze`, `train_only` and `low_rank` leave out of the encoder."""
    if model.low_rank:
        add_adapters(network, model.low_rank, model.train_only)
    freeze_encoder(network, model.freeze, () if model.low_rank else model.train_only)


def add_adapters(network: PreTrainedModel, rank: int, train_only: Sequence[str] = ()) -> None:
    """Freezes the encoder and adds a product of two trained matrices of so small a rank to its linear layers, at first 0.

    Args:
        train_only: regular expressions; only layers in whose name one is found get one. () = all.

    Raises:
        ConfigError: peft is not installed, or there is no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            f"model.low_rank = {rank} needs the package peft, which is not installed: pip install 's4former[adapters]', or set"
            " model.low_rank=0"
        ) from error
    encoder = encoder_of(network)
    layers = [name for name, module in encoder.named_modules() if type(module) is nn.Linear]
    if not layers:
        raise ConfigError(f"model.low_rank = {rank} has no linear layer to adapt in this encoder; set model.low_rank=0")
    chosen = {name for pattern in train_only for name in matching_names(pattern, layers)} or layers
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(chosen)), encoder)


def merge_adapters(network: PreTrainedModel) -> PreTrainedModel:
    """The network, or where it has adapters a copy in which they are added to the weights: a plain model again."""
    if not any(hasattr(module, "lora_A") for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if hasattr(module, "lora_A"):
                module.merge()
                setattr(parent, name, module.get_base_layer())
    return network
