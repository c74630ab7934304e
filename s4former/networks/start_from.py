"""Starting from a whole segmentation network, one's own or one of the Hub, instead of from an encoder alone."""

import copy
from typing import Sequence

import torch
from transformers import PreTrainedModel

from ..config import Model
from ..errors import ConfigError
from .adapters import ARCHITECTURES, architecture_of, use_activation_checkpointing
from .build import label_maps, load_network
from .upernet import DinoUperNetConfig, DinoUperNetForSemanticSegmentation


def start_from(model: Model, classes: Sequence[str]) -> tuple[PreTrainedModel, str]:
    """The network of `model.start_from` for these classes, float32, and a sentence about what was taken over.

    Everything is kept where the classes are the same, in the same order; else the last layer of the head starts anew.

    Raises:
        ConfigError: it cannot be loaded, is none of the networks that are trained here, or another than the config says.
    """
    network = over_whole_patches(load_network(model.start_from)).train()
    check_architecture(model, network)
    known = [network.config.id2label.get(index) for index in range(network.config.num_labels)]
    summary = f"starting from {model.start_from} ({network.config.model_type}): "
    if same_classes(known, classes):
        network.config.update(label_maps(classes))
        summary += f"all of it, with its {len(classes)} classes"
    else:
        network = with_new_classes(network, classes)
        summary += f"all but the last layer of its head, which had {len(known)} classes ({', '.join(map(str, known[:3]))}, ...)"
    if model.activation_checkpointing:
        use_activation_checkpointing(network)
    return network, summary


def over_whole_patches(network: PreTrainedModel) -> PreTrainedModel:
    """A stock UperNet over a DINO as the class that is trained here; every other network as it is."""
    encoder = getattr(getattr(network.config, "backbone_config", None), "model_type", "")
    if network.config.model_type != "upernet" or not encoder.startswith("dino"):
        return network
    options = {key: value for key, value in network.config.to_dict().items() if key not in ("model_type", "architectures")}
    ours = DinoUperNetForSemanticSegmentation(DinoUperNetConfig(**{**options, "use_auxiliary_head": False}))
    ours.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if name in ours.state_dict()})
    return ours


def check_architecture(model: Model, network: PreTrainedModel) -> None:
    """The network is one of those trained here, and the one that `model.architecture` says."""
    kind = architecture_of(network)
    if not kind:
        encoder = getattr(getattr(network.config, "backbone_config", None), "model_type", "")
        what = f"{network.config.model_type} of transformers" + (f" over {encoder}" if encoder else "")
        raise ConfigError(
            f"model.start_from = {model.start_from!r} is a {what}; training goes on from"
            f" {', '.join(ARCHITECTURES.values())} (dpt and upernet: as they are built here, over a DINO)"
        )
    if kind != model.architecture:
        raise ConfigError(
            f"model.start_from = {model.start_from!r} is a {kind}, and model.architecture is {model.architecture!r}; write"
            f" model.architecture={kind}"
        )


def same_classes(known: Sequence[str | None], classes: Sequence[str]) -> bool:
    """Whether a head tells these classes apart; names it never had (LABEL_0, ...) fit by their number."""
    nameless = all(name == f"LABEL_{index}" for index, name in enumerate(known))
    same = [str(name).lower() for name in known] == [name.lower() for name in classes]
    return same or nameless and len(known) == len(classes)


def with_new_classes(network: PreTrainedModel, classes: Sequence[str]) -> PreTrainedModel:
    """The same network for other classes; the layer whose shape depends on their number is drawn anew."""
    config = copy.deepcopy(network.config)
    config.update(label_maps(classes))
    rebuilt, others = type(network)(config), shapes_for(network, len(classes) + 1)
    replaced = {name for name, tensor in rebuilt.state_dict().items() if tensor.shape != others[name]}
    kept = {name: tensor for name, tensor in network.state_dict().items() if name not in replaced}
    rebuilt.load_state_dict({**rebuilt.state_dict(), **kept})
    return rebuilt


def shapes_for(network: PreTrainedModel, count: int) -> dict[str, torch.Size]:
    """The shapes of the tensors if there were `count` classes."""
    config = copy.deepcopy(network.config)
    config.update(label_maps(map(str, range(count))))
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in type(network)(config).state_dict().items()}
