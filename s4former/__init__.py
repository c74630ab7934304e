"""S4Former: semi-supervised semantic segmentation with vision transformers.

Letters used in every docstring of this package:

    B batch    K classes    C channels    D token width
    H, W       pixels down and across
    h, w       tokens (or feature cells) down and across
    N          tokens of one image, h * w, prefix tokens left out

Shapes are written ``(B, K, H, W)``. `labels` is ground truth, `pseudo` the teacher's word; `weak` and `strong` are
views of one unlabelled image; `confidence` is a probability, `valid` a bool mask, `order` a permutation of places.

Sources are cited as *paper* (Hu et al., "Training Vision Transformers for Semi-Supervised Semantic Segmentation",
CVPR 2024), *supplement* (its supplementary material) and *released code* (the authors' repository).

What to use in a training loop of one's own is described in docs/api.md.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

NAMES = {  # what the package offers -> the module it is in; imported when first asked for, since torch takes seconds
    "patch_shuffle": "method.patch_shuffle",
    "inverse": "method.patch_shuffle",
    "pasa_mask": "method.pasa",
    "attention_bias": "method.pasa",
    "negative_class_ranking": "method.losses",
    "cutmix_box": "method.boxes",
    "ConfusionMatrix": "evaluation.metrics",
    "Student": "method.student",
    "View": "method.student",
    "train_step": "method.step",
    "load_network": "networks.build",
    "predict": "evaluation.predict",
}
__all__ = [*NAMES]


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{NAMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *NAMES})
