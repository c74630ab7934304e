"""Exports a trained network as one ONNX file for images of any size, and compares it with torch.

    s4former onnx runs/demo model.onnx [--best] [--model student]

    import json, onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["s4former"])   # classes, rescale_factor, mean, std, ...
    logits = session.run(None, {"pixel_values": pixels})[0]                       # (B, K, H, W) of (B, 3, H, W)

`pixel_values` are (RGB * rescale_factor - mean) / std, as the image processor beside the weights gives them; of images of more
than 8 bits, clipped to `levels` first. The file is only kept if onnxruntime computes the same logits as torch at sizes it was
not traced with.
"""

import argparse
from pathlib import Path
from typing import Sequence

from ..config import from_dict
from ..errors import UserError, reports_errors
from ..evaluation.model_choice import ROLES
from .chosen_model import choose_model, load_model


@reports_errors("s4former onnx")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("s4former onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a run, a model in it, or a Hub id")
    parser.add_argument("file", type=Path, metavar="FILE.onnx")
    parser.add_argument("--model", choices=ROLES, help="of a run; default: the teacher where there is one")
    parser.add_argument("--best", action="store_true", help="the best of the run, chosen on the evaluation images, not the last")
    options = parser.parse_args(arguments)

    if not options.file.absolute().parent.is_dir():
        raise UserError(f"there is no folder {options.file.parent} to write {options.file.name} into; make it first")
    choice = choose_model(options.checkpoint, options.model, options.best)
    config = from_dict(choice.config)

    import torch  # not before the arguments are checked: it takes seconds

    from .onnx_export import export_onnx

    network, setting = load_model(choice, config, torch.device("cpu"))
    low, high = config.data.levels if config.data.levels[0] != config.data.levels[1] else (0, 255)
    metadata = {
        "classes": [network.config.id2label[i] for i in range(network.config.num_labels)],
        "rescale_factor": 1 / (high - low), "mean": [value + low / (high - low) for value in setting.mean], "std": list(setting.std),
        "levels": list(config.data.levels), "short_side": config.evaluation.short_side, "long_side": config.evaluation.long_side,
        "model": choice.description,
    }  # fmt: skip
    difference = export_onnx(network, options.file, metadata)
    size = f"{options.file.stat().st_size / 2**20:.0f} MiB"
    print(f"{choice.description}: {options.file}, {size}; differs from torch by {difference:.0e} of the largest logit")
