"""The encoders that a config can name: where their weights are, and their shapes, so that random weights need no network."""

import difflib
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .hub import is_hub_id


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

# By name: where the weights are, and the transformers config.
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
DINO = ("dinov2", "dinov2_with_registers", "dinov3_vit")
PYRAMIDS = ("swin", "hiera", "convnext")  # four stages, each at half the size of the one before
ENCODER_TYPES: dict[str, tuple[str, ...]] = {  # by model.architecture; as transformers calls them, but a ResNet is timm's
    "setr": ("vit",),
    "segformer": ("segformer",),
    "dpt": (*DINO, "vit", "deit", "beit", "clip_vision_model", "siglip_vision_model"),
    "upernet": (*DINO, *PYRAMIDS),
    "deeplabv3plus": ("resnet",),
}
RESNETS = {6: "resnet50", 23: "resnet101"}  # timm's name by the blocks of the third stage


def encoder_names(architecture: str) -> list[str]:
    """The known encoders that an architecture is built over."""
    types = ENCODER_TYPES[architecture]
    return [name for name, (_, shape) in KNOWN_ENCODERS.items() if shape.get("model_type", "vit") in types]


def check_encoder_name(encoder: str) -> None:
    """`ConfigError` for what is no known encoder, no file or folder here, and no Hub id with its owner."""
    if encoder in KNOWN_ENCODERS or Path(encoder).exists() or ("/" in encoder and is_hub_id(encoder)):
        return
    close = difflib.get_close_matches(encoder, KNOWN_ENCODERS, n=1)
    repair = f"did you mean {close[0]}?" if close else f"use one of {', '.join(KNOWN_ENCODERS)}"
    raise ConfigError(
        f"model.encoder = {encoder!r} is no known encoder, no file or folder here, and no id on the Hub such as OWNER/NAME;"
        f" {repair}"
    )
