"""The config, the weights and the normalization of an encoder, from the Hub, a folder or a weights file.

Weights are complete, float32, and under the names of transformers (of timm: a ResNet), or a `ConfigError` says what is
missing.
"""

import difflib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig, BeitModel, CLIPVisionModel, ConvNextBackbone, DeiTModel, Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel,
    HieraBackbone, PreTrainedConfig, PreTrainedModel, SegformerModel, SiglipVisionModel, SwinBackbone, ViTConfig, ViTModel,
)  # fmt: skip

from ..config import Model
from ..errors import ConfigError
from .hub import HUB_ERRORS, check_reachable, describe_hub_error, hub_file
from .image_processor import PROCESSOR, PROCESSORS, Normalization, normalization_of
from .known_encoders import DINO, ENCODER_TYPES, KNOWN_ENCODERS, PYRAMIDS, RESNETS, check_encoder_name, encoder_names
from .timm_weights import check_complete, infer_config, is_weights_file, read_file, rename_timm

MODELS: tuple[type[PreTrainedModel], ...] = (
    ViTModel, SegformerModel, Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, DeiTModel, BeitModel, CLIPVisionModel,
    SiglipVisionModel, SwinBackbone, HieraBackbone, ConvNextBackbone,
)  # fmt: skip
ENCODER_CLASSES = {  # by model.architecture; none for a ResNet, which is timm's
    name: tuple(model for model in MODELS if model.config_class.model_type in types) for name, types in ENCODER_TYPES.items()
}
IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FALLBACK = "those of ImageNet"
IMAGENET_INCEPTION: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of the AugReg ViTs
RESERVED_KEYS = ("id2label", "label2id", "image_size", "model_type")  # keys of a transformers config that are set here


def source_of(model: Model) -> str:
    """A Hub id, a folder or a weights file; a ViT of timm on the Hub is the weights file of its repository."""
    if "/" not in model.encoder and not is_weights_file(model.encoder):
        check_encoder_name(model.encoder)
    source = KNOWN_ENCODERS[model.encoder][0] if model.encoder in KNOWN_ENCODERS else model.encoder
    if model.architecture in ("setr", "dpt"):
        if source.startswith("timm/") and not Path(source).exists():
            return timm_file(model, "model.safetensors")
        return timm_weights_in(Path(source)) or source
    return source


def timm_weights_in(folder: Path) -> str | None:
    """The weights file of a folder that timm's `save_for_hf` wrote; None of any other."""
    config = folder / "config.json"
    if not config.is_file() or "pretrained_cfg" not in read_json(config):
        return None
    files = (folder / name for name in ("model.safetensors", "pytorch_model.bin"))
    return next((str(file) for file in files if file.is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that describes an encoder; a `ConfigError` if it is none."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def timm_file(model: Model, name: str) -> str:
    """A file of one of timm's repositories on the Hub, in the cache."""
    if not model.pretrained:
        raise ConfigError(
            f"model.encoder = {model.encoder!r} is described by its weights, and model.pretrained = false wants none; use"
            f" one of {', '.join(encoder_names(model.architecture))} for random weights"
        )
    try:
        return hf_hub_download(model.encoder, name)
    except HUB_ERRORS as error:
        raise unreachable_error(model, error) from error


def read_encoder_config(model: Model) -> PreTrainedConfig:
    """The transformers config of the encoder, with `model.encoder_config` applied.

    A ViT gets LayerNorm eps 1e-6. A DINOv3 gets no `pos_embed_rescale`: in training it stretches the positions at random,
    one draw for the whole batch, which would make two passes over the same image differ by more than the method says.
    """
    config, kinds = plain_config(transformers_config(model)), [kind.config_class for kind in ENCODER_CLASSES[model.architecture]]
    if not isinstance(config, tuple(kinds)):
        raise ConfigError(
            f"model.encoder = {model.encoder!r} is of type {config.model_type!r}, and model.architecture ="
            f" {model.architecture!r} is built over {' or '.join(repr(kind.model_type) for kind in kinds)}; use one of"
            f" {', '.join(encoder_names(model.architecture))}, or change the architecture"
        )
    if config.model_type in ("vit", "deit", "beit"):
        config.layer_norm_eps = 1e-6  # what these weights were trained with; the default of transformers is 1e-12
    if config.model_type in PYRAMIDS:
        config.out_features = config.stage_names[1:]
    if config.model_type == "dinov3_vit":
        config.pos_embed_rescale = None
    override(config, model.encoder_config)
    return config


def transformers_config(model: Model) -> PreTrainedConfig:
    """The config of an encoder as transformers has it, of a weights file read off its tensors."""
    if shape := KNOWN_ENCODERS.get(model.encoder, ("", {}))[1]:  # only the weights of a known encoder need the Hub
        return AutoConfig.for_model(**{"model_type": "vit", **shape})
    if is_weights_file(source := source_of(model)):
        return infer_config(source, read_file(source)[0])
    try:
        if model.pretrained:
            check_reachable(source, is_id=source != model.encoder)
        return AutoConfig.from_pretrained(source, local_files_only=not model.pretrained, trust_remote_code=False)
    except (*HUB_ERRORS, KeyError) as error:
        raise unreachable_error(model, error) from error


def encoder_kind(encoder: str) -> tuple[str, int]:
    """Type of an encoder, as in `ENCODER_TYPES`, and pixels per token at its coarsest; `ConfigError` if it cannot be read or used."""
    name = next((name for name, (source, _) in KNOWN_ENCODERS.items() if source == encoder), encoder)
    model = Model(architecture="dpt", encoder=name)  # which takes timm's files too
    if name not in KNOWN_ENCODERS and is_weights_file(source := source_of(model)) and "layer3.0.conv1.weight" in read_file(source)[0]:
        return "resnet", 16
    config = plain_config(transformers_config(model))
    if config.model_type not in (types := sorted({kind for each in ENCODER_TYPES.values() for kind in each})):
        raise ConfigError(f"model.encoder = {encoder!r} is of type {config.model_type!r}; networks here are built over {', '.join(types)}")
    coarsest = {"resnet": 16, "segformer": 32, **dict.fromkeys(PYRAMIDS, 32)}
    return config.model_type, coarsest.get(config.model_type) or config.patch_size


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """That of the image tower of CLIP and SigLIP, without SigLIP's pooling head; that of a ViT for a MAE, whose masking is left out."""
    config = getattr(config, "vision_config", config)
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False
    if config.model_type == "vit_mae":
        shared = ViTConfig().to_dict().keys() - {"model_type", "architectures"}
        return ViTConfig(**{key: value for key, value in config.to_dict().items() if key in shared})
    return config


def override(config: PreTrainedConfig, values: dict[str, Any]) -> None:
    """Writes `model.encoder_config` into a transformers config."""
    known = [key for key in config.to_dict() if key not in RESERVED_KEYS]
    for key, value in values.items():
        path = f"model.encoder_config.{key}"
        if key not in known:
            if key in RESERVED_KEYS:
                raise ConfigError(f"{path} is set by s4former itself; leave it out")
            close = difflib.get_close_matches(key, known, n=1)
            names = f"{config.model_type} has {', '.join(known)}"
            raise ConfigError(
                f"unknown key {path}; " + (f"did you mean model.encoder_config.{close[0]}?" if close else names)
            )
        try:
            setattr(config, key, value)
        except StrictDataclassError as error:
            raise ConfigError(f"{path} is {value!r}; {str(error.__cause__ or error).strip()}") from error


def unreachable_error(model: Model, error: Exception) -> ConfigError:
    """The error for an encoder that cannot be read, with the reason in a line and the ways out."""
    names = encoder_names(model.architecture)
    downloaded = ", ".join(name for name in names if name != "shapes")
    packaged = "; without network model.encoder=shapes, whose weights are in the package; or" if "shapes" in names else ", or"
    gated = "; for DINOv3 accept its licence on the page of the model and log in with `hf auth login`"
    return ConfigError(
        f"model.encoder = {model.encoder!r} could not be read ({describe_hub_error(error)}){gated if 'dinov3' in model.encoder else ''};"
        f" give a local folder, a weights file or a Hub id that can be reached{packaged} one of {downloaded}"
        " with model.pretrained=false for random weights"
    )


def read_tensors(model: Model, config: PreTrainedConfig) -> dict[str, Tensor]:
    """The encoder's weights, float32, under the names of its transformers class; complete, or a `ConfigError`."""
    source = source_of(model)
    kind = next(kind for kind in ENCODER_CLASSES[model.architecture] if isinstance(config, kind.config_class))
    if is_weights_file(source):
        return rename_timm(source, read_file(source)[0], config, with_norm=model.architecture == "dpt")
    options = {"add_pooling_layer": False} if kind in (ViTModel, DeiTModel, BeitModel) else {}
    try:
        check_reachable(source, is_id=source != model.encoder)  # the config of a known encoder did not need the Hub
        encoder, report = kind.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,  # "auto" would keep float16 files as they are
            ignore_mismatched_sizes=True,  # check_complete names them
            output_loading_info=True,
            use_safetensors=None if model.encoder in KNOWN_ENCODERS else True,  # no pickle of unknown origin, not even of tensors alone
            **options,
        )
    except (*HUB_ERRORS, safetensors.SafetensorError) as error:
        raise unreachable_error(model, error) from error
    wrong = [f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]]
    missing = [name for name in report["missing_keys"] if not name.startswith("hidden_states_norms.")]  # of a backbone alone
    with_norm = config.model_type in DINO or model.architecture == "dpt"
    check_complete(source, missing, report["unexpected_keys"], wrong, with_norm=with_norm)
    return encoder.state_dict()


# ---- a ResNet of timm


def read_resnet(model: Model) -> tuple[str, dict[str, Tensor] | None]:
    """timm's name of a ResNet, and its tensors, or None where they are to be random.

    The names of the tensors are those of torchvision too. A file says by its blocks which ResNet it holds.
    """
    source = source_of(model)
    if model.encoder not in RESNETS.values() and (model.encoder in KNOWN_ENCODERS or not model.pretrained):
        raise ConfigError(
            f"model.encoder = {model.encoder!r} with model.architecture = {model.architecture!r} and model.pretrained ="
            f" {str(model.pretrained).lower()}; use one of {', '.join(RESNETS.values())}, or pretrained weights of one"
        )
    if not model.pretrained:
        return model.encoder, None
    try:
        if is_weights_file(source):
            tensors = read_file(source)[0]
        elif Path(source).is_dir():
            tensors = load_file(Path(source) / "model.safetensors")
        else:
            tensors = load_file(hf_hub_download(source, "model.safetensors"))
    except (*HUB_ERRORS, safetensors.SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise unreachable_error(model, error) from error
    blocks = {match[1] for name in tensors if (match := re.match(r"layer3\.(\d+)\.", name))}
    if len(blocks) not in RESNETS and model.encoder not in KNOWN_ENCODERS:
        check_complete(source, [], [], [f"layer3 with {len(blocks)} blocks instead of {' or '.join(map(str, RESNETS))}"])
    return model.encoder if model.encoder in KNOWN_ENCODERS else RESNETS[len(blocks)], tensors


def fit_resnet(model: Model, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `wanted`, float32; the classifier is left out, and counters of batches may be missing."""
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    tensors = {**counters, **{name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}}
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(like.shape)}"
        for name, like in wanted.items()
        if name in tensors and tensors[name].shape != like.shape
    ]
    check_complete(source_of(model), set(wanted) - set(tensors), set(tensors) - set(wanted), wrong, with_norm=True)
    return {name: tensors[name].to(like.dtype) for name, like in wanted.items()}


# ---- the normalization that belongs to the weights


def normalization(model: Model) -> Normalization:
    """Mean and standard deviation, RGB in 0..1, that the encoder's weights were trained with."""
    return find_normalization(model)[0]


def find_normalization(model: Model) -> tuple[Normalization, str]:
    """The normalization, and where it is from.

    From the image processor beside the weights, else from the `pretrained_cfg` that timm's `config.json` has. A weights file
    without either: 0.5, as for timm's AugReg ViTs; if its tensors lie under the key "model", as in the files
    of the DeiT authors, the constants of ImageNet, which a ResNet always has. Every other encoder: ImageNet. A `ConfigError` if
    `model.start_from` says nothing.
    """
    if start := model.start_from:
        model = replace(model, encoder=start, start_from="", pretrained=True)
    source = source_of(model)
    if source != model.encoder and model.encoder.startswith("timm/"):
        timm_file(model, "config.json")  # into the cache, beside the weights
    for name in (PROCESSOR, "config.json", PROCESSORS[1]):
        found = file_beside_weights(model, source, name)
        settings = read_json(found) if found is not None and found.is_file() else {}
        if name == "config.json":  # timm's
            settings = {f"image_{key}": value for key, value in (settings.get("pretrained_cfg") or {}).items()}
        if normalization := normalization_of(settings):
            return normalization, f"from {name} beside the weights"
    if start:
        raise ConfigError(f"model.start_from = {start!r} has no {PROCESSOR} with image_mean and image_std; save its image processor there")
    if is_weights_file(source) and model.architecture != "deeplabv3plus" and not read_file(source)[1]:
        return IMAGENET_INCEPTION, "as for timm's AugReg ViTs, since the file says nothing of its own"
    return IMAGENET, FALLBACK


def file_beside_weights(model: Model, source: str, name: str) -> Path | None:
    """A file of the folder or repository that holds the weights; None where there is none, or nothing to ask."""
    folder = Path(source).parent if is_weights_file(source) else Path(source)
    if is_weights_file(source) or folder.is_dir():
        return folder / name
    try:
        return hub_file(source, name) if model.pretrained else None
    except HUB_ERRORS as error:
        raise unreachable_error(model, error) from error


def describe_normalization(model: Model) -> list[str]:
    """A line for the log on the normalization of a weights file, or of other weights that say nothing about theirs."""
    (mean, std), origin = find_normalization(model)
    if model.start_from or not (is_weights_file(model.encoder) or model.pretrained and origin == FALLBACK):
        return []
    folder = Path(model.encoder) if Path(model.encoder).is_dir() else Path(model.encoder).parent
    return [
        f"images are normalized with mean {list(mean)} and deviation {list(std)}: {origin}. If {model.encoder} was trained with"
        f" others, write them as image_mean and image_std into {folder / PROCESSOR}"
    ]
