"""Where the config and the weights of an encoder come from: the Hub, a folder, or a file with timm's names.

Weights are complete, float32, and under the names of transformers (of timm: a ResNet), or a `ConfigError` says what is
missing.
"""

import difflib
import json
import logging
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterable

import safetensors
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ViTModel,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerModel,
    ViTConfig,
    ViTModel,
)

from ..config import Model
from ..errors import ConfigError
from .hub import HUB_ERRORS, check_reachable, describe_hub_error, hub_file

log = logging.getLogger(__name__)

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of RGB in 0..1
IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET_INCEPTION: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of the AugReg ViTs


def vit(width: int, depth: int, image: int = 224) -> dict[str, Any]:
    """The shape of a plain ViT with heads 64 wide and square images, as `ViTConfig` takes it."""
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "image_size": image,
    }


def mit(depths: tuple[int, ...], widths: tuple[int, ...], decoder: int) -> dict[str, Any]:
    """The shape of a Mix Transformer, as `SegformerConfig` takes it."""
    return {
        "model_type": "segformer",
        "depths": list(depths),
        "hidden_sizes": list(widths),
        "decoder_hidden_size": decoder,
    }


def dinov2(width: int, depth: int, **registers: int) -> dict[str, Any]:
    """The shape of a DINOv2, or with `num_register_tokens` of a DINOv2 with registers, as transformers takes it."""
    shape = vit(width, depth, image=518)
    del shape["intermediate_size"]
    kind = "dinov2_with_registers" if registers else "dinov2"
    return {"model_type": kind, **shape, "patch_size": 14, **registers}


def dinov3(width: int, depth: int) -> dict[str, Any]:
    """The shape of a DINOv3 ViT with patches of 16 px, as `DINOv3ViTConfig` takes it."""
    return {"model_type": "dinov3_vit", **vit(width, depth), "num_register_tokens": 4}


WIDE = (64, 128, 320, 512)

# Name of a size: where its weights are, and the transformers config, so that random weights need no network.
KNOWN_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "deit-tiny": ("facebook/deit-tiny-patch16-224", vit(192, 12)),
    "deit-small": ("facebook/deit-small-patch16-224", vit(384, 12)),
    "deit-base": ("facebook/deit-base-patch16-224", vit(768, 12)),
    "vit-large": ("google/vit-large-patch16-384", vit(1024, 24, image=384)),
    "mit-b0": ("nvidia/mit-b0", mit((2, 2, 2, 2), (32, 64, 160, 256), 256)),
    "mit-b1": ("nvidia/mit-b1", mit((2, 2, 2, 2), WIDE, 256)),
    "mit-b2": ("nvidia/mit-b2", mit((3, 4, 6, 3), WIDE, 768)),
    "mit-b3": ("nvidia/mit-b3", mit((3, 4, 18, 3), WIDE, 768)),
    "mit-b4": ("nvidia/mit-b4", mit((3, 8, 27, 3), WIDE, 768)),
    "mit-b5": ("nvidia/mit-b5", mit((3, 6, 40, 3), WIDE, 768)),
    "dinov2-small": ("facebook/dinov2-small", dinov2(384, 12)),
    "dinov2-base": ("facebook/dinov2-base", dinov2(768, 12)),
    "dinov2-large": ("facebook/dinov2-large", dinov2(1024, 24)),
    "dinov2-reg-small": ("facebook/dinov2-with-registers-small", dinov2(384, 12, num_register_tokens=4)),
    "dinov2-reg-base": ("facebook/dinov2-with-registers-base", dinov2(768, 12, num_register_tokens=4)),
    "dinov2-reg-large": ("facebook/dinov2-with-registers-large", dinov2(1024, 24, num_register_tokens=4)),
    "dinov3-small": ("facebook/dinov3-vits16-pretrain-lvd1689m", dinov3(384, 12)),
    "dinov3-base": ("facebook/dinov3-vitb16-pretrain-lvd1689m", dinov3(768, 12)),
    "dinov3-large": ("facebook/dinov3-vitl16-pretrain-lvd1689m", dinov3(1024, 24)),
    "resnet50": ("timm/resnet50.tv_in1k", {"model_type": "resnet"}),  # torchvision's first weights, as the papers take
    "resnet101": ("timm/resnet101.tv_in1k", {"model_type": "resnet"}),
    "shapes": (str(Path(__file__).parent / "weights" / "shapes_vit"), {}),  # a small ViT; its config lies in the folder
}
DINO = (Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel)
ENCODER_CLASSES: dict[str, tuple[type[PreTrainedModel], ...]] = {  # by model.architecture; a ResNet is timm's
    "setr": (ViTModel,),
    "segformer": (SegformerModel,),
    "dpt": DINO,
    "upernet": DINO,
    "deeplabv3plus": (),
}
RESNETS = {6: "resnet50", 23: "resnet101"}  # timm's name by the blocks of the third stage
PROCESSOR = "preprocessor_config.json"
WEIGHT_FILES = (".pth", ".pt", ".bin", ".safetensors")
# What a checkpoint may hold more, or less, than the encoder: classification heads, poolers, the norm before them.
UNUSED_HEADS = re.compile(
    r"^(vit\.|segformer\.|dinov2\.|dinov2_with_registers\.)?(head|head_dist|pre_logits|fc_norm|norm|classifier|pooler|layernorm|decode_head)\."
)
RESERVED_KEYS = ("id2label", "label2id", "image_size", "model_type")  # keys of a transformers config that are set here


# ---- config and weights


def source_of(model: Model) -> str:
    """A Hub id, a folder or a weights file; a ViT of timm on the Hub is the weights file of its repository."""
    source = KNOWN_ENCODERS[model.encoder][0] if model.encoder in KNOWN_ENCODERS else model.encoder
    if model.architecture == "setr" and source.startswith("timm/") and not Path(source).exists():
        return timm_file(model, "model.safetensors")
    return source


def timm_file(model: Model, name: str) -> str:
    """A file of one of timm's repositories on the Hub, in the cache."""
    if not model.pretrained:
        raise ConfigError(
            f"model.encoder = {model.encoder!r} is described by its weights, and model.pretrained = false wants none; use"
            f" one of {', '.join(known_encoders(model.architecture))} for random weights"
        )
    try:
        return hf_hub_download(model.encoder, name)
    except HUB_ERRORS as error:
        raise unreachable_error(model, error) from error


def is_weights_file(source: str) -> bool:
    """Whether a source is a single file of tensors, with timm's names."""
    return source.endswith(WEIGHT_FILES)


def read_encoder_config(model: Model) -> PreTrainedConfig:
    """The transformers config of the encoder, with `model.encoder_config` applied.

    A ViT gets LayerNorm eps 1e-6. A DINOv3 gets no `pos_embed_rescale`: in training it stretches the positions at random,
    one draw for the whole batch, which would make two passes over the same image differ by more than the method says.
    """
    source, kinds = source_of(model), [kind.config_class for kind in ENCODER_CLASSES[model.architecture]]
    size = KNOWN_ENCODERS.get(model.encoder, ("", {}))[1]
    if size:  # known sizes are described here; only their weights need the Hub
        config = AutoConfig.for_model(**{"model_type": "vit", **size})
    elif is_weights_file(source):
        config = infer_config(source, read_file(source)[0])
    else:
        try:
            if model.pretrained:
                check_reachable(source)
            config = AutoConfig.from_pretrained(source, local_files_only=not model.pretrained, trust_remote_code=False)
        except (*HUB_ERRORS, KeyError) as error:
            raise unreachable_error(model, error) from error
    if not isinstance(config, tuple(kinds)):
        raise ConfigError(
            f"model.encoder = {model.encoder!r} is of type {config.model_type!r}, and model.architecture ="
            f" {model.architecture!r} is built over {' or '.join(repr(kind.model_type) for kind in kinds)}; use one of"
            f" {', '.join(known_encoders(model.architecture))}, or change the architecture"
        )
    if isinstance(config, ViTConfig):
        config.layer_norm_eps = 1e-6  # what these weights were trained with; the default of transformers is 1e-12
    if config.model_type == "dinov3_vit":
        config.pos_embed_rescale = None
    override(config, model.encoder_config)
    return config


def known_encoders(architecture: str) -> list[str]:
    """The sizes that an architecture is built over."""
    types = [kind.config_class.model_type for kind in ENCODER_CLASSES[architecture]] or ["resnet"]
    return [name for name, (_, size) in KNOWN_ENCODERS.items() if size.get("model_type", "vit") in types]


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
    gated = "; for DINOv3 accept its licence on the page of the model and log in with `hf auth login`"
    return ConfigError(
        f"model.encoder = {model.encoder!r} could not be read ({describe_hub_error(error)}){gated if 'dinov3' in model.encoder else ''};"
        " give a local folder, a weights file or a Hub id that can be reached, or one of"
        f" {', '.join(known_encoders(model.architecture))} with model.pretrained=false for random weights"
    )


def read_tensors(model: Model, config: PreTrainedConfig) -> dict[str, Tensor]:
    """The encoder's weights, float32, under the names of its transformers class; complete, or a `ConfigError`."""
    source = source_of(model)
    kind = next(kind for kind in ENCODER_CLASSES[model.architecture] if isinstance(config, kind.config_class))
    if is_weights_file(source):
        return rename_timm(source, read_file(source)[0], config)
    options = {"add_pooling_layer": False} if kind is ViTModel else {}
    try:
        check_reachable(source)  # the shape of a known size was told without the Hub
        encoder, report = kind.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,  # "auto" would keep float16 files as they are
            ignore_mismatched_sizes=True,  # they are told below, in our words
            output_loading_info=True,
            use_safetensors=None if model.encoder in KNOWN_ENCODERS else True,  # of strangers no pickle, not even of tensors alone
            **options,
        )
    except (*HUB_ERRORS, safetensors.SafetensorError) as error:
        raise unreachable_error(model, error) from error
    wrong = [f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]]
    check_complete(source, report["missing_keys"], report["unexpected_keys"], wrong, with_norm=kind in DINO)
    return encoder.state_dict()


def check_complete(
    source: str, missing: Iterable[str], unexpected: Iterable[str], wrong: Iterable[str], *, with_norm: bool = False
) -> None:
    """Refuses a partial load; spare heads and norms are named in the log. with_norm: the decoder reads the last norm."""
    spare = sorted(name for name in unexpected if UNUSED_HEADS.match(name))
    faults = {
        "missing": sorted(name for name in missing if with_norm or not UNUSED_HEADS.match(name)),
        "unexpected": sorted(name for name in unexpected if not UNUSED_HEADS.match(name)),
        "of another shape": sorted(wrong),
    }
    parts = []
    for fault, names in faults.items():
        if names:
            parts.append(f"{len(names)} {fault}: {', '.join(names[:6])}" + (", ..." if len(names) > 6 else ""))
    if parts:
        raise ConfigError(
            f"the weights of model.encoder = {source!r} do not fit: {'; '.join(parts)}; give the weights of a plain"
            " encoder of this size, and check model.encoder_config"
        )
    if spare:
        log.info("%s: not used, since the decoder replaces them: %s", source, ", ".join(spare))


# ---- weights files with timm's names

TIMM_NAMES = (  # name in ViTModel -> name in timm, in this order
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"^layernorm\.", "norm."),
)


def timm_name(name: str) -> str:
    """The name in timm of a tensor of `ViTModel`; q, k and v share one."""
    for pattern, replacement in TIMM_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def read_file(source: str) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a weights file, and whether they lay under the key "model", as in the DeiT releases."""
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"model.encoder = {source!r}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError) as error:
        raise ConfigError(
            f"model.encoder = {source!r} cannot be read as tensors alone ({str(error).strip().splitlines()[0]});"
            " save its state_dict() with torch.save or safetensors"
        ) from error
    nested = isinstance(content, dict) and isinstance(content.get("model"), dict)
    content = content["model"] if nested else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"model.encoder = {source!r} holds no plain dict of tensors; save the encoder's state_dict()")
    return content, nested


def infer_config(source: str, tensors: dict[str, Tensor]) -> ViTConfig:
    """The shape of a timm-style ViT, read off its tensors: width, depth, patch, grid.

    The number of heads leaves no trace in them: it is taken to be width / 64, as in every ViT and DeiT. The stored grid
    is taken to be square. `model.encoder_config` can say otherwise of the heads.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    check_complete(source, [name for name in needed if name not in tensors], [], [])
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
    if width % 64 or side * side != tensors["pos_embed"].shape[1] - 1:
        wanted = ["patch_embed.proj.weight: a width that is a multiple of 64, pos_embed: 1 + a square number of tokens"]
        check_complete(source, [], [], wanted)
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    shape = vit(width, max(blocks) + 1, image=side * patch)
    shape["intermediate_size"] = len(tensors["blocks.0.mlp.fc1.weight"])
    return ViTConfig(
        **shape,
        patch_size=patch,
        num_channels=channels,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
    )


def rename_timm(source: str, tensors: dict[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """timm's tensors under the names of `ViTModel`: the fused qkv split in three, float32."""
    with torch.device("meta"):
        wanted = ViTModel(config, add_pooling_layer=False).state_dict()
    renamed, missing, wrong = {}, set(), set()
    for name, like in wanted.items():
        key = timm_name(name)
        tensor = tensors.get(key)
        if tensor is None:
            missing.add(key)
            continue
        shape = tuple(like.shape)
        if ".attn.qkv." in key:
            part, shape = "qkv".index(name.split(".attention.")[1][0]), (3 * shape[0], *shape[1:])
        if tuple(tensor.shape) != shape:
            wrong.add(f"{key} {tuple(tensor.shape)} instead of {shape}")
            continue
        renamed[name] = (tensor.chunk(3)[part] if ".attn.qkv." in key else tensor).float().clone()
    check_complete(source, missing, set(tensors) - {timm_name(name) for name in wanted}, wrong)
    return renamed


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
    """Mean and standard deviation, RGB in 0..1, that the encoder's weights were trained with.

    From the `preprocessor_config.json` beside the weights, if there is one. A timm-style file has none, and 0.5 is
    taken, as for timm's AugReg ViTs; if its tensors lie under the key "model", as in the files of the DeiT authors, the
    constants of ImageNet, which a ResNet always has. A `preprocessor_config.json` with image_mean and image_std put
    beside such a file wins. A repository of timm says it in its config. Everything else: ImageNet.
    """
    if model.start_from:
        model = replace(model, encoder=model.start_from, start_from="", pretrained=True)
    source = source_of(model)
    if source != model.encoder and model.encoder.startswith("timm/"):
        settings = json.loads(Path(timm_file(model, "config.json")).read_text())["pretrained_cfg"]
        return tuple(settings["mean"]), tuple(settings["std"])
    folder = Path(source).parent if is_weights_file(source) else Path(source)
    found = folder / PROCESSOR if is_weights_file(source) or folder.is_dir() else None
    if found is None and model.pretrained:
        found = processor_on_the_hub(model, source)
    if found is not None and found.is_file():
        settings = json.loads(found.read_text())
        if "image_mean" in settings and "image_std" in settings:
            return tuple(settings["image_mean"]), tuple(settings["image_std"])
    if is_weights_file(source) and model.architecture != "deeplabv3plus" and not read_file(source)[1]:
        return IMAGENET_INCEPTION
    return IMAGENET


def processor_on_the_hub(model: Model, source: str) -> Path | None:
    """The processor file of a Hub model; None if it has none."""
    try:
        return hub_file(source, PROCESSOR)
    except HUB_ERRORS as error:
        raise unreachable_error(model, error) from error
