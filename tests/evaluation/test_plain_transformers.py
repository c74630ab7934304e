"""The maps that are scored are those that a few lines of plain transformers give from an exported folder."""

from functools import partial

import numpy as np
import pytest
import tiny_dino
import torch
from tiny_networks import CLASSES, SEGFORMER, SETR
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from s4former.config import Evaluation, Model
from s4former.data.shapes import scene
from s4former.evaluation.inference import Setting, predict
from s4former.networks.adapters import forward_logits
from s4former.networks.build import build_network, save_network
from s4former.networks.encoder_weights import IMAGENET

SIZES = [(37, 51), (64, 47), (33, 90), (50, 50), (71, 45), (40, 41), (58, 83), (99, 35), (45, 61), (38, 38)]
RESNET = {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 16]}
DEEPLAB = Model(architecture="deeplabv3plus", encoder="resnet50", pretrained=False, decoder_channels=8, encoder_config=RESNET)
MODELS = {
    "setr": (SETR, (32, 64)),
    "segformer": (SEGFORMER, (64, 128)),
    "deeplabv3plus": (DEEPLAB, (64, 64)),
    **{f"dpt over {encoder}": (tiny_dino.model_of("dpt", encoder), (28, 42)) for encoder in tiny_dino.SMALL},
    **{f"upernet over {encoder}": (tiny_dino.model_of("upernet", encoder), (28, 42)) for encoder in tiny_dino.SMALL if "dinov2" in encoder},
}


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_photos_of_odd_sizes_get_the_same_classes(name, tmp_path):
    model, crop = MODELS[name]
    torch.manual_seed(0)
    network = build_network(model, id2label=CLASSES, crop=crop).eval()
    evaluation = Evaluation(short_side=min(crop))
    setting = Setting(evaluation=evaluation, crop=crop, mean=IMAGENET[0], std=IMAGENET[1], device=torch.device("cpu"))
    photos = [scene(0, number, height=height, width=width)[0] for number, (height, width) in enumerate(SIZES)]
    spread_classes(network, setting, photos[0])
    save_network(network, tmp_path, *IMAGENET, short_side=evaluation.short_side, long_side=evaluation.long_side)

    processor = AutoImageProcessor.from_pretrained(tmp_path)
    plain = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, trust_remote_code=True)
    same = total = 0
    seen = set()
    for photo in photos:
        scored = predict(partial(forward_logits, network), torch.from_numpy(photo).permute(2, 0, 1)[None], setting)[0]
        outputs = plain(**processor(images=photo, return_tensors="pt"))
        (theirs,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[photo.shape[:2]])
        same, total = same + int((scored == theirs).sum()), total + theirs.numel()
        seen |= set(np.unique(theirs).tolist())
    assert len(seen) > 1, "one class everywhere would prove nothing"
    assert same >= 0.9995 * total, f"{same / total:.2%} of the pixels agree"


def spread_classes(network, setting, photo):
    """Shifts the bias of the classifier so that no class of random weights wins everywhere."""
    logits = []

    def record(images):
        logits.append(forward_logits(network, images))
        return logits[-1]

    predict(record, torch.from_numpy(photo).permute(2, 0, 1)[None], setting)
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == len(CLASSES) and m.bias is not None]
    layers[-1].bias -= logits[0].mean(dim=(0, 2, 3))
