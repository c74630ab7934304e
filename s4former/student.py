"""The student of a step: all its views in one forward, so that a distributed wrapper sees one forward and one backward."""

from dataclasses import dataclass
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .config import Method
from .models import attention_grids, auxiliary_heads, decode, encode, encoder_of, prefix_tokens
from .pasa import ATTENTION, attention_bias
from .patch_shuffle import inverse, patch_shuffle


@dataclass(frozen=True)
class View:
    """One batch of images as the student is to see it.

    images: (B, 3, H, W) normalised.
    order: (B, r, c) long, the PatchShuffle to undo on the features; None = in place.
    confidence: (B, h, w), the teacher's, for the PASA bias of this pass; None = plain attention.
    auxiliary: whether the auxiliary heads read the features too.
    """

    images: Tensor
    order: Tensor | None = None
    confidence: Tensor | None = None
    auxiliary: bool = False


class Student(nn.Module):
    """A segmentation network with what only training needs around it: views, restoration, auxiliary heads.

    The network itself stays a plain transformers model: it is what is exported, and what the teacher is a copy of.
    """

    def __init__(self, network: nn.Module, method: Method):
        super().__init__()
        self.network = network
        self.method = method
        labels_only = method.auxiliary_weight == 0
        self.auxiliary = nn.ModuleList() if labels_only else auxiliary_heads(network)
        # Batch statistics must be those of one view; LayerNorm does not care what lies beside it in the batch.
        self.shares_encoder = not any(isinstance(module, _BatchNorm) for module in encoder_of(network).modules())
        if method.pasa != "none" and method.teacher != "none":
            encoder_of(network).set_attn_implementation(ATTENTION)

    def forward(self, views: Sequence[View]) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Logits (B, K, h, w) and auxiliary logits of every view."""
        outputs = []
        for view, features in zip(views, self.encode(views)):
            auxiliary = tuple(head(x) for head, x in zip(self.auxiliary, features)) if view.auxiliary else ()
            if view.order is not None:
                features = tuple(patch_shuffle(x, inverse(view.order)) for x in features)
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
                features[i] = encode(self.network, view.images, **self.bias(view))
        return [features[i] for i in range(len(views))]

    def bias(self, view: View) -> dict:
        if view.confidence is None:
            return {}
        grids = attention_grids(self.network, *view.images.shape[-2:], self.method.pasa_stages)
        prefix = prefix_tokens(self.network)
        return {"pasa": attention_bias(view.confidence, grids, prefix, self.method.pasa, self.method.pasa_alpha)}


def resize_logits(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear (B, K, h, w) to (B, K, H, W), in float32; nothing where the size is right already."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)
