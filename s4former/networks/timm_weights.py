"""Weights files of encoders, and the tensors of timm under the names of transformers."""

import logging
import math
import pickle
import re
from pathlib import Path
from typing import Iterable

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTConfig, ViTModel

from ..errors import ConfigError, join_first
from .known_encoders import vit

log = logging.getLogger(__name__)

WEIGHT_FILES = (".pth", ".pt", ".bin", ".safetensors")
# What a checkpoint may hold more, or less, than the encoder: classification heads, poolers, the norm before them.
UNUSED_HEADS = re.compile(
    r"^(vit\.|segformer\.|dinov2\.|dinov2_with_registers\.|deit\.|beit\.|swin\.|hiera\.|convnext\.)?(head|head_dist|pre_logits|fc_norm|norm|classifier"
    r"|cls_classifier|distillation_classifier|pooler|layernorm|decode_head|lm_head|decoder|vision_model\.head|text_model|text_projection"
    r"|visual_projection|logit_scale|logit_bias)(\.|$)"
)

WRAPPERS = ("model", "state_dict", "model_state_dict", "teacher", "student")  # keys under which others keep the tensors
PREFIXES = ("module.", "model.", "backbone.", "encoder.")  # of DDP, Lightning, DINO
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def is_weights_file(source: str) -> bool:
    """Whether a source is a single file of tensors, with timm's names."""
    return source.endswith(WEIGHT_FILES)


def check_complete(
    source: str, missing: Iterable[str], unexpected: Iterable[str], wrong: Iterable[str], *, with_norm: bool = False
) -> None:
    """Refuses a partial load; heads and norms that are not used are named in the log.

    Args:
        source: for the message.
        missing, unexpected, wrong: names of tensors; `wrong` with their shapes.
        with_norm: the decoder reads the encoder's last norm, so that it must not be missing.

    Raises:
        ConfigError: names what does not fit.
    """
    unused = sorted(name for name in unexpected if UNUSED_HEADS.match(name))
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
    if unused:
        log.info("%s: not used, since the decoder replaces them: %s", source, ", ".join(unused))


def read_file(source: str) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a weights file, and whether they lay under the key "model", as in the DeiT releases.

    They may lie under one of `WRAPPERS`, and their names may share one of `PREFIXES`.
    """
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"model.encoder = {source!r}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError) as error:
        pickled = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        reason = f"it holds {pickled[1]}" if pickled else ESCAPES.sub("", str(error).strip().splitlines()[0])
        raise ConfigError(
            f"model.encoder = {source!r} cannot be read as tensors alone ({reason}); save its state_dict() with torch.save or"
            " safetensors"
        ) from error
    found = [key for key in WRAPPERS if is_state_dict(content.get(key))] if isinstance(content, dict) else []
    nested = content[found[0]] if len(found) == 1 else content
    if not is_state_dict(nested):
        keys = f" but {join_first(list(content))}" if isinstance(content, dict) else ""
        raise ConfigError(f"model.encoder = {source!r} holds no plain dict of tensors{keys}; save the encoder's state_dict()")
    for prefix in PREFIXES:
        inside = [name for name in nested if name.startswith(prefix)]
        if inside and all(name.startswith(prefix) or UNUSED_HEADS.match(name) for name in nested):
            nested = {name.removeprefix(prefix): tensor for name, tensor in nested.items()}
    return nested, found == ["model"]


def is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


# ---- a ViT of timm

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


def infer_config(source: str, tensors: dict[str, Tensor]) -> ViTConfig:
    """The shape of a timm-style ViT, read off its tensors: width, depth, patch, grid.

    The number of heads leaves no trace in them: it is taken to be width / 64, as in every ViT and DeiT. The stored grid
    is taken to be square. `model.encoder_config` can say otherwise of the heads.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    missing = [name for name in needed if name not in tensors]
    strange = [name for name in tensors if name.split(".")[0] not in ("cls_token", "pos_embed", "patch_embed", "blocks")]
    check_complete(source, missing, strange if missing else [], [])
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


def rename_timm(source: str, tensors: dict[str, Tensor], config: ViTConfig, *, with_norm: bool = False) -> dict[str, Tensor]:
    """timm's tensors under the names of `ViTModel`: the fused qkv split in three, float32; `with_norm` as `check_complete` has it."""
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
    check_complete(source, missing, set(tensors) - {timm_name(name) for name in wanted}, wrong, with_norm=with_norm)
    return renamed
